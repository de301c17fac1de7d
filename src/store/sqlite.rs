//! Sessions in an SQLite file.

use std::{fmt, sync::Arc, time::Duration};

use async_trait::async_trait;
use chrono::{DateTime, Utc};
use sqlx::{
    AssertSqlSafe, Error, Row, Sqlite, SqlitePool, Transaction,
    sqlite::{
        SqliteArguments, SqliteConnectOptions, SqliteJournalMode, SqlitePoolOptions, SqliteRow,
        SqliteSynchronous,
    },
};
use tokio::sync::{OnceCell, Semaphore, SemaphorePermit};

use super::{
    SessionRegistry, SessionStore, StoreError,
    micros::{from_micros, to_micros},
    pepper::{Peppers, TokenHash},
    record::{check_customer, check_session},
    sql::{self, Columns, Parameters, customer_columns, failed, replace_customer},
};
use crate::{
    customer::{Customer, CustomerId},
    session::{CustomerSession, SessionId, SessionSummary},
    token::{SessionToken, TokenFormat},
};

/// Connections of a pool that the store opens itself: one that writes, and readers.
const CONNECTIONS: u32 = 5;

/// How long a write waits for another process that writes, and a request for a connection.
const BUSY_TIMEOUT: Duration = Duration::from_secs(5);

/// SQLite knows `STRICT` tables since 3.37.
const MIN_VERSION: (u32, u32) = (3, 37);

macro_rules! customer_values {
    () => {
        "$1, $2, $3, $4, $5, $6, $7, $8, $9, $10, $11, $12, $13, $14, $15, $16, $17, $18"
    };
}

const PUT_CUSTOMER: &str = concat!(
    "INSERT INTO customers (",
    customer_columns!(),
    ") VALUES (",
    customer_values!(),
    ") ON CONFLICT (id) DO ",
    replace_customer!()
);

const PUT_CUSTOMER_IF_NEW: &str = concat!(
    "INSERT INTO customers (",
    customer_columns!(),
    ") VALUES (",
    customer_values!(),
    ") ON CONFLICT (id) DO NOTHING"
);

const PUT_CUSTOMER_IF_KNOWN: &str = concat!(
    "INSERT INTO customers (",
    customer_columns!(),
    ") SELECT ",
    customer_values!(),
    " WHERE EXISTS (SELECT 1 FROM customers WHERE id = $1) ON CONFLICT (id) DO ",
    replace_customer!()
);

const INSERT: &str = "INSERT INTO customer_sessions \
     (customer_id, id, token_hash, created_at, modified_at, expires_at) \
     VALUES ($1, $2, $3, $4, $5, $6)";

const IS_THERE: &str = "SELECT 1 FROM customer_sessions WHERE id = $1";

const COUNT: &str = "SELECT count(*) FROM customer_sessions WHERE customer_id = $1";

const PURGE: &str = "DELETE FROM customer_sessions WHERE id IN \
     (SELECT id FROM customer_sessions WHERE expires_at <= $1 ORDER BY expires_at LIMIT $2)";

/// Keeps sessions in an SQLite file: for a service that is one machine, or one process.
///
/// Call [`migrate`](Self::migrate) when the service starts, or apply
/// [`MIGRATIONS`](Self::MIGRATIONS) yourself. Before its first answer the store checks the
/// tables and the [`Peppers`], and while something is amiss every method fails and says what to
/// do; [`check`](Self::check) does that at once. Clones share their connections.
///
/// ```
/// use customer_session::{CustomerSessions, store::{Peppers, SqliteStore}};
///
/// # #[tokio::main(flavor = "current_thread")]
/// # async fn main() -> Result<(), Box<dyn std::error::Error>> {
/// # let folder = std::env::temp_dir().join(format!("doc-{}", std::process::id()));
/// # std::fs::create_dir_all(&folder)?;
/// # let url = format!("sqlite:{}/sessions.db", folder.display());
/// # let url = url.as_str();
/// # let secret = [7; 32];
/// // url: "sqlite:sessions.db", secret: from wherever you keep secrets
/// let store = SqliteStore::connect(url, Peppers::new(secret)).await?;
/// store.migrate().await?;
/// let sessions = CustomerSessions::builder(store).build();
/// # std::fs::remove_dir_all(&folder)?;
/// # Ok(())
/// # }
/// ```
#[derive(Clone)]
pub struct SqliteStore {
    shared: Arc<Shared>,
}

