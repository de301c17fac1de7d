-- Announces what PostgresInvalidations listens for, in the transaction that makes the change:
-- nothing that is rolled back, and everything that is committed, by whomever.
--
-- The channel is named after the table, so that two schemas do not hear each other. A message
-- is `session:<id>`, `customer:<id>` or `all`: identifiers, nothing of a token. A message may
-- have less than 8000 bytes, and an error here would undo the change, so that an overlong
-- identifier, too, is announced as `all`; and so is what concerns very many.

CREATE FUNCTION announce_customer_sessions() RETURNS trigger LANGUAGE plpgsql AS $$
DECLARE
    channel text := 'customer_sessions_' || TG_RELID::text;
    -- What has long expired is let in nowhere, whatever is cached: purging is silent.
    since timestamptz := now() - interval '1 hour';
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

CREATE FUNCTION announce_customers() RETURNS trigger LANGUAGE plpgsql AS $$
DECLARE
    channel text := 'customer_sessions_'
        || format('%I.customer_sessions', TG_TABLE_SCHEMA)::regclass::oid::text;
    customers bigint;
BEGIN
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

CREATE FUNCTION announce_all_customer_sessions() RETURNS trigger LANGUAGE plpgsql AS $$
BEGIN
    PERFORM pg_notify('customer_sessions_'
        || format('%I.customer_sessions', TG_TABLE_SCHEMA)::regclass::oid::text, 'all');
    RETURN NULL;
END
$$;

CREATE TRIGGER customer_sessions_deleted AFTER DELETE ON customer_sessions
    REFERENCING OLD TABLE AS changed
    FOR EACH STATEMENT EXECUTE FUNCTION announce_customer_sessions();
CREATE TRIGGER customer_sessions_updated AFTER UPDATE ON customer_sessions
    REFERENCING OLD TABLE AS changed
    FOR EACH STATEMENT EXECUTE FUNCTION announce_customer_sessions();
CREATE TRIGGER customer_sessions_truncated AFTER TRUNCATE ON customer_sessions
    FOR EACH STATEMENT EXECUTE FUNCTION announce_all_customer_sessions();
CREATE TRIGGER customers_deleted AFTER DELETE ON customers
    REFERENCING OLD TABLE AS changed
    FOR EACH STATEMENT EXECUTE FUNCTION announce_customers();
CREATE TRIGGER customers_updated AFTER UPDATE ON customers
    REFERENCING OLD TABLE AS changed
    FOR EACH STATEMENT EXECUTE FUNCTION announce_customers();
CREATE TRIGGER customers_truncated AFTER TRUNCATE ON customers
    FOR EACH STATEMENT EXECUTE FUNCTION announce_all_customer_sessions();
