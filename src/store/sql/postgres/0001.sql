-- The tables of PostgresStore. Names are not qualified: they go to the first schema of the search
-- path. To apply this by hand, run it in one transaction, after `SET LOCAL search_path TO auth` if the
-- tables belong in a schema of their own.
--
-- Times are those of the application's clock, never the database's. Identifiers compare byte by byte
-- ("C"), whatever the language of the database.

CREATE TABLE customer_session_customers (
    id                        text COLLATE "C" PRIMARY KEY,
    organization_id           text NOT NULL,
    created_at                timestamptz NOT NULL,
    modified_at               timestamptz,
    metadata                  json NOT NULL DEFAULT '{}',
    external_id               text,
    email                     text,
    email_verified            boolean NOT NULL DEFAULT false,
    kind                      text NOT NULL DEFAULT 'individual',
    name                      text,
    billing_name              text,
    billing_address           json,    -- {"line1", "line2", "postal_code", "city", "state", "country"}
    tax_id                    json,    -- [value, format]
    locale                    text,
    default_payment_method_id text,
    deleted_at                timestamptz,
    first_user_event_at       timestamptz,
    avatar_url                text,
    CHECK (created_at BETWEEN '0001-01-01' AND '262000-01-01'
           AND modified_at BETWEEN '0001-01-01' AND '262000-01-01'
           AND deleted_at BETWEEN '0001-01-01' AND '262000-01-01'
           AND first_user_event_at BETWEEN '0001-01-01' AND '262000-01-01')
);

-- A customer who is deleted takes the sessions along.
--
-- A family is a session and all that have taken its place. It is known by the id of its first
-- session, whose own `family` is null, so that most rows need none.
CREATE TABLE customer_sessions (
    id          text COLLATE "C" PRIMARY KEY,
    token_hash  text COLLATE "C" NOT NULL UNIQUE,  -- hex HMAC-SHA256(pepper, token)
    customer_id text COLLATE "C" NOT NULL REFERENCES customer_session_customers (id) ON DELETE CASCADE,
    created_at  timestamptz NOT NULL,
    modified_at timestamptz,
    expires_at  timestamptz NOT NULL,  -- the first moment at which it is no longer accepted
    ends_at     timestamptz,           -- the end that no rotation passes; if null, expires_at
    family      text COLLATE "C",
    CHECK (created_at BETWEEN '0001-01-01' AND '262000-01-01'
           AND modified_at BETWEEN '0001-01-01' AND '262000-01-01'
           AND expires_at BETWEEN '0001-01-01' AND '262000-01-01'
           AND ends_at BETWEEN '0001-01-01' AND '262000-01-01')
);

CREATE INDEX customer_sessions_by_customer ON customer_sessions (customer_id, created_at, id);
CREATE INDEX customer_sessions_by_expiry ON customer_sessions (expires_at);
CREATE INDEX customer_sessions_by_family ON customer_sessions (family) WHERE family IS NOT NULL;

-- A session that another has taken the place of: its id leads to the live session of the family.
-- It is purged when the family has ended.
CREATE TABLE customer_session_rotations (
    id          text COLLATE "C" PRIMARY KEY,
    family      text COLLATE "C" NOT NULL,
    customer_id text COLLATE "C" NOT NULL,
    ends_at     timestamptz NOT NULL
);

CREATE INDEX customer_session_rotations_by_end ON customer_session_rotations (ends_at);

-- By which a wrong pepper is noticed: a machine must know the pepper of the newest generation. It
-- tells nothing about the pepper itself.
CREATE TABLE customer_session_peppers (
    generation  bigint PRIMARY KEY,             -- 1, 2, ...
    fingerprint text COLLATE "C" NOT NULL UNIQUE,
    used_since  timestamptz NOT NULL            -- then the generation before was retired
);

-- Announces what PostgresInvalidations listens for, in the transaction that makes the change:
-- nothing that is rolled back, and everything that is committed, by whomever.
--
-- The channel is named after the table, so that two schemas do not hear each other. A message
-- is `session:<id>`, `customer:<id>` or `all`: identifiers, nothing of a token. A message may
-- have less than 8000 bytes, and an error here would undo the change, so that an overlong
-- identifier, too, is announced as `all`; and so is what concerns very many.

