//! What an application does with sessions that are open: it lists and ends them.

use std::sync::Arc;

use chrono::{DateTime, Utc};

use super::{CustomerSessions, DynCustomerSessions, settle::Settled};
use crate::{
    customer::{Customer, CustomerId},
    engine::AuthenticateError,
    invalidation::Invalidation,
    page::{Page, SessionPage},
    registry::Revocation,
    session::{SessionId, SessionSummary},
    store::{SessionRegistry, StoreError},
    token::{self, SessionToken},
};

/// Methods that need a store that keeps sessions.
///
/// Those methods that change something finish even if their future is dropped half-way: once
/// the store has been asked for the change, the cache follows it. After
/// [`write_timeout`](crate::CustomerSessionsBuilder::write_timeout), or a shorter limit that is put
/// around them, the change goes on in the background. If the store fails in the middle, the cache
/// assumes that the change happened.
impl<S: SessionRegistry> CustomerSessions<S> {
    /// Ends a session. Once this has returned, no request that starts later is let in by it.
    ///
    /// **For staff, and for the session of the request itself:** it ends any customer's session.
    /// If the id comes from a client, use [`revoke_owned`](Self::revoke_owned).
    ///
    /// A session that was exchanged by [`rotate`](Self::rotate) is ended by any id that it had, and with
    /// it end the sessions that were [derived](Self::derive) from it.
    /// `false` means that the store did not have it, which is not an error (RFC 7009,
    /// section 2.2).
    ///
    /// # Errors
    ///
    /// The store's. The session may then still exist, or end later; try again. This cache has
    /// forgotten it, and the session that [`rotate`](Self::rotate) has put in its place. A change
    /// that is only late keeps both out of the cache until it has ended.
    #[doc(alias = "logout")]
    #[doc(alias = "sign_out")]
    pub async fn revoke(&self, session: &SessionId) -> Result<bool, StoreError> {
        self.end(Revocation::Session(session.clone())).await
    }

    /// Ends a session if it belongs to `customer`: for "sign out this device", where the id comes
    /// from the request. Otherwise as [`revoke`](Self::revoke); a session of another customer is
    /// `false`, and stays. Answer `false` with 404, so that a client cannot tell which ids exist.
    ///
    /// # Errors
    ///
    /// The store's; the session may then still exist, but this cache has forgotten all sessions of
    /// the customer.
    pub async fn revoke_owned(
        &self,
        customer: &CustomerId,
        session: &SessionId,
    ) -> Result<bool, StoreError> {
        self.end(Revocation::Owned {
            customer: customer.clone(),
            session: session.clone(),
        })
        .await
    }

    /// Ends all sessions of a customer but `keep`: for "sign out everywhere else". A session that was
    /// exchanged by [`rotate`](Self::rotate) is kept by any id that it had. With it stay the sessions that
    /// were [derived](Self::derive) from it, or the one that it was derived from. If `keep` is not one of
    /// the customer's sessions, all of them end.
    ///
    /// # Errors
    ///
    /// The store's; sessions may then still exist, but this cache has forgotten them.
    pub async fn revoke_others(
        &self,
        customer: &CustomerId,
        keep: &SessionId,
    ) -> Result<(), StoreError> {
        self.end(Revocation::Others {
            customer: customer.clone(),
            keep: keep.clone(),
        })
        .await?;
        Ok(())
    }

    /// Ends the session that `token` opens, expired or not, or the [link](Self::link) that it is of.
    /// `false` means that it opens none.
    ///
    /// A token that was rotated opens none, and leads to the session's new token only while this
    /// engine has the old one in its cache: for a minute or so. To end a session whatever its token is now, use
    /// [`revoke`](Self::revoke) with one of its ids.
    ///
    /// # Errors
    ///
    /// The store's; the session may then still exist.
    pub async fn revoke_token(&self, token: &SessionToken) -> Result<bool, StoreError> {
        let may_be_known = self.engine.token_format().matches(token.expose());
        if !may_be_known && !token::is_link(token) {
            return Ok(false);
        }
        let found = self.engine.find(token).await.map_err(into_store_error)?;
        let found = found.map(|session| session.id);
        // Another node may have ended or rotated it, with its message still on the way.
        let cached = || Some(self.engine.cached_session(token)?.session.id.clone());
        match found.or_else(cached) {
            Some(session) => self.end(Revocation::Session(session)).await,
            None => Ok(false),
        }
    }

    /// Ends all sessions of a customer.
    ///
    /// # Errors
    ///
    /// The store's; sessions may then still exist, but this cache has forgotten them.
    pub async fn revoke_customer(&self, customer: &CustomerId) -> Result<(), StoreError> {
        self.end(Revocation::Customer(customer.clone())).await?;
        Ok(())
    }

    /// Ends all sessions of all customers. It takes the store time in proportion to their number.
    ///
    /// # Errors
    ///
    /// The store's; sessions may then still exist, but this cache has forgotten them.
    pub async fn revoke_all(&self) -> Result<(), StoreError> {
        self.end(Revocation::All).await?;
        Ok(())
    }

    /// Ends all sessions with a `created_at` before `time`, of all customers. Sessions made by a
    /// rotation count from the rotation. It takes the store time in proportion to their number.
    ///
    /// # Errors
    ///
    /// The store's; sessions may then still exist, but this cache has forgotten them.
    pub async fn revoke_created_before(&self, time: DateTime<Utc>) -> Result<(), StoreError> {
        self.end(Revocation::CreatedBefore(time)).await?;
        Ok(())
    }

