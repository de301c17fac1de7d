//! The statements by which PostgreSQL adds sessions and customers.
//!
//! Each change is one statement, so that it is atomic and takes one round trip. All of them lock the
//! row of the customer's epoch first, then a session's, so that they cannot deadlock, and an epoch that
//! was read does not change before the end of the statement. What a statement reads without a lock is
//! what was there when it began, before it waited.

/// The parameters of a customer, with casts for JSON.
macro_rules! customer_values {
    () => {
        "$1, $2, $3, $4, CAST($5 AS json), $6, $7, $8, $9, $10, $11, CAST($12 AS json), \
         CAST($13 AS json), $14, $15, $16, $17, $18"
    };
}

/// Begins a statement that adds the session `$2` to `$9` of the customer `$1`. An id that leads to a
/// family leads to no other session.
macro_rules! adding_session {
    () => {
        "WITH taken AS MATERIALIZED (SELECT 1 FROM customer_session_rotations WHERE id = $2), \
         epoch AS MATERIALIZED (SELECT epoch FROM customer_session_epochs WHERE customer_id = $1 \
         FOR NO KEY UPDATE), "
    };
}

/// The insertion of a session, with its epoch, family, `parent` and `is_parent`.
macro_rules! insert_session {
    ($place:literal, $from:literal) => {
        concat!(
            "INSERT INTO customer_sessions (customer_id, id, token_hash, created_at, \
             modified_at, expires_at, ends_at, authenticated_at, details, epoch, family, parent, is_parent) \
             SELECT $1, $2, $3, $4, $5, $6, $7, $8, $9, ",
            $place,
            " FROM ",
            $from,
            " WHERE NOT EXISTS (SELECT 1 FROM taken) \
             RETURNING id, token_hash, created_at, modified_at, expires_at, ends_at, \
             authenticated_at, details"
        )
    };
}

/// Ends a statement that adds a session to the customer `c`, in the epoch that is locked or the first.
macro_rules! in_current_epoch {
    () => {
        concat!(
            "first AS (INSERT INTO customer_session_epochs (customer_id) SELECT c.id FROM c \
             WHERE c.deleted_at IS NULL AND NOT EXISTS (SELECT 1 FROM epoch) \
             AND NOT EXISTS (SELECT 1 FROM taken) ON CONFLICT DO NOTHING RETURNING epoch), \
             e AS (SELECT epoch FROM epoch UNION ALL SELECT epoch FROM first), s AS (",
            insert_session!(
                "e.epoch, NULL, NULL, NULL",
                "e JOIN c ON c.deleted_at IS NULL"
            ),
            ") SELECT ",
            session_columns!(),
            ", t.taken FROM (SELECT EXISTS (SELECT 1 FROM taken) AS taken) t \
             LEFT JOIN c ON true LEFT JOIN s ON true"
        )
    };
}

/// Returns the session and the customer, and `true` if the id is that of a session that was replaced.
/// The customer `$10` to `$27` is added if there is none.
///
/// A customer whose epoch is locked cannot be forgotten meanwhile. One without an epoch is locked
/// instead.
pub(super) const INSERT: &str = concat!(
    adding_session!(),
    "known AS MATERIALIZED (SELECT ",
    customer_columns!(),
    " FROM customer_session_customers WHERE id = $1 AND EXISTS (SELECT 1 FROM epoch)), \
     without_epoch AS MATERIALIZED (SELECT ",
    customer_columns!(),
    " FROM customer_session_customers WHERE id = $1 AND NOT EXISTS (SELECT 1 FROM epoch) \
     FOR KEY SHARE), \
     fresh AS (INSERT INTO customer_session_customers (",
    customer_columns!(),
    ") SELECT $10, $11, $12, $13, CAST($14 AS json), $15, $16, $17, $18, $19, $20, \
     CAST($21 AS json), CAST($22 AS json), $23, $24, $25, $26, $27 \
     WHERE NOT EXISTS (SELECT 1 FROM known) AND NOT EXISTS (SELECT 1 FROM without_epoch) \
     AND NOT EXISTS (SELECT 1 FROM taken) AND $25 IS NULL \
     ON CONFLICT (id) DO NOTHING RETURNING ",
    customer_columns!(),
    "), c AS (SELECT * FROM known UNION ALL SELECT * FROM without_epoch \
     UNION ALL SELECT * FROM fresh), ",
    in_current_epoch!()
);

/// Returns what [`INSERT`] does. Adds no customer: they are the application's.
///
/// The customer is read without a lock, as they were when the statement began. An epoch that has been
/// raised since then tells that they may have been deleted: no session is added.
pub(super) const INSERT_FOR_EXTERNAL: &str = concat!(
    "WITH taken AS MATERIALIZED (SELECT 1 FROM customer_session_rotations WHERE id = $2), \
     seen AS MATERIALIZED (SELECT epoch FROM customer_session_epochs WHERE customer_id = $1), \
     locked AS MATERIALIZED (SELECT epoch FROM customer_session_epochs WHERE customer_id = $1 \
     FOR NO KEY UPDATE), \
     epoch AS MATERIALIZED (SELECT epoch FROM locked JOIN seen USING (epoch)), \
     c AS MATERIALIZED (SELECT ",
    customer_columns!(),
    " FROM customer_session_customers WHERE id = $1), ",
    in_current_epoch!()
);

