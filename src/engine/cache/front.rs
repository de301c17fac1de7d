//! The cache in front of moka, whose `get` costs as much as all the rest of a hit.
//!
//! It is a hash table of buckets of one cache line each. A session belongs in one of two buckets,
//! which its hash chooses, in any of their slots. Reads take no lock and, but for the entry's
//! reference count, write to no memory that another core reads.
//!
//! Three invariants let writers go without a lock, too:
//!
//! 1. A session is returned only to a reader that asks for its own hash. A tag tells where to look and
//!    no more: tag and slot are two writes, and between them, or after two writers have met, a tag may
//!    belong to another session. The worst that follows is a session that is not found, or is in two
//!    slots.
//! 2. Whether a session may be used is decided by the reader, at each use. So it does not matter when
//!    an old copy is overwritten, nor in which order two copies are put.
//! 3. A session that cannot be used blocks no slot: it is overwritten as if the slot were empty.
//!
//! `tests/loom.rs` checks this file as it is, on slots that loom can see into.

use std::sync::Arc;

use super::{entry::CachedSession, key::TokenHash64};
use crate::sync::{AtomicU64, Ordering, Slot};

/// A bounded set of sessions, found by the hashes of their tokens.
pub(super) struct FrontCache {
    buckets: Box<[Bucket]>,
}

/// A cache line: some sessions, and a tag of each, by which the line alone rejects most of those that
/// are not looked for.
#[repr(align(64))]
pub(super) struct Bucket {
    /// The tag of slot 0 is the lowest byte.
    tags: AtomicU64,
    slots: [Slot<CachedSession>; SLOTS],
}

const SLOTS: usize = 7;

/// Sessions for each bucket if the cache is full: with two buckets to choose from, 99 of 100 sessions
/// then have a slot.
const SESSIONS_PER_BUCKET: u64 = 5;

/// Largest capacity that gets slots of its own: their buckets take 51 MiB.
const MAX_SESSIONS: u64 = 1 << 22;

/// The lowest bit of each byte.
const LOW_BITS: u64 = 0x0101_0101_0101_0101;

/// The highest bit of the byte of each slot.
const HIGH_BITS: u64 = 0x0080_8080_8080_8080;

impl FrontCache {
    /// Creates a cache with slots for `capacity` sessions, and 40 % more.
    pub(super) fn new(capacity: u64) -> Self {
        let buckets = capacity.min(MAX_SESSIONS).div_ceil(SESSIONS_PER_BUCKET);
        Self {
            buckets: (0..buckets).map(|_| Bucket::new()).collect(),
        }
    }

    /// Returns the first that `read` returns for a session under `hash`.
    #[inline]
    pub(super) fn get<T>(
        &self,
        hash: TokenHash64,
        read: impl Fn(&Arc<CachedSession>) -> Option<T>,
    ) -> Option<T> {
        let [first, second] = self.buckets(hash)?;
        let found = first.get(hash, &read);
        found.or_else(|| second.get(hash, &read))
    }

    /// Puts `session` into its own slot or one whose session is not usable, or replaces a usable
    /// session if `replace_live`.
    pub(super) fn put(
        &self,
        session: Arc<CachedSession>,
        is_usable: impl Fn(&CachedSession) -> bool,
        replace_live: bool,
    ) {
        let Some(buckets) = self.buckets(session.hash) else {
            return;
        };
        let slots = || {
            let buckets = buckets.into_iter();
            buckets.flat_map(|bucket| (0..SLOTS).map(move |slot| (bucket, slot)))
        };
        let own = buckets
            .into_iter()
            .find_map(|bucket| bucket.slot_of(session.hash).map(|slot| (bucket, slot)));
        let chosen = own
            .or_else(|| slots().find(|(bucket, slot)| bucket.slots[*slot].load().is_none()))
            .or_else(|| {
                slots().find(|(bucket, slot)| {
                    let other = bucket.slots[*slot].load();
                    other.as_ref().is_some_and(|other| !is_usable(other))
                })
            })
            .or_else(|| {
                let any = session.hash.tag() as usize % SLOTS;
                replace_live.then_some((buckets[0], any))
            });
        if let Some((bucket, slot)) = chosen {
            bucket.put(slot, session);
        }
    }

    /// Removes the sessions under `hash`, whatever their tags.
    pub(super) fn remove(&self, hash: TokenHash64) {
        for bucket in self.buckets(hash).into_iter().flatten() {
            bucket.retain(|session| session.hash != hash);
        }
    }

    /// Removes the sessions that are not `wanted`. Reads every slot: to be called where no request
    /// waits.
    pub(super) fn retain(&self, wanted: impl Fn(&CachedSession) -> bool) {
        for bucket in &self.buckets {
            bucket.retain(&wanted);
        }
    }

    /// Returns the two buckets of `hash`, which may be the same; `None` if there are none at all.
    #[inline]
    fn buckets(&self, hash: TokenHash64) -> Option<[&Bucket; 2]> {
        let [first, second] = hash.spread_over(self.buckets.len());
        Some([self.buckets.get(first)?, self.buckets.get(second)?])
    }
}

impl Bucket {
    fn new() -> Self {
        Self {
            tags: AtomicU64::new(0),
            slots: std::array::from_fn(|_| Slot::empty()),
        }
    }

    #[inline]
    fn get<T>(
        &self,
        hash: TokenHash64,
        read: impl Fn(&Arc<CachedSession>) -> Option<T>,
    ) -> Option<T> {
        self.candidates(hash).find_map(|slot| {
            let session = self.slots[slot].load();
            let session = session.as_ref().filter(|session| session.hash == hash);
            session.and_then(&read)
        })
    }

    /// Returns the slot of a session under `hash`.
    fn slot_of(&self, hash: TokenHash64) -> Option<usize> {
        self.candidates(hash).find(|slot| {
            let session = self.slots[*slot].load();
            session.as_ref().is_some_and(|session| session.hash == hash)
        })
    }

    /// Returns the slots with the tag of `hash`.
    #[inline]
    fn candidates(&self, hash: TokenHash64) -> Candidates {
        let tags = self.tags.load(Ordering::Acquire);
        let difference = tags ^ (LOW_BITS * u64::from(hash.tag()));
        // A byte that is zero borrows, and sets its highest bit. The bytes above one may do so without
        // being zero: then a slot is looked at in vain.
        Candidates(difference.wrapping_sub(LOW_BITS) & !difference & HIGH_BITS)
    }

    fn put(&self, slot: usize, session: Arc<CachedSession>) {
        let shift = 8 * slot;
        let tag = u64::from(session.hash.tag()) << shift;
        self.slots[slot].store(Some(session));
        let with_tag = |tags| Some(tags & !(0xff << shift) | tag);
        // Never fails, since there always is another value.
        let _ = self
            .tags
            .fetch_update(Ordering::AcqRel, Ordering::Acquire, with_tag);
    }

    fn retain(&self, wanted: impl Fn(&CachedSession) -> bool) {
        for slot in &self.slots {
            let is_wanted = slot.load().as_ref().is_none_or(|session| wanted(session));
            if !is_wanted {
                slot.store(None);
            }
        }
    }
}

/// Slots that are worth a look, as the highest bits of their bytes.
struct Candidates(u64);

impl Iterator for Candidates {
    type Item = usize;

    #[inline]
    fn next(&mut self) -> Option<usize> {
        if self.0 == 0 {
            return None;
        }
        let slot = self.0.trailing_zeros() as usize / 8;
        self.0 &= self.0 - 1;
        Some(slot)
    }
}
