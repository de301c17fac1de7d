//! The table in front of moka.

use std::sync::Arc;

use arc_swap::ArcSwapOption;

use super::{entry::CachedSession, key::TokenHash64};

/// A table with two buckets for each key, side by side, and more keys than buckets: who comes later
/// takes a place. Reading it waits for nobody and, but for the session's own count, writes to
/// memory that no other core reads.
pub(super) struct FrontCache {
    /// A power of two of them, or none.
    buckets: Box<[Bucket]>,
}

type Bucket = [ArcSwapOption<CachedSession>; 2];

/// Eight MiB of buckets.
const MAX_SLOTS: u64 = 1 << 20;

impl FrontCache {
    pub(super) fn new(capacity: u64) -> Self {
        let pairs = match capacity.min(MAX_SLOTS) {
            0 => 0,
            buckets => buckets.next_power_of_two().div_ceil(2),
        };
        let pair = || [ArcSwapOption::empty(), ArcSwapOption::empty()];
        Self {
            buckets: (0..pairs).map(|_| pair()).collect(),
        }
    }

    /// What `read` makes of the session.
    pub(super) fn get<T>(
        &self,
        key: TokenHash64,
        read: impl FnOnce(&Arc<CachedSession>) -> Option<T>,
    ) -> Option<T> {
        for place in self.pair(key)? {
            let place = place.load();
            if let Some(found) = place.as_ref().filter(|it| it.key == key) {
                return read(found);
            }
        }
        None
    }

    pub(super) fn put(
        &self,
        found: Arc<CachedSession>,
        is_of_use: impl Fn(&CachedSession) -> bool,
        replace_live: bool,
    ) {
        let Some(pair) = self.pair(found.key) else {
            return;
        };
        let is_free = |place: &&ArcSwapOption<CachedSession>| {
            let there = place.load();
            there.as_ref().is_none_or(|it| !is_of_use(it))
        };
        let known = pair.iter().find(|place| holds(place, found.key));
        let place = known.or_else(|| pair.iter().find(is_free));
        if let Some(place) = place.or_else(|| pair.first().filter(|_| replace_live)) {
            place.store(Some(found));
        }
    }

    pub(super) fn remove(&self, key: TokenHash64) {
        let pair = self.pair(key).into_iter().flatten();
        for place in pair.filter(|place| holds(place, key)) {
            place.store(None);
        }
    }

    pub(super) fn retain(&self, is_of_use: impl Fn(&CachedSession) -> bool) {
        for place in self.buckets.iter().flatten() {
            if place.load().as_ref().is_some_and(|it| !is_of_use(it)) {
                place.store(None);
            }
        }
    }

    fn pair(&self, key: TokenHash64) -> Option<&Bucket> {
        self.buckets
            .get(key.shard_bits() & self.buckets.len().wrapping_sub(1))
    }
}

fn holds(place: &ArcSwapOption<CachedSession>, key: TokenHash64) -> bool {
    place.load().as_ref().is_some_and(|it| it.key == key)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::{customer::CustomerData, session::CustomerSession, token::TokenFormat};

    /// A session whose place is that of `key`.
    fn found(key: u64) -> Arc<CachedSession> {
        let customer = CustomerData::new("cus_1", "org_1");
        let token = TokenFormat::any().generate();
        let end = customer.created_at;
        let session = CustomerSession::new(key.to_string(), token, customer, end);
        let mut found = CachedSession::unread(Arc::new(session), None);
        found.key = TokenHash64(key);
        Arc::new(found)
    }

    fn has(front: &FrontCache, key: u64) -> bool {
        let id = key.to_string();
        front.get(TokenHash64(key), |it| Some(it.session.id.as_str() == id)) == Some(true)
    }

    #[test]
    fn two_share_a_pair_of_places_and_a_third_takes_one_by_insisting() {
        let front = FrontCache::new(8);
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
        front.remove(TokenHash64(two));
        assert!(!has(&front, two) && has(&front, three));
    }

    #[test]
    fn what_is_of_no_use_gives_way_and_is_dropped() {
        let front = FrontCache::new(8);
        let [one, two, three] = [1, 5, 9];
        front.put(found(one), |_| true, false);
        front.put(found(two), |_| true, false);
        let is_of_use = |it: &CachedSession| it.key != TokenHash64(two);
        front.put(found(three), is_of_use, false);
        assert!(has(&front, one) && !has(&front, two) && has(&front, three));
        front.retain(|it| it.key == TokenHash64(one));
        assert!(has(&front, one) && !has(&front, three));
    }

    #[test]
    fn without_a_capacity_nothing_is_held() {
        let front = FrontCache::new(0);
        front.put(found(1), |_| true, true);
        front.remove(TokenHash64(1));
        assert!(!has(&front, 1));
    }
}
