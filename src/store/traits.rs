//! What a store implements.

use std::sync::Arc;

use async_trait::async_trait;
use chrono::{DateTime, Utc};

use super::error::StoreError;
use crate::{
    customer::{Customer, CustomerId},
    session::{CustomerSession, SessionId, SessionSummary},
    token::{SessionToken, TokenFormat},
};

/// Finds the session that a token opens.
///
/// # Contract
///
/// - **Fresh.** A session whose revocation has returned is not found any more. Do not read
///   from a replica that lags behind, and do not cache: the layer does that.
/// - **Complete.** The answer carries the `token` that was asked for, and `customer_id` equals
///   `customer.id`. The layer refuses an answer for another token or with a mixed-up customer
///   as [`Corrupt`](crate::StoreErrorKind::Corrupt).
/// - **Candid.** "There is no such session" is `Ok(None)`. "I cannot tell" is an error, which
///   the client hears as 503: an outage must not sign everybody out.
/// - **Unjudging.** An expired session may be returned as it is; the layer judges it.
/// - **Cancel-safe.** The future may be dropped at any await, when the time allowed for a
///   lookup is over or nobody waits for the answer any more.
/// - **Discreet.** Neither errors nor logs hold the token. Keep only a hash of it, a keyed one
///   if the sessions outlive the process.
///
/// A panic is caught and treated as an error.
///
/// ```
/// use customer_session::{
///     CustomerSession, SessionStore, SessionToken, StoreError, async_trait,
/// };
///
/// struct Upstream(/* a connection pool */);
///
/// #[async_trait]
/// impl SessionStore for Upstream {
///     async fn find(&self, token: &SessionToken) -> Result<Option<CustomerSession>, StoreError> {
///         let row: Option<CustomerSession> = self
///             .query(token.expose())
///             .await
///             .map_err(StoreError::unavailable)?;
///         Ok(row)
///     }
/// }
/// # impl Upstream {
/// #     async fn query(&self, _: &str) -> Result<Option<CustomerSession>, std::io::Error> { Ok(None) }
/// # }
/// ```
///
/// The guide's page [`custom_store`](crate::guide::custom_store) walks through a whole one.
#[async_trait]
pub trait SessionStore: Send + Sync + 'static {
    /// The live or dead session that `token` opens, or `None` if there is none.
    ///
    /// # Errors
    ///
    /// When the store cannot tell, with the kind that fits; see [`StoreErrorKind`](crate::StoreErrorKind).
    async fn find(&self, token: &SessionToken) -> Result<Option<CustomerSession>, StoreError>;

    /// The tokens this store can know; the layer refuses others without asking.
    ///
    /// The default is [`TokenFormat::any`]. It is read once, when the engine is built.
    fn token_format(&self) -> TokenFormat {
        TokenFormat::any()
    }
}

/// Keeps sessions: what a store adds to [`SessionStore`] when the service itself issues and
/// revokes them.
///
/// # Contract
///
/// - Every method but [`purge_expired`](SessionRegistry::purge_expired) is atomic: another reader
///   sees all of its effect or nothing.
/// - When a method returns `Ok`, its effect is committed and every later
///   [`find`](SessionStore::find) sees it.
/// - On an error the outcome may be unknown; the engine then assumes that it happened
///   wherever that is the safe assumption.
/// - Times are kept to the microsecond at least.
/// - A store shared by several machines announces what it revoked or changed as
///   [`Invalidation`](crate::Invalidation)s, if it can in the same transaction.
#[async_trait]
pub trait SessionRegistry: SessionStore {
    /// Adds a session, and its customer: a customer known already is replaced.
    ///
    /// # Errors
    ///
    /// [`Conflict`](crate::StoreErrorKind::Conflict), with nothing changed, if the session's id or
    /// token exists already.
    async fn insert(&self, session: &CustomerSession) -> Result<(), StoreError>;

    /// Removes the session `old` and adds `new`, both or neither. Of any number of concurrent
    /// calls for one `old`, one gets `true`; `false` means that `old` was not there.
    ///
    /// Unlike [`insert`](SessionRegistry::insert) it keeps the customer as the store knows them:
    /// `new.customer` was read before, and may have been changed or deleted since.
    ///
    /// # Errors
    ///
    /// [`Conflict`](crate::StoreErrorKind::Conflict), with nothing changed, if the id or the token of
    /// `new` exists already.
    async fn replace(&self, old: &SessionId, new: &CustomerSession) -> Result<bool, StoreError>;

    /// Removes a session. `false`: it was not there, which is no error (RFC 7009, section 2.2).
    ///
    /// # Errors
    ///
    /// When the store cannot tell.
    async fn revoke(&self, id: &SessionId) -> Result<bool, StoreError>;

    /// Removes every session of a customer, those inserted a moment ago included, and says how
    /// many there were.
    ///
    /// # Errors
    ///
    /// When the store cannot tell.
    async fn revoke_customer(&self, customer: &CustomerId) -> Result<u64, StoreError>;

    /// The sessions of a customer, oldest first, expired ones included. No tokens in it.
    ///
    /// # Errors
    ///
    /// When the store cannot tell.
    async fn list(&self, customer: &CustomerId) -> Result<Vec<SessionSummary>, StoreError>;

    /// Replaces the customer in all of the customer's sessions, and says how many these are.
    ///
    /// # Errors
    ///
    /// When the store cannot tell.
    async fn update_customer(&self, customer: &Customer) -> Result<u64, StoreError>;

    /// Removes at most `limit` sessions with `expires_at <= before`, and says how many it
    /// removed. Lookups go on meanwhile.
    ///
    /// # Errors
    ///
    /// When the store cannot tell.
    async fn purge_expired(&self, before: DateTime<Utc>, limit: u32) -> Result<u64, StoreError>;
}

/// Implements both traits for a pointer to a store.
macro_rules! through_pointer {
    ($pointer:ident) => {
        #[deny(clippy::missing_trait_methods)]
        #[async_trait]
        impl<S: SessionStore + ?Sized> SessionStore for $pointer<S> {
            async fn find(
                &self,
                token: &SessionToken,
            ) -> Result<Option<CustomerSession>, StoreError> {
                (**self).find(token).await
            }

            fn token_format(&self) -> TokenFormat {
                (**self).token_format()
            }
        }

        #[deny(clippy::missing_trait_methods)]
        #[async_trait]
        impl<S: SessionRegistry + ?Sized> SessionRegistry for $pointer<S> {
            async fn insert(&self, session: &CustomerSession) -> Result<(), StoreError> {
                (**self).insert(session).await
            }

            async fn replace(
                &self,
                old: &SessionId,
                new: &CustomerSession,
            ) -> Result<bool, StoreError> {
                (**self).replace(old, new).await
            }

            async fn revoke(&self, id: &SessionId) -> Result<bool, StoreError> {
                (**self).revoke(id).await
            }

            async fn revoke_customer(&self, customer: &CustomerId) -> Result<u64, StoreError> {
                (**self).revoke_customer(customer).await
            }

            async fn list(&self, customer: &CustomerId) -> Result<Vec<SessionSummary>, StoreError> {
                (**self).list(customer).await
            }

            async fn update_customer(&self, customer: &Customer) -> Result<u64, StoreError> {
                (**self).update_customer(customer).await
            }

            async fn purge_expired(
                &self,
                before: DateTime<Utc>,
                limit: u32,
            ) -> Result<u64, StoreError> {
                (**self).purge_expired(before, limit).await
            }
        }
    };
}

through_pointer!(Arc);
through_pointer!(Box);
