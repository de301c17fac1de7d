//! What an application does with sessions: it issues, rotates, lists and ends them.

use std::{sync::Arc, time::Duration};

use chrono::{DateTime, SubsecRound, TimeDelta, Utc};
use zeroize::Zeroizing;

use super::{CurrentSession, CustomerSessions, DynCustomerSessions, settle::Settled};
use crate::{
    clock::END_OF_TIME,
    customer::{Customer, CustomerId},
    details::NewSession,
    engine::AuthenticateError,
    family::FamilyKey,
    invalidation::Invalidation,
    registry::{Page, Revocation, SessionPage},
    session::{CustomerSession, SessionId, SessionSummary},
    store::{SessionRegistry, StoreError},
    token::SessionToken,
};

/// Methods that need a store that keeps sessions.
///
/// Those methods that change something finish even if their future is dropped half-way: once
/// the store has been asked for the change, the cache follows it. After
/// [`write_timeout`](crate::CustomerSessionsBuilder::write_timeout), or a shorter limit that is put
/// around them, the change goes on in the background. If the store fails in the middle, the cache
/// assumes that the change happened.
impl<S: SessionRegistry> CustomerSessions<S> {
    /// Opens a session for a customer, with a new token, for `ttl` from now (until the end of
    /// the year 9999 at the latest). Rotations do not extend it; [`issue_with`](Self::issue_with)
    /// opens sessions that they do extend.
    ///
    /// The answer holds the token; the store keeps only a hash of it, so this is the one
    /// chance to hand it to the customer. A customer that the store knows stays as it is, and the
    /// answer holds the customer as stored: [`update_customer`](Self::update_customer) changes
    /// them.
    ///
    /// # Errors
    ///
    /// The store's; [`Conflict`](crate::StoreErrorKind::Conflict) if the customer is deleted, and
    /// [`Unavailable`](crate::StoreErrorKind::Unavailable) also when the operating system has no
    /// randomness.
    pub fn issue(
        &self,
        customer: impl Into<Customer>,
        ttl: Duration,
    ) -> impl Future<Output = Result<CustomerSession, StoreError>> + Send {
        self.issue_with(customer, NewSession::new(ttl))
    }

    /// Opens a session as [`issue`](Self::issue) does, with more to say about it: for example how
    /// long rotations may extend it, which is never beyond its
    /// [`ends_at`](crate::SessionDetails::ends_at).
    ///
    /// # Errors
    ///
    /// Those of [`issue`](Self::issue).
    pub fn issue_with(
        &self,
        customer: impl Into<Customer>,
        new: NewSession,
    ) -> impl Future<Output = Result<CustomerSession, StoreError>> + Send {
        let end = new.max_lifetime;
        let session = self.new_session(customer.into(), new.ttl, None, |now| {
            end.map(|lifetime| after(now, lifetime))
        });
        async move {
            let (store, session) = (Arc::clone(&self.store), session?);
            let inserted = self
                .settle(None, async move {
                    let inserted = store.insert(&session, None).await;
                    let inserted = inserted.map_err(|error| error.without(&session.token))?;
                    let ended = inserted.ended.into_iter();
                    Ok(Settled {
                        answer: inserted.session,
                        invalidations: ended.map(|ended| Invalidation::Session(ended.id)).collect(),
                    })
                })
                .await?;
            self.engine.on_issued(&inserted.token);
            Ok(inserted)
        }
    }

    /// Exchanges a live session for a new one of the same customer, with a new id and token,
    /// for `ttl` from now, but never beyond its end: the
    /// [`ends_at`](crate::SessionDetails::ends_at) of the old session, or its `expires_at` if it
    /// has none. So a stolen token cannot be rotated without end; give sessions that should live
    /// longer an end with [`issue_with`](Self::issue_with). The old token is refused from then on.
    ///
    /// The old id goes on leading to the new session, until that end: [`revoke`](Self::revoke) of
    /// any id that it had ends it. The ids of both begin alike, which tells the cache that they belong
    /// together. The answer holds the customer as the store knows them. `None`
    /// means that the token opens no live session, or that another request rotated it first.
    ///
    /// # Errors
    ///
    /// The store's. If the outcome is unknown, the cache forgets the old session.
    pub async fn rotate(
        &self,
        token: &SessionToken,
        ttl: Duration,
    ) -> Result<Option<CustomerSession>, StoreError> {
        if !self.engine.token_format().matches(token.expose()) {
            return Ok(None);
        }
        // From the store: what is cached may be older than another node's rotation.
        let old = match self.engine.lookup_uncached(token).await {
            Ok(Some(old)) => CurrentSession::new(old),
            Ok(None) | Err(AuthenticateError::InvalidToken) => return Ok(None),
            Err(error) => return Err(into_store_error(error)),
        };
        let end = old.details.ends_at.unwrap_or(old.expires_at);
        let new = self.new_session(old.customer.clone(), ttl, Some(&old.id), |_| Some(end))?;
        let change = Invalidation::Session(old.id.clone());
        let store = Arc::clone(&self.store);
        let rotated = self.settle(Some(change.clone()), async move {
            let replaced = store.replace(&old.id, &new).await;
            let answer = replaced.map_err(|error| error.without(&new.token))?;
            let invalidations = vec![change];
            Ok(Settled {
                answer,
                invalidations,
            })
        });
        let rotated = rotated.await?;
        if let Some(new) = &rotated {
            self.engine.on_issued(&new.token);
        }
        Ok(rotated)
    }

