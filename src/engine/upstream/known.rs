//! The tokens that have opened a live session here. When lookups are scarce, they come first.

use std::sync::atomic::{AtomicU64, AtomicUsize, Ordering::Relaxed};

use crate::engine::cache::key::TokenHash64;

/// The standing of a token, by which the store's resources are shared out.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum TokenClass {
    /// The token has opened a live session here, and has not been found invalid since.
    Known,
    /// Anyone may send such a token.
    Unknown,
}

/// A bounded set of the keyed hashes of known tokens. It outlives what is cached of their sessions.
///
/// It takes no lock, and a hit neither reads nor writes it. Of two insertions at once one may be
/// lost, and in a full bucket a token takes the place of another: that one is unknown until it is
/// looked up again.
pub(crate) struct KnownTokens {
    /// A power of two.
    buckets: Box<[Bucket]>,
    len: AtomicUsize,
}

/// A cache line of hashes. Zero is an empty slot.
#[repr(align(64))]
#[derive(Default)]
struct Bucket([AtomicU64; SLOTS]);

const SLOTS: usize = 8;

/// Fewest and most slots: 64 KiB and 8 MiB.
const MIN_SLOTS: u64 = 1 << 13;
const MAX_SLOTS: u64 = 1 << 20;

impl KnownTokens {
    /// Creates a set with two slots for each session that may be cached, so that few buckets are
    /// ever full.
    pub(crate) fn new(cache_capacity: u64) -> Self {
        let slots = cache_capacity.saturating_mul(2);
        let slots = slots.clamp(MIN_SLOTS, MAX_SLOTS).next_power_of_two() as usize;
        let buckets = (0..slots / SLOTS).map(|_| Bucket::default());
        Self {
            buckets: buckets.collect(),
            len: AtomicUsize::new(0),
        }
    }

    pub(crate) fn contains(&self, token: TokenHash64) -> bool {
        let hash = nonzero(token);
        self.bucket(hash)
            .iter()
            .any(|slot| slot.load(Relaxed) == hash)
    }

    pub(crate) fn insert(&self, token: TokenHash64) {
        let hash = nonzero(token);
        let bucket = self.bucket(hash);
        if self.contains(token) {
            return;
        }
        let empty = bucket.iter().find(|slot| slot.load(Relaxed) == 0);
        if empty.is_some() {
            self.len.fetch_add(1, Relaxed);
        }
        // The hash is keyed, so its own bits are as good as a random choice.
        let slot = empty.unwrap_or(&bucket[(hash >> 56) as usize % SLOTS]);
        slot.store(hash, Relaxed);
    }

    pub(crate) fn remove(&self, token: TokenHash64) {
        let hash = nonzero(token);
        for slot in self.bucket(hash) {
            let removed = slot.compare_exchange(hash, 0, Relaxed, Relaxed);
            if removed.is_ok() {
                self.len.fetch_sub(1, Relaxed);
            }
        }
    }

    /// Returns the number of known tokens. Insertions at once may count one too many.
    pub(crate) fn len(&self) -> usize {
        self.len.load(Relaxed)
    }

    fn bucket(&self, hash: u64) -> &[AtomicU64; SLOTS] {
        &self.buckets[hash as usize & (self.buckets.len() - 1)].0
    }
}

fn nonzero(token: TokenHash64) -> u64 {
    token.bits().max(1)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn token(number: u64) -> TokenHash64 {
        TokenHash64::from_bits(number.wrapping_mul(0x9e37_79b9_7f4a_7c15))
    }

    #[test]
    fn a_token_is_known_until_it_is_removed() {
        let known = KnownTokens::new(0);
        for number in 0..4 {
            assert!(!known.contains(token(number)));
            known.insert(token(number));
            known.insert(token(number));
            assert!(known.contains(token(number)));
        }
        assert_eq!(known.len(), 4);
        known.remove(token(0));
        known.remove(token(0));
        assert_eq!(known.len(), 3);
        assert!(!known.contains(token(0)) && known.contains(token(1)));
    }

    #[test]
    fn as_many_as_are_cached_stay_known_and_no_more_are_kept_than_fit() {
        let known = KnownTokens::new(50_000);
        (0..45_000).for_each(|number| known.insert(token(number)));
        let kept = (0..45_000).filter(|number| known.contains(token(*number)));
        let kept = kept.count();
        assert!(kept > 44_500, "{kept}");
        (0..1_000_000).for_each(|number| known.insert(token(number)));
        let kept = (0..1_000_000).filter(|number| known.contains(token(*number)));
        assert!(kept.count() <= 1 << 17);
        let largest = KnownTokens::new(u64::MAX);
        assert_eq!(largest.buckets.len() * SLOTS, 1 << 20);
    }
}