    /// Replaces a customer in all of the customer's sessions. Once this has returned, requests
    /// that start later see the new customer.
    ///
    /// `false` means that the store does not know the customer.
    ///
    /// # Errors
    ///
    /// The store's; the cache then asks it again.
    pub async fn update_customer(&self, customer: &Customer) -> Result<bool, StoreError> {
        let (store, customer) = (Arc::clone(&self.store), customer.detached());
        let change = Invalidation::Customer(customer.id.clone());
        self.settle(change.clone(), async move {
            Ok(Settled {
                answer: store.update_customer(&customer).await?,
                invalidations: vec![change],
            })
        })
        .await
    }

    /// Stops the use of what is cached about something that no method of this store has changed: on this
    /// node, and, if the store can tell them, on the others that listen to it.
    ///
    /// # Errors
    ///
    /// If the other nodes may not have been told. This node then has been.
    pub async fn announce(&self, invalidation: &Invalidation) -> Result<(), StoreError> {
        let (store, change) = (Arc::clone(&self.store), invalidation.clone());
        self.settle(change.clone(), async move {
            Ok(Settled {
                answer: store.announce(&change).await?,
                invalidations: vec![change],
            })
        })
        .await
    }

    /// Returns all live sessions of a customer, oldest first, without their tokens. The one of a request
    /// is the one with the id of its [`CurrentSession`](crate::CurrentSession).
    ///
    /// It reads page after page. Sessions that are added or ended meanwhile may be missing or
    /// listed. For a customer who may have very many, use [`list_page`](Self::list_page).
    ///
    /// # Errors
    ///
    /// The store's.
    pub async fn list(&self, customer: &CustomerId) -> Result<Vec<SessionSummary>, StoreError> {
        let mut sessions = Vec::new();
        let mut page = Page::default().with_size(Page::MAX_SIZE);
        loop {
            let read = self.list_page(customer, &page).await?;
            sessions.extend(read.sessions);
            match read.next {
                Some(cursor) => page = Page::after(cursor).with_size(Page::MAX_SIZE),
                None => return Ok(sessions),
            }
        }
    }

    /// Returns one page of a customer's sessions, as [`list`](Self::list) does all of them; also the
    /// expired ones if the page is one [with them](Page::with_expired).
    ///
    /// # Errors
    ///
    /// The store's.
    pub async fn list_page(
        &self,
        customer: &CustomerId,
        page: &Page,
    ) -> Result<SessionPage, StoreError> {
        let now = self.engine.now();
        let is_shown = |session: &mut SessionSummary| {
            let is_used = self.engine.update_last_use(session, now);
            let is_live = is_used && now < session.expires_at;
            !session.details.is_link && (is_live || page.has_expired())
        };
        // One more than the page holds tells that another page follows.
        let wanted = usize::try_from(page.size())
            .unwrap_or(usize::MAX)
            .saturating_add(1);
        let mut size = page.size().saturating_add(1);
        let (mut shown, mut next) = (Vec::new(), page.clone().with_size(size));
        while shown.len() < wanted {
            let read = self.store.list(customer, &next).await?;
            let mut sessions = read.sessions;
            sessions.retain_mut(is_shown);
            shown.append(&mut sessions);
            let Some(cursor) = read.next else { break };
            // Where many have expired, few reads find the others.
            size = size.saturating_mul(2);
            next = Page::after(cursor).with_size(size);
        }
        Ok(SessionPage::cut(shown, page))
    }

    /// Forgets the type of the store. The result shares the cache with all clones.
    pub fn into_dyn(self) -> DynCustomerSessions {
        let store: Arc<dyn SessionRegistry> = self.store;
        CustomerSessions {
            store: Arc::new(store),
            engine: self.engine,
        }
    }

    /// Ends sessions. Returns `true` if the store had at least one of them.
    async fn end(&self, what: Revocation) -> Result<bool, StoreError> {
        let store = Arc::clone(&self.store);
        let asked_for = what.invalidation();
        // If the outcome is unknown, a client must not be able to invalidate a session of others.
        let assumed = match &what {
            Revocation::Owned { customer, .. } => Invalidation::Customer(customer.clone()),
            _ => asked_for.clone(),
        };
        self.settle(assumed.clone(), async move {
            let revoked = store.revoke(&what).await?;
            let mut invalidations = revoked.invalidations;
            // Recorded even if the store does not report it, unless the session is not the
            // customer's, or may not be.
            let is_foreign = matches!(what, Revocation::Owned { .. }) && !revoked.any;
            let is_reported = [&assumed, &asked_for]
                .iter()
                .any(|told| invalidations.contains(told));
            if !is_foreign && !is_reported {
                invalidations.push(asked_for);
            }
            Ok(Settled {
                answer: revoked.any,
                invalidations,
            })
        })
        .await
    }
}

/// Returns the error of a lookup that is part of a change.
pub(super) fn into_store_error(error: AuthenticateError) -> StoreError {
    match error {
        AuthenticateError::Store(error) => error,
        AuthenticateError::Overloaded | AuthenticateError::InvalidToken => {
            StoreError::unavailable("too many lookups are under way; nothing was changed")
        }
    }
}