/// True, and silences the triggers until the end of the transaction: no session ends that was live.
macro_rules! silently {
    () => {
        "(SELECT set_config('customer_session.silent', 'on', true)) = 'on'"
    };
}

/// Goes on with a statement that adds a session: locks the session `$10`, if it is there and of the current
/// epoch, as `old`. The new session has the epoch of the old one, which is judged behind the lock: a
/// rotation that a revocation has overtaken must not come out with the new epoch.
macro_rules! beside_old_session {
    ($lock:literal) => {
        concat!(
            "locked AS MATERIALIZED (SELECT id, coalesce(family, id) AS family, epoch, parent, is_parent \
             FROM customer_sessions WHERE id = $10 AND customer_id = $1 AND ", is_current!(), " \
             AND (SELECT count(*) FROM epoch) >= 0 ", $lock, "), \
             old AS MATERIALIZED (SELECT l.* FROM locked l JOIN epoch ON epoch.epoch = l.epoch), \
             c AS MATERIALIZED (SELECT ",
            customer_columns!(),
            " FROM customer_session_customers WHERE id = $1), s AS ("
        )
    };
}

/// Returns what [`INSERT`] does, and `true` if the parent `$10` is a child; no row if the parent is gone or
/// is not of the current epoch. The row of the parent is changed, so that a revocation which has waited for
/// its lock finds that there are children to end.
pub(super) const DERIVE: &str = concat!(
    adding_session!(),
    beside_old_session!("FOR NO KEY UPDATE"),
    insert_session!(
        "old.epoch, NULL, old.family, NULL",
        "old JOIN c ON old.parent IS NULL"
    ),
    "), noted AS (UPDATE customer_sessions SET is_parent = true \
     WHERE id = $10 AND is_parent IS NULL AND EXISTS (SELECT 1 FROM s) AND ",
    silently!(),
    ") SELECT ",
    session_columns!(),
    ", EXISTS (SELECT 1 FROM taken), old.parent IS NOT NULL \
     FROM old CROSS JOIN c LEFT JOIN s ON true"
);

/// Returns what [`INSERT`] does, or no row if the old session `$10` is gone or is not of the current
/// epoch. Ends the replaced sessions of the family whose tokens are still accepted.
pub(super) const REPLACE: &str = concat!(
    adding_session!(),
    beside_old_session!("FOR UPDATE"),
    insert_session!(
        "old.epoch, old.family, old.parent, old.is_parent",
        "old CROSS JOIN c"
    ),
    "), rotated AS (INSERT INTO customer_session_rotations (id, family, customer_id, ends_at) \
     SELECT old.id, old.family, $1, greatest($6, $7) FROM old CROSS JOIN s), \
     overlapping AS (DELETE FROM customer_sessions WHERE parent = (SELECT old.family FROM old WHERE old.is_parent) \
     AND parent = coalesce(family, id) AND EXISTS (SELECT 1 FROM s)), \
     gone AS (DELETE FROM customer_sessions WHERE id = $10 AND EXISTS (SELECT 1 FROM s)) SELECT ",
    session_columns!(),
    ", EXISTS (SELECT 1 FROM taken) FROM old CROSS JOIN c LEFT JOIN s ON true"
);

/// Returns what [`REPLACE`] does, and `true` if the old session is a child. Its token is accepted until `$11`, with
/// the details `$12`.
pub(super) const REPLACE_OVERLAPPING: &str = concat!(
    adding_session!(),
    beside_old_session!("FOR NO KEY UPDATE"),
    insert_session!(
        "old.epoch, old.family, NULL, true",
        "old JOIN c ON old.parent IS NULL"
    ),
    "), rotated AS (INSERT INTO customer_session_rotations (id, family, customer_id, ends_at) \
     SELECT old.id, old.family, $1, greatest($6, $7) FROM old CROSS JOIN s), \
     kept AS (",
    keep_overlapping!("$11", "$12"),
    "$10 AND EXISTS (SELECT 1 FROM s)) SELECT ",
    session_columns!(),
    ", EXISTS (SELECT 1 FROM taken), old.parent IS NOT NULL \
     FROM old CROSS JOIN c LEFT JOIN s ON true"
);

pub(super) const INSERT_CUSTOMER_IF_NEW: &str = concat!(
    "INSERT INTO customer_session_customers (",
    customer_columns!(),
    ") VALUES (",
    customer_values!(),
    ") ON CONFLICT (id) DO NOTHING"
);

/// Adds the first epoch of a customer who is there and not deleted. The customer is locked, and so is
/// not forgotten before the epoch refers to them: this statement could not see that they are gone.
pub(super) const ADD_EPOCH: &str = "INSERT INTO customer_session_epochs (customer_id) \
     SELECT id FROM customer_session_customers WHERE id = $1 AND deleted_at IS NULL FOR KEY SHARE \
     ON CONFLICT DO NOTHING";

