-- The tables of PostgresStore. Names are not qualified: they go to the first schema of the
-- search path. Times are those of the application's clock, never the database's, and such as it
-- knows. Identifiers compare byte by byte ("C"), whatever the language of the database.

CREATE TABLE customers (
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
CREATE TABLE customer_sessions (
    id          text COLLATE "C" PRIMARY KEY,
    token_hash  text COLLATE "C" NOT NULL UNIQUE,  -- hex HMAC-SHA256(pepper, token)
    customer_id text COLLATE "C" NOT NULL REFERENCES customers (id) ON DELETE CASCADE,
    created_at  timestamptz NOT NULL,
    modified_at timestamptz,
    expires_at  timestamptz NOT NULL,  -- the first moment at which it is no longer accepted
    CHECK (created_at BETWEEN '0001-01-01' AND '262000-01-01'
           AND modified_at BETWEEN '0001-01-01' AND '262000-01-01'
           AND expires_at BETWEEN '0001-01-01' AND '262000-01-01')
);

CREATE INDEX customer_sessions_by_customer ON customer_sessions (customer_id, created_at, id);
CREATE INDEX customer_sessions_by_expiry ON customer_sessions (expires_at);

-- By which a wrong pepper is noticed. It tells nothing about the pepper itself.
CREATE TABLE customer_session_peppers (
    fingerprint text COLLATE "C" PRIMARY KEY
);
