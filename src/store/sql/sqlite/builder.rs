//! The builder of a store: its file, and its connections.

use std::{fmt, sync::Arc, time::Duration};

use sqlx::{
    Error, SqlitePool,
    sqlite::{SqliteConnectOptions, SqliteJournalMode, SqlitePoolOptions, SqliteSynchronous},
};

use super::{SqliteStore, file};
use crate::store::{
    error::{ContextError, StoreError},
    pepper::Peppers,
    sql::{
        error::store_error,
        idle_connections::{IdleConnections, Peer},
    },
};

/// Connections that the store opens itself, unless it is told otherwise: four for lookups, one for
/// writes, one for lists.
const MAX_CONNECTIONS: u32 = 6;

/// Time a request waits for a connection.
const ACQUIRE_TIMEOUT: Duration = Duration::from_secs(5);

/// Time a write waits for another process that writes, unless it is set otherwise.
const BUSY_TIMEOUT: Duration = Duration::from_secs(5);

/// The longest such time: SQLite counts it in 31 bits of milliseconds.
const MAX_BUSY_TIMEOUT: Duration = Duration::from_secs(3600);

/// The mode of a new file, unless it is set otherwise.
const FILE_MODE: u32 = 0o600;

/// Changes the driver's options.
type ConnectOptions = Arc<dyn Fn(SqliteConnectOptions) -> SqliteConnectOptions + Send + Sync>;

/// Builds a [`SqliteStore`].
///
/// ```no_run
/// use std::time::Duration;
///
/// use customer_session::store::{Peppers, SqliteStore};
///
/// # async fn start(peppers: Peppers) -> Result<(), Box<dyn std::error::Error>> {
/// let store = SqliteStore::builder(peppers)
///     .busy_timeout(Duration::from_secs(1))
///     .file_mode(0o640)
///     .connect_options(|options| options.pragma("cache_size", "-20000"))
///     .connect("sqlite:///var/lib/app/sessions.db")
///     .await?;
/// # Ok(())
/// # }
/// ```
#[derive(Clone)]
#[must_use = "a builder does nothing until it connects"]
pub struct SqliteStoreBuilder {
    peppers: Peppers,
    max_connections: u32,
    busy_timeout: Duration,
    file_mode: u32,
    connect_options: Option<ConnectOptions>,
}

impl SqliteStoreBuilder {
    fn new(peppers: Peppers) -> Self {
        Self {
            peppers,
            max_connections: MAX_CONNECTIONS,
            busy_timeout: BUSY_TIMEOUT,
            file_mode: FILE_MODE,
            connect_options: None,
        }
    }

    /// Sets how many connections the store may open; 6 by default, at least 1. Two thirds of them are
    /// for lookups. Only one writes at a time. A database in memory has one connection.
    pub fn max_connections(mut self, max: u32) -> Self {
        self.max_connections = max.max(1);
        self
    }

    /// Sets how long a change waits for another process, or another pool, that writes to the file; 5
    /// seconds by default, at most an hour. With zero it does not wait.
    ///
    /// A change that has waited so long fails with
    /// [`Unavailable`](crate::StoreErrorKind::Unavailable), and has changed nothing. Lookups do not
    /// wait for writers. Keep it below the
    /// [`write_timeout`](crate::CustomerSessionsBuilder::write_timeout), which otherwise ends the wait,
    /// and leaves the outcome open.
    pub fn busy_timeout(mut self, timeout: Duration) -> Self {
        self.busy_timeout = timeout.min(MAX_BUSY_TIMEOUT);
        self
    }

    /// Sets the mode of a file that is created, whatever the umask is; `0o600` by default: only its
    /// owner may read and write it. SQLite gives the files `-wal` and `-shm` beside it the same mode.
    ///
    /// It has at most the bits `0o777`, and at least `0o600`. A process of another user that reads the
    /// file must be able to write it too, and needs a folder in which it may create files. A file that
    /// exists keeps its mode. Systems other than Unix have no such modes, and ignore it.
    pub fn file_mode(mut self, mode: u32) -> Self {
        self.file_mode = mode;
        self
    }

    /// Changes the driver's options, for what the other settings cannot say: `change` gets those that
    /// [`connect`](Self::connect) would use. The file, and whether it is created, is the URL's matter.
    ///
    /// Leave the journal at WAL: with another one, lookups wait for writers. With `synchronous` below
    /// `FULL`, a power cut undoes the last changes, revocations among them.
    pub fn connect_options(
        mut self,
        change: impl Fn(SqliteConnectOptions) -> SqliteConnectOptions + Send + Sync + 'static,
    ) -> Self {
        self.connect_options = Some(Arc::new(change));
        self
    }