pub(super) const ANNOUNCE: &str = "INSERT INTO customer_session_changes (message) VALUES ($1)";

pub(super) const UPDATE_CUSTOMER: &str = concat!(
    "UPDATE customer_session_customers SET (",
    customer_columns!(),
    ") = (",
    customer_values!(),
    ") WHERE id = $1"
);

/// Waits for rotations and insertions under way, so that the statement that follows sees what
/// they have added.
pub(super) const LOCK_CUSTOMER: &str =
    "SELECT 1 FROM customer_session_epochs WHERE customer_id = $1 FOR UPDATE";

/// Keeps a session under the current pepper.
pub(super) const REHASH: &str = concat!(
    "UPDATE customer_sessions SET token_hash = $1 WHERE id = $2 AND token_hash = $3 AND ",
    silently!()
);

/// Removes expired sessions. Returns their number, and the last time at which one of them expired.
///
/// It begins at the time `$3`: while an old snapshot keeps what was removed, a search from the
/// beginning would walk over all of it. The array makes the planner look rows up by id. Several may
/// purge at once. The clock of one node may be hours ahead, so the server's is an upper bound.
pub(super) const PURGE: &str = concat!(
    "WITH gone AS (DELETE FROM customer_sessions WHERE ",
    silently!(),
    " AND id = ANY (ARRAY(SELECT id FROM customer_sessions \
     WHERE expires_at BETWEEN coalesce($3, '-infinity') AND least($1, now()) \
     ORDER BY expires_at LIMIT $2 FOR UPDATE SKIP LOCKED)) RETURNING expires_at) \
     SELECT CAST(count(*) AS integer), max(expires_at) FROM gone"
);

/// Removes replaced sessions whose family has ended. Takes and returns what [`PURGE`] does.
pub(super) const PURGE_ROTATIONS: &str = "WITH gone AS (DELETE FROM customer_session_rotations WHERE id = ANY (ARRAY(\
     SELECT r.id FROM customer_session_rotations r \
     WHERE r.ends_at BETWEEN coalesce($3, '-infinity') AND least($1, now()) \
     AND NOT EXISTS (SELECT 1 FROM customer_sessions s WHERE s.family = r.family) \
     ORDER BY r.ends_at LIMIT $2 FOR UPDATE SKIP LOCKED)) RETURNING ends_at) \
     SELECT CAST(count(*) AS integer), max(ends_at) FROM gone";

/// Removes sessions that ended with their customer's epoch, of the customer `$2` and those that follow,
/// from the epoch `$3` and the time of creation `$4` on. Returns the place that was reached, and the
/// number of those that were removed; no row if there were none.
///
/// An epoch never falls, so that what was seen as an earlier one is an earlier one. The order is that
/// of the index: nothing is sorted, however many sessions one customer has left.
pub(super) const PURGE_REMAINS: &str = concat!(
    "WITH gone AS (DELETE FROM customer_sessions WHERE ",
    silently!(),
    " AND id = ANY (ARRAY(SELECT ended.id FROM customer_session_epochs e CROSS JOIN LATERAL (\
     SELECT s.id FROM customer_sessions s WHERE s.customer_id = e.customer_id AND s.epoch < e.epoch \
     AND (s.epoch, s.created_at) >= (CASE WHEN e.customer_id = $2 THEN $3 ELSE 0 END, \
     CASE WHEN e.customer_id = $2 THEN $4 ELSE '-infinity' END) \
     ORDER BY s.epoch, s.created_at LIMIT $1 FOR UPDATE SKIP LOCKED) ended \
     WHERE e.has_remains AND e.customer_id >= $2 ORDER BY e.customer_id LIMIT $1)) \
     RETURNING customer_id, epoch, created_at) \
     SELECT customer_id, epoch, created_at, CAST(count(*) OVER () AS integer) FROM gone \
     ORDER BY customer_id DESC, epoch DESC, created_at DESC LIMIT 1"
);

/// Notes which customers have no sessions of earlier epochs left. An epoch that has changed since the
/// statement began may have left some that the statement does not see.
pub(super) const NOTE_NO_REMAINS: &str = "WITH locked AS MATERIALIZED (SELECT customer_id, epoch FROM customer_session_epochs \
     WHERE has_remains ORDER BY customer_id LIMIT $1 FOR NO KEY UPDATE SKIP LOCKED) \
     UPDATE customer_session_epochs SET has_remains = false WHERE customer_id = ANY (ARRAY(\
     SELECT l.customer_id FROM locked l WHERE l.epoch = (SELECT seen.epoch \
     FROM customer_session_epochs seen WHERE seen.customer_id = l.customer_id) \
     AND NOT EXISTS (SELECT 1 FROM customer_sessions s \
     WHERE s.customer_id = l.customer_id AND s.epoch < l.epoch)))";
