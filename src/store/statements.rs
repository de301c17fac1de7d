//! What the SQL stores ask.
//!
//! Both databases take `$1` for a parameter, so that a statement that both understand is
//! written once.

pub(super) const LIST: &str = "SELECT id, customer_id, created_at, modified_at, expires_at \
     FROM customer_sessions WHERE customer_id = $1 ORDER BY created_at, id";
pub(super) const REVOKE: &str = "DELETE FROM customer_sessions WHERE id = $1";
pub(super) const REVOKE_CUSTOMER: &str = "DELETE FROM customer_sessions WHERE customer_id = $1";
pub(super) const REWRITE: &str =
    "UPDATE customer_sessions SET token_hash = $1 WHERE id = $2 AND token_hash = $3";
pub(super) const PEPPERS: &str = "SELECT fingerprint FROM customer_session_peppers";
pub(super) const REMEMBER_PEPPER: &str = "INSERT INTO customer_session_peppers (fingerprint) \
     VALUES ($1) ON CONFLICT (fingerprint) DO NOTHING";

/// The columns of `customers`, in the order in which [`customer`](super::sql::customer) binds them.
macro_rules! customer_columns {
    () => {
        "id, organization_id, created_at, modified_at, metadata, external_id, email, \
         email_verified, kind, name, billing_name, billing_address, tax_id, locale, \
         default_payment_method_id, deleted_at, first_user_event_at, avatar_url"
    };
}

/// What follows `DO` where an insertion finds the customer there already.
macro_rules! replace_customer {
    () => {
        "UPDATE SET organization_id = excluded.organization_id, \
         created_at = excluded.created_at, modified_at = excluded.modified_at, \
         metadata = excluded.metadata, external_id = excluded.external_id, \
         email = excluded.email, email_verified = excluded.email_verified, \
         kind = excluded.kind, name = excluded.name, billing_name = excluded.billing_name, \
         billing_address = excluded.billing_address, tax_id = excluded.tax_id, \
         locale = excluded.locale, \
         default_payment_method_id = excluded.default_payment_method_id, \
         deleted_at = excluded.deleted_at, \
         first_user_event_at = excluded.first_user_event_at, \
         avatar_url = excluded.avatar_url"
    };
}

/// The session of any of `hashes` hashes, and its customer, in the order in which [`session`](super::sql::session)
/// reads them.
pub(super) fn find(hashes: usize) -> String {
    let hashes: Vec<_> = (1..=hashes).map(|n| format!("${n}")).collect();
    format!(
        "SELECT s.id, s.token_hash, s.created_at, s.modified_at, s.expires_at, \
         c.id, c.organization_id, c.created_at, c.modified_at, \
         CAST(c.metadata AS text), c.external_id, c.email, c.email_verified, c.kind, c.name, \
         c.billing_name, CAST(c.billing_address AS text), CAST(c.tax_id AS text), c.locale, \
         c.default_payment_method_id, c.deleted_at, c.first_user_event_at, c.avatar_url \
         FROM customer_sessions s JOIN customers c ON c.id = s.customer_id \
         WHERE s.token_hash IN ({})",
        hashes.join(", ")
    )
}

/// Changes are one statement each, so that each is atomic and one round trip. A subquery in a
/// condition is evaluated first: that is how the customer's row is locked before a session's, by
/// the same sort of lock in all of them, so that none waits for another in a circle.
#[allow(dead_code, reason = "without the feature nobody asks")]
pub(super) mod postgres {
    /// The customer as given, with JSON told from text.
    macro_rules! customer_values {
        () => {
            "$1, $2, $3, $4, CAST($5 AS json), $6, $7, $8, $9, $10, $11, CAST($12 AS json), \
             CAST($13 AS json), $14, $15, $16, $17, $18"
        };
    }

    pub(in crate::store) const INSERT: &str = concat!(
        "WITH known AS (INSERT INTO customers (",
        customer_columns!(),
        ") VALUES (",
        customer_values!(),
        ") ON CONFLICT (id) DO ",
        replace_customer!(),
        // No new version of a row that stays as it is. `json` has no equality, but its text has.
        " WHERE customers::text <> excluded::text RETURNING id) \
         INSERT INTO customer_sessions \
         (id, token_hash, customer_id, created_at, modified_at, expires_at) \
         SELECT $19, $20, $1, $21, $22, $23 WHERE (SELECT count(*) FROM known) >= 0"
    );

