//! What the engine remembers. Moka stores it and does nothing else: whether a remembered
//! answer may be used is decided at each use, by its stamp and its deadline.
//!
//! So it does no harm if an answer lies about in several places, and sessions lie in a plain table
//! in front of moka, too, whose `get` costs as much as all the rest of a hit together.

pub(crate) mod entry;
mod front;
pub(crate) mod key;

use std::{hash::BuildHasher, sync::Arc, time::Duration};

use ahash::RandomState;
use moka::sync::Cache as Moka;

use self::{
    entry::{Absent, Answer, Found},
    front::Front,
    key::{BuildAsItIs, HalfKey, TokenKey},
};

/// Two caches, so that a flood of unknown tokens cannot drive out live sessions.
pub(crate) struct Cache {
    front: Front,
    sessions: Option<Store<Arc<Found>>>,
    absent: Option<Store<Absent>>,
    hashers: [RandomState; 2],
}

type Store<V> = Moka<TokenKey, V, BuildAsItIs>;

/// Moka refuses to be built with a time to live beyond a thousand years.
const LONGEST_TTL: Duration = Duration::from_secs(100 * 365 * 24 * 60 * 60);

fn store<V: Clone + Send + Sync + 'static>(capacity: u64, ttl: Duration) -> Option<Store<V>> {
    (capacity > 0 && !ttl.is_zero()).then(|| {
        Moka::builder()
            .max_capacity(capacity)
            // Frees memory; freshness itself is judged at each use.
            .time_to_live(ttl.min(LONGEST_TTL))
            .build_with_hasher(BuildAsItIs::default())
    })
}

impl Cache {
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
            front: Front::new(if ttl.is_zero() { 0 } else { capacity }),
            sessions: store(capacity, ttl.saturating_add(stale_if_error)),
            absent: store(capacity.div_ceil(4), negative_ttl),
            hashers: [hasher(0), hasher(4)],
        }
    }

    pub(crate) fn key(&self, token: &[u8]) -> TokenKey {
        self.whole_key(self.half_key(token), token)
    }

    pub(crate) fn half_key(&self, token: &[u8]) -> HalfKey {
        HalfKey(self.hashers[0].hash_one(token))
    }

    pub(crate) fn whole_key(&self, half: HalfKey, token: &[u8]) -> TokenKey {
        let other = self.hashers[1].hash_one(token);
        TokenKey(u128::from(half.0) << 64 | u128::from(other))
    }

    /// What `read` makes of what lies in the front table under this key. It must compare the token.
    pub(crate) fn front<T>(
        &self,
        key: HalfKey,
        read: impl FnOnce(&Arc<Found>) -> Option<T>,
    ) -> Option<T> {
        self.front.get(key, read)
    }

    /// What is remembered of this session, be it of use or not.
    pub(crate) fn session(&self, key: TokenKey) -> Option<Arc<Found>> {
        self.sessions.as_ref()?.get(&key)
    }

    /// Puts a session into the front table; in the place of another that is of use only if `insist`.
    pub(crate) fn promote(
        &self,
        found: Arc<Found>,
        is_of_use: impl Fn(&Found) -> bool,
        insist: bool,
    ) {
        self.front.put(found, is_of_use, insist);
    }

    /// The memory that there is no such session, be it of use or not.
    pub(crate) fn absent(&self, key: TokenKey) -> Option<Absent> {
        self.absent.as_ref()?.get(&key)
    }

    pub(crate) fn insert(&self, key: TokenKey, answer: Answer) {
        self.front.remove(key.half());
        match answer {
            Answer::Found(found) => {
                self.forget_absent(key);
                if let Some(sessions) = &self.sessions {
                    sessions.insert(key, found);
                }
            }
            Answer::Absent(absent) => {
                if let Some(sessions) = &self.sessions {
                    sessions.invalidate(&key);
                }
                if let Some(memory) = &self.absent {
                    memory.insert(key, absent);
                }
            }
        }
    }

    pub(crate) fn forget_absent(&self, key: TokenKey) {
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
    pub(crate) fn maintain(&self, is_of_use: impl Fn(&Found) -> bool) {
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
