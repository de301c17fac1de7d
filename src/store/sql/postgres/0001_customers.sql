
-- The customers. A customer who is deleted takes the epoch and the sessions along.

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

ALTER TABLE customer_session_epochs
    ADD FOREIGN KEY (customer_id) REFERENCES customer_session_customers (id) ON DELETE CASCADE;

DO $do$
BEGIN
    EXECUTE format($functions$
CREATE FUNCTION customer_session_announce_customers() RETURNS trigger LANGUAGE plpgsql
AS $$
DECLARE
    announced bigint;
BEGIN
    INSERT INTO %1$I.customer_session_changes (message)
        SELECT 'customer:' || id FROM changed LIMIT 101;
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

CREATE TRIGGER customer_session_customers_deleted AFTER DELETE ON customer_session_customers
    REFERENCING OLD TABLE AS changed
    FOR EACH STATEMENT WHEN (current_setting('customer_session.silent', true) IS DISTINCT FROM 'on')
    EXECUTE FUNCTION customer_session_announce_customers();
CREATE TRIGGER customer_session_customers_updated AFTER UPDATE ON customer_session_customers
    REFERENCING OLD TABLE AS changed
    FOR EACH STATEMENT WHEN (current_setting('customer_session.silent', true) IS DISTINCT FROM 'on')
    EXECUTE FUNCTION customer_session_announce_customers();
CREATE TRIGGER customer_session_customers_truncated AFTER TRUNCATE ON customer_session_customers
    FOR EACH STATEMENT EXECUTE FUNCTION customer_session_announce_all();
