//! Write transactions of SQLite, one at a time.

use sqlx::{
    Connection, Error, Sqlite, SqliteConnection, SqlitePool, Transaction,
    sqlite::{SqliteArguments, SqliteRow},
};
use tokio::sync::SemaphorePermit;

use super::SqliteStore;
use crate::store::{
    error::StoreError,
    sql::{
        error::store_error,
        rows::{Columns as _, text_params},
    },
};

/// A transaction that writes. Dropped without [`commit`](Self::commit), it changes nothing.
pub(super) struct WriteTransaction<'a> {
    transaction: Transaction<'static, Sqlite>,
    /// Released after the transaction has ended.
    _permit: Option<SemaphorePermit<'a>>,
    context: String,
}

impl WriteTransaction<'_> {
    pub(super) fn connection(&mut self) -> &mut SqliteConnection {
        &mut self.transaction
    }

    /// Runs a statement, and returns how many rows it changed.
    pub(super) async fn execute(
        &mut self,
        statement: &'static str,
        parameters: SqliteArguments,
    ) -> Result<u64, StoreError> {
        let done = sqlx::query_with(statement, parameters)
            .execute(&mut *self.transaction)
            .await;
        let done = done.map_err(|error| store_error(self.context.as_str(), error))?;
        Ok(done.rows_affected())
    }

    /// Runs several statements that take no parameters.
    pub(super) async fn execute_all(&mut self, statements: &'static str) -> Result<(), StoreError> {
        let done = sqlx::raw_sql(statements)
            .execute(&mut *self.transaction)
            .await;
        done.map_err(|error| store_error(self.context.as_str(), error))?;
        Ok(())
    }

    /// Runs a statement that counts rows by their ids.
    pub(super) async fn count(
        &mut self,
        statement: &'static str,
        ids: &[&str],
    ) -> Result<u64, StoreError> {
        let count: Result<i64, _> =
            sqlx::query_scalar_with(statement, text_params::<SqliteArguments>(ids))
                .fetch_one(&mut *self.transaction)
                .await;
        let count = count.map_err(|error| store_error(self.context.as_str(), error))?;
        Ok(count.unsigned_abs())
    }

    /// Runs a statement that returns a flag, or no row.
    pub(super) async fn flag(
        &mut self,
        statement: &'static str,
        parameters: SqliteArguments,
    ) -> Result<Option<bool>, StoreError> {
        let rows = self.fetch_all(statement, parameters).await?;
        let flag = rows.first().map(|row| row.flag(0)).transpose();
        flag.map_err(|error| store_error(self.context.as_str(), error))
    }

    /// Runs a statement that returns rows.
    pub(super) async fn fetch_all(
        &mut self,
        statement: &'static str,
        parameters: SqliteArguments,
    ) -> Result<Vec<SqliteRow>, StoreError> {
        let rows = sqlx::query_with(statement, parameters)
            .fetch_all(&mut *self.transaction)
            .await;
        rows.map_err(|error| store_error(self.context.as_str(), error))
    }

    /// Commits the transaction.
    pub(super) async fn commit(self) -> Result<(), StoreError> {
        let committed = self.transaction.commit().await;
        committed.map_err(|error| store_error(self.context, error))
    }
}

impl SqliteStore {
    /// Begins a transaction that holds the right to write from its beginning, so that it never
    /// has to give up half way. `context` says what it is for.
    pub(super) async fn begin(
        &self,
        context: impl Into<String>,
    ) -> Result<WriteTransaction<'_>, StoreError> {
        self.begin_on(self.pool().await?, context).await
    }

    /// Begins a transaction whether or not the tables are right.
    pub(super) async fn begin_on(
        &self,
        pool: &SqlitePool,
        context: impl Into<String>,
    ) -> Result<WriteTransaction<'_>, StoreError> {
        let context = context.into();
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
            Ok(transaction) => Ok(WriteTransaction {
                transaction,
                _permit: permit.ok(),
                context,
            }),
            Err(error) => Err(store_error(context, error)),
        }
    }
}

/// Closes a connection that can never begin another transaction. A full disk ends a transaction
/// without the driver's knowledge, so that the connection claims to be in one for good.
async fn close_if_broken(pool: &SqlitePool) {
    if let Ok(connection) = pool.acquire().await {
        if connection.is_in_transaction() {
            // It has left the pool, whether it closes cleanly or not.
            let _ = connection.close().await;
        }
    }
}
