-- The absolute end of a session, and its family: the session and all that have taken its place. A
-- family is known by the id of its first session, whose own `family` is null. Where `ends_at` is
-- null, `expires_at` counts.

ALTER TABLE customer_sessions ADD COLUMN ends_at INTEGER;
ALTER TABLE customer_sessions ADD COLUMN family TEXT;

CREATE INDEX customer_sessions_by_family ON customer_sessions (family) WHERE family IS NOT NULL;

-- A session that another has taken the place of: its id leads to the live session of the family.
-- It is purged when the family has ended.
CREATE TABLE customer_session_rotations (
    id          TEXT NOT NULL PRIMARY KEY,
    family      TEXT NOT NULL,
    customer_id TEXT NOT NULL,
    ends_at     INTEGER NOT NULL
) STRICT;

CREATE INDEX customer_session_rotations_by_end ON customer_session_rotations (ends_at);
