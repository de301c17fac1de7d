//! How sessions are rotated while requests with the old token are under way.

use std::{sync::Arc, time::Duration};

use super::{
    CustomerSessions,
    issuing::{after, keeps_no_details},
    settle::Settled,
};
use crate::{
    engine::pending_changes::ChangeExtent,
    invalidation::Invalidation,
    session::CustomerSession,
    store::{SessionRegistry, StoreError},
    token::SessionToken,
};

/// Longest overlap. An old token that has leaked may be used for that long.
const MAX_OVERLAP: Duration = Duration::from_secs(5 * 60);

impl<S: SessionRegistry> CustomerSessions<S> {
    /// Exchanges a live session as [`rotate`](Self::rotate) does, but the old token goes on for `overlap`: for
    /// a browser whose other tabs, and whose requests under way, still send it. Thirty seconds are enough for
    /// these; five minutes is the most.
    ///
    /// The old session then has [`is_replaced`](crate::SessionDetails::is_replaced), and expires after `overlap`,
    /// or when it would have anyway, or when the new one does, whichever is first. Nothing extends it: a rotation
    /// of the old token answers `None`, as if it were over, and so does [`derive`](Self::derive). Of any number
    /// of concurrent rotations one gets a session. A handler that gets `None` for a request that was let in
    /// leaves the cookie as it is, since another answer has set the new one.
    ///
    /// The two are one session to everything else: [`revoke`](Self::revoke) of either id ends both, on all
    /// nodes alike, a limit counts them once, and [`revoke_others`](Self::revoke_others) keeps both. A list
    /// shows both.
    ///
    /// After a change of rights, such as a new password, rotate without an overlap.
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
    /// // From another tab, which has not got the new cookie yet.
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
    /// than five minutes, if the session was derived from another, or if the store does not
    /// [keep](SessionRegistry::replace_overlapping) replaced sessions.
    #[doc(alias = "grace_period")]
    #[doc(alias = "leeway")]
    pub async fn rotate_overlapping(
        &self,
        token: &SessionToken,
        ttl: Duration,
        overlap: Duration,
    ) -> Result<Option<CustomerSession>, StoreError> {
        if overlap > MAX_OVERLAP {
            let why = "a session that was rotated goes on for five minutes at most";
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
        let replacing = self.settle(ChangeExtent::Session, Some(change.clone()), async move {
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