struct Shared {
    pool: SqlitePool,
    /// One of us writes at a time. SQLite has it so anyway, but those who wait for SQLite's own
    /// lock wait in no order, each with a connection in hand.
    writer: Semaphore,
    peppers: Peppers,
    find: Arc<str>,
    /// Filled when everything was found to be as it should.
    checked: OnceCell<()>,
}

impl SqliteStore {
    /// The SQL that [`migrate`](Self::migrate) applies, oldest first.
    pub const MIGRATIONS: &[&str] = &[include_str!("migrations/sqlite_0001.sql")];

    /// Opens a file, and creates it if need be: `sqlite:sessions.db`,
    /// `sqlite:///var/lib/app/sessions.db`.
    ///
    /// Readers do not wait for the writer (WAL), the writer waits for other processes for up to
    /// five seconds, and what was committed survives a power cut (`synchronous = FULL`).
    /// `sqlite::memory:` works too, on one connection.
    ///
    /// # Errors
    ///
    /// [`Unavailable`](crate::StoreErrorKind::Unavailable) if the URL is none, or if the file
    /// cannot be opened.
    pub async fn connect(url: &str, peppers: Peppers) -> Result<Self, StoreError> {
        // The driver takes anything for a file's name, and errors would show it.
        let parsed = if url.starts_with("sqlite:") {
            url.parse::<SqliteConnectOptions>()
        } else {
            Err(Error::Configuration(
                "it does not begin with sqlite:".into(),
            ))
        };
        let options = parsed.map_err(|error| {
            let tried = "this is no URL of an SQLite file; one looks like sqlite:sessions.db";
            failed(tried, error)
        })?;
        let options = options
            .create_if_missing(true)
            .journal_mode(SqliteJournalMode::Wal)
            .synchronous(SqliteSynchronous::Full)
            .busy_timeout(BUSY_TIMEOUT);
        // A database in memory ends with its connection.
        let in_memory = url.contains(":memory:") || url.contains("mode=memory");
        let file = options.get_filename().display().to_string();
        let pool = SqlitePoolOptions::new()
            .max_connections(if in_memory { 1 } else { CONNECTIONS })
            .min_connections(1)
            .max_lifetime(None)
            .idle_timeout(None)
            .acquire_timeout(BUSY_TIMEOUT)
            .test_before_acquire(false)
            .connect_with(options)
            .await
            .map_err(|error| failed(format!("opening the SQLite file {file}"), error))?;
        Ok(Self::new(pool, peppers))
    }

    /// Uses connections of a pool. They should be in WAL mode, with a busy timeout, and without
    /// `test_before_acquire`, which doubles the time that a lookup takes.
    pub fn new(pool: SqlitePool, peppers: Peppers) -> Self {
        Self {
            shared: Arc::new(Shared {
                find: sql::find_statement(peppers.len()).into(),
                pool,
                writer: Semaphore::new(1),
                peppers,
                checked: OnceCell::new(),
            }),
        }
    }

    /// Creates the tables, or brings them up to date.
    ///
    /// # Errors
    ///
    /// As the database says; then nothing was changed.
    pub async fn migrate(&self) -> Result<(), StoreError> {
        let migrated = sql::migrator(Self::MIGRATIONS).run(&self.shared.pool).await;
        migrated.map_err(sql::migration_failed)?;
        self.check().await
    }

    /// Checks SQLite's version, the tables and the peppers.
    ///
    /// # Errors
    ///
    /// What is amiss, and what to do.
    pub async fn check(&self) -> Result<(), StoreError> {
        let Shared { pool, peppers, .. } = &*self.shared;
        let version: String = sqlx::query_scalar("SELECT sqlite_version()")
            .fetch_one(pool)
            .await
            .map_err(|error| failed("asking SQLite for its version", error))?;
        check_version(&version)?;
        let known: Vec<String> = sqlx::query_scalar(sql::PEPPERS)
            .fetch_all(pool)
            .await
            .map_err(|error| failed("reading the fingerprints of the peppers", error))?;
        if let Some(fingerprint) = peppers.verify(&known)? {
            let remembered = sqlx::query(sql::REMEMBER_PEPPER)
                .bind(fingerprint)
                .execute(pool)
                .await;
            remembered.map_err(|error| failed("writing the fingerprint of a pepper", error))?;
        }
        Ok(())
    }

    /// The pool, once everything was found to be as it should.
    async fn pool(&self) -> Result<&SqlitePool, StoreError> {
        let checked = &self.shared.checked;
        checked.get_or_try_init(|| self.check()).await?;
        Ok(&self.shared.pool)
    }

