-- The tables of PostgresStore but that of the customers. Names are not qualified: they go to the first
-- schema of the search path. To apply this by hand, run it in one transaction, after
-- `SET LOCAL search_path TO auth`, with the schema that the tables belong in.
--
-- Times are those of the application's clock, never the database's. Identifiers compare byte by byte
-- ("C"), whatever the language of the database.

-- The epoch of each customer who has sessions, or had some. A session is live only in the epoch in
-- which it was issued: raising the epoch by one ends all sessions of the customer at once. Whoever
-- changes which sessions a customer has locks this row first. A customer who is deleted takes it along.
CREATE TABLE customer_session_epochs (
    customer_id text COLLATE "C" PRIMARY KEY,
    epoch       integer NOT NULL DEFAULT 1,
    has_remains boolean NOT NULL DEFAULT false  -- there may be sessions of earlier epochs to purge
);

CREATE INDEX customer_session_epochs_with_remains ON customer_session_epochs (customer_id)
    WHERE has_remains;

-- There is no session without the epoch of its customer, so that no later epoch can be taken for an
-- earlier one.
--
-- A family is a session and all that have taken its place. It is known by the id of its first
-- session, whose own `family` is null, so that most rows need none.
--
-- Columns of eight bytes come first, so that none is padded. The index of the hashes is not a hash
-- index, which takes 38 bytes for a session and this one 77: the planner would not know that a hash is
-- unique, and without statistics a lookup would read all customers.
CREATE TABLE customer_sessions (
    created_at  timestamptz NOT NULL,
    expires_at  timestamptz NOT NULL,  -- the first moment at which it is no longer accepted
    ends_at     timestamptz,           -- the end that no rotation passes; if null, expires_at
    modified_at timestamptz,
    authenticated_at timestamptz,      -- when the customer last proved who they are
    epoch       integer NOT NULL DEFAULT 1,
    id          text COLLATE "C" PRIMARY KEY,
    token_hash  bytea NOT NULL UNIQUE, -- HMAC-SHA256(pepper, token)
    customer_id text COLLATE "C" NOT NULL
                REFERENCES customer_session_epochs (customer_id) ON DELETE CASCADE,
    family      text COLLATE "C",
    details     text COLLATE "C",      -- JSON: scopes, device, actor; null if there are none
    parent      text COLLATE "C",      -- the family that it was derived from or overlaps with, and ends with
    is_parent   boolean,               -- true if something ends with its family
    CHECK (octet_length(token_hash) = 32),
    CHECK (created_at BETWEEN '0001-01-01' AND '262000-01-01'
           AND modified_at BETWEEN '0001-01-01' AND '262000-01-01'
           AND expires_at BETWEEN '0001-01-01' AND '262000-01-01'
           AND ends_at BETWEEN '0001-01-01' AND '262000-01-01'
           AND authenticated_at BETWEEN '0001-01-01' AND '262000-01-01')
) WITH (
    -- Rows are added and deleted, and seldom changed: pages are filled to the last byte. By default
    -- a fifth of the table would have to be dead before it is vacuumed: of 100 million rows, 20
    -- million. A hundredth keeps it from growing, and the estimates of the planner fresh.
    fillfactor = 100,
    autovacuum_vacuum_scale_factor = 0.01,
    autovacuum_analyze_scale_factor = 0.01
);

-- A list of one customer's live sessions is read in the order of this index, those of one moment
-- sorted by id.
CREATE INDEX customer_sessions_by_customer ON customer_sessions (customer_id, epoch, created_at);
CREATE INDEX customer_sessions_by_expiry ON customer_sessions (expires_at);
CREATE INDEX customer_sessions_by_family ON customer_sessions (family) WHERE family IS NOT NULL;
CREATE INDEX customer_sessions_by_parent ON customer_sessions (parent) WHERE parent IS NOT NULL;

-- When sessions were last used. A table of its own, without triggers: a use announces nothing, and writes
-- no other row of a session. No index has `used_at`, and pages have room, so that a new version of a row
-- stays in its page, and takes the place of an old one there without a vacuum. What remains for vacuum is
-- what has ended.
CREATE TABLE customer_session_uses (
    used_at     timestamptz NOT NULL,
    session_id  text COLLATE "C" PRIMARY KEY
                REFERENCES customer_sessions (id) ON DELETE CASCADE,
    CHECK (used_at BETWEEN '0001-01-01' AND '262000-01-01')
) WITH (
    fillfactor = 70,
    autovacuum_vacuum_scale_factor = 0.05
);

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

-- What has changed, for PostgresInvalidations of every node to read. The triggers below write it in
-- the transaction that makes the change: nothing that is rolled back, and everything that is committed,
-- by whomever.
--
-- A message is `session:<id>`, `customer:<id>` or `all`: identifiers, nothing of a token. `probe:<...>`
-- is written by a reader, to see whether it reads what is written.
--
-- Rows are found by their transaction: they become visible when it is committed, in another order than
-- numbers are given out. Rows that all readers have seen are deleted again.
CREATE TABLE customer_session_changes (
    xid     xid8 NOT NULL DEFAULT pg_current_xact_id(),
    number  bigint GENERATED ALWAYS AS IDENTITY,
    message text COLLATE "C" NOT NULL,
    PRIMARY KEY (xid, number)
) WITH (autovacuum_vacuum_scale_factor = 0, autovacuum_vacuum_threshold = 10000);

