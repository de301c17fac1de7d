//! Sessions in PostgreSQL.

use std::{fmt, sync::Arc, time::Duration};

use async_trait::async_trait;
use chrono::{DateTime, Utc};
use sqlx::{
    Connection, Error, PgConnection, PgPool, Row,
    postgres::{PgArguments, PgPoolOptions, PgRow},
};
use tokio::{sync::OnceCell, time::timeout};

use super::{
    SessionRegistry, SessionStore, StoreError,
    at_hand::{AtHand, Loan, Peer, answers},
    failure::Failure,
    parts::Parts,
    pepper::Peppers,
    postgres_server::{self, REPLICA, check_server},
    record::{check_customer, check_session, is_keepable},
    sql::{self, Columns, Parameters, failed},
    statements::{self, postgres},
};
use crate::{
    customer::{Customer, CustomerId},
    session::{CustomerSession, SessionId, SessionSummary},
    token::{SessionToken, TokenFormat},
};

/// Connections that the store opens itself, and how many of them lookups keep at hand.
const CONNECTIONS: u32 = 10;
const AT_HAND: usize = 6;

/// So many are purged by one statement: it takes a few milliseconds.
const PURGED_AT_ONCE: u32 = 50;

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
    pub const MIGRATIONS: &[&str] = &[
        include_str!("migrations/postgres_0001.sql"),
        include_str!("migrations/postgres_0002.sql"),
    ];

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
        let options = postgres_server::options(url)?;
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
                find: statements::find(peppers.len()).into(),
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
            sql::migrator(Self::MIGRATIONS).run(&mut *connection).await
        };
        migrated.await.map_err(sql::migration_failed)?;
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
            sqlx::query_as(postgres::SERVER)
                .fetch_one(pool)
                .await
                .map_err(|error| failed("asking PostgreSQL for its version", error))?;
        check_server(version, &isolation, is_replica)?;
        sql::check_peppers(pool, peppers).await
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

#[async_trait]
impl SessionStore for PostgresStore {
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
            let parameters = sql::texts(&[&hashes[0], session.id.as_str(), &hash]);
            let tried = || "keeping a session under another pepper".to_owned();
            let rewrite = self.execute(statements::REWRITE, parameters, tried);
            let _ = timeout(sql::REWRITE_TIMEOUT, rewrite).await;
        }
        Ok(Some(session))
    }

    fn token_format(&self) -> TokenFormat {
        TokenFormat::new("cst_")
    }
}

#[async_trait]
impl SessionRegistry for PostgresStore {
    async fn insert(&self, session: &CustomerSession) -> Result<(), StoreError> {
        check_session(session)?;
        let hash = self.shared.peppers.hash(&session.token);
        let mut parameters = sql::customer(&session.customer)?;
        sql::bind_session(&mut parameters, session, &hash);
        let tried = || format!("inserting session {}", session.id);
        self.execute(postgres::INSERT, parameters, tried).await?;
        Ok(())
    }

    async fn replace(&self, old: &SessionId, new: &CustomerSession) -> Result<bool, StoreError> {
        check_session(new)?;
        if !is_keepable(old.as_str()) {
            return Ok(false);
        }
        let hash = self.shared.peppers.hash(&new.token);
        let mut parameters: PgArguments = sql::customer(&new.customer)?;
        sql::bind_session(&mut parameters, new, &hash);
        parameters.text(Some(old.as_str()));
        let tried = || format!("replacing session {old} with {}", new.id);
        Ok(self.execute(postgres::REPLACE, parameters, tried).await? > 0)
    }

    async fn revoke(&self, id: &SessionId) -> Result<bool, StoreError> {
        if !is_keepable(id.as_str()) {
            return Ok(false);
        }
        let tried = || format!("revoking session {id}");
        let id = sql::texts(&[id.as_str()]);
        Ok(self.execute(statements::REVOKE, id, tried).await? > 0)
    }

    async fn revoke_customer(&self, customer: &CustomerId) -> Result<u64, StoreError> {
        let pool = self.pool().await?;
        if !is_keepable(customer.as_str()) {
            return Ok(0);
        }
        let revoked = async {
            let mut loan = Loan::new(pool, Peer::Server).await?;
            let mut transaction = loan.connection().begin().await?;
            let lock = sqlx::query(postgres::LOCK_CUSTOMER).bind(customer.as_str());
            lock.execute(&mut *transaction).await?;
            let delete = sqlx::query(statements::REVOKE_CUSTOMER).bind(customer.as_str());
            let revoked = delete.execute(&mut *transaction).await?;
            transaction.commit().await?;
            loan.give_back();
            Ok(revoked.rows_affected())
        };
        in_time(|| format!("revoking customer {customer}"), revoked).await
    }

    async fn list(&self, customer: &CustomerId) -> Result<Vec<SessionSummary>, StoreError> {
        if !is_keepable(customer.as_str()) {
            return Ok(Vec::new());
        }
        let tried = || format!("listing customer {customer}");
        let customer = sql::texts(&[customer.as_str()]);
        let rows = self.rows(statements::LIST, customer, tried).await?;
        rows.iter().map(sql::summary).collect()
    }

    async fn update_customer(&self, customer: &Customer) -> Result<u64, StoreError> {
        check_customer(customer)?;
        let tried = || format!("updating customer {}", customer.id);
        let rows = self
            .rows(postgres::UPDATE_CUSTOMER, sql::customer(customer)?, tried)
            .await?;
        let sessions = rows.first().map_or(Ok(0), |row| row.try_get::<i64, _>(0));
        let sessions = sessions.map_err(|error| failed(tried(), error))?;
        Ok(sessions.unsigned_abs())
    }

    async fn purge_expired(&self, before: DateTime<Utc>, limit: u32) -> Result<u64, StoreError> {
        let mut parts = Parts::new(limit, PURGED_AT_ONCE);
        while let Some(part) = parts.next().await {
            let mut parameters = PgArguments::default();
            bind(&mut parameters, before);
            bind(&mut parameters, i64::from(part));
            let tried = || "purging expired sessions".to_owned();
            let gone = self.execute(postgres::PURGE, parameters, tried).await?;
            parts.add(gone, gone);
        }
        Ok(parts.deleted())
    }
}

impl Parameters for PgArguments {
    fn text(&mut self, text: Option<&str>) {
        bind(self, text);
    }

    fn time(&mut self, time: Option<DateTime<Utc>>) {
        bind(self, time);
    }

    fn flag(&mut self, flag: bool) {
        bind(self, flag);
    }
}

fn bind<'t, T>(to: &mut PgArguments, value: T)
where
    T: sqlx::Encode<'t, sqlx::Postgres> + sqlx::Type<sqlx::Postgres>,
{
    sqlx::Arguments::add(to, value).expect("texts, times and flags can be encoded");
}

impl Columns for PgRow {
    fn text(&self, place: usize) -> Result<Option<String>, Error> {
        self.try_get(place)
    }

    fn time(&self, place: usize) -> Result<Option<DateTime<Utc>>, Error> {
        self.try_get(place)
    }

    fn flag(&self, place: usize) -> Result<bool, Error> {
        self.try_get(place)
    }
}
