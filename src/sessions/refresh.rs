//! Looks a session up again in the background before its cached answer is too old, so that a
//! session in use never waits for the store.

use std::{
    sync::{
        Arc,
        atomic::{AtomicU64, Ordering::Relaxed},
    },
    time::Duration,
};

use tokio::runtime::Handle;

use super::{answer::Found, cache::TokenKey, engine::Engine};
use crate::{clock::Moment, observe};

/// When the attempts to refresh one answer are due, in nanoseconds after the first.
#[derive(Debug, Default)]
pub(super) struct Attempts {
    next: AtomicU64,
}

impl Attempts {
    /// Whether an attempt is due, and it is the caller who makes it. Between two of them a
    /// quarter of `window` passes; when it is over, the request itself asks.
    fn is_due(&self, passed: Duration, window: Duration) -> bool {
        let nanos = |it: Duration| u64::try_from(it.as_nanos()).unwrap_or(u64::MAX);
        let (passed, pause) = (nanos(passed), nanos(window / 4));
        let next = self.next.load(Relaxed);
        let after = passed.saturating_add(pause).saturating_add(1);
        passed >= next
            && (self.next)
                .compare_exchange(next, after, Relaxed, Relaxed)
                .is_ok()
    }
}

/// From when on an answer that is good for `good_for` is refreshed: when 80 to 90 % of that has
/// passed. `dice` are random bits; they keep what was read together from being refreshed
/// together.
pub(super) fn refresh_at(asked: Moment, good_for: Duration, dice: usize) -> Moment {
    let percent = 80 + (dice % 11) as u32;
    asked + good_for / 100 * percent
}

impl Engine {
    /// Starts a lookup whose answer replaces `found`, unless one was started a moment ago.
    pub(super) fn refresh(self: &Arc<Self>, key: TokenKey, found: &Found, now: Moment) {
        let window = found.fresh_until.since(found.refresh_at);
        let passed = now.since(found.refresh_at);
        if !found.attempts.is_due(passed, window) {
            return;
        }
        let Ok(runtime) = Handle::try_current() else {
            return;
        };
        // A refusal, like a failure, is made good by a later attempt, or by the request that
        // finds the answer too old.
        if let Ok(lookup) = self.join(key, &found.session.token) {
            self.counters.refreshes.add_one();
            // A lookup that nobody waits for is stopped.
            runtime.spawn(observe::in_current_span(async move {
                let _ = lookup.landed().await;
            }));
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_attempt_is_made_by_one_and_then_there_is_a_pause() {
        let attempts = Attempts::default();
        let window = Duration::from_secs(8);
        let due: Vec<u64> = (0..80)
            .filter(|tenth| {
                let passed = Duration::from_millis(100 * tenth);
                let due = attempts.is_due(passed, window);
                assert!(!attempts.is_due(passed, window), "twice at once");
                due
            })
            .collect();
        assert_eq!(due, [0, 21, 42, 63]);
    }

    #[test]
    fn what_was_read_together_is_refreshed_at_different_times() {
        let asked = Moment::default();
        let at = |dice| refresh_at(asked, Duration::from_secs(100), dice).since(asked);
        assert_eq!(at(0), Duration::from_secs(80));
        assert_eq!(at(10), Duration::from_secs(90));
        assert_ne!(at(3), at(4));
    }
}
