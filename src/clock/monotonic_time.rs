//! Times on the engine's monotonic clock.

use std::{ops::Add, time::Duration};

/// A time on the engine's monotonic clock, in nanoseconds since the engine was built. It saturates
/// after 584 years.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) struct MonotonicTime(pub(super) u64);

impl MonotonicTime {
    pub(crate) fn as_nanos(self) -> u64 {
        self.0
    }

    /// Returns the time since `earlier`, or zero if that is later.
    pub(crate) fn since(self, earlier: Self) -> Duration {
        Duration::from_nanos(self.0.saturating_sub(earlier.0))
    }
}

impl Add<Duration> for MonotonicTime {
    type Output = Self;

    fn add(self, duration: Duration) -> Self {
        let nanos = duration.as_secs().saturating_mul(1_000_000_000);
        let nanos = nanos.saturating_add(u64::from(duration.subsec_nanos()));
        Self(self.0.saturating_add(nanos))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn monotonic_times_saturate() {
        let end = MonotonicTime::default() + Duration::MAX;
        assert_eq!(end + Duration::from_secs(1), end);
        assert_eq!(MonotonicTime::default().since(end), Duration::ZERO);
    }
}
