//! Sessions in an SQLite file.

use std::{fmt, sync::Arc, time::Duration};

use async_trait::async_trait;
use chrono::{DateTime, Utc};
use sqlx::{
    Connection, Error, Row, Sqlite, SqlitePool, Transaction,
    sqlite::{
        SqliteArguments, SqliteConnectOptions, SqliteJournalMode, SqlitePoolOptions, SqliteRow,
        SqliteSynchronous,
    },
};
use tokio::{
    sync::{OnceCell, Semaphore, SemaphorePermit},
    time::timeout,
};

use super::{
    SessionRegistry, SessionStore, StoreError,
    at_hand::{AtHand, Peer},
    micros::{from_micros, to_micros},
    parts::Parts,
    pepper::{Peppers, TokenHash},
    record::{check_customer, check_session},
    sql::{self, Columns, Parameters, failed},
    statements::{self, sqlite},
};
use crate::{
    customer::{Customer, CustomerId},
    session::{CustomerSession, SessionId, SessionSummary},
    token::{SessionToken, TokenFormat},
};

/// Connections that the store opens itself: those that lookups keep at hand, one that writes,
/// and one for lists.
const CONNECTIONS: u32 = 6;
const AT_HAND: usize = 4;

/// How long a write waits for another process that writes, and a request for a connection.
const BUSY_TIMEOUT: Duration = Duration::from_secs(5);

/// So many are purged in one transaction: it lasts for a few milliseconds.
const PURGED_AT_ONCE: u32 = 50;

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
                find: statements::find(peppers.len()).into(),
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
        let migrated = sql::migrator(Self::MIGRATIONS).run(&self.shared.pool).await;
        migrated.map_err(sql::migration_failed)?;
        self.check().await
    }

    /// Checks the tables and the peppers.
    ///
    /// # Errors
    ///
    /// What is amiss, and what to do.
    pub async fn check(&self) -> Result<(), StoreError> {
        sql::check_peppers(&self.shared.pool, &self.shared.peppers).await
    }

    async fn rewrite(
        &self,
        id: &SessionId,
        from: &TokenHash,
        to: &TokenHash,
    ) -> Result<(), StoreError> {
        let mut turn = self.begin("keeping a session under another pepper").await?;
        let parameters = sql::texts(&[to, id.as_str(), from]);
        turn.execute(statements::REWRITE, parameters).await?;
        turn.commit().await
    }

    /// The pool, once everything was found to be as it should.
    pub(super) async fn pool(&self) -> Result<&SqlitePool, StoreError> {
        let checked = &self.shared.checked;
        checked.get_or_try_init(|| self.check()).await?;
        Ok(&self.shared.pool)
    }

    /// Begins a transaction that has the right to write from its beginning, so that it never
    /// has to give up half way.
    async fn begin(&self, tried: impl Into<String>) -> Result<Turn<'_>, StoreError> {
        let pool = self.pool().await?;
        let tried = tried.into();
        let permit = self.shared.writer.acquire().await;
        let mut begun = pool.begin_with("BEGIN IMMEDIATE").await;
        for _ in 0..pool.size() {
            if !matches!(begun, Err(Error::InvalidSavePointStatement)) {
                break;
            }
            close_if_broken(pool).await;
            begun = pool.begin_with("BEGIN IMMEDIATE").await;
        }
        match begun {
            Ok(transaction) => Ok(Turn {
                transaction,
                _permit: permit.ok(),
                tried,
            }),
            Err(error) => Err(failed(tried, error)),
        }
    }
}

/// A full disk ends a transaction without the driver's knowing: such a connection says that it is
/// in a transaction still, and never begins another.
async fn close_if_broken(pool: &SqlitePool) {
    if let Ok(connection) = pool.acquire().await {
        if connection.is_in_transaction() {
            // It is gone from the pool, whatever closing it comes to.
            let _ = connection.close().await;
        }
    }
}

/// The one of us who writes. Dropped without [`commit`](Self::commit), it changes nothing.
struct Turn<'a> {
    transaction: Transaction<'static, Sqlite>,
    /// Given back after the transaction has ended.
    _permit: Option<SemaphorePermit<'a>>,
    tried: String,
}