    /// Begins a transaction that has the right to write from its beginning, so that it never
    /// has to give up half way.
    async fn begin(&self) -> Result<Turn<'_>, Error> {
        let permit = self.shared.writer.acquire().await;
        Ok(Turn {
            transaction: self.shared.pool.begin_with("BEGIN IMMEDIATE").await?,
            _permit: permit.map_err(|_| Error::PoolClosed)?,
        })
    }
}

/// The one of us who writes. Dropped without [`commit`](Self::commit), it changes nothing.
struct Turn<'a> {
    transaction: Transaction<'static, Sqlite>,
    /// Given back after the transaction has ended.
    _permit: SemaphorePermit<'a>,
}

impl Turn<'_> {
    async fn execute(
        &mut self,
        statement: &'static str,
        parameters: SqliteArguments,
    ) -> Result<u64, Error> {
        let done = sqlx::query_with(statement, parameters)
            .execute(&mut *self.transaction)
            .await?;
        Ok(done.rows_affected())
    }

    async fn add(&mut self, session: &CustomerSession, hash: &TokenHash) -> Result<(), Error> {
        let mut parameters = SqliteArguments::default();
        parameters.text(Some(session.customer_id.as_str()));
        sql::bind_session(&mut parameters, session, hash);
        self.execute(INSERT, parameters).await?;
        Ok(())
    }

    async fn commit(self) -> Result<(), Error> {
        self.transaction.commit().await
    }
}

fn check_version(version: &str) -> Result<(), StoreError> {
    let mut numbers = version.split('.').map_while(|number| number.parse().ok());
    let found: Option<(u32, u32)> = numbers.next().zip(numbers.next());
    if found.is_some_and(|found| found >= MIN_VERSION) {
        return Ok(());
    }
    let (major, minor) = MIN_VERSION;
    Err(StoreError::unavailable(format!(
        "this is SQLite {version}; {major}.{minor} or newer is needed"
    )))
}

impl fmt::Debug for SqliteStore {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("SqliteStore")
            .field("connections", &self.shared.pool.size())
            .field("peppers", &self.shared.peppers)
            .finish_non_exhaustive()
    }
}

#[async_trait]
impl SessionStore for SqliteStore {
    async fn find(&self, token: &SessionToken) -> Result<Option<CustomerSession>, StoreError> {
        let pool = self.pool().await?;
        let hashes: Vec<_> = self.shared.peppers.hashes(token).collect();
        let mut parameters = SqliteArguments::default();
        for hash in &hashes {
            parameters.text(Some(hash));
        }
        let find = AssertSqlSafe(Arc::clone(&self.shared.find));
        let row = sqlx::query_with(find, parameters)
            .fetch_optional(pool)
            .await
            .map_err(|error| failed("looking a session up", error))?;
        let Some(row) = row else {
            return Ok(None);
        };
        let (session, hash) = sql::session(&row, token)?;
        if hash != hashes[0] {
            // Should it fail, the next lookup tries again.
            let _ = async {
                let mut turn = self.begin().await?;
                let parameters = sql::texts(&[&hashes[0], session.id.as_str(), &hash]);
                turn.execute(sql::REWRITE, parameters).await?;
                turn.commit().await
            }
            .await;
        }
        Ok(Some(session))
    }

    fn token_format(&self) -> TokenFormat {
        TokenFormat::new("cst_")
    }
}

#[async_trait]
impl SessionRegistry for SqliteStore {
    async fn insert(&self, session: &CustomerSession) -> Result<(), StoreError> {
        check_session(session)?;
        self.pool().await?;
        let customer = sql::customer(&session.customer)?;
        let hash = self.shared.peppers.hash(&session.token);
        let inserted = async {
            let mut turn = self.begin().await?;
            turn.execute(PUT_CUSTOMER, customer).await?;
            turn.add(session, &hash).await?;
            turn.commit().await
        };
        let inserted = inserted.await;
        inserted.map_err(|error| failed(format!("inserting session {}", session.id), error))
    }

    async fn replace(&self, old: &SessionId, new: &CustomerSession) -> Result<bool, StoreError> {
        check_session(new)?;
        self.pool().await?;
        let customer = sql::customer(&new.customer)?;
        let hash = self.shared.peppers.hash(&new.token);
        let replaced = async {
            let mut turn = self.begin().await?;
            let there = sqlx::query(IS_THERE).bind(old.as_str());
            if there
                .fetch_optional(&mut *turn.transaction)
                .await?
                .is_none()
            {
                return Ok(false);
            }
            turn.execute(PUT_CUSTOMER_IF_NEW, customer).await?;
            turn.add(new, &hash).await?;
            turn.execute(sql::REVOKE, sql::texts(&[old.as_str()]))
                .await?;
            turn.commit().await?;
            Ok(true)
        };
        let replaced = replaced.await;
        replaced.map_err(|error| failed(format!("replacing session {old} with {}", new.id), error))
    }

