//! The tables: how they come about, and whether they are right.

use sqlx::{AssertSqlSafe, Connection, Error, PgConnection};

use super::{
    PostgresStore,
    probe::{NO_TRIGGERS, channel_query},
    server::{PROPERTIES, check_server},
};
use crate::store::{
    error::StoreError,
    sql::{
        error::store_error,
        schema::{self, APPLIED, Applied, SET_CHECKSUM},
        schema_name::SchemaName,
    },
};

/// Machines that migrate wait for each other, those of other schemas of the database too. The server
/// releases the lock at the end of the transaction, whatever the end is.
const LOCK: &str = "SELECT pg_advisory_xact_lock(hashtextextended('customer_session_schema', 0))";

const CONTEXT: &str = "creating the tables";

/// Reads `pg_class`: a server process that only asks for the name may repeat an answer that it
/// remembers, although it has waited for the lock meanwhile.
const IS_THERE: &str = "SELECT EXISTS (SELECT 1 FROM pg_class WHERE oid = to_regclass($1))";

/// Returns what has been applied; nothing if there are no tables.
async fn applied(
    connection: &mut PgConnection,
    schema: &SchemaName,
) -> Result<Vec<Applied>, Error> {
    let table = schema.qualified("customer_session_schema");
    let is_there = sqlx::query_scalar(IS_THERE).bind(table);
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
    /// The database's error; then nothing was changed.
    /// [`Unavailable`](crate::StoreErrorKind::Unavailable) if the tables are those of a newer release
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
        let context = |error| store_error("checking the tables", error);
        let mut connection = self.sql.pool.acquire().await.map_err(context)?;
        let (version, isolation, is_replica): (i32, String, bool) = sqlx::query_as(PROPERTIES)
            .fetch_one(&mut *connection)
            .await
            .map_err(|error| store_error("asking PostgreSQL for its version", error))?;
        check_server(version, &isolation, is_replica)?;
        let names = &self.sql.schema;
        let applied = applied(&mut connection, names).await;
        schema::check(Self::MIGRATIONS, &applied.map_err(context)?)?;
        let announces = sqlx::raw_sql(channel_query(names));
        let announces = announces.fetch_optional(&mut *connection).await;
        if announces.map_err(context)?.is_none() {
            return Err(StoreError::unavailable(NO_TRIGGERS));
        }
        drop(connection);
        self.sql.check_peppers().await
    }

    /// Applies what is missing, all of it or nothing. Asks first: to find that nothing is missing takes
    /// no more than to read.
    async fn apply_missing(&self) -> Result<(), StoreError> {
        let context = |error| store_error(CONTEXT, error);
        let mut connection = self.sql.pool.acquire().await.map_err(context)?;
        let (names, migrations) = (&self.sql.schema, Self::MIGRATIONS);
        let there = applied(&mut connection, names).await.map_err(context)?;
        if schema::missing(migrations, &there)?.is_empty() {
            return Ok(());
        }
        let mut transaction = connection.begin().await.map_err(context)?;
        let lock = sqlx::raw_sql(LOCK);
        lock.execute(&mut *transaction).await.map_err(context)?;
        if let Some(schema) = names.quoted() {
            let set = AssertSqlSafe(format!("SET LOCAL search_path TO {schema}"));
            let set = sqlx::raw_sql(set);
            set.execute(&mut *transaction).await.map_err(context)?;
        }
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
        transaction.commit().await.map_err(context)
    }
}
