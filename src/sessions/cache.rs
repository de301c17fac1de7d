//! What the engine remembers. Moka stores it and does nothing else: whether a remembered
//! answer may be used is decided at each use, by its stamp and its deadline.
//!
//! That makes any number of copies safe, wherever they lie about. So the sessions that are
//! asked for most have a copy in a small table in front of moka, whose `get` costs as much as
//! all the rest of a hit together.

use std::{
    hash::{BuildHasher, BuildHasherDefault, Hash, Hasher},
    sync::Arc,
    time::{Duration, Instant},
};

use ahash::RandomState;
use arc_swap::ArcSwapOption;
use moka::sync::Cache as Moka;

use super::{
    lifetime::SessionLifetime,
    marks::{Stamp, Stripes},
};
use crate::{customer::Customer, session::CustomerSession};

/// A keyed hash of a token; the caches never hold an unknown token itself. It is fast, not
/// cryptographic: whoever uses a slot compares the whole token.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct TokenKey(u128);

/// The first half of a [`TokenKey`]: enough to find a session, whose token is compared.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct HalfKey(u64);

impl TokenKey {
    pub(super) fn half(self) -> HalfKey {
        HalfKey((self.0 >> 64) as u64)
    }

    /// Bits that are even over all keys, for choosing among stripes.
    pub(super) fn spread(self) -> usize {
        self.half().spread()
    }
}

impl HalfKey {
    /// Bits that are even over all keys, for choosing among stripes.
    pub(super) fn spread(self) -> usize {
        self.0 as usize
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
    pub(super) fresh_until: Instant,
    /// From when on a hit has it looked up again in the background.
    pub(super) refresh_at: Instant,
    /// Until when it may be used while the store fails.
    pub(super) stale_until: Instant,
    /// Where the marks are that concern it; `None`: it names no session.
    pub(super) stripes: Option<Stripes>,
    /// `None`: there is no such session, or none that could be let in.
    pub(super) found: Option<Found>,
}

#[derive(Clone)]
pub(super) struct Found {
    pub(super) session: Arc<CustomerSession>,
    /// The session's customer, with its lifetime as the badge.
    pub(super) customer: Customer,
    /// In microseconds since 1970.
    pub(super) expires_at: i64,
    pub(super) lifetime: SessionLifetime,
}

/// Two caches, so that a flood of unknown tokens cannot drive out live sessions.
pub(super) struct Cache {
    front: Front,
    sessions: Option<Store>,
    absent: Option<Store>,
    hashers: [RandomState; 2],
}

type Store = Moka<TokenKey, Slot, BuildAsItIs>;

/// Moka refuses to be built with a time to live beyond a thousand years.
const LONGEST_TTL: Duration = Duration::from_secs(100 * 365 * 24 * 60 * 60);

impl Cache {
    /// Caches that hold `capacity` sessions for `ttl` and, in case the store fails, for `grace`
    /// more, and a quarter as many unknown tokens for `negative_ttl`. A capacity or lifetime of
    /// zero remembers nothing.
    pub(super) fn new(
        capacity: u64,
        ttl: Duration,
        grace: Duration,
        negative_ttl: Duration,
    ) -> Self {
        let store = |capacity: u64, ttl: Duration| {
            (capacity > 0 && !ttl.is_zero()).then(|| {
                Moka::builder()
                    .max_capacity(capacity)
                    // Frees memory; freshness itself is judged by `fresh_until`.
                    .time_to_live(ttl.min(LONGEST_TTL))
                    .build_with_hasher(BuildAsItIs::default())
            })
        };
        let random = std::hash::RandomState::new();
        let seed = |part: u8| random.hash_one(part);
        let hasher = |part: u8| {
            RandomState::with_seeds(seed(part), seed(part + 1), seed(part + 2), seed(part + 3))
        };
        Self {
            front: Front::new(if ttl.is_zero() { 0 } else { capacity }),
            sessions: store(capacity, ttl.saturating_add(grace)),
            absent: store(capacity.div_ceil(4), negative_ttl),
            hashers: [hasher(0), hasher(4)],
        }
    }

    pub(super) fn key(&self, token: &[u8]) -> TokenKey {
        self.whole_key(self.half_key(token), token)
    }

    pub(super) fn half_key(&self, token: &[u8]) -> HalfKey {
        HalfKey(self.hashers[0].hash_one(token))
    }

    pub(super) fn whole_key(&self, half: HalfKey, token: &[u8]) -> TokenKey {
        let other = self.hashers[1].hash_one(token);
        TokenKey(u128::from(half.0) << 64 | u128::from(other))
    }

    /// What `read` makes of the copy of this session's slot in the front table. It must compare
    /// the token.
    pub(super) fn front<T>(
        &self,
        key: HalfKey,
        read: impl FnOnce(&Slot) -> Option<T>,
    ) -> Option<T> {
        self.front.get(key, read)
    }

    /// What is remembered of this session, be it of use or not.
    pub(super) fn session(&self, key: TokenKey) -> Option<Slot> {
        self.sessions.as_ref()?.get(&key)
    }

    /// Puts a copy into the front table; in the place of another session that is fresh `now`
    /// only if `insist`.
    pub(super) fn promote(&self, key: TokenKey, slot: Slot, now: Instant, insist: bool) {
        self.front.put(key.half(), slot, now, insist);
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
        self.front.remove(key.half());
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
        self.front.retain(|_| false);
        self.each(Store::invalidate_all);
    }

    /// Drops what is of no use by `now`; moka otherwise does so as it is used.
    pub(super) fn maintain(&self, now: Instant) {
        self.front.retain(|slot| now < slot.fresh_until);
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

/// A table with one place for each key, and more keys than places: who comes later takes the
/// place. Reading it waits for nobody and, but for the session's own count, writes to memory
/// that no other core reads.
struct Front {
    /// A power of two of them, or none.
    places: Box<[ArcSwapOption<(HalfKey, Slot)>]>,
}

/// Enough for the sessions that are busy at one moment; 64 KiB of places.
const MOST_PLACES: u64 = 8192;

impl Front {
    fn new(capacity: u64) -> Self {
        let places = match capacity.min(MOST_PLACES) {
            0 => 0,
            places => places.next_power_of_two(),
        };
        Self {
            places: (0..places).map(|_| ArcSwapOption::empty()).collect(),
        }
    }

    /// What `read` makes of the slot.
    fn get<T>(&self, key: HalfKey, read: impl FnOnce(&Slot) -> Option<T>) -> Option<T> {
        let copy = self.place(key)?.load();
        let (of, slot) = &**copy.as_ref()?;
        if *of == key { read(slot) } else { None }
    }

    fn put(&self, key: HalfKey, slot: Slot, now: Instant, insist: bool) {
        if let Some(place) = self.place(key) {
            let is_taken = place
                .load()
                .as_ref()
                .is_some_and(|it| it.0 != key && now < it.1.fresh_until);
            if insist || !is_taken {
                place.store(Some(Arc::new((key, slot))));
            }
        }
    }

    fn remove(&self, key: HalfKey) {
        if let Some(place) = self.place(key) {
            if place.load().as_ref().is_some_and(|it| it.0 == key) {
                place.store(None);
            }
        }
    }

    fn retain(&self, is_of_use: impl Fn(&Slot) -> bool) {
        for place in &self.places {
            if place.load().as_ref().is_some_and(|it| !is_of_use(&it.1)) {
                place.store(None);
            }
        }
    }

    fn place(&self, key: HalfKey) -> Option<&ArcSwapOption<(HalfKey, Slot)>> {
        self.places
            .get(key.spread() & self.places.len().wrapping_sub(1))
    }
}
