//! What the two SQL stores share: statements, and what an error of the driver means.

mod idle;
mod rows;

/// The columns of `customers`, in the order in which [`customer`](rows::customer) binds them.
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

#[cfg(feature = "postgres")]
pub(super) mod postgres;
#[cfg(feature = "sqlite")]
pub(super) mod sqlite;

use std::{sync::Arc, time::Duration};

use sqlx::{
    AssertSqlSafe, Database, Encode, Error, Executor, FromRow, IntoArguments, Pool, Type,
    migrate::{MigrateError, Migration, MigrationType, Migrator},
};
use tokio::time::timeout;

use self::{
    idle::{AtHand, Loan},
    rows::Parameters,
};
use super::{
    error::{Failure, StoreError},
    pepper::{Peppers, TokenHash},
};

/// How long a lookup waits on a connection at hand, before it tries another.
const FIRST_TRY: Duration = Duration::from_secs(1);

/// How long a lookup may take over keeping a session under another pepper.
const REWRITE_TIMEOUT: Duration = Duration::from_millis(100);

/// Where migrations that were applied are remembered, apart from those of the application.
const MIGRATIONS_TABLE: &str = "customer_session_migrations";

const LIST: &str = "SELECT id, customer_id, created_at, modified_at, expires_at \
     FROM customer_sessions WHERE customer_id = $1 ORDER BY created_at, id";
const REVOKE: &str = "DELETE FROM customer_sessions WHERE id = $1";
const REVOKE_CUSTOMER: &str = "DELETE FROM customer_sessions WHERE customer_id = $1";
const REWRITE: &str =
    "UPDATE customer_sessions SET token_hash = $1 WHERE id = $2 AND token_hash = $3";
const PEPPERS: &str = "SELECT fingerprint FROM customer_session_peppers";
const REMEMBER_PEPPER: &str = "INSERT INTO customer_session_peppers (fingerprint) \
     VALUES ($1) ON CONFLICT (fingerprint) DO NOTHING";

/// The session of any of `hashes` hashes, and its customer, in the order in which [`session`](rows::session)
/// reads them.
fn find_statement(hashes: usize) -> String {
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

/// Asks [`find_statement`] on a connection at hand. One that was lost since it was used last
/// costs nothing: a lookup can be asked again.
async fn find<DB: Database>(
    at_hand: &AtHand<DB>,
    pool: &Pool<DB>,
    statement: &Arc<str>,
    hashes: &[TokenHash],
) -> Result<Option<DB::Row>, StoreError>
where
    for<'c> &'c mut DB::Connection: Executor<'c, Database = DB>,
    DB::Arguments: Parameters + IntoArguments<DB>,
{
    let ask = async |mut loan: Loan<DB>| {
        let mut parameters = DB::Arguments::default();
        for hash in hashes {
            parameters.text(Some(hash));
        }
        let statement = AssertSqlSafe(Arc::clone(statement));
        let row = sqlx::query_with(statement, parameters)
            .fetch_optional(loan.connection())
            .await?;
        at_hand.give(loan);
        Ok(row)
    };
    if let Some(loan) = at_hand.take().await {
        if let Ok(Ok(row)) = timeout(FIRST_TRY, ask(loan)).await {
            return Ok(row);
        }
        at_hand.clear();
    }
    let found = match at_hand.borrow(pool).await {
        Ok(loan) => ask(loan).await,
        Err(error) => Err(error),
    };
    found.map_err(|error| failed("looking a session up", error))
}

/// What an error of the driver means, met when a store tried to do something.
fn failed(tried: impl Into<String>, error: Error) -> StoreError {
    let mut tried = tried.into();
    match &error {
        Error::ColumnDecode { .. } | Error::Decode(_) => {
            return StoreError::corrupt(Failure::new(tried, error));
        }
        // The driver's text would have the hash in it.
        Error::Database(said) if said.is_unique_violation() => {
            return StoreError::conflict(format!("{tried}: its id or its token is taken"));
        }
        Error::Database(said) => {
            let code = said.code();
            let code = code.as_deref();
            if code == Some("57014") {
                return StoreError::timeout(Failure::new(tried, error));
            }
            // Of PostgreSQL: a value that it cannot hold, that is refused, that is too long.
            let is_refused = |code: &str| {
                code.len() == 5 && ["22", "23514", "54"].iter().any(|it| code.starts_with(it))
            };
            if code.is_some_and(is_refused) {
                return StoreError::corrupt(Failure::new(tried, error));
            }
            if code == Some("42P07") {
                tried.push_str(
                    ": a table of that name is there already; choose a schema of its own with \
                     ?options=-csearch_path%3Dsessions",
                );
            }
            if code == Some("42P01") || said.message().starts_with("no such table") {
                tried.push_str(
                    ": a table is missing; call `migrate()` when the service starts, or apply \
                     the SQL in `MIGRATIONS` yourself",
                );
            }
        }
        Error::PoolTimedOut => tried.push_str(
            ": no connection to be had; the database is down, or all connections of the pool \
             are in use",
        ),
        _ => {}
    }
    StoreError::unavailable(Failure::new(tried, error))
}

/// What an error of a migration means.
fn migration_failed(error: MigrateError) -> StoreError {
    let error = match error {
        MigrateError::Execute(error) | MigrateError::ExecuteMigration(error, _) => error,
        other => other.into(),
    };
    failed("creating the tables", error)
}

/// Compares the peppers with what the database remembers of those that it was written under.
async fn check_peppers<DB: Database>(pool: &Pool<DB>, peppers: &Peppers) -> Result<(), StoreError>
where
    for<'c> &'c mut DB::Connection: Executor<'c, Database = DB>,
    for<'r> (String,): FromRow<'r, DB::Row>,
    for<'t> String: Encode<'t, DB> + Type<DB>,
    DB::Arguments: IntoArguments<DB>,
{
    let known: Vec<String> = sqlx::query_scalar(PEPPERS)
        .fetch_all(pool)
        .await
        .map_err(|error| failed("reading the fingerprints of the peppers", error))?;
    if let Some(fingerprint) = peppers.verify(&known)? {
        let remembered = sqlx::query(REMEMBER_PEPPER)
            .bind(fingerprint)
            .execute(pool)
            .await;
        remembered.map_err(|error| failed("writing the fingerprint of a pepper", error))?;
    }
    Ok(())
}

/// Applies what has not been applied yet.
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
