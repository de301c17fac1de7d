//! Sessions in PostgreSQL.

mod columns;
pub(in crate::store) mod invalidations;
mod probe;
mod registry;
mod revocation;
mod server;

use std::{fmt, sync::Arc, time::Duration};

use sqlx::{
    Connection, Error, PgConnection, PgPool,
    postgres::{PgConnectOptions, PgPoolOptions},
};
use tokio::time::timeout;

use self::server::{IS_REPLICA, check_server};
use super::{
    error::{migration_error, store_error},
    idle_connections::{IdleConnections, Peer, TRUSTED_IDLE, is_alive},
    migrator,
    store::SqlStore,
};
use crate::store::{
    error::{ContextError, StoreError},
    pepper::Peppers,
};

/// Connections that the store opens itself, and how many of them stay idle for lookups.
const MAX_CONNECTIONS: u32 = 10;
const MAX_IDLE_CONNECTIONS: usize = 6;

/// Time a request waits for a connection, a new one included.
const ACQUIRE_TIMEOUT: Duration = Duration::from_secs(1);

/// Time the first connection may take.
const CONNECT_TIMEOUT: Duration = Duration::from_secs(5);

/// Keeps sessions in PostgreSQL 13 or newer, for several machines.
///
/// Call [`migrate`](Self::migrate) when the service starts, or apply
/// [`MIGRATIONS`](Self::MIGRATIONS) yourself. Before its first answer the store checks the
/// server, the tables and the [`Peppers`]; while something is wrong with them, every method fails
/// and says what to do. [`check`](Self::check) checks at once. Clones share their connections.
///
/// ```no_run
/// use customer_session::{CustomerSessions, store::{Peppers, PostgresStore}};
///
/// # async fn start() -> Result<(), Box<dyn std::error::Error>> {
/// let peppers = Peppers::new(std::env::var("SESSION_PEPPER")?);
/// let store = PostgresStore::connect("postgres://app@localhost/app", peppers).await?;
/// store.migrate().await?;
/// let sessions = CustomerSessions::builder(store).build();
/// # Ok(())
/// # }
/// ```
#[derive(Clone)]
pub struct PostgresStore {
    sql: Arc<SqlStore<sqlx::Postgres>>,
}

impl PostgresStore {
    /// The SQL that [`migrate`](Self::migrate) applies, oldest first.
    pub const MIGRATIONS: &[&str] = &[
        include_str!("0001.sql"),
        include_str!("0002.sql"),
        include_str!("0003.sql"),
    ];

    /// Opens connections to `url`, at most ten: `postgres://user:password@host/database`.
    ///
    /// The tables are created in the first schema of the search path. If the database has a table
    /// `customers` already, choose another schema with `?options=-csearch_path%3Dsessions`.
    ///
    /// # Errors
    ///
    /// [`Unavailable`](crate::StoreErrorKind::Unavailable) if the URL is not one of PostgreSQL, or
    /// if the server cannot be reached or refuses.
    pub async fn connect(url: &str, peppers: Peppers) -> Result<Self, StoreError> {
        let options = server::options(url)?;
        try_connecting(&options).await?;
        let pool = PgPoolOptions::new()
            .max_connections(MAX_CONNECTIONS)
            .acquire_timeout(ACQUIRE_TIMEOUT)
            .test_before_acquire(false)
            .before_acquire(|connection, metadata| {
                Box::pin(async move {
                    Ok(metadata.idle_for < TRUSTED_IDLE || is_alive(connection).await)
                })
            })
            // A connection made after a failover may lead to what is a replica now.
            .after_connect(|connection, _| {
                Box::pin(async move {
                    let is_replica = sqlx::query_scalar("SELECT pg_is_in_recovery()");
                    match is_replica.fetch_one(connection).await? {
                        true => Err(Error::Protocol(IS_REPLICA.to_owned())),
                        false => Ok(()),
                    }
                })
            })
            .connect_lazy_with(options);
        Ok(Self::with_idle(pool, MAX_IDLE_CONNECTIONS, peppers))
    }

    /// Uses the connections of `pool`.
    ///
    /// sqlx tests a connection each time it is returned to the pool, and before its next use
    /// unless the pool is told otherwise: one or two more round trips for each lookup. The
    /// connections that [`connect`](Self::connect) opens are tested only now and then.
    pub fn new(pool: PgPool, peppers: Peppers) -> Self {
        Self::with_idle(pool, 0, peppers)
    }

    fn with_idle(pool: PgPool, max_idle: usize, peppers: Peppers) -> Self {
        let idle = IdleConnections::new(max_idle, Peer::Server);
        Self {
            sql: Arc::new(SqlStore::new(pool, idle, peppers)),
        }
    }

    /// Creates the tables, or brings them up to date. Several machines may call it at once.
    ///
    /// # Errors
    ///
    /// The database's error; then nothing was changed.
    pub async fn migrate(&self) -> Result<(), StoreError> {
        let migrated = async {
            let mut connection = self.sql.pool.acquire().await?;
            // Closing it releases the lock that keeps other machines out; the driver itself
            // leaves the lock when a migration fails.
            connection.close_on_drop();
            migrator(Self::MIGRATIONS).run(&mut *connection).await
        };
        migrated.await.map_err(migration_error)?;
        self.check().await
    }

    /// Checks the server, the tables and the peppers.
    ///
    /// # Errors
    ///
    /// An error that says what is wrong, and what to do.
    pub async fn check(&self) -> Result<(), StoreError> {
        let (version, isolation, is_replica): (i32, String, bool) =
            sqlx::query_as(server::PROPERTIES)
                .fetch_one(&self.sql.pool)
                .await
                .map_err(|error| store_error("asking PostgreSQL for its version", error))?;
        check_server(version, &isolation, is_replica)?;
        self.sql.check_peppers().await
    }

    /// Returns the pool once server, tables and peppers were found to be right.
    async fn pool(&self) -> Result<&PgPool, StoreError> {
        self.sql.checked_pool(self.check()).await
    }
}

/// Opens and closes a connection, for the error: a pool would go on trying, and in the end not
/// know why it failed.
async fn try_connecting(options: &PgConnectOptions) -> Result<(), StoreError> {
    let (host, port) = (options.get_host(), options.get_port());
    let context = format!("connecting to PostgreSQL at {host}:{port}");
    match timeout(CONNECT_TIMEOUT, PgConnection::connect_with(options)).await {
        Ok(Ok(connection)) => {
            drop(connection.close().await);
            Ok(())
        }
        Ok(Err(error)) => Err(store_error(context, error)),
        Err(elapsed) => Err(StoreError::timeout(ContextError::new(context, elapsed))),
    }
}

impl fmt::Debug for PostgresStore {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("PostgresStore")
            .field("connections", &self.sql.pool.size())
            .field("peppers", &self.sql.peppers)
            .finish_non_exhaustive()
    }
}
