//! What a lookup finds that was announced by nothing: a cached session is gone, or has changed. It is
//! recorded like a revocation, so that no copy of the old answer is used again.

use std::sync::Arc;

use super::{
    Engine,
    cache::{
        entry::{CachedSession, Entry as _, LookupResult},
        key::TokenHash128,
    },
};
use crate::{family::FamilyKey, invalidation::Invalidation, session::CustomerSession};

impl Engine {
    /// Returns the cached session of `token`, whether or not it may be used.
    pub(super) fn cached_entry(
        &self,
        key: TokenHash128,
        token: &[u8],
    ) -> Option<Arc<CachedSession>> {
        self.cached(key, token, |_| true)
    }

    /// Returns the cached session of `token` that `is_usable`, from either cache.
    pub(super) fn cached(
        &self,
        key: TokenHash128,
        token: &[u8],
        is_usable: impl Fn(&CachedSession) -> bool,
    ) -> Option<Arc<CachedSession>> {
        let is_usable = |cached: &CachedSession| cached.is_for(token) && is_usable(cached);
        let read = |cached: &Arc<CachedSession>| is_usable(cached).then(|| Arc::clone(cached));
        self.cache.front(key.half(), read).or_else(|| {
            let cached = self.cache.session(key);
            cached.filter(|cached| is_usable(cached))
        })
    }

    /// Records that a session which was cached *before* the store was asked is gone or has changed, if
    /// `result` says so, and returns the result such that it stays current.
    pub(super) fn reconcile(
        &self,
        before: Option<&Arc<CachedSession>>,
        key: TokenHash128,
        mut result: LookupResult,
    ) -> LookupResult {
        let Some(before) = before.filter(|before| self.contradicts(before, key, &result)) else {
            return result;
        };
        let session = before.session.id.as_str();
        let found = Invalidation::Session(session.into());
        let table = &self.revocations.table;
        let family = FamilyKey::of(session).as_u64();
        let own = result.stripes();
        let own = own.filter(|stripes| table.is_stripe_of(family, *stripes));
        match own {
            // The record would overtake the result as well.
            Some(stripes) => match table.record_found(stripes) {
                Some(stripes) => result.set_stripes(stripes),
                None => return result,
            },
            None => self.revocations.record(&found),
        }
        self.revocations.notify_session(session);
        self.tell_others(&found);
        self.counters.invalidations.add_one();
        self.sweep.schedule(self.clock.monotonic_now());
        result
    }

    /// Returns `true` if the result shows that the cached session may not be used any more, for
    /// another reason than its age.
    fn contradicts(
        &self,
        before: &Arc<CachedSession>,
        key: TokenHash128,
        result: &LookupResult,
    ) -> bool {
        let token = before.session.token.expose().as_bytes();
        // A lookup that began later may have landed first: then it has replaced this entry.
        let is_cached = self
            .cached_entry(key, token)
            .is_some_and(|cached| Arc::ptr_eq(&cached, before));
        is_cached
            && self.is_current(&**before, token)
            && self.is_unexpired(before, self.clock.monotonic_now())
            && match result {
                LookupResult::Session(now) => allows_less(&before.session, &now.session),
                LookupResult::NotFound(_) => true,
            }
    }
}

/// Returns `true` if a session allows less than it did, or shows other data of its customer.
fn allows_less(before: &CustomerSession, now: &CustomerSession) -> bool {
    let (old, new) = (&before.details, &now.details);
    now.id != before.id
        || !old.scopes.is_subset_of(&new.scopes)
        || new.authenticated_at < old.authenticated_at
        || new.actor != old.actor
        || new.member != old.member
        || now.expires_at < before.expires_at
        || now.customer_id != before.customer_id
        || now.customer != before.customer
}
