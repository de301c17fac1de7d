//! Revocation table: how a cached or landing answer learns that it is too old.
//!
//! The engine has a logical clock that only invalidations advance. A lookup is stamped with
//! it *before* it asks the store; an invalidation, *after* the store has committed, advances
//! it and writes the new time on the mark of what changed. An answer whose epoch is older
//! than a mark that concerns it may have been read before the change, and is not used.
//!
//! RevocationTable are striped: identifiers share them by a keyed hash. An identifier that shares a
//! stripe with a revoked one costs its owner one more lookup, nothing else.
//!
//! This file depends on nothing but atomics and the standard library's hash, so that
//! `tests/loom.rs` can model-check it as it stands.

use std::hash::{BuildHasher, RandomState};

use crate::sync::{AtomicU64, Ordering};

/// When a lookup asked, on the engine's logical clock.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) struct Epoch(u64);

/// Where to find the table that concern one session.
#[derive(Clone, Copy, Debug, Default)]
pub(crate) struct Stripes {
    session: u32,
    customer: u32,
}

/// What an invalidation concerns.
#[derive(Clone, Copy, Debug)]
pub(crate) enum Target<'a> {
    Session(&'a str),
    Customer(&'a str),
    All,
}

pub(crate) struct RevocationTable {
    /// The logical clock. It starts at 1, so that a mark of 0 concerns nobody.
    now: OwnLine,
    flushed: AtomicU64,
    /// What was stamped before this is not used from memory: somebody may have been missed.
    trusted: AtomicU64,
    sessions: Box<[AtomicU64]>,
    customers: Box<[AtomicU64]>,
    /// Keyed, so that nobody can choose identifiers that share a stripe.
    hasher: RandomState,
}

/// As the oldest trusted epoch: there is none that old.
const SUSPENDED: u64 = u64::MAX;

/// Every invalidation writes to it; what stands beside it is read by every hit.
#[repr(align(64))]
struct OwnLine(AtomicU64);

impl RevocationTable {
    /// RevocationTable with so many stripes for sessions, and as many for customers; a power of two.
    pub(crate) fn new(stripes: usize) -> Self {
        let unmarked = || (0..stripes).map(|_| AtomicU64::new(0)).collect();
        Self {
            now: OwnLine(AtomicU64::new(1)),
            flushed: AtomicU64::new(0),
            trusted: AtomicU64::new(0),
            sessions: unmarked(),
            customers: unmarked(),
            hasher: RandomState::new(),
        }
    }

    /// The epoch for a lookup that is about to ask the store.
    ///
    /// Acquire: whoever reads a clock that an invalidation advanced also sees what was
    /// committed before it.
    pub(crate) fn current_epoch(&self) -> Epoch {
        Epoch(self.now.0.load(Ordering::Acquire))
    }

    /// The oldest epoch that no flush has overtaken.
    pub(crate) fn flushed(&self) -> Epoch {
        Epoch(self.flushed.load(Ordering::Acquire))
    }

    pub(crate) fn stripes(&self, session_id: &str, customer_id: &str) -> Stripes {
        Stripes {
            session: self.stripe(session_id),
            customer: self.stripe(customer_id),
        }
    }

    /// RevocationTable `target`: no answer stamped before this is used once it has returned.
    ///
    /// To be called when the change is visible to the store's readers, not earlier.
    pub(crate) fn record(&self, target: Target<'_>) {
        let now = self.advance();
        self.publish(target, now);
    }

    /// Advances the logical clock and returns the new time.
    pub(crate) fn advance(&self) -> Epoch {
        Epoch(self.now.0.fetch_add(1, Ordering::AcqRel) + 1)
    }

    /// Writes `now` on the table of `target`. A mark never goes back.
    pub(crate) fn publish(&self, target: Target<'_>, now: Epoch) {
        let mark = match target {
            Target::Session(id) => &self.sessions[self.stripe(id) as usize],
            Target::Customer(id) => &self.customers[self.stripe(id) as usize],
            Target::All => &self.flushed,
        };
        mark.fetch_max(now.0, Ordering::AcqRel);
    }

    /// Whether an answer stamped `epoch` may still be used. An answer that names no session
    /// concerns nobody in particular: only a flush overtakes it.
    pub(crate) fn is_current(&self, epoch: Epoch, stripes: Option<Stripes>) -> bool {
        let unmarked = |mark: &AtomicU64| mark.load(Ordering::Acquire) <= epoch.0;
        unmarked(&self.flushed)
            && stripes.is_none_or(|stripes| {
                unmarked(&self.sessions[stripes.session as usize])
                    && unmarked(&self.customers[stripes.customer as usize])
            })
    }

    /// From now on nothing is used from memory: invalidations may be missed.
    pub(crate) fn suspend_trust(&self) {
        self.trusted.store(SUSPENDED, Ordering::Release);
    }

    /// Ends [`suspend_trust`](Self::suspend_trust) for what is asked from now on. To be called when
    /// invalidations are heard again, and by one at a time.
    pub(crate) fn resume_trust(&self) {
        let now = self.advance();
        self.trusted.store(now.0, Ordering::Release);
    }

    /// Whether an answer stamped `epoch` may be used from memory.
    pub(crate) fn is_trusted(&self, epoch: Epoch) -> bool {
        self.trusted.load(Ordering::Acquire) <= epoch.0
    }

    /// The oldest epoch of an answer that may be used when it lands: one that no flush has
    /// overtaken, and no gap in what was heard. While nothing is heard at all, any answer is as
    /// good as another.
    pub(crate) fn oldest_usable(&self) -> Epoch {
        let trusted = match self.trusted.load(Ordering::Acquire) {
            SUSPENDED => 0,
            trusted => trusted,
        };
        self.flushed().max(Epoch(trusted))
    }

    /// Bits that are even over all identifiers, keyed.
    pub(crate) fn hash(&self, id: &str) -> usize {
        self.hasher.hash_one(id) as usize
    }

    fn stripe(&self, id: &str) -> u32 {
        // The number of stripes is a power of two, and the same for both tables.
        (self.hash(id) & (self.sessions.len() - 1)) as u32
    }
}
