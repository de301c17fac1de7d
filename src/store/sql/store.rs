//! What SQL stores do alike: looking a session up, and listing a customer's sessions.

use std::{sync::Arc, time::Duration};

use chrono::Utc;
use sqlx::{
    AssertSqlSafe, Database, Error, Executor, IntoArguments, Pool, database::HasStatementCache,
    query::Query,
};
use tokio::time::timeout;

use super::{
    ADD_PEPPER, PEPPERS,
    error::{is_of_connection, store_error},
    find_statement,
    idle_connections::{IdleConnections, PooledConnection},
    list,
    rows::{self, Columns, Parameters},
    schema_name::SchemaName,
    statements::{Scope, StatementMode},
};
use crate::{
    customer::CustomerId,
    page::{Page, SessionPage},
    session::{CustomerSession, SessionId},
    shared_caches::SharedCaches,
    store::{
        error::{ContextError, StoreError},
        health_check::HealthCheck,
        pepper::{MAX_ROTATIONS, Peppers, TokenHash, UsedPepper, keeps_changing},
        validation::is_storable,
    },
    token::SessionToken,
};

/// Time a lookup waits on an idle connection before it tries a new one.
const IDLE_CONNECTION_TIMEOUT: Duration = Duration::from_secs(1);

/// Time limit of everything but lookups, which the engine limits.
const TIME_LIMIT: Duration = Duration::from_secs(30);

/// Time a lookup may spend on keeping a session under the current pepper.
pub(super) const REHASH_TIMEOUT: Duration = Duration::from_millis(100);

/// The parts that SQL stores have in common.
pub(super) struct SqlStore<DB: Database> {
    pub(super) pool: Pool<DB>,
    pub(super) peppers: Peppers,
    pub(super) idle: IdleConnections<DB>,
    find_statement: Arc<str>,
    pub(super) schema: SchemaName,
    pub(super) statement_mode: StatementMode,
    pub(super) caches: SharedCaches,
    health_check: HealthCheck,
}

/// A session kept under an older pepper, and its hash under the current one.
pub(super) struct Rehash {
    id: SessionId,
    from: TokenHash,
    to: TokenHash,
}

impl Rehash {
    /// Returns the parameters of `REHASH`: the new hash, the id, and the old hash.
    pub(super) fn parameters<P: Parameters + Default>(&self) -> P {
        let mut parameters = P::default();
        parameters.bytes(&self.to);
        parameters.text(Some(self.id.as_str()));
        parameters.bytes(&self.from);
        parameters
    }
}

impl<DB: Database + HasStatementCache> SqlStore<DB> {
    pub(super) fn new(
        pool: Pool<DB>,
        idle: IdleConnections<DB>,
        peppers: Peppers,
        schema: SchemaName,
        statement_mode: StatementMode,
    ) -> Self {
        Self {
            find_statement: find_statement(peppers.len(), &schema).into(),
            schema,
            statement_mode,
            caches: SharedCaches::new(),
            pool,
            idle,
            peppers,
            health_check: HealthCheck::default(),
        }
    }

    /// Returns the pool if the last check has succeeded, and checks first if it is due.
    pub(super) async fn checked_pool<F>(
        &self,
        check: impl FnOnce() -> F,
    ) -> Result<&Pool<DB>, StoreError>
    where
        F: Future<Output = Result<(), StoreError>> + Send + 'static,
    {
        self.health_check.run(check).await?;
        Ok(&self.pool)
    }

    /// Runs a check that was asked for, and remembers the outcome.
    pub(super) async fn record_check(
        &self,
        check: impl Future<Output = Result<(), StoreError>>,
    ) -> Result<(), StoreError> {
        self.health_check.record(check).await
    }

    /// Takes an idle connection, or one from the pool: while changes keep the pool busy, lookups go on,
    /// and so must checks.
    pub(super) async fn any_connection(&self) -> Result<PooledConnection<DB>, Error> {
        match self.idle.take().await {
            Some(connection) => Ok(connection),
            None => self.acquire(&self.pool).await,
        }
    }

    /// Keeps a connection for the next lookup.
    pub(super) fn keep(&self, connection: PooledConnection<DB>) {
        self.idle.put(connection, &self.pool);
    }

