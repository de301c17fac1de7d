//! What the engine remembers. Moka stores it and does nothing else: whether a remembered
//! answer may be used is decided at each use, by its stamp and its deadline.
//!
//! So it does no harm if an answer lies about in several places, and sessions lie in a plain table
//! in front of moka, too, whose `get` costs as much as all the rest of a hit together.

use std::{
    hash::{BuildHasher, BuildHasherDefault, Hash, Hasher},
    sync::Arc,
    time::Duration,
};

use ahash::RandomState;
use arc_swap::ArcSwapOption;
use moka::sync::Cache as Moka;

use super::answer::{Absent, Answer, Found};

/// A keyed hash of a token; the caches never hold an unknown token itself. It is fast, not
/// cryptographic: whoever uses an answer compares the whole token.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct TokenKey(u128);

/// The first half of a [`TokenKey`]: enough to find a session, whose token is compared.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
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

/// Two caches, so that a flood of unknown tokens cannot drive out live sessions.
pub(super) struct Cache {
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
    pub(super) fn new(
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

    /// What `read` makes of what lies in the front table under this key. It must compare the token.
    pub(super) fn front<T>(
        &self,
        key: HalfKey,
        read: impl FnOnce(&Arc<Found>) -> Option<T>,
    ) -> Option<T> {
        self.front.get(key, read)
    }

    /// What is remembered of this session, be it of use or not.
    pub(super) fn session(&self, key: TokenKey) -> Option<Arc<Found>> {
        self.sessions.as_ref()?.get(&key)
    }

    /// Puts a session into the front table; in the place of another that is of use only if `insist`.
    pub(super) fn promote(
        &self,
        found: Arc<Found>,
        is_of_use: impl Fn(&Found) -> bool,
        insist: bool,
    ) {
        self.front.put(found, is_of_use, insist);
    }

    /// The memory that there is no such session, be it of use or not.
    pub(super) fn absent(&self, key: TokenKey) -> Option<Absent> {
        self.absent.as_ref()?.get(&key)
    }

    pub(super) fn insert(&self, key: TokenKey, answer: Answer) {
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

    pub(super) fn forget_absent(&self, key: TokenKey) {
        if let Some(absent) = &self.absent {
            absent.invalidate(&key);
        }
    }

    /// Whatever is held is of no use any more. The front table is too large to be emptied while
    /// others wait: what lies there gives way to others.
    pub(super) fn clear(&self) {
        self.sessions.iter().for_each(Store::invalidate_all);
        self.absent.iter().for_each(Store::invalidate_all);
    }

    /// Drops what is of no use; moka otherwise does so as it is used.
    pub(super) fn maintain(&self, is_of_use: impl Fn(&Found) -> bool) {
        self.front.retain(is_of_use);
        self.sessions.iter().for_each(Store::run_pending_tasks);
        self.absent.iter().for_each(Store::run_pending_tasks);
    }

    /// How many sessions, and how many unknown tokens, are held.
    pub(super) fn len(&self) -> (u64, u64) {
        let sessions = self.sessions.as_ref().map_or(0, Store::entry_count);
        (sessions, self.absent.as_ref().map_or(0, Store::entry_count))
    }
}

/// A table with two places for each key, side by side, and more keys than places: who comes later
/// takes a place. Reading it waits for nobody and, but for the session's own count, writes to
/// memory that no other core reads.
struct Front {
    /// A power of two of them, or none.
    places: Box<[Pair]>,
}

type Pair = [ArcSwapOption<Found>; 2];

/// Eight MiB of places.
const MOST_PLACES: u64 = 1 << 20;

impl Front {
    fn new(capacity: u64) -> Self {
        let pairs = match capacity.min(MOST_PLACES) {
            0 => 0,
            places => places.next_power_of_two().div_ceil(2),
        };
        let pair = || [ArcSwapOption::empty(), ArcSwapOption::empty()];
        Self {
            places: (0..pairs).map(|_| pair()).collect(),
        }
    }

    /// What `read` makes of the session.
    fn get<T>(&self, key: HalfKey, read: impl FnOnce(&Arc<Found>) -> Option<T>) -> Option<T> {
        for place in self.pair(key)? {
            let place = place.load();
            if let Some(found) = place.as_ref().filter(|it| it.key == key) {
                return read(found);
            }
        }
        None
    }

    fn put(&self, found: Arc<Found>, is_of_use: impl Fn(&Found) -> bool, insist: bool) {
        let Some(pair) = self.pair(found.key) else {
            return;
        };
        let is_free = |place: &&ArcSwapOption<Found>| {
            let there = place.load();
            there.as_ref().is_none_or(|it| !is_of_use(it))
        };
        let known = pair.iter().find(|place| holds(place, found.key));
        let place = known.or_else(|| pair.iter().find(is_free));
        if let Some(place) = place.or_else(|| pair.first().filter(|_| insist)) {
            place.store(Some(found));
        }
    }

    fn remove(&self, key: HalfKey) {
        let pair = self.pair(key).into_iter().flatten();
        for place in pair.filter(|place| holds(place, key)) {
            place.store(None);
        }
    }

    fn retain(&self, is_of_use: impl Fn(&Found) -> bool) {
        for place in self.places.iter().flatten() {
            if place.load().as_ref().is_some_and(|it| !is_of_use(it)) {
                place.store(None);
            }
        }
    }

    fn pair(&self, key: HalfKey) -> Option<&Pair> {
        self.places
            .get(key.spread() & self.places.len().wrapping_sub(1))
    }
}

fn holds(place: &ArcSwapOption<Found>, key: HalfKey) -> bool {
    place.load().as_ref().is_some_and(|it| it.key == key)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::{customer::CustomerData, session::CustomerSession, token::TokenFormat};

    /// A session whose place is that of `key`.
    fn found(key: u64) -> Arc<Found> {
        let customer = CustomerData::new("cus_1", "org_1");
        let session = CustomerSession {
            id: key.to_string().into(),
            created_at: customer.created_at,
            modified_at: None,
            token: TokenFormat::any().generate(),
            expires_at: customer.created_at,
            customer_id: customer.id.clone(),
            customer: customer.into(),
        };
        let mut found = Found::unread(Arc::new(session), None);
        found.key = HalfKey(key);
        Arc::new(found)
    }

    fn has(front: &Front, key: u64) -> bool {
        let id = key.to_string();
        front.get(HalfKey(key), |it| Some(it.session.id.as_str() == id)) == Some(true)
    }

    #[test]
    fn two_share_a_pair_of_places_and_a_third_takes_one_by_insisting() {
        let front = Front::new(8);
        // Four pairs: these three fall to the same.
        let [one, two, three] = [1, 5, 9];
        for key in [one, two, three] {
            front.put(found(key), |_| true, false);
        }
        assert!(has(&front, one) && has(&front, two) && !has(&front, three));
        front.put(found(three), |_| true, true);
        assert!(has(&front, three) && !has(&front, one) && has(&front, two));
        // One that comes again takes its own place.
        front.put(found(two), |_| true, true);
        assert!(has(&front, two) && has(&front, three));
        front.remove(HalfKey(two));
        assert!(!has(&front, two) && has(&front, three));
    }

    #[test]
    fn what_is_of_no_use_gives_way_and_is_dropped() {
        let front = Front::new(8);
        let [one, two, three] = [1, 5, 9];
        front.put(found(one), |_| true, false);
        front.put(found(two), |_| true, false);
        let is_of_use = |it: &Found| it.key != HalfKey(two);
        front.put(found(three), is_of_use, false);
        assert!(has(&front, one) && !has(&front, two) && has(&front, three));
        front.retain(|it| it.key == HalfKey(one));
        assert!(has(&front, one) && !has(&front, three));
    }

    #[test]
    fn without_a_capacity_nothing_is_held() {
        let front = Front::new(0);
        front.put(found(1), |_| true, true);
        front.remove(HalfKey(1));
        assert!(!has(&front, 1));
    }
}
