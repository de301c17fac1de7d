//! The tables: how they come about, and whether they are right.

use sqlx::{
    AssertSqlSafe, Connection, Error, PgConnection, Postgres, Row as _, postgres::PgArguments,
};

use super::{
    PostgresStore,
    columns::bind,
    external_customers,
    pooler::server_process,
    server::{PROPERTIES, check_server},
    triggers::{self, NO_TRIGGERS},
};
use crate::store::{
    error::StoreError,
    sql::{
        error::{is_of_connection, store_error},
        idle_connections::PooledConnection,
        rows::{self, Columns as _, Parameters as _},
        schema::{self, APPLIED, Applied, SET_CHECKSUM, USES},
        store::{SqlStore, within_time_limit},
    },
};

/// Machines that migrate wait for each other, those of other schemas of the database too. The server
/// releases the lock at the end of the transaction, whatever the end is.
const LOCK: &str = "SELECT pg_advisory_xact_lock(hashtextextended('customer_session_schema', 0))";

const CONTEXT: &str = "creating the tables";

/// Reads `pg_class`: a server process that only asks for the name may repeat an answer that it
/// remembers, although it has waited for the lock meanwhile.
///
/// Unless a schema is named, the tables are those of the first schema of the search path: those of
/// another service may lie further down.
const IS_THERE: &str = "SELECT EXISTS (SELECT 1 FROM pg_class c JOIN pg_namespace n \
     ON n.oid = c.relnamespace WHERE c.oid = to_regclass($1) \
     AND ($2 OR n.nspname = current_schema()))";

/// Time to wait for another machine that migrates, and for locks on tables.
const LOCK_TIMEOUT: &str = "SET LOCAL lock_timeout = '60s'";

/// The version of the server, the isolation of transactions, and whether it is a replica.
type Properties = (i32, String, bool);

/// What a check judges.
struct Inspection {
    properties: Properties,
    applied: Vec<Applied>,
    has_triggers: bool,
    has_uses: bool,
    /// What is wrong with the customers.
    customers: Option<String>,
}

/// Returns `true` if there is a table of this name, in the schema of the tables.
async fn is_there(
    connection: &mut PgConnection,
    sql: &SqlStore<Postgres>,
    table: &str,
) -> Result<bool, Error> {
    let mut parameters: PgArguments = rows::text_params(&[&sql.schema.qualified(table)]);
    parameters.flag(sql.schema.quoted().is_some());
    let is_there = sql.query(IS_THERE, parameters);
    is_there.fetch_one(connection).await?.flag(0)
}

/// Returns what has been applied; nothing if there are no tables.
async fn applied(
    connection: &mut PgConnection,
    sql: &SqlStore<Postgres>,
) -> Result<Vec<Applied>, Error> {
    if !is_there(connection, sql, "customer_session_schema").await? {
        return Ok(Vec::new());
    }
    let rows = sql.query(APPLIED, PgArguments::default());
    let rows = rows.fetch_all(connection).await?;
    rows.iter().map(Applied::read).collect()
}

impl PostgresStore {
    /// Creates the tables, or brings them up to date. Several machines may call it at once.
    ///
    /// It asks first what is missing. If nothing is, it writes nothing, and a role that may only read
    /// and write rows may call it. What was applied by hand counts.
    ///
    /// # Errors
    ///
    /// The database's error; then nothing was changed. So it is if another machine migrates for more
    /// than a minute. [`Unavailable`](crate::StoreErrorKind::Unavailable) if the tables are those of a newer release
    /// that this one cannot work with, and the errors of [`check`](Self::check).
    pub async fn migrate(&self) -> Result<(), StoreError> {
        self.apply_missing().await?;
        self.check().await
    }

    /// Checks the server, the version of the tables, their triggers, and the peppers. The other methods
    /// count it as one of their own checks.
    ///
    /// # Errors
    ///
    /// An error that says what is wrong, and what to do.
    pub async fn check(&self) -> Result<(), StoreError> {
        self.sql.record_check(self.run_check()).await
    }

    pub(super) async fn run_check(&self) -> Result<(), StoreError> {
        self.check_route().await?;
        let context = || "checking the server and the tables".to_owned();
        let asking = async {
            // Dropped half way, it is closed, and does not wait in the pool for the answer.
            let connection = self.sql.any_connection().await?;
            match self.inspect_by(connection).await {
                // It was lost since its last use.
                Err(error) if is_of_connection(&error) => {
                    let connection = self.sql.idle.acquire_new(&self.sql.pool).await?;
                    self.inspect_by(connection).await
                }
                answers => answers,
            }
        };
        let answers = within_time_limit(context, asking).await?;
        let found = answers?;
        let (version, isolation, is_replica) = found.properties;
        check_server(version, &isolation, is_replica)?;
        // First: what else differs, differs because of this.
        if let Some(problem) = found.customers {
            return Err(StoreError::unavailable(problem));
        }
        schema::check(&self.migrations(), &found.applied)?;
        if !found.has_triggers {
            return Err(StoreError::unavailable(NO_TRIGGERS));
        }
        if !found.has_uses {
            return Err(schema::lacks_uses(&self.migrations()));
        }
        self.sql.check_peppers().await
    }