    async fn revoke(&self, id: &SessionId) -> Result<bool, StoreError> {
        self.pool().await?;
        let revoked = async {
            let mut turn = self.begin().await?;
            let revoked = turn
                .execute(sql::REVOKE, sql::texts(&[id.as_str()]))
                .await?;
            turn.commit().await?;
            Ok(revoked > 0)
        };
        let revoked = revoked.await;
        revoked.map_err(|error| failed(format!("revoking session {id}"), error))
    }

    async fn revoke_customer(&self, customer: &CustomerId) -> Result<u64, StoreError> {
        self.pool().await?;
        let revoked = async {
            let mut turn = self.begin().await?;
            let customer = sql::texts(&[customer.as_str()]);
            let revoked = turn.execute(sql::REVOKE_CUSTOMER, customer).await?;
            turn.commit().await?;
            Ok(revoked)
        };
        let revoked = revoked.await;
        revoked.map_err(|error| failed(format!("revoking customer {customer}"), error))
    }

    async fn list(&self, customer: &CustomerId) -> Result<Vec<SessionSummary>, StoreError> {
        let rows = sqlx::query(sql::LIST)
            .bind(customer.as_str())
            .fetch_all(self.pool().await?)
            .await
            .map_err(|error| failed(format!("listing customer {customer}"), error))?;
        rows.iter().map(sql::summary).collect()
    }

    async fn update_customer(&self, customer: &Customer) -> Result<u64, StoreError> {
        check_customer(customer)?;
        self.pool().await?;
        let parameters = sql::customer(customer)?;
        let updated = async {
            let mut turn = self.begin().await?;
            turn.execute(PUT_CUSTOMER_IF_KNOWN, parameters).await?;
            let count = sqlx::query_scalar(COUNT).bind(customer.id.as_str());
            let sessions: i64 = count.fetch_one(&mut *turn.transaction).await?;
            turn.commit().await?;
            Ok(sessions.unsigned_abs())
        };
        let updated = updated.await;
        updated.map_err(|error| failed(format!("updating customer {}", customer.id), error))
    }

    async fn purge_expired(&self, before: DateTime<Utc>, limit: u32) -> Result<u64, StoreError> {
        self.pool().await?;
        let purged = async {
            let mut turn = self.begin().await?;
            let purge = sqlx::query(PURGE).bind(to_micros(before)).bind(limit);
            let purged = purge.execute(&mut *turn.transaction).await?;
            turn.commit().await?;
            Ok(purged.rows_affected())
        };
        let purged = purged.await;
        purged.map_err(|error| failed("purging expired sessions", error))
    }
}

impl Parameters for SqliteArguments {
    fn text(&mut self, text: Option<&str>) {
        bind(self, text);
    }

    fn time(&mut self, time: Option<DateTime<Utc>>) {
        bind(self, time.map(to_micros));
    }

    fn flag(&mut self, flag: bool) {
        bind(self, flag);
    }
}

fn bind<'t, T>(to: &mut SqliteArguments, value: T)
where
    T: sqlx::Encode<'t, Sqlite> + sqlx::Type<Sqlite>,
{
    sqlx::Arguments::add(to, value).expect("texts, integers and flags can be encoded");
}

impl Columns for SqliteRow {
    fn text(&self, place: usize) -> Result<Option<String>, Error> {
        self.try_get(place)
    }

    fn time(&self, place: usize) -> Result<Option<DateTime<Utc>>, Error> {
        let micros: Option<i64> = self.try_get(place)?;
        let time = micros.map(from_micros).transpose();
        time.map_err(|why| Error::Decode(why.into()))
    }

    fn flag(&self, place: usize) -> Result<bool, Error> {
        Ok(self.try_get::<i64, _>(place)? != 0)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_old_version_is_refused() {
        for (version, is_new) in [("3.37.0", true), ("3.46.1", true), ("4.0", true)] {
            assert_eq!(check_version(version).is_ok(), is_new, "{version}");
        }
        for version in ["3.36.9", "2.99.0", "", "new"] {
            assert!(check_version(version).is_err(), "{version}");
        }
    }
}
