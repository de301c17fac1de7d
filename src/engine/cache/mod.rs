//! What the engine remembers. Moka stores it and does nothing else: whether a remembered
//! answer may be used is decided at each use, by its epoch and its deadline.
//!
//! So it does no harm if an answer lies about in several buckets, and sessions lie in a plain table
//! in front of moka, too, whose `get` costs as much as all the rest of a hit together.

pub(crate) mod entry;
mod front;
pub(crate) mod key;

use std::{hash::BuildHasher, sync::Arc, time::Duration};

use ahash::RandomState;
use moka::sync::Cache as Moka;

use self::{
    entry::{CachedSession, LookupResult, NegativeEntry},
    front::FrontCache,
    key::{BuildIdentityHasher, TokenHash64, TokenHash128},
};

/// Two caches, so that a flood of unknown tokens cannot drive out live sessions.
pub(crate) struct SessionCache {
    front: FrontCache,
    sessions: Option<Store<Arc<CachedSession>>>,
    absent: Option<Store<NegativeEntry>>,
    hashers: [RandomState; 2],
}

type Store<V> = Moka<TokenHash128, V, BuildIdentityHasher>;

/// Moka refuses to be built with a time to live beyond a thousand years.
const MAX_TTL: Duration = Duration::from_secs(100 * 365 * 24 * 60 * 60);

fn store<V: Clone + Send + Sync + 'static>(capacity: u64, ttl: Duration) -> Option<Store<V>> {
    (capacity > 0 && !ttl.is_zero()).then(|| {
        Moka::builder()
            .max_capacity(capacity)
            // Frees memory; freshness itself is judged at each use.
            .time_to_live(ttl.min(MAX_TTL))
            .build_with_hasher(BuildIdentityHasher::default())
    })
}

impl SessionCache {
    /// Caches that hold `capacity` sessions for `ttl` and, in case the store fails, for `stale_if_error`
    /// more, and a quarter as many unknown tokens for `negative_ttl`. A capacity or lifetime of
    /// zero remembers nothing.
    pub(crate) fn new(
        capacity: u64,
        ttl: Duration,
        stale_if_error: Duration,
        negative_ttl: Duration,
    ) -> Self {
        let random = std::hash::RandomState::new();
        let seed = |part: u8| random.hash_one(part);
        let hasher = |part: u8| {
            RandomState::with_seeds(seed(part), seed(part + 1), seed(part + 2), seed(part + 3))
        };
        Self {
            front: FrontCache::new(if ttl.is_zero() { 0 } else { capacity }),
            sessions: store(capacity, ttl.saturating_add(stale_if_error)),
            absent: store(capacity.div_ceil(4), negative_ttl),
            hashers: [hasher(0), hasher(4)],
        }
    }

    pub(crate) fn key(&self, token: &[u8]) -> TokenHash128 {
        self.hash128(self.hash64(token), token)
    }

    pub(crate) fn hash64(&self, token: &[u8]) -> TokenHash64 {
        TokenHash64(self.hashers[0].hash_one(token))
    }

    pub(crate) fn hash128(&self, half: TokenHash64, token: &[u8]) -> TokenHash128 {
        let other = self.hashers[1].hash_one(token);
        TokenHash128(u128::from(half.0) << 64 | u128::from(other))
    }

    /// What `read` makes of what lies in the front table under this key. It must compare the token.
    pub(crate) fn front<T>(
        &self,
        key: TokenHash64,
        read: impl FnOnce(&Arc<CachedSession>) -> Option<T>,
    ) -> Option<T> {
        self.front.get(key, read)
    }

    /// What is remembered of this session, be it of use or not.
    pub(crate) fn session(&self, key: TokenHash128) -> Option<Arc<CachedSession>> {
        self.sessions.as_ref()?.get(&key)
    }

    /// Puts a session into the front table; in the place of another that is of use only if `replace_live`.
    pub(crate) fn promote(
        &self,
        found: Arc<CachedSession>,
        is_of_use: impl Fn(&CachedSession) -> bool,
        replace_live: bool,
    ) {
        self.front.put(found, is_of_use, replace_live);
    }

    /// The memory that there is no such session, be it of use or not.
    pub(crate) fn absent(&self, key: TokenHash128) -> Option<NegativeEntry> {
        self.absent.as_ref()?.get(&key)
    }

    pub(crate) fn insert(&self, key: TokenHash128, answer: LookupResult) {
        self.front.remove(key.half());
        match answer {
            LookupResult::Session(found) => {
                self.forget_absent(key);
                if let Some(sessions) = &self.sessions {
                    sessions.insert(key, found);
                }
            }
            LookupResult::NotFound(absent) => {
                if let Some(sessions) = &self.sessions {
                    sessions.invalidate(&key);
                }
                if let Some(memory) = &self.absent {
                    memory.insert(key, absent);
                }
            }
        }
    }

    pub(crate) fn forget_absent(&self, key: TokenHash128) {
        if let Some(absent) = &self.absent {
            absent.invalidate(&key);
        }
    }

    /// Whatever is held is of no use any more. The front table is too large to be emptied while
    /// others wait: what lies there gives way to others.
    pub(crate) fn clear(&self) {
        self.sessions.iter().for_each(Store::invalidate_all);
        self.absent.iter().for_each(Store::invalidate_all);
    }

    /// Drops what is of no use; moka otherwise does so as it is used.
    pub(crate) fn maintain(&self, is_of_use: impl Fn(&CachedSession) -> bool) {
        self.front.retain(is_of_use);
        self.sessions.iter().for_each(Store::run_pending_tasks);
        self.absent.iter().for_each(Store::run_pending_tasks);
    }

    /// How many sessions, and how many unknown tokens, are held.
    pub(crate) fn len(&self) -> (u64, u64) {
        let sessions = self.sessions.as_ref().map_or(0, Store::entry_count);
        (sessions, self.absent.as_ref().map_or(0, Store::entry_count))
    }
}
