//! The caches. They store entries and do nothing else: whether an entry may be used is decided at
//! each use, by its epoch and its deadlines.
//!
//! So copies of an entry may be in several places, and sessions are in [`FrontCache`] as well as in
//! moka.

pub(crate) mod entry;
mod front;
pub(crate) mod key;
#[cfg(test)]
mod tests;

use std::{hash::BuildHasher, sync::Arc, time::Duration};

use ahash::RandomState;
use moka::sync::Cache;

use self::{
    entry::{CachedSession, LookupResult, NegativeEntry},
    front::FrontCache,
    key::{BuildIdentityHasher, TokenHash64, TokenHash128},
};
use super::config::Config;

/// Moka refuses to be built with a time to live beyond a thousand years.
const MAX_TTL: Duration = Duration::from_secs(100 * 365 * 24 * 60 * 60);

/// Two caches, so that a flood of unknown tokens cannot evict live sessions.
pub(crate) struct SessionCache {
    front: FrontCache,
    sessions: Option<Moka<Arc<CachedSession>>>,
    negative: Option<Moka<NegativeEntry>>,
    hashers: [RandomState; 2],
}

type Moka<V> = Cache<TokenHash128, V, BuildIdentityHasher>;

impl SessionCache {
    /// Creates caches for `cache_capacity` sessions, which are kept for `cache_ttl` and
    /// `stale_if_error`, and a quarter as many unknown tokens, kept for `negative_ttl`. A capacity
    /// or a lifetime of zero caches nothing.
    pub(crate) fn new(config: &Config) -> Self {
        let random = std::hash::RandomState::new();
        let seed = |part: u8| random.hash_one(part);
        let hasher = |part: u8| {
            RandomState::with_seeds(seed(part), seed(part + 1), seed(part + 2), seed(part + 3))
        };
        let (capacity, ttl) = (config.cache_capacity, config.cache_ttl);
        Self {
            front: FrontCache::new(if ttl.is_zero() { 0 } else { capacity }),
            sessions: moka(capacity, ttl.saturating_add(config.stale_if_error)),
            negative: moka(capacity.div_ceil(4), config.negative_ttl),
            hashers: [hasher(0), hasher(4)],
        }
    }

    pub(crate) fn key(&self, token: &[u8]) -> TokenHash128 {
        self.hash128(self.hash64(token), token)
    }

    #[inline]
    pub(crate) fn hash64(&self, token: &[u8]) -> TokenHash64 {
        TokenHash64(self.hashers[0].hash_one(token))
    }

    /// Completes the hash of `token`, of which `hash` is the first half.
    pub(crate) fn hash128(&self, hash: TokenHash64, token: &[u8]) -> TokenHash128 {
        let other = self.hashers[1].hash_one(token);
        TokenHash128(u128::from(hash.0) << 64 | u128::from(other))
    }

    /// Returns the first that `read` returns for a session under `hash` in the front cache. `read`
    /// must compare the token.
    #[inline]
    pub(crate) fn front<T>(
        &self,
        hash: TokenHash64,
        read: impl Fn(&Arc<CachedSession>) -> Option<T>,
    ) -> Option<T> {
        self.front.get(hash, read)
    }

    /// Returns the cached session, usable or not.
    pub(crate) fn session(&self, key: TokenHash128) -> Option<Arc<CachedSession>> {
        self.sessions.as_ref()?.get(&key)
    }

    /// Returns the cached knowledge that the token opens nothing, usable or not.
    pub(crate) fn negative_entry(&self, key: TokenHash128) -> Option<NegativeEntry> {
        self.negative.as_ref()?.get(&key)
    }

    /// Puts a session into the front cache, in the place of a usable one only if `replace_live`.
    pub(crate) fn promote(
        &self,
        session: Arc<CachedSession>,
        is_usable: impl Fn(&CachedSession) -> bool,
        replace_live: bool,
    ) {
        self.front.put(session, is_usable, replace_live);
    }

    /// Puts a result in the place of what was known of the token. A session is put into the front
    /// cache as well, unless only usable ones are where it belongs.
    pub(crate) fn insert(
        &self,
        key: TokenHash128,
        result: LookupResult,
        is_usable: impl Fn(&CachedSession) -> bool,
    ) {
        match result {
            LookupResult::Session(session) => {
                self.forget_negative(key);
                self.front.put(Arc::clone(&session), is_usable, false);
                if let Some(sessions) = &self.sessions {
                    sessions.insert(key, session);
                }
            }
            LookupResult::NotFound(entry) => {
                self.front.remove(key.half());
                if let Some(sessions) = &self.sessions {
                    sessions.invalidate(&key);
                }
                if let Some(negative) = &self.negative {
                    negative.insert(key, entry);
                }
            }
        }
    }

    pub(crate) fn forget_negative(&self, key: TokenHash128) {
        if let Some(negative) = &self.negative {
            negative.invalidate(&key);
        }
    }

    /// Drops the sessions that are not `wanted`, and what is too old. Looks at every session.
    pub(crate) fn run_pending_tasks(&self, wanted: impl Fn(&CachedSession) -> bool) {
        self.front.retain(&wanted);
        if let Some(sessions) = &self.sessions {
            for (key, session) in sessions {
                if !wanted(&session) {
                    sessions.invalidate(&*key);
                }
            }
            sessions.run_pending_tasks();
        }
        self.negative.iter().for_each(Moka::run_pending_tasks);
    }

    /// Returns the numbers of cached sessions and of negative entries.
    pub(crate) fn len(&self) -> (u64, u64) {
        let sessions = self.sessions.as_ref().map_or(0, Moka::entry_count);
        let negative = self.negative.as_ref().map_or(0, Moka::entry_count);
        (sessions, negative)
    }
}

fn moka<V: Clone + Send + Sync + 'static>(capacity: u64, ttl: Duration) -> Option<Moka<V>> {
    (capacity > 0 && !ttl.is_zero()).then(|| {
        Cache::builder()
            .max_capacity(capacity)
            // Frees memory. Freshness is decided at each use.
            .time_to_live(ttl.min(MAX_TTL))
            .build_with_hasher(BuildIdentityHasher::default())
    })
}