    /// Runs a change within the time limit. If its connection was lost, the others are closed, so that
    /// the next change does not fail for the same reason. The change is not repeated, since it may have
    /// happened.
    pub(super) async fn change<T>(
        &self,
        context: impl FnOnce() -> String,
        work: impl Future<Output = Result<T, Error>>,
    ) -> Result<T, StoreError> {
        let work = async {
            let done = work.await;
            if done.as_ref().is_err_and(is_of_connection) {
                self.idle.close_idle(&self.pool);
            }
            done
        };
        within_time_limit(context, work).await
    }

    /// Takes a connection from `pool`.
    pub(super) async fn acquire(&self, pool: &Pool<DB>) -> Result<PooledConnection<DB>, Error> {
        self.idle.acquire(pool).await
    }
}

impl<DB> SqlStore<DB>
where
    DB: Database + HasStatementCache,
    for<'c> &'c mut DB::Connection: Executor<'c, Database = DB>,
    DB::Arguments: Parameters + IntoArguments<DB>,
    DB::Row: Columns,
{
    /// Begins what one or more statements run in.
    pub(super) async fn begin<'c>(
        &self,
        connection: &'c mut DB::Connection,
    ) -> Result<Scope<'c, DB>, Error> {
        self.statement_mode.begin(connection).await
    }

    /// Returns a statement of ours with its parameters. All of them come from here, so that none is
    /// sent in another way than the store's. It runs in a [`Scope`] or in
    /// a transaction.
    pub(super) fn query(
        &self,
        statement: &'static str,
        parameters: DB::Arguments,
    ) -> Query<'static, DB, DB::Arguments> {
        let statement = self.schema.qualify(statement);
        self.statement_mode.query(statement, parameters)
    }

    /// Refuses peppers that lack the one in use, and puts a new first one in use. Its time is that
    /// of this machine's clock.
    pub(super) async fn check_peppers(&self) -> Result<(), StoreError> {
        for _ in 0..MAX_ROTATIONS {
            let Some(new) = self.peppers.judge(&self.used_peppers().await?)? else {
                return Ok(());
            };
            let mut parameters = DB::Arguments::default();
            parameters.text(Some(&new.fingerprint));
            parameters.time(Some(Utc::now()));
            parameters.text(Some(&new.after));
            let context = || "writing the fingerprint of a pepper".to_owned();
            self.fetch_to_check(ADD_PEPPER, parameters, context).await?;
        }
        Err(keeps_changing())
    }

    async fn used_peppers(&self) -> Result<Vec<UsedPepper>, StoreError> {
        let context = || "reading the fingerprints of the peppers".to_owned();
        let nothing = DB::Arguments::default();
        let rows = self.fetch_to_check(PEPPERS, nothing, context).await?;
        let used = rows.iter().map(|row| {
            Ok(UsedPepper {
                fingerprint: row.text(0)?.unwrap_or_default(),
                used_since: row.time(1)?.unwrap_or_default(),
            })
        });
        let used: Result<_, Error> = used.collect();
        used.map_err(|error| store_error(context(), error))
    }

    async fn fetch_to_check(
        &self,
        statement: &'static str,
        parameters: DB::Arguments,
        context: impl FnOnce() -> String,
    ) -> Result<Vec<DB::Row>, StoreError> {
        let rows = async {
            let mut connection = self.any_connection().await?;
            let mut scope = self.begin(connection.as_mut()).await?;
            let query = self.query(statement, parameters);
            let rows = query.fetch_all(scope.as_mut()).await?;
            scope.end().await?;
            self.keep(connection);
            Ok(rows)
        };
        within_time_limit(context, rows).await
    }

    /// Returns the session that `token` opens, and how to keep it under the current pepper if it
    /// is kept under an older one.
    pub(super) async fn find(
        &self,
        pool: &Pool<DB>,
        token: &SessionToken,
    ) -> Result<Option<(CustomerSession, Option<Rehash>)>, StoreError> {
        let hashes: Vec<_> = self.peppers.hashes(token).collect();
        let row = self.find_row(pool, &hashes).await;
        let Some(row) = row.map_err(|error| store_error("looking up a session", error))? else {
            return Ok(None);
        };
        let (session, hash) = rows::found_session(&row, token)?;
        let rehash = (hash != hashes[0]).then(|| Rehash {
            id: session.id.clone(),
            from: hash,
            to: hashes[0],
        });
        Ok(Some((session, rehash)))
    }

    /// Asks on an idle connection first. If a connection was lost since its last use, or a table was
    /// altered, the lookup is repeated once on a new one.
    async fn find_row(
        &self,
        pool: &Pool<DB>,
        hashes: &[TokenHash],
    ) -> Result<Option<DB::Row>, Error> {
        let mut found = None;
        if let Some(connection) = self.idle.take().await {
            let row = self.find_row_on(connection, hashes);
            found = timeout(IDLE_CONNECTION_TIMEOUT, row).await.ok();
            if found.is_none() {
                self.idle.clear();
            }
        }
        let found = match found {
            Some(found) => found,
            None => {
                let connection = self.acquire(pool).await?;
                self.find_row_on(connection, hashes).await
            }
        };
        match found {
            Err(error) if is_of_connection(&error) => {
                let connection = self.idle.acquire_new(pool).await?;
                self.find_row_on(connection, hashes).await
            }
            found => found,
        }
    }

    async fn find_row_on(
        &self,
        mut connection: PooledConnection<DB>,
        hashes: &[TokenHash],
    ) -> Result<Option<DB::Row>, Error> {
        let mut parameters = DB::Arguments::default();
        for hash in hashes {
            parameters.bytes(hash);
        }
        let statement = AssertSqlSafe(Arc::clone(&self.find_statement));
        let mut scope = self.begin(connection.as_mut()).await?;
        let query = self.statement_mode.query::<DB>(statement, parameters);
        let row = query.fetch_optional(scope.as_mut()).await?;
        scope.end().await?;
        self.keep(connection);
        Ok(row)
    }

    /// Returns one page of a customer's sessions, oldest first.
    pub(super) async fn list(
        &self,
        pool: &Pool<DB>,
        customer: &CustomerId,
        page: &Page,
    ) -> Result<SessionPage, StoreError> {
        if !is_storable(customer.as_str()) {
            return Ok(SessionPage::default());
        }
        let context = || format!("listing the sessions of customer {customer}");
        let rows = async {
            let connection = self.acquire(pool).await?;
            match self.list_rows_on(connection, customer, page).await {
                Err(error) if is_of_connection(&error) => {
                    let connection = self.idle.acquire_new(pool).await?;
                    self.list_rows_on(connection, customer, page).await
                }
                rows => rows,
            }
        };
        let rows = within_time_limit(context, rows).await?;
        rows::page(&rows, page)
    }

    async fn list_rows_on(
        &self,
        connection: PooledConnection<DB>,
        customer: &CustomerId,
        page: &Page,
    ) -> Result<Vec<DB::Row>, Error> {
        let (statement, mut parameters) = list::<DB::Arguments>(customer, page);
        parameters.count(page.size() + 1);
        self.fetch_all_on(connection, statement, parameters).await
    }

    /// Runs a statement that returns rows.
    pub(super) async fn fetch_all(
        &self,
        pool: &Pool<DB>,
        statement: &'static str,
        parameters: DB::Arguments,
        context: impl FnOnce() -> String,
    ) -> Result<Vec<DB::Row>, StoreError> {
        let rows = async {
            let connection = self.acquire(pool).await?;
            self.fetch_all_on(connection, statement, parameters).await
        };
        self.change(context, rows).await
    }

    async fn fetch_all_on(
        &self,
        mut connection: PooledConnection<DB>,
        statement: &'static str,
        parameters: DB::Arguments,
    ) -> Result<Vec<DB::Row>, Error> {
        let mut scope = self.begin(connection.as_mut()).await?;
        let query = self.query(statement, parameters);
        let rows = query.fetch_all(scope.as_mut()).await?;
        scope.end().await?;
        connection.return_to_pool();
        Ok(rows)
    }
}

/// Runs `work` for at most [`TIME_LIMIT`]: a server may disappear without closing connections.
pub(super) async fn within_time_limit<T>(
    context: impl FnOnce() -> String,
    work: impl Future<Output = Result<T, Error>>,
) -> Result<T, StoreError> {
    match timeout(TIME_LIMIT, work).await {
        Ok(Ok(done)) => Ok(done),
        Ok(Err(error)) => Err(store_error(context(), error)),
        Err(elapsed) => Err(StoreError::timeout(ContextError::new(context(), elapsed))),
    }
}
