-- The tables of PostgresStore. Names are not qualified: they go to the first schema of the
-- search path. Times are those of the application's clock, never the database's.

CREATE TABLE customers (
    id                        text PRIMARY KEY,
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
    CHECK (isfinite(created_at) AND isfinite(modified_at) AND isfinite(deleted_at)
           AND isfinite(first_user_event_at))
);

-- A customer who is deleted takes the sessions along.
CREATE TABLE customer_sessions (
    id          text PRIMARY KEY,
    token_hash  text NOT NULL UNIQUE,  -- hex HMAC-SHA256(pepper, token)
    customer_id text NOT NULL REFERENCES customers (id) ON DELETE CASCADE,
    created_at  timestamptz NOT NULL,
    modified_at timestamptz,
    expires_at  timestamptz NOT NULL,  -- the first moment at which it is no longer accepted
    CHECK (isfinite(created_at) AND isfinite(modified_at) AND isfinite(expires_at))
);

CREATE INDEX customer_sessions_by_customer ON customer_sessions (customer_id, created_at, id);
CREATE INDEX customer_sessions_by_expiry ON customer_sessions (expires_at);

-- By which a wrong pepper is noticed. It tells nothing about the pepper itself.
CREATE TABLE customer_session_peppers (
    fingerprint text PRIMARY KEY
);
