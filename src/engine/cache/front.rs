//! The table in front of moka.

use std::sync::Arc;

use arc_swap::ArcSwapOption;

use super::{entry::Found, key::HalfKey};

/// A table with two places for each key, side by side, and more keys than places: who comes later
/// takes a place. Reading it waits for nobody and, but for the session's own count, writes to
/// memory that no other core reads.
pub(super) struct Front {
    /// A power of two of them, or none.
    places: Box<[Pair]>,
}

type Pair = [ArcSwapOption<Found>; 2];

/// Eight MiB of places.
const MOST_PLACES: u64 = 1 << 20;

impl Front {
    pub(super) fn new(capacity: u64) -> Self {
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
    pub(super) fn get<T>(
        &self,
        key: HalfKey,
        read: impl FnOnce(&Arc<Found>) -> Option<T>,
    ) -> Option<T> {
        for place in self.pair(key)? {
            let place = place.load();
            if let Some(found) = place.as_ref().filter(|it| it.key == key) {
                return read(found);
            }
        }
        None
    }

    pub(super) fn put(&self, found: Arc<Found>, is_of_use: impl Fn(&Found) -> bool, insist: bool) {
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

    pub(super) fn remove(&self, key: HalfKey) {
        let pair = self.pair(key).into_iter().flatten();
        for place in pair.filter(|place| holds(place, key)) {
            place.store(None);
        }
    }

    pub(super) fn retain(&self, is_of_use: impl Fn(&Found) -> bool) {
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
        let token = TokenFormat::any().generate();
        let end = customer.created_at;
        let session = CustomerSession::new(key.to_string(), token, customer, end);
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
