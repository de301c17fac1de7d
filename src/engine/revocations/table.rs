//! The revocation table: how a cached or landing answer is known to be too old.
//!
//! A logical clock, the *epoch*, is advanced by invalidations alone. A lookup reads it *before* it
//! asks the store. An invalidation advances it *after* the store has committed, and records the new
//! epoch in the table for what changed. An answer whose epoch is older than one that is recorded for
//! its session or its customer may have been read before the change, and is not used.
//!
//! The table is striped: identifiers share an entry by a keyed hash. A session that shares an entry
//! with a revoked one is looked up once more, and nothing else happens to it. Sessions are named by
//! the key of their family: so a revocation by an id that was replaced overtakes the successor, even
//! if its outcome is unknown.
//!
//! A second table, of *recent* revocations, is small enough to stay in a core's cache. Each of its
//! entries stands for many stripes, and holds the latest epoch that was recorded for any of them. It is
//! read first: an answer that it does not overtake is overtaken by nothing that is exact either. It is
//! written second, so that a reader between the two writes sees at most what it would have seen a moment
//! before; the revocation has not returned yet.
//!
//! This file depends on nothing but atomics and the standard library's hash, so that
//! `tests/loom.rs` can check it as it is.

use std::hash::{BuildHasher, Hash, RandomState};

use crate::sync::{AtomicU64, Ordering};

/// A time on the logical clock.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) struct Epoch(u64);

/// The places in the table of one session and of its customer.
#[derive(Clone, Copy, Debug, Default)]
pub(crate) struct Stripes {
    session: u32,
    customer: u32,
    /// The epoch that the session's entry is compared with: that of the lookup, or a later one if the
    /// lookup itself recorded what it found.
    session_epoch: Epoch,
}

/// The target of an invalidation.
#[derive(Clone, Copy, Debug)]
pub(crate) enum Target<'a> {
    /// The sessions of a family, by its key.
    Session(u64),
    Customer(&'a str),
    All,
}

pub(crate) struct RevocationTable {
    /// The logical clock. It starts at 1, so that 0 in the table overtakes nothing.
    now: OwnLine,
    flushed: AtomicU64,
    /// The oldest epoch that is trusted in the cache: an invalidation before it may have been missed.
    trusted: AtomicU64,
    sessions: Box<[AtomicU64]>,
    customers: Box<[AtomicU64]>,
    /// The latest epochs in the entries of sessions and of customers whose lowest bits are alike.
    recent: Box<[AtomicU64]>,
    /// Keyed, so that a client cannot choose identifiers that share a stripe.
    hasher: RandomState,
}

/// Entries for recent revocations, 16 KiB. After a hundred revocations in one `cache_ttl`, nine of ten
/// cached answers still need no second look.
const RECENT: usize = 2048;

/// As the oldest trusted epoch: the cache is not trusted at all.
const SUSPENDED: u64 = u64::MAX;

/// A cache line of its own: every invalidation writes to it, and every hit reads what is beside it.
#[repr(align(64))]
struct OwnLine(AtomicU64);

impl RevocationTable {
    /// Creates a table with `stripes` entries for sessions and as many for customers; a power of
    /// two.
    pub(crate) fn new(stripes: usize) -> Self {
        let empty = |len| (0..len).map(|_| AtomicU64::new(0)).collect();
        Self {
            now: OwnLine(AtomicU64::new(1)),
            flushed: AtomicU64::new(0),
            trusted: AtomicU64::new(0),
            sessions: empty(stripes),
            customers: empty(stripes),
            recent: empty(stripes.min(RECENT)),
            hasher: RandomState::new(),
        }
    }

    /// Returns the epoch for a lookup that is about to ask the store.
    ///
    /// Acquire: a lookup that reads an epoch which an invalidation advanced also sees what was
    /// committed before it.
    pub(crate) fn current_epoch(&self) -> Epoch {
        Epoch(self.now.0.load(Ordering::Acquire))
    }

    /// Returns the stripes of an answer of `epoch`.
    pub(crate) fn stripes(&self, family: u64, customer_id: &str, epoch: Epoch) -> Stripes {
        Stripes {
            session: self.stripe(family),
            customer: self.stripe(customer_id),
            session_epoch: epoch,
        }
    }

    /// Records an invalidation. Once this has returned, no answer of an older epoch is used.
    ///
    /// To be called when the change is visible to the store's readers, not earlier.
    pub(crate) fn record(&self, target: Target<'_>) {
        // An answer may have been given the epoch that is already there; it is overtaken too.
        let now = loop {
            let now = self.advance();
            if self.publish(target, now) {
                break now;
            }
        };
        self.publish_recent(target, now);
    }

    /// Records a change of a session which its own lookup has found, so that no older answer is used.
    /// Returns the stripes with which the answer of that lookup stays current, or `None` if it was
    /// overtaken itself: then so were the older ones.
    ///
    /// `answer` are the stripes of the answer. A revocation that began later still overtakes it:
    /// either this finds the entry changed, or [`record`](Self::record) finds the new epoch there and
    /// takes a later one.
    pub(crate) fn record_found(&self, answer: Stripes) -> Option<Stripes> {
        let entry = &self.sessions[answer.session as usize];
        let mut seen = entry.load(Ordering::Acquire);
        let session_epoch = loop {
            if seen > answer.session_epoch.0 {
                return None;
            }
            let now = self.advance();
            let exchanged =
                entry.compare_exchange(seen, now.0, Ordering::AcqRel, Ordering::Acquire);
            match exchanged {
                Ok(_) => break now,
                Err(changed) => seen = changed,
            }
        };
        self.recent(answer.session)
            .fetch_max(session_epoch.0, Ordering::AcqRel);
        Some(Stripes {
            session_epoch,
            ..answer
        })
    }

