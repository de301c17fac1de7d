-- The tables of SqliteStore. Times are microseconds since 1970, UTC, of the application's
-- clock: datetime(expires_at / 1000000, 'unixepoch') shows one.

CREATE TABLE customer_session_customers (
    id                        TEXT NOT NULL PRIMARY KEY,
    organization_id           TEXT NOT NULL,
    created_at                INTEGER NOT NULL,
    modified_at               INTEGER,
    metadata                  TEXT NOT NULL DEFAULT '{}',
    external_id               TEXT,
    email                     TEXT,
    email_verified            INTEGER NOT NULL DEFAULT 0,
    kind                      TEXT NOT NULL DEFAULT 'individual',
    name                      TEXT,
    billing_name              TEXT,
    billing_address           TEXT,    -- {"line1", "line2", "postal_code", "city", "state", "country"}
    tax_id                    TEXT,    -- [value, format]
    locale                    TEXT,
    default_payment_method_id TEXT,
    deleted_at                INTEGER,
    first_user_event_at       INTEGER,
    avatar_url                TEXT
) STRICT;

-- The epoch of each customer who has sessions, or had some. A session is live only in the epoch in
-- which it was issued: raising the epoch by one ends all sessions of the customer at once. A customer
-- who is deleted takes it along.
CREATE TABLE customer_session_epochs (
    customer_id TEXT NOT NULL PRIMARY KEY
                REFERENCES customer_session_customers (id) ON DELETE CASCADE,
    epoch       INTEGER NOT NULL DEFAULT 1,
    has_remains INTEGER NOT NULL DEFAULT 0  -- there may be sessions of earlier epochs to purge
) STRICT, WITHOUT ROWID;

CREATE INDEX customer_session_epochs_with_remains ON customer_session_epochs (customer_id)
    WHERE has_remains;

-- There is no session without the epoch of its customer, so that no later epoch can be taken for an
-- earlier one.
--
-- A family is a session and all that have taken its place. It is known by the id of its first
-- session, whose own `family` is null.
CREATE TABLE customer_sessions (
    id          TEXT NOT NULL PRIMARY KEY,
    token_hash  BLOB NOT NULL UNIQUE,  -- HMAC-SHA256(pepper, token)
    customer_id TEXT NOT NULL REFERENCES customer_session_epochs (customer_id) ON DELETE CASCADE,
    epoch       INTEGER NOT NULL DEFAULT 1,
    created_at  INTEGER NOT NULL,
    modified_at INTEGER,
    expires_at  INTEGER NOT NULL,      -- the first moment at which it is no longer accepted
    ends_at     INTEGER,               -- the end that no rotation passes; if null, expires_at
    authenticated_at INTEGER,          -- when the customer last proved who they are
    family      TEXT,
    details     TEXT,                  -- JSON: scopes, device, actor; null if there are none
    parent      TEXT,                  -- the family that it was derived from or overlaps with, and ends with
    is_parent   INTEGER                -- 1 if something ends with its family
) STRICT;

CREATE INDEX customer_sessions_by_customer ON customer_sessions (customer_id, epoch, created_at, id);
CREATE INDEX customer_sessions_by_expiry ON customer_sessions (expires_at);
CREATE INDEX customer_sessions_by_family ON customer_sessions (family) WHERE family IS NOT NULL;
CREATE INDEX customer_sessions_by_parent ON customer_sessions (parent) WHERE parent IS NOT NULL;

-- When sessions were last used.
CREATE TABLE customer_session_uses (
    session_id TEXT NOT NULL PRIMARY KEY REFERENCES customer_sessions (id) ON DELETE CASCADE,
    used_at    INTEGER NOT NULL
) STRICT, WITHOUT ROWID;

-- A session that another has taken the place of: its id leads to the live session of the family.
-- It is purged when the family has ended.
CREATE TABLE customer_session_rotations (
    id          TEXT NOT NULL PRIMARY KEY,
    family      TEXT NOT NULL,
    customer_id TEXT NOT NULL,
    ends_at     INTEGER NOT NULL
) STRICT;

CREATE INDEX customer_session_rotations_by_end ON customer_session_rotations (ends_at);

-- By which a wrong pepper is noticed: a process must know the pepper of the newest generation. It
-- tells nothing about the pepper itself.
CREATE TABLE customer_session_peppers (
    generation  INTEGER PRIMARY KEY,    -- 1, 2, ...
    fingerprint TEXT NOT NULL UNIQUE,
    used_since  INTEGER NOT NULL        -- then the generation before was retired
) STRICT;

-- What has been applied. A release works with the tables if it knows every version that they need:
-- `oldest_reader` is the version that a release must know at least. So a release may meet a newer
-- schema, as it does while another is rolled out.
CREATE TABLE customer_session_schema (
    version       INTEGER NOT NULL PRIMARY KEY,
    oldest_reader INTEGER NOT NULL,
    checksum      TEXT  -- hex SHA-256 of the SQL; null if it was applied by hand
) STRICT;

INSERT INTO customer_session_schema (version, oldest_reader) VALUES (1, 1);
