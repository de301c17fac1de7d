//! What SQL stores share: the statements that both databases understand, and migrations.
//!
//! Both databases take `$1` for a parameter. What only one of them understands stands beside the
//! code that binds it.

/// The columns of `customers`, in the order in which [`rows::customer_params`] binds them.
macro_rules! customer_columns {
    () => {
        "id, organization_id, created_at, modified_at, metadata, external_id, email, \
         email_verified, kind, name, billing_name, billing_address, tax_id, locale, \
         default_payment_method_id, deleted_at, first_user_event_at, avatar_url"
    };
}

/// The text after `ON CONFLICT (id) DO` that replaces a customer.
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

mod error;
mod idle_connections;
#[cfg(feature = "postgres")]
pub(super) mod postgres;
mod rows;
#[cfg(feature = "sqlite")]
pub(super) mod sqlite;
mod store;

use sqlx::migrate::{Migration, MigrationType, Migrator};

/// The table of applied migrations, apart from that of the application's own.
const MIGRATIONS_TABLE: &str = "customer_session_migrations";

const LIST: &str = "SELECT id, customer_id, created_at, modified_at, expires_at \
     FROM customer_sessions WHERE customer_id = $1 ORDER BY created_at, id";
const REVOKE: &str = "DELETE FROM customer_sessions WHERE id = $1";
const REVOKE_CUSTOMER: &str = "DELETE FROM customer_sessions WHERE customer_id = $1";
const REHASH: &str =
    "UPDATE customer_sessions SET token_hash = $1 WHERE id = $2 AND token_hash = $3";
const PEPPERS: &str = "SELECT fingerprint FROM customer_session_peppers";
const REMEMBER_PEPPER: &str = "INSERT INTO customer_session_peppers (fingerprint) \
     VALUES ($1) ON CONFLICT (fingerprint) DO NOTHING";

/// Returns the statement that selects the session of any of `hashes` hashes and its customer, in
/// the order in which [`rows::session`] reads them.
fn find_statement(hashes: usize) -> String {
    let hashes: Vec<_> = (1..=hashes).map(|number| format!("${number}")).collect();
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

/// Returns what applies those of `migrations` that have not been applied yet.
fn migrator(migrations: &[&'static str]) -> Migrator {
    let migrations = (1..).zip(migrations).map(|(version, sql)| {
        Migration::new(
            version,
            "customer sessions".into(),
            MigrationType::Simple,
            sqlx::SqlSafeStr::into_sql_str(*sql),
            false,
        )
    });
    let mut migrator = Migrator::with_migrations(migrations.collect());
    migrator.dangerous_set_table_name(MIGRATIONS_TABLE);
    migrator
}
