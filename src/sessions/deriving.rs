//! How sessions are derived from others.

use std::sync::Arc;

use super::{
    CustomerSessions, NewSession,
    issuing::{after, keeps_no_details, new_id},
    settle::Settled,
};
use crate::{
    session::CustomerSession,
    store::{SessionRegistry, StoreError},
    token::SessionToken,
};

/// Methods that open sessions for others than the customer's own browser, which need a store that
/// keeps sessions with their details. Once the store has been asked for the change, they finish even if
/// their future is dropped.
impl<S: SessionRegistry> CustomerSessions<S> {
    /// Opens a session that ends with the one of `parent`: for an agent that acts for the customer, a
    /// download, or another device.
    ///
    /// Its scopes are those of `new`, which must be among those of the parent; without any, it has none.
    /// It expires no later than the parent expires now, and no rotation goes past that. Its
    /// [`authenticated_at`](crate::SessionDetails::authenticated_at) is the parent's, since deriving is not a
    /// sign-in. The parent's [`actor`](crate::SessionDetails::actor) is kept unless `new` has one.
    ///
    /// Once a revocation of the parent has returned, by any id that it had, no request that starts later
    /// is let in by a session that was derived from it; other nodes learn of both together. A
    /// [limit](NewSession::at_most) that ends the parent ends them too, and so does anything else that
    /// ends it but its expiry and a lack of use. Revoking a derived session ends that one alone. A rotation of the parent,
    /// or of a derived session, changes nothing between them: pass a short time to live if a rotation may
    /// make the parent's shorter. Derived sessions do not count for a limit.
    ///
    /// `None` means that the token of `parent` opens no live session, or that another has taken its place
    /// ([`rotate_overlapping`](Self::rotate_overlapping)). In a handler it is that of
    /// [`CurrentSession`](crate::CurrentSession).
    ///
    /// ```
    /// use std::time::Duration;
    ///
    /// use customer_session::{
    ///     Actor, CustomerData, CustomerSessions, NewSession, store::MemoryStore,
    /// };
    ///
    /// # const HOUR: Duration = Duration::from_secs(3600);
    /// # #[tokio::main(flavor = "current_thread")]
    /// # async fn main() -> Result<(), Box<dyn std::error::Error>> {
    /// let sessions = CustomerSessions::builder(MemoryStore::new()).build();
    /// let new = NewSession::new(8 * HOUR).scopes(["orders:read", "orders:write"]);
    /// let session = sessions.issue_with(CustomerData::new("cus_1", "org_1"), new).await?;
    ///
    /// let new = NewSession::new(HOUR).scopes(["orders:read"]).actor(Actor::new("assistant-7"));
    /// let agent = sessions.derive(&session.token, new).await?.expect("it is live");
    /// assert!(sessions.authenticate(&agent.token).await.is_ok());
    ///
    /// sessions.revoke(&session.id).await?;
    /// assert!(sessions.authenticate(&agent.token).await.is_err());
    /// # Ok(())
    /// # }
    /// ```
    ///
    /// # Errors
    ///
    /// Those of [`issue_with`](Self::issue_with), and [`Invalid`](crate::StoreErrorKind::Invalid) if a
    /// scope is not one of the parent's, if the parent was derived itself, if `new` has a limit, or if the
    /// store does not [derive](SessionRegistry::derive) sessions.
    /// [`Conflict`](crate::StoreErrorKind::Conflict) also if the parent has as many derived sessions as the
    /// store keeps: 100 live ones in Redis.
    #[doc(alias = "child")]
    #[doc(alias = "token_exchange")]
    pub async fn derive(
        &self,
        parent: &SessionToken,
        new: NewSession,
    ) -> Result<Option<CustomerSession>, StoreError> {
        if !self.store.keeps().details {
            return Err(keeps_no_details());
        }
        if new.limit.is_some() {
            return Err(StoreError::invalid("a derived session counts for no limit"));
        }
        let Some(parent) = self.current(parent).await? else {
            return Ok(None);
        };
        let child = self.derived_session(&parent, &new)?;
        let (store, parent) = (Arc::clone(&self.store), parent.id.clone());
        let deriving = self.settle_session(None, async move {
            let derived = store.derive(&parent, &child).await;
            Ok(Settled {
                answer: derived.map_err(|error| error.without(&child.token))?,
                invalidations: Vec::new(),
            })
        });
        let derived = deriving.await?;
        if let Some(child) = &derived {
            self.engine.on_issued(&child.token);
        }
        Ok(derived)
    }

    /// Creates the session that is derived from `parent`.
    fn derived_session(
        &self,
        parent: &CustomerSession,
        new: &NewSession,
    ) -> Result<CustomerSession, StoreError> {
        let mut details = new.details().map_err(StoreError::invalid)?;
        if parent.details.parent.is_some() {
            return Err(StoreError::invalid(
                "the session was derived from another; derive from that one",
            ));
        }
        if !details.scopes.is_subset_of(&parent.details.scopes) {
            return Err(StoreError::invalid(
                "a derived session can have no scope that its parent does not have",
            ));
        }
        let now = self.present();
        let end = after(now, new.max_lifetime.unwrap_or(new.ttl));
        details.ends_at = Some(end.min(parent.expires_at));
        details.authenticated_at = parent.details.authenticated_at;
        details.actor = details.actor.or_else(|| parent.details.actor.clone());
        details.member.clone_from(&parent.details.member);
        details.parent = Some(parent.id.clone());
        let (token, customer) = (self.new_token()?, parent.customer.clone());
        let mut child = self.new_session(customer, token, now, new.ttl, details)?;
        child.id = new_id(Some(&parent.id))?;
        Ok(child)
    }
}
