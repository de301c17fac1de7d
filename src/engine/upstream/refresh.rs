//! The schedule by which a session in use is looked up again before its entry is too old, so that
//! its requests never wait for the store.

use std::time::Duration;

use crate::clock::MonotonicTime;

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
    fn entries_read_together_are_refreshed_at_different_times() {
        let asked = MonotonicTime::default();
        let at = |jitter| refresh_at(asked, Duration::from_secs(100), jitter).since(asked);
        assert_eq!(at(0), Duration::from_secs(80));
        assert_eq!(at(10), Duration::from_secs(90));
        assert_ne!(at(3), at(4));
    }
}
