//! How an SQLite file ends sessions.

use sqlx::sqlite::SqliteArguments;

use super::{SqliteStore, transaction::WriteTransaction};
use crate::{
    customer::CustomerId,
    registry::{Revocation, Revoked},
    session::SessionId,
    store::{
        error::StoreError,
        sql::{self, error::store_error, rows::text_params},
    },
};

impl SqliteStore {
    /// Ends the sessions that `what` describes.
    pub(super) async fn end_sessions(&self, what: &Revocation) -> Result<Revoked, StoreError> {
        let mut transaction = self.begin(sql::revoking(what)).await?;
        let revoked = match what {
            Revocation::Session(session) => transaction.end_one(session, None).await?,
            Revocation::Owned { customer, session } => {
                transaction.end_one(session, Some(customer)).await?
            }
            _ => {
                let mut any = false;
                for (statement, parameters) in sql::revocation_of_many(what) {
                    any |= transaction
                        .flag(statement, parameters)
                        .await?
                        .unwrap_or(false);
                }
                Revoked::new(any, [what.invalidation()])
            }
        };
        transaction.commit().await?;
        Ok(revoked)
    }
}

impl WriteTransaction<'_> {
    /// Ends what `session` leads to, if it is the customer's.
    async fn end_one(
        &mut self,
        session: &SessionId,
        customer: Option<&CustomerId>,
    ) -> Result<Revoked, StoreError> {
        let (delete, parameters) = sql::revocation_of_one(session, customer);
        if let Some(any) = self.flag(delete, parameters).await? {
            return Ok(Revoked::of_session(
                session,
                any.then(|| session.clone()),
                None,
            ));
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
        let ended = sql::trees::ended(&rows).map_err(corrupt)?;
        let revoked = Revoked::of_session(session, ended.session, Some(resolved.customer));
        Ok(revoked.with_derived(ended.children))
    }
}
