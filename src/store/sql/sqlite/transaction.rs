//! The one of us who writes.

use sqlx::{Connection, Error, Sqlite, SqlitePool, Transaction, sqlite::SqliteArguments};
use tokio::sync::SemaphorePermit;

use super::{SqliteStore, registry};
use crate::{
    session::CustomerSession,
    store::{
        error::StoreError,
        pepper::TokenHash,
        sql::{failed, rows},
    },
};

/// The one of us who writes. Dropped without [`commit`](Self::commit), it changes nothing.
pub(super) struct Turn<'a> {
    transaction: Transaction<'static, Sqlite>,
    /// Given back after the transaction has ended.
    _permit: Option<SemaphorePermit<'a>>,
    tried: String,
}

impl Turn<'_> {
    pub(super) async fn execute(
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

    pub(super) async fn count(
        &mut self,
        statement: &'static str,
        id: &str,
    ) -> Result<u64, StoreError> {
        let counted: Result<i64, _> = sqlx::query_scalar(statement)
            .bind(id)
            .fetch_one(&mut *self.transaction)
            .await;
        let counted = counted.map_err(|error| failed(self.tried.as_str(), error))?;
        Ok(counted.unsigned_abs())
    }

    pub(super) async fn add(
        &mut self,
        session: &CustomerSession,
        hash: &TokenHash,
    ) -> Result<(), StoreError> {
        let mut parameters: SqliteArguments = rows::texts(&[session.customer_id.as_str()]);
        rows::bind_session(&mut parameters, session, hash);
        self.execute(registry::INSERT, parameters).await?;
        Ok(())
    }

    pub(super) async fn commit(self) -> Result<(), StoreError> {
        let committed = self.transaction.commit().await;
        committed.map_err(|error| failed(self.tried, error))
    }
}

impl SqliteStore {
    /// Begins a transaction that has the right to write from its beginning, so that it never
    /// has to give up half way.
    pub(super) async fn begin(&self, tried: impl Into<String>) -> Result<Turn<'_>, StoreError> {
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