    /// Inspects the server over a connection, and whether all answers came from the same process.
    async fn inspect_by(
        &self,
        mut connection: PooledConnection<Postgres>,
    ) -> Result<Result<Inspection, StoreError>, Error> {
        let first = server_process(connection.as_mut()).await?;
        let answers = self.inspect(connection.as_mut()).await;
        // Twice, for a pooler that takes its connections in turn.
        let last = server_process(connection.as_mut()).await?;
        let again = server_process(connection.as_mut()).await?;
        // First, since statements that get mixed up have errors of their own.
        if let Err(refused) = self.compare_processes(&[first, last, again]) {
            return Ok(Err(refused));
        }
        let answers = answers?;
        self.sql.keep(connection);
        Ok(Ok(answers))
    }

    /// Returns what a check judges.
    async fn inspect(&self, connection: &mut PgConnection) -> Result<Inspection, Error> {
        let mut scope = self.sql.begin(connection).await?;
        let properties = properties(scope.as_mut(), &self.sql).await?;
        let applied = applied(scope.as_mut(), &self.sql).await?;
        let has_triggers = sqlx::raw_sql(triggers::query(&self.sql.schema));
        let has_triggers = has_triggers.fetch_one(scope.as_mut()).await?.try_get(0)?;
        let has_uses = is_there(scope.as_mut(), &self.sql, USES).await?;
        let is_applied = !applied.is_empty();
        let mut customers = self.kind_problem(scope.as_mut(), is_applied).await?;
        if customers.is_none() && self.external_customers && is_applied {
            customers = external_customers::problem(scope.as_mut(), &self.sql.schema).await?;
        }
        scope.end().await?;
        Ok(Inspection {
            properties,
            applied,
            has_triggers,
            has_uses,
            customers,
        })
    }

    async fn kind_problem(
        &self,
        connection: &mut PgConnection,
        is_applied: bool,
    ) -> Result<Option<String>, Error> {
        let (schema, is_external) = (&self.sql.schema, self.external_customers);
        external_customers::kind_problem(connection, schema, is_external, is_applied).await
    }

    /// Applies what is missing, all of it or nothing. Asks first: to find that nothing is missing takes
    /// no more than to read.
    async fn apply_missing(&self) -> Result<(), StoreError> {
        let context = |error| store_error(CONTEXT, error);
        self.check_route().await?;
        let mut connection = self.sql.acquire(&self.sql.pool).await.map_err(context)?;
        let (names, migrations) = (&self.sql.schema, self.migrations());
        // Before anything is created: two machines that isolate too much would not see each other.
        let asking = async {
            let mut scope = self.sql.begin(connection.as_mut()).await?;
            let properties = properties(scope.as_mut(), &self.sql).await?;
            let applied = applied(scope.as_mut(), &self.sql).await?;
            let problem = self
                .kind_problem(scope.as_mut(), !applied.is_empty())
                .await?;
            scope.end().await?;
            Ok((properties, applied, problem))
        };
        let ((version, isolation, is_replica), there, problem) = asking.await.map_err(context)?;
        check_server(version, &isolation, is_replica)?;
        if let Some(problem) = problem {
            return Err(StoreError::unavailable(problem));
        }
        if schema::missing(&migrations, &there)?.is_empty() {
            connection.return_to_pool();
            return Ok(());
        }
        // Dropped half way, the connection is closed, and so gives the lock up.
        let mut transaction = connection.as_mut().begin().await.map_err(context)?;
        for statement in [LOCK_TIMEOUT, LOCK] {
            let done = sqlx::raw_sql(statement).execute(&mut *transaction).await;
            done.map_err(context)?;
        }
        // The functions keep this search path. By itself it may begin with the role's own schema.
        let schema = names
            .quoted()
            .map_or("quote_ident(current_schema())".to_owned(), |schema| {
                format!("'{schema}'")
            });
        let set = format!("SELECT set_config('search_path', {schema}, true)");
        let set = sqlx::raw_sql(AssertSqlSafe(set));
        set.execute(&mut *transaction).await.map_err(context)?;
        // Another machine may have applied it while this one waited for the lock.
        let there = applied(&mut transaction, &self.sql).await;
        let there = there.map_err(context)?;
        for (version, sql) in schema::missing(&migrations, &there)? {
            let applied = sqlx::raw_sql(sql).execute(&mut *transaction).await;
            applied.map_err(context)?;
            let mut parameters: PgArguments = rows::text_params(&[&schema::checksum(sql)]);
            let version = i32::try_from(version).expect("there are few versions");
            bind(&mut parameters, version);
            let checksum = self.sql.query(SET_CHECKSUM, parameters);
            let written = checksum.execute(&mut *transaction).await;
            written.map_err(context)?;
        }
        transaction.commit().await.map_err(context)?;
        connection.return_to_pool();
        Ok(())
    }
}

async fn properties(
    connection: &mut PgConnection,
    sql: &SqlStore<Postgres>,
) -> Result<Properties, Error> {
    let properties = sql.query(PROPERTIES, PgArguments::default());
    let row = properties.fetch_one(connection).await?;
    Ok((row.try_get(0)?, row.try_get(1)?, row.try_get(2)?))
}