    /// Opens a file, and creates it if it does not exist: `sqlite:sessions.db`,
    /// `sqlite:///var/lib/app/sessions.db`.
    ///
    /// Readers do not wait for the writer (WAL), and what was committed survives a power cut
    /// (`synchronous = FULL`). `sqlite::memory:` works too, on one connection.
    ///
    /// With `?mode=rw` or `?mode=ro` no file is created. A name that begins with `file:`, and a link to
    /// a file that does not exist, are left to SQLite and the umask.
    ///
    /// # Errors
    ///
    /// [`Unavailable`](crate::StoreErrorKind::Unavailable) if the URL is not one of SQLite, if the file
    /// cannot be opened, or if the [`file_mode`](Self::file_mode) is not valid.
    pub async fn connect(self, url: &str) -> Result<SqliteStore, StoreError> {
        file::check_mode(self.file_mode)?;
        // A database in memory ends with its connection.
        let in_memory = url.contains(":memory:") || url.contains("mode=memory");
        let options = options(url)?.busy_timeout(self.busy_timeout);
        let file = options.get_filename().to_owned();
        if !in_memory && matches!(mode(url), None | Some("rwc")) {
            let created = file::create(&file, self.file_mode);
            created.map_err(|error| {
                let context = format!("creating the SQLite file {}", file.display());
                StoreError::unavailable(ContextError::new(context, error))
            })?;
        }
        let options = match &self.connect_options {
            Some(change) => change(options),
            None => options,
        };
        let max_connections = if in_memory { 1 } else { self.max_connections };
        let pool = SqlitePoolOptions::new()
            .max_connections(max_connections)
            .max_lifetime(None)
            .idle_timeout(None)
            .acquire_timeout(ACQUIRE_TIMEOUT)
            .test_before_acquire(false)
            .connect_with(options)
            .await
            .map_err(|error| {
                store_error(format!("opening the SQLite file {}", file.display()), error)
            })?;
        let max_idle = max_connections as usize * 2 / 3;
        let idle = IdleConnections::of_own_pool(max_idle, Peer::File);
        Ok(SqliteStore::with_idle(pool, idle, self.peppers))
    }

    /// Uses the connections of `pool`, which keeps its own size and options. They should be in WAL mode,
    /// with a busy timeout.
    ///
    /// sqlx tests a connection each time it is returned to the pool, and before its next use
    /// unless the pool is told otherwise. So the store keeps connections between lookups, at most half
    /// of those that the pool may open. It returns them when they were not used for a second, or after
    /// half a minute; and within 50 ms when all connections of the pool are in use, or when the pool is
    /// closed.
    pub fn build(self, pool: SqlitePool) -> SqliteStore {
        let idle = IdleConnections::borrowed_from(&pool, Peer::File);
        SqliteStore::with_idle(pool, idle, self.peppers)
    }
}

impl fmt::Debug for SqliteStoreBuilder {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("SqliteStoreBuilder")
            .field("peppers", &self.peppers)
            .field("max_connections", &self.max_connections)
            .field("busy_timeout", &self.busy_timeout)
            .field("file_mode", &format_args!("{:#o}", self.file_mode))
            .finish_non_exhaustive()
    }
}

impl SqliteStore {
    /// Opens a file, and creates it, readable and writable by its owner alone, if it does not exist:
    /// `sqlite:sessions.db`, `sqlite:///var/lib/app/sessions.db`. It is
    /// [`SqliteStoreBuilder::connect`] with the defaults.
    ///
    /// # Errors
    ///
    /// [`Unavailable`](crate::StoreErrorKind::Unavailable) if the URL is not one of SQLite, or if
    /// the file cannot be opened.
    pub async fn connect(url: &str, peppers: Peppers) -> Result<Self, StoreError> {
        Self::builder(peppers).connect(url).await
    }

    /// Uses the connections of `pool`, as [`SqliteStoreBuilder::build`] does.
    pub fn new(pool: SqlitePool, peppers: Peppers) -> Self {
        Self::builder(peppers).build(pool)
    }

    /// Begins to build a store: number of connections, busy timeout, mode of the file, a pool of the
    /// application's own.
    pub fn builder(peppers: Peppers) -> SqliteStoreBuilder {
        SqliteStoreBuilder::new(peppers)
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
        .synchronous(SqliteSynchronous::Full))
}

/// Returns the `mode` of a URL.
fn mode(url: &str) -> Option<&str> {
    let (_, query) = url.split_once('?')?;
    let mut pairs = query.rsplit('&');
    pairs.find_map(|pair| pair.strip_prefix("mode="))
}
