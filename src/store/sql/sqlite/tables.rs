//! The tables: how they come about, and whether they are right.

use sqlx::{Error, SqliteConnection, sqlite::SqliteArguments};

use super::{SqliteStore, columns::bind};
use crate::store::{
    error::StoreError,
    sql::{
        error::store_error,
        rows::text_params,
        schema::{self, APPLIED, Applied, Migrations, SET_CHECKSUM, USES},
    },
};

const CONTEXT: &str = "creating the tables";

const MIGRATIONS: Migrations = Migrations {
    name: "MIGRATIONS",
    sql: SqliteStore::MIGRATIONS,
};

const IS_THERE: &str = "SELECT count(*) FROM sqlite_schema WHERE name = $1";

impl SqliteStore {
    /// Creates the tables, or brings them up to date. Several processes may call it at once.
    ///
    /// It asks first what is missing. If nothing is, it writes nothing. What was applied by hand
    /// counts.
    ///
    /// # Errors
    ///
    /// The database's error; then nothing was changed.
    /// [`Unavailable`](crate::StoreErrorKind::Unavailable) if the tables are those of a newer release
    /// that this one cannot work with, and the errors of [`check`](Self::check).
    pub async fn migrate(&self) -> Result<(), StoreError> {
        let missing = schema::missing(&MIGRATIONS, &self.inspect().await?.0)?;
        if !missing.is_empty() {
            self.apply_missing().await?;
        }
        self.check().await
    }

    /// Checks the version of the tables and the peppers. The other methods count it as one of their own
    /// checks.
    ///
    /// # Errors
    ///
    /// An error that says what is wrong, and what to do.
    pub async fn check(&self) -> Result<(), StoreError> {
        self.shared.sql.record_check(self.run_check()).await
    }

    pub(super) async fn run_check(&self) -> Result<(), StoreError> {
        let (applied, has_uses) = self.inspect().await?;
        schema::check(&MIGRATIONS, &applied)?;
        if !has_uses {
            return Err(schema::lacks_uses(&MIGRATIONS));
        }
        self.shared.sql.check_peppers().await
    }

    /// Returns what has been applied, and whether there is the table of the uses.
    async fn inspect(&self) -> Result<(Vec<Applied>, bool), StoreError> {
        let read = async {
            let mut connection = self.shared.sql.pool.acquire().await?;
            let applied = applied(&mut connection).await?;
            Ok((applied, is_there(&mut connection, USES).await?))
        };
        read.await
            .map_err(|error| store_error("checking the tables", error))
    }

    /// Applies what is missing, all of it or nothing.
    async fn apply_missing(&self) -> Result<(), StoreError> {
        let mut transaction = self.begin_on(&self.shared.sql.pool, CONTEXT).await?;
        // Another process may have applied it while this one waited for the right to write.
        let applied = applied(transaction.connection()).await;
        let applied = applied.map_err(|error| store_error(CONTEXT, error))?;
        for (version, sql) in schema::missing(&MIGRATIONS, &applied)? {
            transaction.execute_all(sql).await?;
            let mut parameters: SqliteArguments = text_params(&[&schema::checksum(sql)]);
            bind(&mut parameters, i64::from(version));
            transaction.execute(SET_CHECKSUM, parameters).await?;
        }
        transaction.commit().await
    }
}

/// Returns `true` if there is a table of this name.
async fn is_there(connection: &mut SqliteConnection, table: &str) -> Result<bool, Error> {
    let tables: i64 = sqlx::query_scalar_with(IS_THERE, text_params::<SqliteArguments>(&[table]))
        .fetch_one(connection)
        .await?;
    Ok(tables > 0)
}

/// Returns what has been applied; nothing if there are no tables.
async fn applied(connection: &mut SqliteConnection) -> Result<Vec<Applied>, Error> {
    if !is_there(connection, "customer_session_schema").await? {
        return Ok(Vec::new());
    }
    let rows = sqlx::query(APPLIED).fetch_all(connection).await?;
    rows.iter().map(Applied::read).collect()
}
