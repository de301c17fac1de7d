//! Sessions in PostgreSQL.

mod columns;
pub(in crate::store) mod invalidations;
mod registry;
mod server;

use std::{fmt, sync::Arc, time::Duration};

use sqlx::{
    Connection, Error, PgConnection, PgPool,
    postgres::{PgArguments, PgPoolOptions, PgRow},
};
use tokio::{sync::OnceCell, time::timeout};

use self::server::{REPLICA, check_server};
use super::{
    check_peppers, failed, find_statement,
    idle::{AtHand, Loan, Peer, answers},
    migration_failed, migrator,
};
use crate::store::{
    error::{Failure, StoreError},
    pepper::Peppers,
};

/// Connections that the store opens itself, and how many of them lookups keep at hand.
const CONNECTIONS: u32 = 10;
const AT_HAND: usize = 6;

/// How long anything but a lookup may take; the engine limits lookups.
const LONGEST: Duration = Duration::from_secs(30);

/// How long a request waits for a connection, be it a new one.
const ACQUIRE_TIMEOUT: Duration = Duration::from_secs(1);

/// A connection that has been idle for longer is tried before it is used.
const TRUSTED_IDLE: Duration = Duration::from_secs(1);

/// Keeps sessions in PostgreSQL 13 or newer: shared by several machines.
///
/// Call [`migrate`](Self::migrate) when the service starts, or apply
/// [`MIGRATIONS`](Self::MIGRATIONS) yourself. Before its first answer the store checks the
/// server, the tables and the [`Peppers`], and while something is amiss every method fails and
/// says what to do; [`check`](Self::check) does that at once. Clones share their connections.
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
    shared: Arc<Shared>,
}

struct Shared {
    pool: PgPool,
    at_hand: AtHand<sqlx::Postgres>,
    peppers: Peppers,
    find: Arc<str>,
    /// Filled when everything was found to be as it should.
    checked: OnceCell<()>,
}

impl PostgresStore {
    /// The SQL that [`migrate`](Self::migrate) applies, oldest first.
    pub const MIGRATIONS: &[&str] = &[include_str!("0001.sql"), include_str!("0002.sql")];

    /// Opens connections to `url`, at most ten: `postgres://user:password@host/database`.
    ///
    /// The tables go to the first schema of the search path; choose another one with
    /// `?options=-csearch_path%3Dsessions` if the database has a table `customers` already.
    ///
    /// # Errors
    ///
    /// [`Unavailable`](crate::StoreErrorKind::Unavailable) if the URL is none, or if the server
    /// cannot be reached or refuses.
    pub async fn connect(url: &str, peppers: Peppers) -> Result<Self, StoreError> {
        let options = server::options(url)?;
        let target = format!(
            "connecting to PostgreSQL at {}:{}",
            options.get_host(),
            options.get_port()
        );
        // The pool would go on trying, and in the end know no reason.
        match timeout(5 * ACQUIRE_TIMEOUT, PgConnection::connect_with(&options)).await {
            Ok(Ok(connection)) => drop(connection.close().await),
            Ok(Err(error)) => return Err(failed(target, error)),
            Err(elapsed) => return Err(StoreError::timeout(Failure::new(target, elapsed))),
        }
        let pool = PgPoolOptions::new()
            .max_connections(CONNECTIONS)
            .acquire_timeout(ACQUIRE_TIMEOUT)
            .test_before_acquire(false)
            .before_acquire(|connection, known| {
                Box::pin(
                    async move { Ok(known.idle_for < TRUSTED_IDLE || answers(connection).await) },
                )
            })
            // A connection made after a failover may lead to what is a replica now.
            .after_connect(|connection, _| {
                Box::pin(async move {
                    let is_replica = sqlx::query_scalar("SELECT pg_is_in_recovery()");
                    match is_replica.fetch_one(connection).await? {
                        true => Err(Error::Protocol(REPLICA.to_owned())),
                        false => Ok(()),
                    }
                })
            })
            .connect_lazy_with(options);
        Ok(Self::with(
            pool,
            AtHand::new(AT_HAND, Peer::Server),
            peppers,
        ))
    }

