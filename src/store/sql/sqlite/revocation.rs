//! How an SQLite file ends sessions.

use sqlx::sqlite::SqliteArguments;

use super::{SqliteStore, transaction::WriteTransaction};
use crate::{
    customer::CustomerId,
    registry::{Revocation, Revoked},
    session::SessionId,
    store::{
        error::StoreError,
        sql::{
            self,
            error::store_error,
            rows::{Columns as _, text_params},
        },
    },
};

impl SqliteStore {
    /// Ends the sessions that `what` describes.
    pub(super) async fn end_sessions(&self, what: &Revocation) -> Result<Revoked, StoreError> {
        let mut transaction = self.begin(sql::revoking(what)).await?;
        let (delete, parameters) = sql::revocation(what);
        let ended = transaction.execute(delete, parameters).await?;
        let revoked = match what {
            Revocation::Session(session) => transaction.end_one(ended, session, None).await?,
            Revocation::Owned { customer, session } => {
                transaction.end_one(ended, session, Some(customer)).await?
            }
            _ => Revoked::new(ended > 0, [what.invalidation()]),
        };
        transaction.commit().await?;
        Ok(revoked)
    }
}

impl WriteTransaction<'_> {
    /// Ends what `session` leads to, if it is the customer's and has not `ended` by its own id.
    async fn end_one(
        &mut self,
        ended: u64,
        session: &SessionId,
        customer: Option<&CustomerId>,
    ) -> Result<Revoked, StoreError> {
        if ended > 0 {
            return Ok(Revoked::of_session(session, Some(session.clone()), None));
        }
        let id: SqliteArguments = text_params(&[session.as_str()]);
        let rows = self.fetch_all(sql::RESOLVE, id).await?;
        let corrupt = |error| store_error(format!("reading session {session}"), error);
        let Some(resolved) = sql::resolved(&rows).map_err(corrupt)? else {
            return Ok(Revoked::of_session(session, None, None));
        };
        if customer.is_some_and(|customer| *customer != resolved.customer) {
            return Ok(Revoked::default());
        }
        let Some(family) = resolved.family else {
            return Ok(Revoked::of_session(session, None, None));
        };
        let rows = self.fetch_all(sql::REVOKE_FAMILY, text_params(&[&family]));
        let rows = rows.await?;
        let ended = rows.first().map(|row| row.text(0)).transpose();
        let ended = ended.map_err(corrupt)?.flatten().map(SessionId::from);
        Ok(Revoked::of_session(session, ended, Some(resolved.customer)))
    }
}