    /// Advances the logical clock, and returns the new epoch.
    pub(crate) fn advance(&self) -> Epoch {
        Epoch(self.now.0.fetch_add(1, Ordering::AcqRel) + 1)
    }

    /// Writes `now` into the entry of `target`, unless a later epoch is there: then it returns
    /// `false`. An entry never decreases.
    pub(crate) fn publish(&self, target: Target<'_>, now: Epoch) -> bool {
        let entry = match target {
            Target::Session(family) => &self.sessions[self.stripe(family) as usize],
            Target::Customer(id) => &self.customers[self.stripe(id) as usize],
            Target::All => &self.flushed,
        };
        entry.fetch_max(now.0, Ordering::AcqRel) < now.0
    }

    /// Writes `now` into the entry of `target` for recent revocations, after [`publish`](Self::publish).
    pub(crate) fn publish_recent(&self, target: Target<'_>, now: Epoch) {
        let stripe = match target {
            Target::Session(family) => self.stripe(family),
            Target::Customer(id) => self.stripe(id),
            // Every answer is compared with the latest invalidation of everything.
            Target::All => return,
        };
        self.recent(stripe).fetch_max(now.0, Ordering::AcqRel);
    }

    /// Returns `true` if no invalidation has overtaken an answer of `epoch`. An answer without
    /// stripes concerns no session, and is overtaken by an invalidation of everything alone.
    #[inline]
    pub(crate) fn is_current(&self, epoch: Epoch, stripes: Option<Stripes>) -> bool {
        is_not_overtaken(&self.flushed, epoch)
            && stripes.is_none_or(|stripes| {
                self.is_untouched(epoch, stripes) || self.is_spared(epoch, stripes)
            })
    }

    /// Returns `true` if nothing but an invalidation of everything can have overtaken an answer of
    /// `epoch`.
    pub(crate) fn is_spared(&self, epoch: Epoch, stripes: Stripes) -> bool {
        self.is_session_current(stripes) && self.is_customer_current(epoch, stripes)
    }

    /// Returns `true` if neither the session, nor the customer, nor any that share an entry with them
    /// was changed since the answer was read.
    #[inline]
    fn is_untouched(&self, epoch: Epoch, stripes: Stripes) -> bool {
        is_not_overtaken(self.recent(stripes.session), stripes.session_epoch)
            && is_not_overtaken(self.recent(stripes.customer), epoch)
    }

    #[inline]
    fn recent(&self, stripe: u32) -> &AtomicU64 {
        // The number of entries is a power of two.
        &self.recent[stripe as usize & (self.recent.len() - 1)]
    }

    #[inline]
    fn is_session_current(&self, stripes: Stripes) -> bool {
        is_not_overtaken(
            &self.sessions[stripes.session as usize],
            stripes.session_epoch,
        )
    }

    #[inline]
    fn is_customer_current(&self, epoch: Epoch, stripes: Stripes) -> bool {
        is_not_overtaken(&self.customers[stripes.customer as usize], epoch)
    }

    /// Suspends the use of the cache: invalidations may be missed from now on. Returns the oldest epoch
    /// that was trusted.
    pub(crate) fn suspend_trust(&self) -> Epoch {
        Epoch(self.trusted.swap(SUSPENDED, Ordering::AcqRel))
    }

    /// Ends [`suspend_trust`](Self::suspend_trust) for what is looked up from now on. To be called
    /// when invalidations arrive again, and by one caller at a time.
    pub(crate) fn resume_trust(&self) {
        self.trust_from(self.advance());
    }

    /// Trusts what was looked up at `oldest` or later. After a suspension, only if nothing was missed.
    pub(crate) fn trust_from(&self, oldest: Epoch) {
        self.trusted.store(oldest.0, Ordering::Release);
    }

    /// Returns `true` if a cached answer of `epoch` may be used without asking the store.
    #[inline]
    pub(crate) fn is_trusted(&self, epoch: Epoch) -> bool {
        self.trusted.load(Ordering::Acquire) <= epoch.0
    }

    /// Returns the oldest epoch of an answer that may be used when it lands: one that neither an
    /// invalidation of everything nor a gap in the invalidations has overtaken. During a gap every
    /// answer is as good as another.
    pub(crate) fn oldest_usable(&self) -> Epoch {
        let trusted = match self.trusted.load(Ordering::Acquire) {
            SUSPENDED => 0,
            trusted => trusted,
        };
        Epoch(self.flushed.load(Ordering::Acquire).max(trusted))
    }

    /// Returns `true` if the stripes are those of a session of this family.
    pub(crate) fn is_stripe_of(&self, family: u64, stripes: Stripes) -> bool {
        self.stripe(family) == stripes.session
    }

    /// Returns a keyed hash of an identifier.
    pub(crate) fn hash(&self, id: impl Hash) -> usize {
        self.hasher.hash_one(id) as usize
    }

    fn stripe(&self, id: impl Hash) -> u32 {
        // The number of stripes is a power of two, and the same for sessions and customers.
        (self.hash(id) & (self.sessions.len() - 1)) as u32
    }
}

#[inline]
fn is_not_overtaken(entry: &AtomicU64, epoch: Epoch) -> bool {
    entry.load(Ordering::Acquire) <= epoch.0
}
