//! The schedule by which a session in use is looked up again before its entry is too old, so that
//! its requests never wait for the store.

use std::{
    sync::atomic::{AtomicU64, Ordering::Relaxed},
    time::Duration,
};

use crate::clock::MonotonicTime;

/// The time of the next attempt to refresh an entry.
#[derive(Debug, Default)]
pub(crate) struct Refresh(AtomicU64);

impl Refresh {
    pub(crate) fn at(time: MonotonicTime) -> Self {
        Self(AtomicU64::new(time.as_nanos()))
    }

    #[inline]
    pub(crate) fn is_due(&self, now: MonotonicTime) -> bool {
        now.as_nanos() >= self.0.load(Relaxed)
    }

    /// Returns `true` if an attempt is due and the caller is to make it. The next one is due after
    /// `pause`.
    pub(crate) fn take_turn(&self, now: MonotonicTime, pause: Duration) -> bool {
        let next = self.0.load(Relaxed);
        // One nanosecond more, so that of two callers at the same time one gets the turn, even
        // without a pause.
        let after = (now + pause).as_nanos().saturating_add(1);
        now.as_nanos() >= next
            && self
                .0
                .compare_exchange(next, after, Relaxed, Relaxed)
                .is_ok()
    }
}

/// Returns the time at which an entry that is fresh for `fresh_for` is refreshed: when 80 to 90 % of
/// that have passed. The random bits of `jitter` keep entries that were read together from being
/// refreshed together.
pub(crate) fn refresh_at(
    start: MonotonicTime,
    fresh_for: Duration,
    jitter: usize,
) -> MonotonicTime {
    let percent = 80 + (jitter % 11) as u32;
    start + fresh_for / 100 * percent
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_attempt_is_made_by_one_and_then_there_is_a_pause() {
        let start = MonotonicTime::default() + Duration::from_secs(5);
        let refresh = Refresh::at(start);
        let pause = Duration::from_secs(2);
        let due: Vec<u64> = (0..80)
            .filter(|tenth| {
                let now = start + Duration::from_millis(100 * tenth);
                let due = refresh.is_due(now);
                assert_eq!(refresh.take_turn(now, pause), due);
                assert!(!refresh.take_turn(now, pause), "twice at once");
                due
            })
            .collect();
        assert_eq!(due, [0, 21, 42, 63]);
        assert!(!refresh.is_due(MonotonicTime::default()));
    }

    #[test]
    fn entries_read_together_are_refreshed_at_different_times() {
        let asked = MonotonicTime::default();
        let at = |jitter| refresh_at(asked, Duration::from_secs(100), jitter).since(asked);
        assert_eq!(at(0), Duration::from_secs(80));
        assert_eq!(at(10), Duration::from_secs(90));
        assert_ne!(at(3), at(4));
    }
}