    /// Ends a session. Once this has returned, no request that starts later is let in by it.
    ///
    /// **For staff, and for the session of the request itself:** it ends any customer's session.
    /// If the id comes from a client, use [`revoke_owned`](Self::revoke_owned).
    ///
    /// A session that was exchanged by [`rotate`](Self::rotate) is ended by any id that it had.
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
    /// exchanged by [`rotate`](Self::rotate) is kept by any id that it had. If `keep` is not one of
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

    /// Ends the session that `token` opens, expired or not. `false` means that it opens none.
    ///
    /// A token that was rotated opens none, and leads to the session's new token only while this
    /// engine has the old one in its cache: for a minute or so. To end a session whatever its token is now, use
    /// [`revoke`](Self::revoke) with one of its ids.
    ///
    /// # Errors
    ///
    /// The store's; the session may then still exist.
    pub async fn revoke_token(&self, token: &SessionToken) -> Result<bool, StoreError> {
        if !self.engine.token_format().matches(token.expose()) {
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
        self.settle(Some(change.clone()), async move {
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
        self.settle(Some(change.clone()), async move {
            Ok(Settled {
                answer: store.announce(&change).await?,
                invalidations: vec![change],
            })
        })
        .await
    }

    /// Returns all sessions of a customer, oldest first, expired ones included, without their
    /// tokens.
    ///
    /// It reads page after page. Sessions that are added or ended meanwhile may be missing or
    /// listed.
    ///
    /// # Errors
    ///
    /// The store's.
    pub async fn list(&self, customer: &CustomerId) -> Result<Vec<SessionSummary>, StoreError> {
        let mut sessions = Vec::new();
        let mut page = Page::default().with_size(Page::MAX_SIZE);
        loop {
            let read = self.store.list(customer, &page).await?;
            sessions.extend(read.sessions);
            match read.next {
                Some(cursor) => page = Page::after(cursor).with_size(Page::MAX_SIZE),
                None => return Ok(sessions),
            }
        }
    }

    /// Returns one page of a customer's sessions, as [`list`](Self::list) does all of them.
    ///
    /// # Errors
    ///
    /// The store's.
    pub async fn list_page(
        &self,
        customer: &CustomerId,
        page: &Page,
    ) -> Result<SessionPage, StoreError> {
        self.store.list(customer, page).await
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
        self.settle(Some(assumed), async move {
            let revoked = store.revoke(&what).await?;
            let mut invalidations = revoked.invalidations;
            // Recorded even if the store does not report it, unless the session is not the
            // customer's.
            let is_foreign = matches!(what, Revocation::Owned { .. }) && !revoked.any;
            if !is_foreign && !invalidations.contains(&asked_for) {
                invalidations.push(asked_for);
            }
            Ok(Settled {
                answer: revoked.any,
                invalidations,
            })
        })
        .await
    }

    /// Creates a session that expires after `ttl`, or at the end that `end` returns for the
    /// present time if that is earlier. It belongs to the family of `rotated`.
    fn new_session(
        &self,
        customer: Customer,
        ttl: Duration,
        rotated: Option<&SessionId>,
        end: impl FnOnce(DateTime<Utc>) -> Option<DateTime<Utc>>,
    ) -> Result<CustomerSession, StoreError> {
        let mut random = Zeroizing::new([0; 16]);
        getrandom::fill(random.as_mut_slice()).map_err(StoreError::unavailable)?;
        let id = FamilyKey::new_id(rotated.map(SessionId::as_str), *random);
        let token = self.engine.token_format().try_generate();
        let token = token.map_err(StoreError::unavailable)?;
        // Databases keep microseconds; what is stored must read back equal.
        let now = self.engine.now().trunc_subsecs(6);
        let customer = customer.detached();
        let expires_at = after(now, ttl);
        let ends_at = end(now).unwrap_or(expires_at);
        let expires_at = expires_at.min(ends_at);
        let mut session = CustomerSession::new(id, token, customer, expires_at);
        // The engine's clock, which a test may hold by hand.
        session.created_at = now;
        session.details.ends_at = Some(ends_at);
        Ok(session)
    }
}

/// Returns the error of a lookup that is part of a change.
fn into_store_error(error: AuthenticateError) -> StoreError {
    match error {
        AuthenticateError::Store(error) => error,
        AuthenticateError::Overloaded | AuthenticateError::InvalidToken => {
            StoreError::unavailable("too many lookups are under way; nothing was changed")
        }
    }
}

/// Returns `now` and `ttl`, but no later than a time can be written down.
fn after(now: DateTime<Utc>, ttl: Duration) -> DateTime<Utc> {
    TimeDelta::from_std(ttl)
        .ok()
        .and_then(|ttl| now.checked_add_signed(ttl))
        .map_or(END_OF_TIME, |end| end.trunc_subsecs(6).min(END_OF_TIME))
}
