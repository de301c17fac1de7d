//! The removal of revoked sessions from memory. They are never used again, but lie in the caches, token
//! and customer included, until other entries take their places. So the first lookup that ends a minute
//! after a change has the caches swept, on a thread where no request waits.

use std::{
    sync::atomic::{
        AtomicU64,
        Ordering::{AcqRel, Acquire},
    },
    time::Duration,
};

use crate::clock::MonotonicTime;

/// Time from a change to the sweep. One sweep is made for all changes in between.
const SWEEP_AFTER: Duration = Duration::from_secs(60);

/// The time of the next sweep, in nanoseconds of the engine's clock.
pub(super) struct Sweep(AtomicU64);

/// As the time of the next sweep: nothing has changed.
const NOT_DUE: u64 = u64::MAX;

impl Sweep {
    pub(super) fn new() -> Self {
        Self(AtomicU64::new(NOT_DUE))
    }

    /// Makes a sweep due a minute after `now`, unless one is due earlier. To be called after the change
    /// was recorded: a sweep then either sees the change, or leaves another one due.
    pub(super) fn schedule(&self, now: MonotonicTime) {
        self.0.fetch_min((now + SWEEP_AFTER).as_nanos(), AcqRel);
    }

    /// Returns `true` if a sweep is due at `now` and the caller is to make it.
    pub(super) fn take_turn(&self, now: MonotonicTime) -> bool {
        let due = self.0.load(Acquire);
        now.as_nanos() >= due
            && self
                .0
                .compare_exchange(due, NOT_DUE, AcqRel, Acquire)
                .is_ok()
    }
}
