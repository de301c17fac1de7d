//! Sessions in an SQLite file.

mod columns;
mod customers;
mod file;
#[cfg(test)]
mod plans;
mod registry;
mod revocation;
mod tables;
mod transaction;

use std::{fmt, sync::Arc, time::Duration};

use sqlx::{
    Error, Sqlite, SqlitePool,
    sqlite::{SqliteConnectOptions, SqliteJournalMode, SqlitePoolOptions, SqliteSynchronous},
};
use tokio::sync::Semaphore;

use super::{
    error::store_error,
    idle_connections::{IdleConnections, Peer},
    schema_name::SchemaName,
    statements::StatementMode,
    store::SqlStore,
};
use crate::store::{
    error::{ContextError, StoreError},
    pepper::Peppers,
};

/// Connections that the store opens itself: the idle ones for lookups, one for writes, one for
/// lists.
const MAX_CONNECTIONS: u32 = 6;
const MAX_IDLE_CONNECTIONS: usize = 4;

/// Time a write waits for another process that writes, and a request for a connection.
const BUSY_TIMEOUT: Duration = Duration::from_secs(5);

/// Keeps sessions in an SQLite file: for a service that is one machine, or one process.
///
/// Call [`migrate`](Self::migrate) when the service starts, or apply
/// [`MIGRATIONS`](Self::MIGRATIONS) yourself. Before its first answer, and every ten seconds, the
/// store checks the tables and the [`Peppers`]; while something is wrong with them, every method
/// fails and says what to do. [`check`](Self::check) checks at once. Clones share their connections.
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
/// // url: "sqlite:sessions.db", secret: from your secret manager
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
    sql: SqlStore<Sqlite>,
    /// One write at a time in this process. SQLite allows no more anyway, but those who wait for
    /// its own lock wait in no order, and each holds a connection meanwhile.
    writer: Semaphore,
}

impl SqliteStore {
    /// The SQL that [`migrate`](Self::migrate) applies, oldest first.
    pub const MIGRATIONS: &[&str] = &[include_str!("0001.sql")];

    /// Opens a file, and creates it if it does not exist: `sqlite:sessions.db`,
    /// `sqlite:///var/lib/app/sessions.db`.
    ///
    /// Readers do not wait for the writer (WAL), the writer waits for other processes for up to
    /// five seconds, and what was committed survives a power cut (`synchronous = FULL`).
    /// `sqlite::memory:` works too, on one connection.
    ///
    /// On Unix the file is created readable and writable by its owner alone (mode 0600), and SQLite
    /// gives the files `-wal` and `-shm` beside it the same mode. A file that exists keeps its
    /// mode. With `?mode=rw` or `?mode=ro` no file is created. A name that begins with `file:`, and a
    /// link to a file that does not exist, are left to SQLite and the umask.
    ///
    /// # Errors
    ///
    /// [`Unavailable`](crate::StoreErrorKind::Unavailable) if the URL is not one of SQLite, or if
    /// the file cannot be opened.
    pub async fn connect(url: &str, peppers: Peppers) -> Result<Self, StoreError> {
        // A database in memory ends with its connection.
        let in_memory = url.contains(":memory:") || url.contains("mode=memory");
        let options = options(url)?;
        let file = options.get_filename().display().to_string();
        if !in_memory && matches!(mode(url), None | Some("rwc")) {
            let created = file::create_private(options.get_filename());
            created.map_err(|error| {
                let context = format!("creating the SQLite file {file}");
                StoreError::unavailable(ContextError::new(context, error))
            })?;
        }
        let pool = SqlitePoolOptions::new()
            .max_connections(if in_memory { 1 } else { MAX_CONNECTIONS })
            .max_lifetime(None)
            .idle_timeout(None)
            .acquire_timeout(BUSY_TIMEOUT)
            .test_before_acquire(false)
            .connect_with(options)
            .await
            .map_err(|error| store_error(format!("opening the SQLite file {file}"), error))?;
        let max_idle = if in_memory { 0 } else { MAX_IDLE_CONNECTIONS };
        let idle = IdleConnections::of_own_pool(max_idle, Peer::File);
        Ok(Self::with_idle(pool, idle, peppers))
    }

    /// Uses the connections of `pool`. They should be in WAL mode, with a busy timeout.
    ///
    /// sqlx tests a connection each time it is returned to the pool, and before its next use
    /// unless the pool is told otherwise. So the store keeps connections between lookups, at most half
    /// of those that the pool may open. It returns them when they were not used for a second, or after
    /// half a minute; and within 50 ms when all connections of the pool are in use, or when the pool is
    /// closed.
    pub fn new(pool: SqlitePool, peppers: Peppers) -> Self {
        let idle = IdleConnections::borrowed_from(&pool, Peer::File);
        Self::with_idle(pool, idle, peppers)
    }

    fn with_idle(pool: SqlitePool, idle: IdleConnections<Sqlite>, peppers: Peppers) -> Self {
        Self {
            shared: Arc::new(Shared {
                sql: SqlStore::new(
                    pool,
                    idle,
                    peppers,
                    SchemaName::default(),
                    StatementMode::Prepared,
                ),
                writer: Semaphore::new(1),
            }),
        }
    }

    /// Returns the pool once the tables and the peppers were found to be right.
    async fn pool(&self) -> Result<&SqlitePool, StoreError> {
        let check = || {
            let store = self.clone();
            async move { store.run_check().await }
        };
        self.shared.sql.checked_pool(check).await
    }
}

impl fmt::Debug for SqliteStore {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("SqliteStore")
            .field("connections", &self.shared.sql.pool.size())
            .field("peppers", &self.shared.sql.peppers)
            .finish_non_exhaustive()
    }
}

/// Parses a URL. The driver alone would take any text for the name of a file, and its errors
/// would show it.
fn options(url: &str) -> Result<SqliteConnectOptions, StoreError> {
    let parsed = if url.starts_with("sqlite:") {
        url.parse::<SqliteConnectOptions>()
    } else {
        let text = "it does not begin with sqlite:";
        Err(Error::Configuration(text.into()))
    };
    let options = parsed.map_err(|error| {
        let context = "this is not the URL of an SQLite file, such as sqlite:sessions.db";
        store_error(context, error)
    })?;
    Ok(options
        .create_if_missing(!matches!(mode(url), Some("ro" | "rw")))
        .journal_mode(SqliteJournalMode::Wal)
        .synchronous(SqliteSynchronous::Full)
        .busy_timeout(BUSY_TIMEOUT))
}

/// Returns the `mode` of a URL.
fn mode(url: &str) -> Option<&str> {
    let (_, query) = url.split_once('?')?;
    let mut pairs = query.rsplit('&');
    pairs.find_map(|pair| pair.strip_prefix("mode="))
}