    /// Uses connections of a pool.
    ///
    /// The pool tests a connection each time it is given back, and before it is used unless told
    /// otherwise, which makes a lookup twice as long at the least; with [`connect`](Self::connect) the store has connections of its own,
    /// which need that only now and then.
    pub fn new(pool: PgPool, peppers: Peppers) -> Self {
        Self::with(pool, AtHand::new(0, Peer::Server), peppers)
    }

    fn with(pool: PgPool, at_hand: AtHand<sqlx::Postgres>, peppers: Peppers) -> Self {
        Self {
            shared: Arc::new(Shared {
                find: find_statement(peppers.len()).into(),
                pool,
                at_hand,
                peppers,
                checked: OnceCell::new(),
            }),
        }
    }

    /// Creates the tables, or brings them up to date. Several machines may call it at once.
    ///
    /// # Errors
    ///
    /// As the database says; then nothing was changed.
    pub async fn migrate(&self) -> Result<(), StoreError> {
        let migrated = async {
            let mut connection = self.shared.pool.acquire().await?;
            // With the connection goes the lock that keeps other machines out; the driver
            // itself leaves it when a migration fails.
            connection.close_on_drop();
            migrator(Self::MIGRATIONS).run(&mut *connection).await
        };
        migrated.await.map_err(migration_failed)?;
        self.check().await
    }

    /// Checks the server, the tables and the peppers.
    ///
    /// # Errors
    ///
    /// What is amiss, and what to do.
    pub async fn check(&self) -> Result<(), StoreError> {
        let Shared { pool, peppers, .. } = &*self.shared;
        let (version, isolation, is_replica): (i32, String, bool) =
            sqlx::query_as(server::PROPERTIES)
                .fetch_one(pool)
                .await
                .map_err(|error| failed("asking PostgreSQL for its version", error))?;
        check_server(version, &isolation, is_replica)?;
        check_peppers(pool, peppers).await
    }

    /// The pool, once everything was found to be as it should.
    async fn pool(&self) -> Result<&PgPool, StoreError> {
        self.shared.checked.get_or_try_init(|| self.check()).await?;
        Ok(&self.shared.pool)
    }

    /// Runs a statement that changes something, and answers how many rows it changed.
    async fn execute(
        &self,
        statement: &'static str,
        parameters: PgArguments,
        tried: impl FnOnce() -> String,
    ) -> Result<u64, StoreError> {
        let pool = self.pool().await?;
        let done = async {
            let mut loan = Loan::new(pool, Peer::Server).await?;
            let done = sqlx::query_with(statement, parameters)
                .execute(loan.connection())
                .await?;
            loan.give_back();
            Ok(done.rows_affected())
        };
        in_time(tried, done).await
    }

    /// Runs a statement that answers rows.
    async fn rows(
        &self,
        statement: &'static str,
        parameters: PgArguments,
        tried: impl FnOnce() -> String,
    ) -> Result<Vec<PgRow>, StoreError> {
        let pool = self.pool().await?;
        let rows = async {
            let mut loan = Loan::new(pool, Peer::Server).await?;
            let rows = sqlx::query_with(statement, parameters)
                .fetch_all(loan.connection())
                .await?;
            loan.give_back();
            Ok(rows)
        };
        in_time(tried, rows).await
    }
}

/// A server that has gone without a word must not hold anybody up for ever.
async fn in_time<T>(
    tried: impl FnOnce() -> String,
    work: impl Future<Output = Result<T, Error>>,
) -> Result<T, StoreError> {
    match timeout(LONGEST, work).await {
        Ok(Ok(done)) => Ok(done),
        Ok(Err(error)) => Err(failed(tried(), error)),
        Err(elapsed) => Err(StoreError::timeout(Failure::new(tried(), elapsed))),
    }
}

impl fmt::Debug for PostgresStore {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("PostgresStore")
            .field("connections", &self.shared.pool.size())
            .field("peppers", &self.shared.peppers)
            .finish_non_exhaustive()
    }
}
