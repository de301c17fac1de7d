//! The cache in front of moka, whose `get` costs as much as all the rest of a hit.

use std::sync::Arc;

use arc_swap::ArcSwapOption;

use super::{entry::CachedSession, key::TokenHash64};

/// A two-way set-associative cache. Reads take no lock and, but for the entry's reference count,
/// write to no memory that another core reads.
pub(super) struct FrontCache {
    /// A power of two, or none.
    buckets: Box<[Bucket]>,
}

type Bucket = [Slot; 2];

type Slot = ArcSwapOption<CachedSession>;

/// Most slots: 8 MiB.
const MAX_SLOTS: u64 = 1 << 20;

impl FrontCache {
    pub(super) fn new(capacity: u64) -> Self {
        let buckets = match capacity.min(MAX_SLOTS) {
            0 => 0,
            slots => slots.next_power_of_two().div_ceil(2),
        };
        let bucket = || [Slot::empty(), Slot::empty()];
        Self {
            buckets: (0..buckets).map(|_| bucket()).collect(),
        }
    }

    /// Returns what `read` makes of the session under `hash`.
    #[inline]
    pub(super) fn get<T>(
        &self,
        hash: TokenHash64,
        read: impl FnOnce(&Arc<CachedSession>) -> Option<T>,
    ) -> Option<T> {
        for slot in self.bucket(hash)? {
            let slot = slot.load();
            if let Some(session) = slot.as_ref().filter(|session| session.hash == hash) {
                return read(session);
            }
        }
        None
    }

    /// Puts `session` into its own slot or one that is not usable, or replaces a usable session if
    /// `replace_live`.
    pub(super) fn put(
        &self,
        session: Arc<CachedSession>,
        is_usable: impl Fn(&CachedSession) -> bool,
        replace_live: bool,
    ) {
        let Some(bucket) = self.bucket(session.hash) else {
            return;
        };
        let is_free = |slot: &&Slot| {
            let slot = slot.load();
            slot.as_ref().is_none_or(|other| !is_usable(other))
        };
        let own = bucket.iter().find(|slot| holds(slot, session.hash));
        let slot = own.or_else(|| bucket.iter().find(is_free));
        if let Some(slot) = slot.or_else(|| bucket.first().filter(|_| replace_live)) {
            slot.store(Some(session));
        }
    }

    pub(super) fn remove(&self, hash: TokenHash64) {
        let bucket = self.bucket(hash).into_iter().flatten();
        for slot in bucket.filter(|slot| holds(slot, hash)) {
            slot.store(None);
        }
    }

    pub(super) fn retain(&self, is_usable: impl Fn(&CachedSession) -> bool) {
        for slot in self.buckets.iter().flatten() {
            let is_useless = slot.load().as_ref().is_some_and(|other| !is_usable(other));
            if is_useless {
                slot.store(None);
            }
        }
    }

    #[inline]
    fn bucket(&self, hash: TokenHash64) -> Option<&Bucket> {
        self.buckets
            .get(hash.shard_bits() & self.buckets.len().wrapping_sub(1))
    }
}

fn holds(slot: &Slot, hash: TokenHash64) -> bool {
    slot.load()
        .as_ref()
        .is_some_and(|session| session.hash == hash)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::{customer::CustomerData, session::CustomerSession, token::TokenFormat};

    /// Returns a session in the bucket of `key`.
    fn entry(key: u64) -> Arc<CachedSession> {
        let customer = CustomerData::new("cus_1", "org_1");
        let token = TokenFormat::any().generate();
        let end = customer.created_at;
        let session = CustomerSession::new(key.to_string(), token, customer, end);
        let mut entry = CachedSession::detached(Arc::new(session), None);
        entry.hash = TokenHash64(key);
        Arc::new(entry)
    }

    fn has(front: &FrontCache, key: u64) -> bool {
        let id = key.to_string();
        front.get(TokenHash64(key), |session| {
            Some(session.session.id.as_str() == id)
        }) == Some(true)
    }

    #[test]
    fn two_share_a_bucket_and_a_third_replaces_one_only_if_told_to() {
        let front = FrontCache::new(8);
        // Four buckets: these three keys share one.
        let [one, two, three] = [1, 5, 9];
        for key in [one, two, three] {
            front.put(entry(key), |_| true, false);
        }
        assert!(has(&front, one) && has(&front, two) && !has(&front, three));
        front.put(entry(three), |_| true, true);
        assert!(has(&front, three) && !has(&front, one) && has(&front, two));
        // A session that comes again takes its own slot.
        front.put(entry(two), |_| true, true);
        assert!(has(&front, two) && has(&front, three));
        front.remove(TokenHash64(two));
        assert!(!has(&front, two) && has(&front, three));
    }

    #[test]
    fn what_is_of_no_use_is_replaced_and_dropped() {
        let front = FrontCache::new(8);
        let [one, two, three] = [1, 5, 9];
        front.put(entry(one), |_| true, false);
        front.put(entry(two), |_| true, false);
        let is_usable = |other: &CachedSession| other.hash != TokenHash64(two);
        front.put(entry(three), is_usable, false);
        assert!(has(&front, one) && !has(&front, two) && has(&front, three));
        front.retain(|other| other.hash == TokenHash64(one));
        assert!(has(&front, one) && !has(&front, three));
    }

    #[test]
    fn without_a_capacity_nothing_is_held() {
        let front = FrontCache::new(0);
        front.put(entry(1), |_| true, true);
        front.remove(TokenHash64(1));
        assert!(!has(&front, 1));
    }
}
