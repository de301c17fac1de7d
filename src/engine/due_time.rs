//! The time at which something is due that one of many callers does.

use std::{
    sync::atomic::{AtomicU32, AtomicU64, Ordering::Relaxed},
    time::Duration,
};

use crate::clock::MonotonicTime;

/// The time from which something is due, which one of many callers then does.
#[derive(Debug, Default)]
pub(crate) struct DueTime(AtomicU64);

impl DueTime {
    pub(crate) fn at(time: MonotonicTime) -> Self {
        Self(AtomicU64::new(time.as_nanos()))
    }

    #[inline]
    pub(crate) fn is_due(&self, now: MonotonicTime) -> bool {
        now.as_nanos() >= self.0.load(Relaxed)
    }

    /// Returns `true` if it is due and the caller is to do it. It is due again after `pause`.
    pub(crate) fn claim(&self, now: MonotonicTime, pause: Duration) -> bool {
        let next = self.0.load(Relaxed);
        // One nanosecond more, so that of two callers at the same time one does it, even
        // without a pause.
        let after = (now + pause).as_nanos().saturating_add(1);
        now.as_nanos() >= next
            && self
                .0
                .compare_exchange(next, after, Relaxed, Relaxed)
                .is_ok()
    }
}

/// The same in half the space, to a sixteenth of a second. It is due at once by default.
#[derive(Debug, Default)]
pub(crate) struct CoarseDueTime(AtomicU32);

impl CoarseDueTime {
    /// As a time, it never comes.
    const NEVER: u32 = u32::MAX;

    pub(crate) fn never() -> Self {
        Self(AtomicU32::new(Self::NEVER))
    }

    /// Sets it to the time of `other`.
    pub(crate) fn copy_from(&self, other: &Self) {
        self.0.store(other.0.load(Relaxed), Relaxed);
    }

    #[inline]
    pub(crate) fn is_due(&self, now: MonotonicTime) -> bool {
        coarse(now) >= u64::from(self.0.load(Relaxed))
    }

    /// Returns how long ago it was [claimed](Self::claim) with this pause, at most a sixteenth of a second too
    /// long; `None` if it was not.
    pub(crate) fn claimed_ago(&self, now: MonotonicTime, pause: Duration) -> Option<Duration> {
        let next = u64::from(self.0.load(Relaxed));
        let claimed = next.checked_sub(pause.as_nanos() as u64 / COARSE_NANOS + 1)?;
        (next != u64::from(Self::NEVER) && next > 0)
            .then(|| Duration::from_nanos(coarse(now).saturating_sub(claimed) * COARSE_NANOS))
    }

    /// Returns `true` if it is due and the caller is to do it. It is due again after `pause`, or a little
    /// later.
    pub(crate) fn claim(&self, now: MonotonicTime, pause: Duration) -> bool {
        let next = self.0.load(Relaxed);
        let after = u32::try_from(coarse(now + pause) + 1).unwrap_or(Self::NEVER);
        next != Self::NEVER
            && coarse(now) >= u64::from(next)
            && self
                .0
                .compare_exchange(next, after, Relaxed, Relaxed)
                .is_ok()
    }
}

/// A sixteenth of a second. 32 bits hold eight years of them.
const COARSE_NANOS: u64 = 1_000_000_000 / 16;

#[inline]
fn coarse(time: MonotonicTime) -> u64 {
    time.as_nanos() / COARSE_NANOS
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_due_is_done_by_one_and_then_there_is_a_pause() {
        let start = MonotonicTime::default() + Duration::from_secs(5);
        let time = DueTime::at(start);
        let pause = Duration::from_secs(2);
        let due: Vec<u64> = (0..80)
            .filter(|tenth| {
                let now = start + Duration::from_millis(100 * tenth);
                let due = time.is_due(now);
                assert_eq!(time.claim(now, pause), due);
                assert!(!time.claim(now, pause), "twice at once");
                due
            })
            .collect();
        assert_eq!(due, [0, 21, 42, 63]);
        assert!(!time.is_due(MonotonicTime::default()));
    }

    #[test]
    fn a_coarse_time_is_never_early_and_little_late() {
        let start = MonotonicTime::default() + Duration::from_millis(5001);
        let (time, pause) = (CoarseDueTime::default(), Duration::from_secs(2));
        let at = |milliseconds| start + Duration::from_millis(milliseconds);
        assert!(time.is_due(start) && time.claim(start, pause) && !time.claim(start, pause));
        let other = CoarseDueTime::default();
        other.copy_from(&time);
        for time in [&time, &other] {
            assert!(!time.is_due(at(1999)) && !time.claim(at(1999), pause));
            assert!(time.is_due(at(2063)) && time.claim(at(2063), pause));
        }
        let ago = time.claimed_ago(at(3063), pause).expect("it was claimed");
        let (least, most) = (Duration::from_millis(938), Duration::from_millis(1063));
        assert!((least..=most).contains(&ago), "{ago:?}");
        assert_eq!(CoarseDueTime::default().claimed_ago(at(0), pause), None);
        let never = CoarseDueTime::never();
        assert_eq!(never.claimed_ago(at(0), pause), None);
        let late = start + Duration::from_secs(20 * 365 * 24 * 3600);
        assert!(!never.claim(late, pause));
    }
}
