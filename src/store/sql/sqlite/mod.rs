//! Sessions in an SQLite file.

mod columns;
#[cfg(test)]
mod plans;
mod registry;
mod transaction;

use std::{fmt, sync::Arc, time::Duration};

use sqlx::{
    Error, Sqlite, SqlitePool,
    sqlite::{SqliteConnectOptions, SqliteJournalMode, SqlitePoolOptions, SqliteSynchronous},
};
use tokio::sync::{OnceCell, Semaphore};

use super::{
    idle::{AtHand, Peer},
    {check_peppers, failed, find_statement, migration_failed, migrator},
};
use crate::store::{error::StoreError, pepper::Peppers};

/// Connections that the store opens itself: those that lookups keep at hand, one that writes,
/// and one for lists.
const CONNECTIONS: u32 = 6;
const AT_HAND: usize = 4;

/// How long a write waits for another process that writes, and a request for a connection.
const BUSY_TIMEOUT: Duration = Duration::from_secs(5);

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
    at_hand: AtHand<Sqlite>,
    peppers: Peppers,
    find: Arc<str>,
    /// Filled when everything was found to be as it should.
    checked: OnceCell<()>,
}

impl SqliteStore {
    /// The SQL that [`migrate`](Self::migrate) applies, oldest first.
    pub const MIGRATIONS: &[&str] = &[include_str!("0001.sql")];

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
            .max_lifetime(None)
            .idle_timeout(None)
            .acquire_timeout(BUSY_TIMEOUT)
            .test_before_acquire(false)
            .connect_with(options)
            .await
            .map_err(|error| failed(format!("opening the SQLite file {file}"), error))?;
        let at_hand = AtHand::new(if in_memory { 0 } else { AT_HAND }, Peer::File);
        Ok(Self::with(pool, at_hand, peppers))
    }

    /// Uses connections of a pool. They should be in WAL mode, with a busy timeout.
    ///
    /// The pool tests a connection each time it is given back, and before it is used unless told
    /// otherwise, which makes a lookup twice as long at the least; with [`connect`](Self::connect) the store has connections of its own,
    /// which need that only now and then.
    pub fn new(pool: SqlitePool, peppers: Peppers) -> Self {
        Self::with(pool, AtHand::new(0, Peer::File), peppers)
    }

    fn with(pool: SqlitePool, at_hand: AtHand<Sqlite>, peppers: Peppers) -> Self {
        Self {
            shared: Arc::new(Shared {
                find: find_statement(peppers.len()).into(),
                pool,
                at_hand,
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
        let migrated = migrator(Self::MIGRATIONS).run(&self.shared.pool).await;
        migrated.map_err(migration_failed)?;
        self.check().await
    }

    /// Checks the tables and the peppers.
    ///
    /// # Errors
    ///
    /// What is amiss, and what to do.
    pub async fn check(&self) -> Result<(), StoreError> {
        check_peppers(&self.shared.pool, &self.shared.peppers).await
    }

    /// The pool, once everything was found to be as it should.
    async fn pool(&self) -> Result<&SqlitePool, StoreError> {
        let checked = &self.shared.checked;
        checked.get_or_try_init(|| self.check()).await?;
        Ok(&self.shared.pool)
    }
}

impl fmt::Debug for SqliteStore {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("SqliteStore")
            .field("connections", &self.shared.pool.size())
            .field("peppers", &self.shared.peppers)
            .finish_non_exhaustive()
    }
}