CREATE FUNCTION customer_session_announce_sessions() RETURNS trigger LANGUAGE plpgsql AS $$
DECLARE
    channel text := 'customer_sessions_' || TG_RELID::text;
    -- What has long expired is let in nowhere, whatever is cached: purging is silent. A day, since
    -- the clocks of the nodes may be behind.
    since timestamptz := now() - interval '1 day';
    sessions bigint;
    customers bigint;
BEGIN
    SELECT count(*), count(DISTINCT customer_id) INTO sessions, customers
        FROM changed WHERE expires_at > since;
    IF sessions = 0 THEN
        RETURN NULL;
    ELSIF sessions <= 100 THEN
        PERFORM pg_notify(channel, message) FROM (
            SELECT DISTINCT CASE WHEN octet_length(id) > 4000 THEN 'all'
                ELSE 'session:' || id END AS message
            FROM changed WHERE expires_at > since) AS messages;
    ELSIF customers <= 100 THEN
        PERFORM pg_notify(channel, message) FROM (
            SELECT DISTINCT CASE WHEN octet_length(customer_id) > 4000 THEN 'all'
                ELSE 'customer:' || customer_id END AS message
            FROM changed WHERE expires_at > since) AS messages;
    ELSE
        PERFORM pg_notify(channel, 'all');
    END IF;
    RETURN NULL;
END
$$;

CREATE FUNCTION customer_session_announce_customers() RETURNS trigger LANGUAGE plpgsql AS $$
DECLARE
    channel text := 'customer_sessions_'
        || format('%I.customer_sessions', TG_TABLE_SCHEMA)::regclass::oid::text;
    customers bigint;
BEGIN
    -- Purging says so of itself: these customers have no session that could be cached.
    IF current_setting('customer_session.silent', true) = 'on' THEN
        RETURN NULL;
    END IF;
    SELECT count(*) INTO customers FROM changed;
    IF customers = 0 THEN
        RETURN NULL;
    ELSIF customers <= 100 THEN
        PERFORM pg_notify(channel, message) FROM (
            SELECT DISTINCT CASE WHEN octet_length(id) > 4000 THEN 'all'
                ELSE 'customer:' || id END AS message
            FROM changed) AS messages;
    ELSE
        PERFORM pg_notify(channel, 'all');
    END IF;
    RETURN NULL;
END
$$;

CREATE FUNCTION customer_session_announce_all() RETURNS trigger LANGUAGE plpgsql AS $$
BEGIN
    PERFORM pg_notify('customer_sessions_'
        || format('%I.customer_sessions', TG_TABLE_SCHEMA)::regclass::oid::text, 'all');
    RETURN NULL;
END
$$;

CREATE TRIGGER customer_sessions_deleted AFTER DELETE ON customer_sessions
    REFERENCING OLD TABLE AS changed
    FOR EACH STATEMENT EXECUTE FUNCTION customer_session_announce_sessions();
CREATE TRIGGER customer_sessions_updated AFTER UPDATE ON customer_sessions
    REFERENCING OLD TABLE AS changed
    FOR EACH STATEMENT EXECUTE FUNCTION customer_session_announce_sessions();
CREATE TRIGGER customer_sessions_truncated AFTER TRUNCATE ON customer_sessions
    FOR EACH STATEMENT EXECUTE FUNCTION customer_session_announce_all();
CREATE TRIGGER customer_session_customers_deleted AFTER DELETE ON customer_session_customers
    REFERENCING OLD TABLE AS changed
    FOR EACH STATEMENT EXECUTE FUNCTION customer_session_announce_customers();
CREATE TRIGGER customer_session_customers_updated AFTER UPDATE ON customer_session_customers
    REFERENCING OLD TABLE AS changed
    FOR EACH STATEMENT EXECUTE FUNCTION customer_session_announce_customers();
CREATE TRIGGER customer_session_customers_truncated AFTER TRUNCATE ON customer_session_customers
    FOR EACH STATEMENT EXECUTE FUNCTION customer_session_announce_all();

-- What has been applied. A release works with the tables if it knows every version that they need:
-- `oldest_reader` is the version that a release must know at least. So a release may meet a newer
-- schema, as it does while another is rolled out.
CREATE TABLE customer_session_schema (
    version       integer PRIMARY KEY,
    oldest_reader integer NOT NULL,
    checksum      text COLLATE "C"  -- hex SHA-256 of the SQL; null if it was applied by hand
);

INSERT INTO customer_session_schema (version, oldest_reader) VALUES (1, 1);
