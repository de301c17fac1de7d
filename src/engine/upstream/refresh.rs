//! Looks a session up again in the background before its cached answer is too old, so that a
//! session in use never waits for the store.

use std::{
    sync::atomic::{AtomicU64, Ordering::Relaxed},
    time::Duration,
};

use crate::clock::MonotonicTime;

/// When the next attempt to refresh an answer is due.
#[derive(Debug, Default)]
pub(crate) struct Refresh(AtomicU64);

impl Refresh {
    pub(crate) fn at(moment: MonotonicTime) -> Self {
        Self(AtomicU64::new(moment.as_nanos()))
    }

    #[inline]
    pub(crate) fn is_due(&self, now: MonotonicTime) -> bool {
        now.as_nanos() >= self.0.load(Relaxed)
    }

    /// Whether an attempt is due, and it is the caller who makes it. The next is due after
    /// `pause`; when the answer is too old, the request itself asks.
    pub(crate) fn take_turn(&self, now: MonotonicTime, pause: Duration) -> bool {
        let next = self.0.load(Relaxed);
        // One more, for whoever comes at the same moment and knows no pause.
        let after = (now + pause).as_nanos().saturating_add(1);
        now.as_nanos() >= next
            && self
                .0
                .compare_exchange(next, after, Relaxed, Relaxed)
                .is_ok()
    }
}

/// From when on an answer that is good for `good_for` is refreshed: when 80 to 90 % of that has
/// passed. `jitter` are random bits; they keep what was read together from being refreshed
/// together.
pub(crate) fn refresh_at(asked: MonotonicTime, good_for: Duration, jitter: usize) -> MonotonicTime {
    let percent = 80 + (jitter % 11) as u32;
    asked + good_for / 100 * percent
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
    fn what_was_read_together_is_refreshed_at_different_times() {
        let asked = MonotonicTime::default();
        let at = |jitter| refresh_at(asked, Duration::from_secs(100), jitter).since(asked);
        assert_eq!(at(0), Duration::from_secs(80));
        assert_eq!(at(10), Duration::from_secs(90));
        assert_ne!(at(3), at(4));
    }
}
