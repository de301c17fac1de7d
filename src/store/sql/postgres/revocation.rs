//! How PostgreSQL ends sessions.

use sqlx::{
    Connection, Error,
    postgres::{PgArguments, PgRow},
};

use super::{PostgresStore, statements::LOCK_CUSTOMER};
use crate::{
    customer::CustomerId,
    registry::{Revocation, Revoked},
    session::SessionId,
    store::{
        error::StoreError,
        sql::{
            self,
            error::store_error,
            rows::{self, Columns as _, Parameters as _},
            trees::{self, EndedTree},
        },
        validation::is_storable,
    },
};

/// Locks the epochs of all customers. It waits for the rotations under way, and holds later ones up:
/// one during the deletion would carry a session over it. Lookups wait for nothing, nor does a writer
/// for the sake of a table. The order is that of the key, so that two of these transactions cannot
/// deadlock; the others lock one epoch at a time, or leave out those that are locked.
///
/// The first sign-in of a customer has no epoch to lock. It comes before the revocation, or after it.
const LOCK_EPOCHS: &str = "SELECT count(*) FROM (SELECT 1 FROM customer_session_epochs \
     ORDER BY customer_id FOR UPDATE) locked";

/// Locks the epochs of customers with sessions that were created before a time, as [`LOCK_EPOCHS`] does.
const LOCK_EPOCHS_CREATED_BEFORE: &str = "SELECT count(*) FROM (SELECT 1 \
     FROM customer_session_epochs e WHERE EXISTS (SELECT 1 FROM customer_sessions s \
     WHERE s.customer_id = e.customer_id AND s.created_at < $1) \
     ORDER BY e.customer_id FOR UPDATE OF e) locked";

impl PostgresStore {
    /// Ends the sessions that `what` describes.
    pub(super) async fn end_sessions(&self, what: &Revocation) -> Result<Revoked, StoreError> {
        let any = match what {
            Revocation::Session(session) => return self.end_one(what, session, None).await,
            Revocation::Owned { customer, session } => {
                return self.end_one(what, session, Some(customer)).await;
            }
            Revocation::Customer(customer) | Revocation::Others { customer, .. }
                if !is_storable(customer.as_str()) =>
            {
                false
            }
            // It cannot be there to be kept.
            Revocation::Others { customer, keep } if !is_storable(keep.as_str()) => {
                self.end_customer(what, customer).await?
            }
            Revocation::Customer(customer) => self.end_customer(what, customer).await?,
            _ => self.end_many(what).await?,
        };
        Ok(Revoked::new(any, [what.invalidation()]))
    }

    /// Ends all sessions of a customer by one statement, however many there are.
    async fn end_customer(
        &self,
        what: &Revocation,
        customer: &CustomerId,
    ) -> Result<bool, StoreError> {
        let context = || sql::revoking(what);
        let id = rows::text_params(&[customer.as_str()]);
        let rows = self.fetch_all(sql::REVOKE_CUSTOMER, id, context).await?;
        flag(rows.first()).map_err(|error| store_error(context(), error))
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
        let (delete, parameters) = sql::revocation_of_one(session, customer);
        let rows = self.fetch_all(delete, parameters, context).await?;
        if !rows.is_empty() {
            let any = flag(rows.first()).map_err(|error| store_error(context(), error))?;
            return Ok(Revoked::of_session(
                session,
                any.then(|| session.clone()),
                None,
            ));
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
        let revoked = Revoked::of_session(session, ended.session, Some(resolved.customer));
        Ok(revoked.with_derived(ended.children))
    }

    /// Ends the live session of a family, and its children. The customer's lock keeps rotations and
    /// derivations out, and the deletion is a statement that begins behind it.
    async fn revoke_family(
        &self,
        what: &Revocation,
        customer: &CustomerId,
        family: &str,
    ) -> Result<EndedTree, StoreError> {
        let pool = self.pool().await?;
        let revoking = async {
            let mut connection = self.sql.acquire(pool).await?;
            let mut transaction = connection.as_mut().begin().await?;
            let id = rows::text_params(&[customer.as_str()]);
            let lock = self.sql.query(LOCK_CUSTOMER, id);
            lock.execute(&mut *transaction).await?;
            let family = rows::text_params(&[family]);
            let delete = self.sql.query(sql::REVOKE_FAMILY, family);
            let ended = delete.fetch_all(&mut *transaction).await?;
            transaction.commit().await?;
            connection.return_to_pool();
            trees::ended(&ended)
        };
        self.sql.change(|| sql::revoking(what), revoking).await
    }

    /// Ends sessions by several statements. No rotation carries a session over them: the first
    /// statement locks the epochs of the customers.
    async fn end_many(&self, what: &Revocation) -> Result<bool, StoreError> {
        let pool = self.pool().await?;
        let many = sql::revocation_of_many::<PgArguments>(what);
        let revoking = async {
            let mut connection = self.sql.acquire(pool).await?;
            let mut transaction = connection.as_mut().begin().await?;
            if let Some((lock, parameters)) = lock_of(what) {
                let lock = self.sql.query(lock, parameters);
                lock.execute(&mut *transaction).await?;
            }
            let mut any = false;
            for (statement, parameters) in many {
                let statement = self.sql.query(statement, parameters);
                let row = statement.fetch_optional(&mut *transaction).await?;
                any |= flag(row.as_ref())?;
            }
            transaction.commit().await?;
            connection.return_to_pool();
            Ok(any)
        };
        self.sql.change(|| sql::revoking(what), revoking).await
    }
}

/// Returns the statement that locks what a revocation of many concerns, and its parameters. That of one
/// customer changes the epoch first, which is a lock.
fn lock_of(what: &Revocation) -> Option<(&'static str, PgArguments)> {
    let mut parameters = PgArguments::default();
    match what {
        Revocation::All => Some((LOCK_EPOCHS, parameters)),
        Revocation::CreatedBefore(time) => {
            parameters.time(Some(*time));
            Some((LOCK_EPOCHS_CREATED_BEFORE, parameters))
        }
        _ => None,
    }
}

/// Reads the flag that a statement returns; `false` if it returns no row.
fn flag(row: Option<&PgRow>) -> Result<bool, Error> {
    row.map_or(Ok(false), |row| row.flag(0))
}
