//! How PostgreSQL ends sessions.

use sqlx::{Connection, Row, postgres::PgArguments};

use super::{PostgresStore, registry::LOCK_CUSTOMER};
use crate::{
    registry::{Revocation, Revoked},
    store::{
        error::StoreError,
        sql::{self, error::store_error, store::within_time_limit},
        validation::is_storable,
    },
};

/// Waits for all writers under way and holds up new ones, but no lookup: a rotation during the
/// deletion would carry a session over it.
const LOCK_SESSIONS: &str = "LOCK TABLE customer_sessions IN SHARE ROW EXCLUSIVE MODE";

/// Returns how many sessions ended, and how many of that id belong to another customer.
const REVOKE_OWNED: &str = "WITH ended AS \
     (DELETE FROM customer_sessions WHERE id = $1 AND customer_id = $2 RETURNING id) \
     SELECT (SELECT count(*) FROM ended), \
     (SELECT count(*) FROM customer_sessions WHERE id = $1 AND customer_id <> $2)";

impl PostgresStore {
    /// Ends the sessions that `what` describes.
    pub(super) async fn end_sessions(&self, what: &Revocation) -> Result<Revoked, StoreError> {
        let (ended, is_anothers) = match what {
            Revocation::Session(session) if !is_storable(session.as_str()) => (false, false),
            Revocation::Owned { customer, session }
                if !is_storable(session.as_str()) || !is_storable(customer.as_str()) =>
            {
                (false, false)
            }
            Revocation::Customer(customer) | Revocation::Others { customer, .. }
                if !is_storable(customer.as_str()) =>
            {
                (false, false)
            }
            // It cannot be there to be kept.
            Revocation::Others { customer, keep } if !is_storable(keep.as_str()) => {
                let all = Revocation::Customer(customer.clone());
                (self.revoke_locked(&all).await? > 0, false)
            }
            Revocation::Session(_) => {
                let (statement, parameters) = sql::revocation(what);
                let context = || sql::revoking(what);
                (
                    self.execute(statement, parameters, context).await? > 0,
                    false,
                )
            }
            Revocation::Owned { .. } => {
                let (ended, anothers) = self.revoke_owned(what).await?;
                (ended > 0, anothers > 0)
            }
            _ => (self.revoke_locked(what).await? > 0, false),
        };
        let invalidation = (!is_anothers).then(|| what.invalidation());
        Ok(Revoked::new(ended, invalidation))
    }

    /// Revokes behind a lock, so that no rotation carries a session over the deletion.
    async fn revoke_locked(&self, what: &Revocation) -> Result<u64, StoreError> {
        let pool = self.pool().await?;
        let (delete, parameters) = sql::revocation::<PgArguments>(what);
        let revoking = async {
            let mut connection = self.sql.acquire(pool).await?;
            let mut transaction = connection.as_mut().begin().await?;
            let lock = match what {
                Revocation::Others { customer, .. } | Revocation::Customer(customer) => {
                    sqlx::query(LOCK_CUSTOMER).bind(customer.as_str())
                }
                _ => sqlx::query(LOCK_SESSIONS),
            };
            lock.execute(&mut *transaction).await?;
            let delete = sqlx::query_with(delete, parameters);
            let ended = delete.execute(&mut *transaction).await?;
            transaction.commit().await?;
            connection.return_to_pool();
            Ok(ended.rows_affected())
        };
        within_time_limit(|| sql::revoking(what), revoking).await
    }

    /// Revokes a session if it is the customer's. Returns how many ended, and how many of that id
    /// belong to another customer.
    async fn revoke_owned(&self, what: &Revocation) -> Result<(i64, i64), StoreError> {
        let (_, parameters) = sql::revocation(what);
        let context = || sql::revoking(what);
        let rows = self.fetch_all(REVOKE_OWNED, parameters, context).await?;
        let row = rows.first().ok_or(sqlx::Error::RowNotFound);
        let counts = row.and_then(|row| Ok((row.try_get(0)?, row.try_get(1)?)));
        counts.map_err(|error| store_error(context(), error))
    }
}
