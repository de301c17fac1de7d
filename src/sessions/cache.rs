//! What the engine remembers. Moka stores it and does nothing else: whether a remembered
//! answer may be used is decided at each use, by its stamp and its deadline.

use std::{
    hash::{BuildHasherDefault, Hash, Hasher},
    sync::Arc,
    time::Duration,
};

use moka::sync::Cache as Moka;
use siphasher::sip128::{Hasher128, SipHasher13};

use super::marks::{Stamp, Stripes};
use crate::session::CustomerSession;

/// A keyed hash of a token; the caches never hold an unknown token itself.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct TokenKey(u128);

impl TokenKey {
    /// Bits that are even over all keys, for choosing among stripes.
    pub(super) fn spread(self) -> usize {
        (self.0 >> 64) as usize
    }
}

impl Hash for TokenKey {
    fn hash<H: Hasher>(&self, state: &mut H) {
        state.write_u64(self.0 as u64);
    }
}

/// Takes the key as it is: it is a keyed hash already.
#[derive(Clone, Default)]
pub(super) struct AsItIs(u64);

pub(super) type BuildAsItIs = BuildHasherDefault<AsItIs>;

impl Hasher for AsItIs {
    fn write_u64(&mut self, hash: u64) {
        self.0 = hash;
    }

    fn write(&mut self, bytes: &[u8]) {
        for byte in bytes {
            self.0 = self.0.rotate_left(8) ^ u64::from(*byte);
        }
    }

    fn finish(&self) -> u64 {
        self.0
    }
}

/// An answer of the store: what it found, when it was asked, and how long it is good for.
#[derive(Clone)]
pub(super) struct Slot {
    /// Read before the store was asked.
    pub(super) stamp: Stamp,
    /// On the monotonic clock, counted from before the store was asked.
    pub(super) fresh_until: Duration,
    /// `None`: there is no such session, or none that could be let in.
    pub(super) found: Option<Found>,
}

#[derive(Clone)]
pub(super) struct Found {
    pub(super) session: Arc<CustomerSession>,
    pub(super) stripes: Stripes,
}

/// Two caches, so that a flood of unknown tokens cannot drive out live sessions.
pub(super) struct Cache {
    sessions: Option<Store>,
    absent: Option<Store>,
    keys: (u64, u64),
}

type Store = Moka<TokenKey, Slot, BuildAsItIs>;

/// Moka refuses to be built with a time to live beyond a thousand years.
const LONGEST_TTL: Duration = Duration::from_secs(100 * 365 * 24 * 60 * 60);

impl Cache {
    /// Caches that hold `capacity` sessions for `ttl`, and a quarter as many unknown tokens
    /// for `negative_ttl`. A capacity or lifetime of zero remembers nothing.
    pub(super) fn new(capacity: u64, ttl: Duration, negative_ttl: Duration) -> Self {
        let store = |capacity: u64, ttl: Duration| {
            (capacity > 0 && !ttl.is_zero()).then(|| {
                Moka::builder()
                    .max_capacity(capacity)
                    // Frees memory; freshness itself is judged by `fresh_until`.
                    .time_to_live(ttl.min(LONGEST_TTL))
                    .build_with_hasher(BuildAsItIs::default())
            })
        };
        let key = std::hash::RandomState::new();
        let key = |part: u8| std::hash::BuildHasher::hash_one(&key, part);
        Self {
            sessions: store(capacity, ttl),
            absent: store(capacity.div_ceil(4), negative_ttl),
            keys: (key(0), key(1)),
        }
    }

    pub(super) fn key(&self, token: &str) -> TokenKey {
        let mut hasher = SipHasher13::new_with_keys(self.keys.0, self.keys.1);
        hasher.write(token.as_bytes());
        TokenKey(hasher.finish128().as_u128())
    }

    /// What is remembered of this session, be it of use or not.
    pub(super) fn session(&self, key: TokenKey) -> Option<Slot> {
        self.sessions.as_ref()?.get(&key)
    }

    /// The memory that there is no such session, be it of use or not.
    pub(super) fn absent(&self, key: TokenKey) -> Option<Slot> {
        self.absent.as_ref()?.get(&key)
    }

    pub(super) fn insert(&self, key: TokenKey, slot: Slot) {
        let (into, out_of) = match slot.found {
            Some(_) => (&self.sessions, &self.absent),
            None => (&self.absent, &self.sessions),
        };
        if let Some(cache) = out_of {
            cache.invalidate(&key);
        }
        if let Some(cache) = into {
            cache.insert(key, slot);
        }
    }

    pub(super) fn forget_absent(&self, key: TokenKey) {
        if let Some(absent) = &self.absent {
            absent.invalidate(&key);
        }
    }

    pub(super) fn clear(&self) {
        self.each(Store::invalidate_all);
    }

    /// Has moka drop what has expired; otherwise it does so as it is used.
    pub(super) fn maintain(&self) {
        self.each(Store::run_pending_tasks);
    }

    /// How many sessions, and how many unknown tokens, are held.
    pub(super) fn len(&self) -> (u64, u64) {
        let len = |cache: &Option<Store>| cache.as_ref().map_or(0, Store::entry_count);
        (len(&self.sessions), len(&self.absent))
    }

    fn each(&self, act: impl Fn(&Store)) {
        self.sessions.iter().chain(&self.absent).for_each(act);
    }
}
