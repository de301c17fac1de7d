//! The tables: how they come about, and whether they are right.

use sqlx::{AssertSqlSafe, Connection, Error, PgConnection, Row as _};

use super::{
    PostgresStore,
    server::{PROPERTIES, check_server},
    triggers::{self, NO_TRIGGERS},
};
use crate::store::{
    error::StoreError,
    sql::{
        error::store_error,
        schema::{self, APPLIED, Applied, SET_CHECKSUM},
        schema_name::SchemaName,
        store::within_time_limit,
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

/// Returns what has been applied; nothing if there are no tables.
async fn applied(
    connection: &mut PgConnection,
    schema: &SchemaName,
) -> Result<Vec<Applied>, Error> {
    let table = schema.qualified("customer_session_schema");
    let is_there = sqlx::query_scalar(IS_THERE)
        .bind(table)
        .bind(schema.quoted().is_some());
    if !is_there.fetch_one(&mut *connection).await? {
        return Ok(Vec::new());
    }
    let rows = sqlx::query(schema.qualify(APPLIED));
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

    /// Checks the server, the version of the tables, their triggers, and the peppers.
    ///
    /// # Errors
    ///
    /// An error that says what is wrong, and what to do.
    pub async fn check(&self) -> Result<(), StoreError> {
        let names = &self.sql.schema;
        let asking = async {
            // Dropped half way, it is closed, and does not wait in the pool for the answer.
            let mut connection = self.sql.any_connection().await?;
            let properties = properties(connection.as_mut()).await?;
            let applied = applied(connection.as_mut(), names).await?;
            let announces = sqlx::raw_sql(triggers::query(names));
            let announces: bool = announces.fetch_one(connection.as_mut()).await?.try_get(0)?;
            self.sql.keep(connection);
            Ok((properties, applied, announces))
        };
        let context = || "checking the server and the tables".to_owned();
        let ((version, isolation, is_replica), applied, announces) =
            within_time_limit(context, asking).await?;
        check_server(version, &isolation, is_replica)?;
        schema::check(Self::MIGRATIONS, &applied)?;
        if !announces {
            return Err(StoreError::unavailable(NO_TRIGGERS));
        }
        self.sql.check_peppers().await
    }

    /// Applies what is missing, all of it or nothing. Asks first: to find that nothing is missing takes
    /// no more than to read.
    async fn apply_missing(&self) -> Result<(), StoreError> {
        let context = |error| store_error(CONTEXT, error);
        let mut connection = self.sql.acquire(&self.sql.pool).await.map_err(context)?;
        let (names, migrations) = (&self.sql.schema, Self::MIGRATIONS);
        // Before anything is created: two machines that isolate too much would not see each other.
        let properties = properties(connection.as_mut()).await;
        let (version, isolation, is_replica) = properties.map_err(context)?;
        check_server(version, &isolation, is_replica)?;
        let there = applied(connection.as_mut(), names).await.map_err(context)?;
        if schema::missing(migrations, &there)?.is_empty() {
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
        let there = applied(&mut transaction, names).await.map_err(context)?;
        for (version, sql) in schema::missing(migrations, &there)? {
            let applied = sqlx::raw_sql(*sql).execute(&mut *transaction).await;
            applied.map_err(context)?;
            let checksum = sqlx::query(names.qualify(SET_CHECKSUM))
                .bind(schema::checksum(sql))
                .bind(i32::try_from(version).expect("there are few versions"));
            let written = checksum.execute(&mut *transaction).await;
            written.map_err(context)?;
        }
        transaction.commit().await.map_err(context)?;
        connection.return_to_pool();
        Ok(())
    }
}

async fn properties(connection: &mut PgConnection) -> Result<Properties, Error> {
    sqlx::query_as(PROPERTIES).fetch_one(connection).await
}
