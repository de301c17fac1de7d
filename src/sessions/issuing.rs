//! How sessions are opened, and exchanged for others.

use std::{sync::Arc, time::Duration};

use chrono::{DateTime, SubsecRound, TimeDelta, Utc};
use zeroize::Zeroizing;

use super::{
    CurrentSession, CustomerSessions, NewSession, changes::into_store_error, settle::Settled,
};
use crate::{
    clock::END_OF_TIME,
    customer::Customer,
    details::SessionDetails,
    engine::AuthenticateError,
    family::FamilyKey,
    invalidation::Invalidation,
    registry::{Inserted, SessionLimit, WhenFull},
    session::{CustomerSession, SessionId},
    store::{SessionRegistry, StoreError},
    token::SessionToken,
};

/// Methods that open sessions, which need a store that keeps them. Once the store has been asked for the
/// change, they finish even if their future is dropped.
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
    /// [`ends_at`](crate::SessionDetails::ends_at), and how many sessions the customer may have.
    ///
    /// # Errors
    ///
    /// Those of [`issue`](Self::issue); [`Conflict`](crate::StoreErrorKind::Conflict) also if the
    /// customer has as many sessions as [`at_most`](NewSession::at_most) allows, and
    /// [`Invalid`](crate::StoreErrorKind::Invalid) if a scope or another detail is not valid, or if
    /// there are details and the store does not [keep](SessionRegistry::keeps) any.
    pub fn issue_with(
        &self,
        customer: impl Into<Customer>,
        new: NewSession,
    ) -> impl Future<Output = Result<CustomerSession, StoreError>> + Send {
        let token = self.new_token();
        let session = token.and_then(|token| self.opened_session(customer.into(), token, &new));
        async move { self.insert(session?, new.limit).await }
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
    /// means that the token opens no live session, or that another request rotated it first. So the token of a
    /// [replaced](crate::SessionDetails::is_replaced) session, which is still accepted, ends nothing here: the
    /// client tries again with the new one.
    ///
    /// # Errors
    ///
    /// The store's. If the outcome is unknown, the cache forgets the old session.
    pub async fn rotate(
        &self,
        token: &SessionToken,
        ttl: Duration,
    ) -> Result<Option<CustomerSession>, StoreError> {
        self.renew(token, ttl, |_, _| ()).await
    }

    /// Exchanges a live session as [`rotate`](Self::rotate) does, and records that the customer has just
    /// proved who they are ([`authenticated_at`](crate::SessionDetails::authenticated_at)). Call it
    /// after you have checked the customer's password or passkey again, for routes that
    /// demand a recent sign-in
    /// ([`require_recent`](crate::CustomerSessionLayer::require_recent)). The new token is part of it (OWASP ASVS 5.0, 7.2.4).
    ///
    /// # Errors
    ///
    /// Those of [`rotate`](Self::rotate), and [`Invalid`](crate::StoreErrorKind::Invalid) if the store
    /// does not [keep](SessionRegistry::keeps) details.
    #[doc(alias = "step_up")]
    pub async fn reauthenticated(
        &self,
        token: &SessionToken,
        ttl: Duration,
    ) -> Result<Option<CustomerSession>, StoreError> {
        if !self.store.keeps().details {
            return Err(keeps_no_details());
        }
        let now = |details: &mut SessionDetails, now| details.authenticated_at = Some(now);
        self.renew(token, ttl, now).await
    }

    /// Exchanges a live session for a new one with the same details, after `change`, which gets the
    /// present time too.
    async fn renew(
        &self,
        token: &SessionToken,
        ttl: Duration,
        change: impl FnOnce(&mut SessionDetails, DateTime<Utc>),
    ) -> Result<Option<CustomerSession>, StoreError> {
        let Some(old) = self.current(token).await? else {
            return Ok(None);
        };
        let new = self.renewed(&old, ttl, change)?;
        self.replace(old.id.clone(), new, None).await
    }

    /// Returns the live session that a token opens and whose place no other has taken, from the store: what is
    /// cached may be older than another node's rotation.
    pub(super) async fn current(
        &self,
        token: &SessionToken,
    ) -> Result<Option<CurrentSession>, StoreError> {
        if !self.engine.token_format().matches(token.expose()) {
            return Ok(None);
        }
        match self.engine.lookup_uncached(token).await {
            Ok(found) => {
                let found = found.filter(|found| !found.session.details.is_replaced);
                Ok(found.map(CurrentSession::new))
            }
            Err(AuthenticateError::InvalidToken) => Ok(None),
            Err(error) => Err(into_store_error(error)),
        }
    }

    /// Creates the session that takes the place of `old`.
    pub(super) fn renewed(
        &self,
        old: &CustomerSession,
        ttl: Duration,
        change: impl FnOnce(&mut SessionDetails, DateTime<Utc>),
    ) -> Result<CustomerSession, StoreError> {
        let now = self.present();
        let mut details = old.details.clone();
        details.last_used_at = None;
        details.ends_at = Some(details.ends_at.unwrap_or(old.expires_at));
        change(&mut details, now);
        let token = self.new_token()?;
        let mut new = self.new_session(old.customer.clone(), token, now, ttl, details)?;
        new.id = new_id(Some(&old.id))?;
        Ok(new)
    }

    /// Adds a session.
    pub(super) async fn insert(
        &self,
        session: CustomerSession,
        limit: Option<SessionLimit>,
    ) -> Result<CustomerSession, StoreError> {
        let limit = limit.map(|limit| self.at_present(limit));
        let assumed = limit.and_then(|limit| assumed_of(&limit, &session));
        let store = Arc::clone(&self.store);
        let inserting = self.settle_session(assumed, async move {
            let inserted = store.insert(&session, limit.as_ref()).await;
            let inserted = inserted.map_err(|error| error.without(&session.token))?;
            Ok(Settled {
                invalidations: invalidations_of(&inserted),
                answer: inserted.session,
            })
        });
        let inserted = inserting.await?;
        self.engine.on_issued(&inserted.token);
        Ok(inserted)
    }

    /// Puts `new` in the place of `old`, with an id that begins like the old one, and ends what is
    /// beyond the limit. `None` if another call was first.
    pub(super) async fn replace(
        &self,
        old: SessionId,
        mut new: CustomerSession,
        limit: Option<SessionLimit>,
    ) -> Result<Option<CustomerSession>, StoreError> {
        new.id = new_id(Some(&old))?;
        let change = Invalidation::Session(old.clone());
        let limit = limit.map(|limit| self.at_present(limit));
        let assumed = limit.and_then(|limit| assumed_of(&limit, &new));
        let assumed = assumed.unwrap_or_else(|| change.clone());
        let of_none = assumed.clone();
        let store = Arc::clone(&self.store);
        let replacing = self.settle_session(Some(assumed), async move {
            let replaced = store.replace(&old, &new, limit.as_ref()).await;
            let replaced = replaced.map_err(|error| error.without(&new.token))?;
            let mut invalidations = vec![change];
            match &replaced {
                Some(replaced) => invalidations.extend(invalidations_of(replaced)),
                // The limit may have ended some before the old one was gone.
                None => invalidations.push(of_none),
            }
            Ok(Settled {
                answer: replaced.map(|replaced| replaced.session),
                invalidations,
            })
        });
        let replaced = replacing.await?;
        if let Some(new) = &replaced {
            self.engine.on_issued(&new.token);
        }
        Ok(replaced)
    }

    /// Leaves sessions out of a limit that have ended by idleness.
    fn at_present(&self, mut limit: SessionLimit) -> SessionLimit {
        limit.used_since = self.engine.used_since(self.present());
        limit
    }

    /// Creates the session that a sign-in opens.
    pub(super) fn opened_session(
        &self,
        customer: Customer,
        token: SessionToken,
        new: &NewSession,
    ) -> Result<CustomerSession, StoreError> {
        let keeps_details = self.store.keeps().details;
        let mut details = new.details().map_err(StoreError::invalid)?;
        if details.has_more_than_times() && !keeps_details {
            return Err(keeps_no_details());
        }
        let now = self.present();
        details.ends_at = Some(after(now, new.max_lifetime.unwrap_or(new.ttl)));
        details.authenticated_at = keeps_details.then_some(now);
        self.new_session(customer, token, now, new.ttl, details)
    }

    /// Creates a session that expires after `ttl`, or at the end that the details have if that is
    /// earlier.
    pub(super) fn new_session(
        &self,
        customer: Customer,
        token: SessionToken,
        now: DateTime<Utc>,
        ttl: Duration,
        details: SessionDetails,
    ) -> Result<CustomerSession, StoreError> {
        let id = new_id(None)?;
        let expires_at = after(now, ttl);
        let expires_at = details
            .ends_at
            .map_or(expires_at, |end| expires_at.min(end));
        let mut session = CustomerSession::new(id, token, customer.detached(), expires_at);
        // The engine's clock, which a test may hold by hand.
        session.created_at = now;
        session.details = details;
        Ok(session)
    }

    /// Creates a token in the format of the store's.
    pub(super) fn new_token(&self) -> Result<SessionToken, StoreError> {
        let token = self.engine.token_format().try_generate();
        token.map_err(StoreError::unavailable)
    }

    /// Returns the present time as databases keep it, in microseconds: what is stored must read back
    /// equal.
    pub(super) fn present(&self) -> DateTime<Utc> {
        self.engine.now().trunc_subsecs(6)
    }
}

