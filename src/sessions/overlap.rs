//! Rotation after which the old token is still accepted for a while.

use std::{sync::Arc, time::Duration};

use super::{
    CustomerSessions,
    issuing::{after, keeps_no_details},
    settle::Settled,
};
use crate::{
    invalidation::Invalidation,
    session::CustomerSession,
    store::{SessionRegistry, StoreError},
    token::SessionToken,
};

/// Longest overlap: a token that has leaked is of use for so long after a rotation.
const MAX_OVERLAP: Duration = Duration::from_secs(5 * 60);

impl<S: SessionRegistry> CustomerSessions<S> {
    /// Rotates a session as [`rotate`](Self::rotate) does, but keeps accepting the old token for `overlap`, so
    /// that a browser's requests in flight and its other tabs are not refused. Thirty seconds are enough for
    /// that. The maximum is five minutes; an `overlap` of zero is [`rotate`](Self::rotate).
    ///
    /// The old session is marked as [replaced](crate::SessionDetails::is_replaced). It expires after `overlap`, or
    /// when it would have expired anyway, or when the new one expires, whichever is first. It cannot be extended:
    /// all rotations, and [`derive`](Self::derive), answer `None` for its token. Of several concurrent rotations,
    /// exactly one gets a session. `None` for an authenticated request means that another request has just
    /// rotated the session, or that it was revoked. Leave the cookie as it is: the next request will tell. If the
    /// answer with the new token is lost on its way, the customer must sign in again after the overlap.
    ///
    /// They end together: [`revoke`](Self::revoke) of either id ends both, on all nodes, and
    /// [`revoke_others`](Self::revoke_others) keeps both. A limit counts them once, and a list shows both. A stream
    /// that the old token opened ends with the overlap
    /// ([`SessionEnd::Expired`](crate::SessionEnd::Expired)). The new session can be rotated in the same way
    /// within the overlap, which keeps its own end; `RedisStore` keeps at most eight old tokens of a session: the
    /// latest, and the seven others that expire last.
    ///
    /// After a change of privilege, such as a new password, use [`reauthenticated`](Self::reauthenticated) or
    /// [`rotate`](Self::rotate): they end every old token at once, those of earlier overlaps too.
    ///
    /// ```
    /// use std::time::Duration;
    ///
    /// use customer_session::{CustomerData, CustomerSessions, store::MemoryStore};
    ///
    /// # const HOUR: Duration = Duration::from_secs(3600);
    /// # #[tokio::main(flavor = "current_thread")]
    /// # async fn main() -> Result<(), Box<dyn std::error::Error>> {
    /// let sessions = CustomerSessions::builder(MemoryStore::new()).build();
    /// let old = sessions.issue(CustomerData::new("cus_1", "org_1"), HOUR).await?;
    ///
    /// let overlap = Duration::from_secs(30);
    /// let new = sessions.rotate_overlapping(&old.token, HOUR, overlap).await?;
    /// let new = new.expect("it is live");
    /// assert!(sessions.authenticate(&new.token).await.is_ok());
    /// // From another tab, which does not have the new cookie yet.
    /// assert!(sessions.authenticate(&old.token).await?.details.is_replaced);
    /// assert!(sessions.rotate_overlapping(&old.token, HOUR, overlap).await?.is_none());
    ///
    /// sessions.revoke(&old.id).await?;
    /// assert!(sessions.authenticate(&new.token).await.is_err());
    /// # Ok(())
    /// # }
    /// ```
    ///
    /// # Errors
    ///
    /// Those of [`rotate`](Self::rotate), and [`Invalid`](crate::StoreErrorKind::Invalid) if `overlap` is longer
    /// than five minutes, if the session was derived from another, or if the store
    /// keeps no [details](SessionRegistry::keeps) or has no [overlaps](SessionRegistry::replace_overlapping).
    #[doc(alias = "grace_period")]
    #[doc(alias = "leeway")]
    pub async fn rotate_overlapping(
        &self,
        token: &SessionToken,
        ttl: Duration,
        overlap: Duration,
    ) -> Result<Option<CustomerSession>, StoreError> {
        if overlap > MAX_OVERLAP {
            let why = "an overlap is five minutes at most";
            return Err(StoreError::invalid(why));
        }
        if overlap.is_zero() {
            return self.rotate(token, ttl).await;
        }
        if !self.store.keeps().details {
            return Err(keeps_no_details());
        }
        let Some(current) = self.current(token).await? else {
            return Ok(None);
        };
        let new = self.renewed(&current, ttl, |_, _| ())?;
        let mut old = CustomerSession::clone(&current);
        old.expires_at = after(new.created_at, overlap)
            .min(old.expires_at)
            .min(new.expires_at);
        old.details.ends_at = Some(old.expires_at);
        old.details.is_replaced = true;
        let change = Invalidation::Session(old.id.clone());
        let store = Arc::clone(&self.store);
        let replacing = self.settle_session(Some(change.clone()), async move {
            let replaced = store.replace_overlapping(&old, &new).await;
            let without_tokens = |error: StoreError| error.without(&new.token).without(&old.token);
            Ok(Settled {
                answer: replaced.map_err(without_tokens)?,
                invalidations: vec![change],
            })
        });
        let replaced = replacing.await?;
        if let Some(new) = &replaced {
            self.engine.on_issued(&new.token);
        }
        Ok(replaced)
    }
}
