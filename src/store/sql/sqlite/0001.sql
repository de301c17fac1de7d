-- The tables of SqliteStore. Times are microseconds since 1970, UTC, of the application's
-- clock: datetime(expires_at / 1000000, 'unixepoch') shows one.

CREATE TABLE customers (
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

-- A customer who is deleted takes the sessions along.
CREATE TABLE customer_sessions (
    id          TEXT NOT NULL PRIMARY KEY,
    token_hash  TEXT NOT NULL UNIQUE,  -- hex HMAC-SHA256(pepper, token)
    customer_id TEXT NOT NULL REFERENCES customers (id) ON DELETE CASCADE,
    created_at  INTEGER NOT NULL,
    modified_at INTEGER,
    expires_at  INTEGER NOT NULL       -- the first moment at which it is no longer accepted
) STRICT;

CREATE INDEX customer_sessions_by_customer ON customer_sessions (customer_id, created_at, id);
CREATE INDEX customer_sessions_by_expiry ON customer_sessions (expires_at);

-- By which a wrong pepper is noticed. It tells nothing about the pepper itself.
CREATE TABLE customer_session_peppers (
    fingerprint TEXT NOT NULL PRIMARY KEY
) STRICT;