/// Returns invalidations of the sessions that a limit has ended.
fn invalidations_of(inserted: &Inserted) -> Vec<Invalidation> {
    let ended = inserted.ended.iter();
    ended
        .map(|ended| Invalidation::Session(ended.id.clone()))
        .chain(inserted.invalidations.clone())
        .collect()
}

/// Returns what the store may have ended if a session was added with a limit and the outcome is unknown:
/// any of the customer's sessions.
fn assumed_of(limit: &SessionLimit, new: &CustomerSession) -> Option<Invalidation> {
    match limit.when_full {
        WhenFull::EndOldest => Some(Invalidation::Customer(new.customer_id.clone())),
        WhenFull::Refuse => None,
    }
}

/// Creates the id of a session that takes the place of `relative` or is derived from it, if there is one.
pub(super) fn new_id(relative: Option<&SessionId>) -> Result<SessionId, StoreError> {
    let mut random = Zeroizing::new([0; 16]);
    getrandom::fill(random.as_mut_slice()).map_err(StoreError::unavailable)?;
    Ok(FamilyKey::new_id(relative.map(SessionId::as_str), *random).into())
}

/// Returns the error of a store that would lose details.
pub(super) fn keeps_no_details() -> StoreError {
    StoreError::invalid(
        "this store keeps no details of sessions, such as scopes; use one that does, or let it keep \
         them and say so in `SessionRegistry::keeps`",
    )
}

/// Returns `now` and `ttl`, but no later than a time can be written down.
pub(super) fn after(now: DateTime<Utc>, ttl: Duration) -> DateTime<Utc> {
    TimeDelta::from_std(ttl)
        .ok()
        .and_then(|ttl| now.checked_add_signed(ttl))
        .map_or(END_OF_TIME, |end| end.trunc_subsecs(6).min(END_OF_TIME))
}