-- One row, written by a reader that finds none. A crash of the server empties the table. It also takes
-- back the numbers of the last transactions, and gives them out again: a reader that finds another
-- number here than before does not rely on what it has read. A replica cannot be asked.
CREATE UNLOGGED TABLE customer_session_incarnation (
    only_row boolean PRIMARY KEY DEFAULT true CHECK (only_row),
    number   uuid NOT NULL DEFAULT gen_random_uuid()
);

-- The transactions whose changes may have been deleted: those before `pruned_below`. The next are those
-- before `next_below`, once that has been visible to everybody for a minute.
CREATE TABLE customer_session_pruning (
    only_row     boolean PRIMARY KEY DEFAULT true CHECK (only_row),
    pruned_below xid8 NOT NULL,
    next_below   xid8 NOT NULL,
    next_since   timestamptz NOT NULL
);

INSERT INTO customer_session_pruning (pruned_below, next_below, next_since)
SELECT xmin, xmin, now() FROM pg_snapshot_xmin(pg_current_snapshot()) AS xmin;

-- The functions find these tables whatever the search path of the client is that makes a change. The
-- name of the schema is written into those that run with each revocation: setting a search path, and
-- taking it back, made each revocation slower. `changed` has each id once. What concerns very many is
-- announced as `all`.
--
-- The store sets customer_session.silent for a statement after which no session ends that was live:
-- purging, and keeping a session under another pepper.

DO $do$
BEGIN
    EXECUTE format($functions$
CREATE FUNCTION customer_session_announce_sessions() RETURNS trigger LANGUAGE plpgsql
AS $$
DECLARE
    -- What has long expired cannot authenticate, whatever is cached. A day, since the clocks of the
    -- nodes may be behind. Tests of an application may put a `now()` of their own before the server's.
    since timestamptz := pg_catalog.now() - interval '1 day';
    announced bigint;
BEGIN
    INSERT INTO %1$I.customer_session_changes (message)
        SELECT 'session:' || id FROM changed WHERE expires_at > since LIMIT 101;
    GET DIAGNOSTICS announced = ROW_COUNT;
    IF announced > 100 THEN
        INSERT INTO %1$I.customer_session_changes (message)
            SELECT DISTINCT 'customer:' || customer_id FROM changed
            WHERE expires_at > since LIMIT 101;
        GET DIAGNOSTICS announced = ROW_COUNT;
        IF announced > 100 THEN
            INSERT INTO %1$I.customer_session_changes (message) VALUES ('all');
        END IF;
    END IF;
    RETURN NULL;
END
$$;

CREATE FUNCTION customer_session_announce_epochs() RETURNS trigger LANGUAGE plpgsql
AS $$
DECLARE
    announced bigint;
BEGIN
    IF TG_OP = 'DELETE' THEN
        INSERT INTO %1$I.customer_session_changes (message)
            SELECT 'customer:' || customer_id FROM changed LIMIT 101;
    ELSE
        INSERT INTO %1$I.customer_session_changes (message)
            SELECT 'customer:' || o.customer_id
            FROM changed o LEFT JOIN changed_to n ON n.customer_id = o.customer_id
            WHERE n.epoch IS DISTINCT FROM o.epoch LIMIT 101;
    END IF;
    GET DIAGNOSTICS announced = ROW_COUNT;
    IF announced > 100 THEN
        INSERT INTO %1$I.customer_session_changes (message) VALUES ('all');
    END IF;
    RETURN NULL;
END
$$;
$functions$, current_schema());
END
$do$;

CREATE FUNCTION customer_session_announce_all() RETURNS trigger LANGUAGE plpgsql
SET search_path FROM CURRENT AS $$
BEGIN
    INSERT INTO customer_session_changes (message) VALUES ('all');
    RETURN NULL;
END
$$;

CREATE TRIGGER customer_sessions_deleted AFTER DELETE ON customer_sessions
    REFERENCING OLD TABLE AS changed
    FOR EACH STATEMENT WHEN (current_setting('customer_session.silent', true) IS DISTINCT FROM 'on')
    EXECUTE FUNCTION customer_session_announce_sessions();
CREATE TRIGGER customer_sessions_updated AFTER UPDATE ON customer_sessions
    REFERENCING OLD TABLE AS changed
    FOR EACH STATEMENT WHEN (current_setting('customer_session.silent', true) IS DISTINCT FROM 'on')
    EXECUTE FUNCTION customer_session_announce_sessions();
CREATE TRIGGER customer_sessions_truncated AFTER TRUNCATE ON customer_sessions
    FOR EACH STATEMENT EXECUTE FUNCTION customer_session_announce_all();
CREATE TRIGGER customer_session_epochs_deleted AFTER DELETE ON customer_session_epochs
    REFERENCING OLD TABLE AS changed
    FOR EACH STATEMENT WHEN (current_setting('customer_session.silent', true) IS DISTINCT FROM 'on')
    EXECUTE FUNCTION customer_session_announce_epochs();
CREATE TRIGGER customer_session_epochs_updated AFTER UPDATE ON customer_session_epochs
    REFERENCING OLD TABLE AS changed NEW TABLE AS changed_to
    FOR EACH STATEMENT WHEN (current_setting('customer_session.silent', true) IS DISTINCT FROM 'on')
    EXECUTE FUNCTION customer_session_announce_epochs();
CREATE TRIGGER customer_session_epochs_truncated AFTER TRUNCATE ON customer_session_epochs
    FOR EACH STATEMENT EXECUTE FUNCTION customer_session_announce_all();
CREATE TRIGGER customer_session_changes_truncated AFTER TRUNCATE ON customer_session_changes
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
