-- The absolute end of a session, and its family: the session and all that have taken its place. A
-- family is known by the id of its first session, whose own `family` is null; so no row changes,
-- and nodes of the version before go on working. Where `ends_at` is null, `expires_at` counts.

ALTER TABLE customer_sessions
    ADD COLUMN ends_at timestamptz CHECK (ends_at BETWEEN '0001-01-01' AND '262000-01-01'),
    ADD COLUMN family  text COLLATE "C";

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

-- As before, but for the time after which a session has long expired.
CREATE OR REPLACE FUNCTION announce_customer_sessions() RETURNS trigger LANGUAGE plpgsql AS $$
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
