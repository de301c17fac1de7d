//! How PostgreSQL ends sessions.

use sqlx::{Connection, postgres::PgArguments};

use super::{PostgresStore, registry::LOCK_CUSTOMER};
use crate::{
    customer::CustomerId,
    registry::{Revocation, Revoked},
    session::SessionId,
    store::{
        error::StoreError,
        sql::{
            self,
            error::store_error,
            rows::{self, Columns as _},
        },
        validation::is_storable,
    },
};

/// Waits for all writers under way and holds up new ones, but no lookup: a rotation during the
/// deletion would carry a session over it.
const LOCK_SESSIONS: &str = "LOCK TABLE customer_sessions IN SHARE ROW EXCLUSIVE MODE";

impl PostgresStore {
    /// Ends the sessions that `what` describes.
    pub(super) async fn end_sessions(&self, what: &Revocation) -> Result<Revoked, StoreError> {
        let ended = match what {
            Revocation::Session(session) => return self.end_one(what, session, None).await,
            Revocation::Owned { customer, session } => {
                return self.end_one(what, session, Some(customer)).await;
            }
            Revocation::Customer(customer) | Revocation::Others { customer, .. }
                if !is_storable(customer.as_str()) =>
            {
                0
            }
            // It cannot be there to be kept.
            Revocation::Others { customer, keep } if !is_storable(keep.as_str()) => {
                let all = Revocation::Customer(customer.clone());
                self.revoke_locked(&all).await?
            }
            _ => self.revoke_locked(what).await?,
        };
        Ok(Revoked::new(ended > 0, [what.invalidation()]))
    }

    /// Ends the session that `session` leads to, if it is the customer's.
    async fn end_one(
        &self,
        what: &Revocation,
        session: &SessionId,
        customer: Option<&CustomerId>,
    ) -> Result<Revoked, StoreError> {
        if customer.is_some_and(|customer| !is_storable(customer.as_str())) {
            return Ok(Revoked::default());
        }
        if !is_storable(session.as_str()) {
            return Ok(Revoked::of_session(session, None, None));
        }
        let context = || sql::revoking(what);
        let (delete, parameters) = sql::revocation(what);
        if self.execute(delete, parameters, context).await? > 0 {
            return Ok(Revoked::of_session(session, Some(session.clone()), None));
        }
        // The deletion has waited for a rotation under way; what that has left is seen by a
        // statement that begins later.
        let id = rows::text_params(&[session.as_str()]);
        let rows = self.fetch_all(sql::RESOLVE, id, context).await?;
        let resolved = sql::resolved(&rows).map_err(|error| store_error(context(), error))?;
        let Some(resolved) = resolved else {
            return Ok(Revoked::of_session(session, None, None));
        };
        if customer.is_some_and(|customer| *customer != resolved.customer) {
            return Ok(Revoked::default());
        }
        let Some(family) = resolved.family else {
            return Ok(Revoked::of_session(session, None, None));
        };
        let ended = self
            .revoke_family(what, &resolved.customer, &family)
            .await?;
        Ok(Revoked::of_session(session, ended, Some(resolved.customer)))
    }

    /// Ends the live session of a family, and returns its id. The customer's lock keeps rotations
    /// out, and the deletion is a statement that begins behind it.
    async fn revoke_family(
        &self,
        what: &Revocation,
        customer: &CustomerId,
        family: &str,
    ) -> Result<Option<SessionId>, StoreError> {
        let pool = self.pool().await?;
        let revoking = async {
            let mut connection = self.sql.acquire(pool).await?;
            let mut transaction = connection.as_mut().begin().await?;
            let id = rows::text_params(&[customer.as_str()]);
            let lock = self.sql.query(LOCK_CUSTOMER, id);
            lock.execute(&mut *transaction).await?;
            let family = rows::text_params(&[family]);
            let delete = self.sql.query(sql::REVOKE_FAMILY, family);
            let ended = delete.fetch_optional(&mut *transaction).await?;
            let ended = ended.map(|row| row.text(0)).transpose()?.flatten();
            transaction.commit().await?;
            connection.return_to_pool();
            Ok(ended.map(SessionId::from))
        };
        self.sql.change(|| sql::revoking(what), revoking).await
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
                    let id = rows::text_params(&[customer.as_str()]);
                    self.sql.query(LOCK_CUSTOMER, id)
                }
                _ => self.sql.query(LOCK_SESSIONS, PgArguments::default()),
            };
            lock.execute(&mut *transaction).await?;
            let delete = self.sql.query(delete, parameters);
            let ended = delete.execute(&mut *transaction).await?;
            transaction.commit().await?;
            connection.return_to_pool();
            Ok(ended.rows_affected())
        };
        self.sql.change(|| sql::revoking(what), revoking).await
    }
}