    pub(in crate::store) const REPLACE: &str = concat!(
        "WITH known AS MATERIALIZED (SELECT id FROM customers WHERE id = $1 FOR NO KEY UPDATE), \
         old AS MATERIALIZED (SELECT id FROM customer_sessions \
         WHERE id = $24 AND (SELECT count(*) FROM known) >= 0 FOR UPDATE), \
         fresh AS (INSERT INTO customers (",
        customer_columns!(),
        ") SELECT ",
        customer_values!(),
        " FROM old ON CONFLICT (id) DO NOTHING), \
         new AS (INSERT INTO customer_sessions \
         (id, token_hash, customer_id, created_at, modified_at, expires_at) \
         SELECT $19, $20, $1, $21, $22, $23 FROM old RETURNING id) \
         DELETE FROM customer_sessions WHERE id = $24 AND EXISTS (SELECT 1 FROM new)"
    );

    pub(in crate::store) const UPDATE_CUSTOMER: &str = concat!(
        "WITH known AS (INSERT INTO customers (",
        customer_columns!(),
        ") SELECT ",
        customer_values!(),
        " WHERE EXISTS (SELECT 1 FROM customers WHERE id = $1) ON CONFLICT (id) DO ",
        replace_customer!(),
        " RETURNING id) SELECT count(*) FROM customer_sessions WHERE customer_id = $1"
    );

    /// Waits for rotations and insertions under way, so that the deletion that follows sees what
    /// they have added.
    pub(in crate::store) const LOCK_CUSTOMER: &str =
        "SELECT 1 FROM customers WHERE id = $1 FOR UPDATE";

    /// The array makes the planner look rows up by id. Several may purge at once.
    pub(in crate::store) const PURGE: &str = "DELETE FROM customer_sessions WHERE id = ANY (ARRAY(\
         SELECT id FROM customer_sessions WHERE expires_at <= $1 ORDER BY expires_at LIMIT $2 \
         FOR UPDATE SKIP LOCKED))";

    /// Where changes are announced, if all the triggers are there that do it.
    pub(in crate::store) const CHANNEL: &str = "SELECT 'customer_sessions_' || tables.sessions::oid::text \
         FROM (SELECT to_regclass('customer_sessions') AS sessions, \
         to_regclass('customers') AS customers) AS tables \
         WHERE (SELECT count(*) FROM pg_trigger WHERE tgenabled IN ('O', 'A') \
         AND (tgrelid = tables.sessions AND tgname IN ('customer_sessions_deleted', \
         'customer_sessions_updated', 'customer_sessions_truncated') \
         OR tgrelid = tables.customers AND tgname IN ('customers_deleted', \
         'customers_updated', 'customers_truncated'))) = 6";

    pub(in crate::store) const SERVER: &str = "SELECT current_setting('server_version_num')::int4, \
         current_setting('transaction_isolation'), pg_is_in_recovery()";
}

/// Changes are transactions of several statements.
#[allow(dead_code, reason = "without the feature nobody asks")]
pub(super) mod sqlite {
    macro_rules! customer_values {
        () => {
            "$1, $2, $3, $4, $5, $6, $7, $8, $9, $10, $11, $12, $13, $14, $15, $16, $17, $18"
        };
    }

    pub(in crate::store) const PUT_CUSTOMER: &str = concat!(
        "INSERT INTO customers (",
        customer_columns!(),
        ") VALUES (",
        customer_values!(),
        ") ON CONFLICT (id) DO ",
        replace_customer!()
    );

    pub(in crate::store) const PUT_CUSTOMER_IF_NEW: &str = concat!(
        "INSERT INTO customers (",
        customer_columns!(),
        ") VALUES (",
        customer_values!(),
        ") ON CONFLICT (id) DO NOTHING"
    );

    pub(in crate::store) const PUT_CUSTOMER_IF_KNOWN: &str = concat!(
        "INSERT INTO customers (",
        customer_columns!(),
        ") SELECT ",
        customer_values!(),
        " WHERE EXISTS (SELECT 1 FROM customers WHERE id = $1) ON CONFLICT (id) DO ",
        replace_customer!()
    );

    pub(in crate::store) const INSERT: &str = "INSERT INTO customer_sessions \
         (customer_id, id, token_hash, created_at, modified_at, expires_at) \
         VALUES ($1, $2, $3, $4, $5, $6)";

    pub(in crate::store) const IS_THERE: &str =
        "SELECT count(*) FROM customer_sessions WHERE id = $1";

    pub(in crate::store) const COUNT: &str =
        "SELECT count(*) FROM customer_sessions WHERE customer_id = $1";

    pub(in crate::store) const PURGE: &str = "DELETE FROM customer_sessions WHERE id IN \
         (SELECT id FROM customer_sessions WHERE expires_at <= $1 ORDER BY expires_at LIMIT $2)";
}