impl Turn<'_> {
    async fn execute(
        &mut self,
        statement: &'static str,
        parameters: SqliteArguments,
    ) -> Result<u64, StoreError> {
        let done = sqlx::query_with(statement, parameters)
            .execute(&mut *self.transaction)
            .await;
        let done = done.map_err(|error| failed(self.tried.as_str(), error))?;
        Ok(done.rows_affected())
    }

    async fn count(&mut self, statement: &'static str, id: &str) -> Result<u64, StoreError> {
        let counted: Result<i64, _> = sqlx::query_scalar(statement)
            .bind(id)
            .fetch_one(&mut *self.transaction)
            .await;
        let counted = counted.map_err(|error| failed(self.tried.as_str(), error))?;
        Ok(counted.unsigned_abs())
    }

    async fn add(&mut self, session: &CustomerSession, hash: &TokenHash) -> Result<(), StoreError> {
        let mut parameters: SqliteArguments = sql::texts(&[session.customer_id.as_str()]);
        sql::bind_session(&mut parameters, session, hash);
        self.execute(sqlite::INSERT, parameters).await?;
        Ok(())
    }

    async fn commit(self) -> Result<(), StoreError> {
        let committed = self.transaction.commit().await;
        committed.map_err(|error| failed(self.tried, error))
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

#[async_trait]
impl SessionStore for SqliteStore {
    async fn find(&self, token: &SessionToken) -> Result<Option<CustomerSession>, StoreError> {
        let pool = self.pool().await?;
        let shared = &self.shared;
        let hashes: Vec<_> = shared.peppers.hashes(token).collect();
        let row = sql::find(&shared.at_hand, pool, &shared.find, &hashes).await?;
        let Some(row) = row else {
            return Ok(None);
        };
        let (session, hash) = sql::session(&row, token)?;
        if hash != hashes[0] {
            // Should it fail, the next lookup tries again.
            let rewrite = self.rewrite(&session.id, &hash, &hashes[0]);
            let _ = timeout(sql::REWRITE_TIMEOUT, rewrite).await;
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
        let customer = sql::customer(&session.customer)?;
        let hash = self.shared.peppers.hash(&session.token);
        let mut turn = self
            .begin(format!("inserting session {}", session.id))
            .await?;
        turn.execute(sqlite::PUT_CUSTOMER, customer).await?;
        turn.add(session, &hash).await?;
        turn.commit().await
    }

    async fn replace(&self, old: &SessionId, new: &CustomerSession) -> Result<bool, StoreError> {
        check_session(new)?;
        let customer = sql::customer(&new.customer)?;
        let hash = self.shared.peppers.hash(&new.token);
        let tried = format!("replacing session {old} with {}", new.id);
        let mut turn = self.begin(tried).await?;
        if turn.count(sqlite::IS_THERE, old.as_str()).await? == 0 {
            return Ok(false);
        }
        turn.execute(sqlite::PUT_CUSTOMER_IF_NEW, customer).await?;
        turn.add(new, &hash).await?;
        let old = sql::texts(&[old.as_str()]);
        turn.execute(statements::REVOKE, old).await?;
        turn.commit().await?;
        Ok(true)
    }

    async fn revoke(&self, id: &SessionId) -> Result<bool, StoreError> {
        let mut turn = self.begin(format!("revoking session {id}")).await?;
        let id = sql::texts(&[id.as_str()]);
        let revoked = turn.execute(statements::REVOKE, id).await?;
        turn.commit().await?;
        Ok(revoked > 0)
    }

    async fn revoke_customer(&self, customer: &CustomerId) -> Result<u64, StoreError> {
        let mut turn = self.begin(format!("revoking customer {customer}")).await?;
        let customer = sql::texts(&[customer.as_str()]);
        let revoked = turn.execute(statements::REVOKE_CUSTOMER, customer).await?;
        turn.commit().await?;
        Ok(revoked)
    }

    async fn list(&self, customer: &CustomerId) -> Result<Vec<SessionSummary>, StoreError> {
        let rows = sqlx::query(statements::LIST)
            .bind(customer.as_str())
            .fetch_all(self.pool().await?)
            .await
            .map_err(|error| failed(format!("listing customer {customer}"), error))?;
        rows.iter().map(sql::summary).collect()
    }

    async fn update_customer(&self, customer: &Customer) -> Result<u64, StoreError> {
        check_customer(customer)?;
        let parameters = sql::customer(customer)?;
        let mut turn = self
            .begin(format!("updating customer {}", customer.id))
            .await?;
        turn.execute(sqlite::PUT_CUSTOMER_IF_KNOWN, parameters)
            .await?;
        let sessions = turn.count(sqlite::COUNT, customer.id.as_str()).await?;
        turn.commit().await?;
        Ok(sessions)
    }

    async fn purge_expired(&self, before: DateTime<Utc>, limit: u32) -> Result<u64, StoreError> {
        let mut parts = Parts::new(limit, PURGED_AT_ONCE);
        while let Some(part) = parts.next().await {
            let mut turn = self.begin("purging expired sessions").await?;
            let mut parameters = SqliteArguments::default();
            bind(&mut parameters, to_micros(before));
            bind(&mut parameters, part);
            let gone = turn.execute(sqlite::PURGE, parameters).await?;
            turn.commit().await?;
            parts.add(gone, gone);
        }
        Ok(parts.deleted())
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
