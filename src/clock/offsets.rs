//! The lead of other clocks over the one that a hit reads, and the time for which the machine was
//! suspended.

use std::sync::atomic::{
    AtomicI64, AtomicU64,
    Ordering::{Acquire, Relaxed, Release},
};

use super::monotonic_time::MonotonicTime;

/// Time before a deadline at which the exact clock is read: a tick was seen to come 18 ms late, and
/// may be later on a machine whose processors are held up.
const CLOCK_MARGIN: i64 = 100_000;

/// The lead of other clocks over the one that a hit reads.
pub(super) struct Offsets {
    /// Nanoseconds for which the machine was suspended. It never decreases.
    suspended: AtomicU64,
    /// The same as the system told it at the last reading.
    reported: AtomicU64,
    /// Lead of the wall clock, in microseconds; `NEVER_READ` before the first reading.
    wall: AtomicI64,
    /// Time of the next reading on the clock that a hit reads, in nanoseconds.
    read_next: AtomicU64,
    /// Time at which the last suspension was noticed, in nanoseconds of the engine's clock.
    resumed_at: AtomicU64,
}

/// The exact clocks at one moment.
pub(super) struct ExactTimes {
    /// Microseconds since 1970.
    pub(super) wall: i64,
    /// Nanoseconds for which the machine was suspended since it was started, as the system tells.
    pub(super) suspended: u64,
}

impl ExactTimes {
    /// Returns the lead of the wall clock over an engine that has counted `suspended`.
    fn wall_lead(&self, passed: MonotonicTime, suspended: u64) -> i64 {
        self.wall - (passed.0.saturating_add(suspended) / 1000) as i64
    }
}

/// Nanoseconds until the offsets are read again.
const OFFSET_MAX_AGE: u64 = 1_000_000;

/// The lead of the wall clock before the first reading.
const NEVER_READ: i64 = i64::MIN;

/// Longest time that is not taken for a suspension although the system tells it, in nanoseconds: its
/// clocks are read one after the other.
const MIN_SUSPENSION: u64 = 1_000_000;

/// Longest jump of the wall clock that is taken for a correction, in nanoseconds.
const MAX_CORRECTION: u64 = 1_000_000_000;

/// Longest suspension that is counted: a year, in nanoseconds. That is far longer than anything is
/// cached, and the sum of any that occur fits into the engine's clock.
const MAX_SUSPENSION: u64 = 365 * 24 * 3600 * 1_000_000_000;

impl Default for Offsets {
    fn default() -> Self {
        Self {
            suspended: AtomicU64::new(0),
            reported: AtomicU64::new(0),
            wall: AtomicI64::new(NEVER_READ),
            read_next: AtomicU64::new(0),
            resumed_at: AtomicU64::new(0),
        }
    }
}

impl Offsets {
    /// Returns the engine's time for `passed`, which was just read from the clock of a hit.
    #[inline]
    pub(super) fn adjust(
        &self,
        passed: MonotonicTime,
        read: impl FnOnce() -> ExactTimes,
    ) -> MonotonicTime {
        if passed.0 >= self.read_next.load(Acquire) {
            self.update(passed, &read());
        }
        MonotonicTime(passed.0 + self.suspended.load(Relaxed))
    }

    /// Returns `true` before `deadline`. Near it the exact clock decides.
    #[inline]
    pub(super) fn is_before(
        &self,
        now: MonotonicTime,
        deadline: i64,
        exact: impl FnOnce() -> i64,
    ) -> bool {
        let wall = (now.0 / 1000) as i64 + self.wall.load(Relaxed);
        wall + CLOCK_MARGIN < deadline || exact() < deadline
    }

    /// Has the offsets read again at the next use.
    pub(super) fn read_again(&self) {
        self.read_next.store(0, Release);
    }

    pub(super) fn resumed_at(&self) -> MonotonicTime {
        MonotonicTime(self.resumed_at.load(Acquire))
    }

    /// Takes over what was read. If two callers do so at once, a suspension may count twice: what
    /// was cached is then a little older than it should be.
    #[cold]
    fn update(&self, passed: MonotonicTime, times: &ExactTimes) {
        let suspended = self.suspended_since(passed, times);
        let total = self.suspended.fetch_add(suspended, Relaxed) + suspended;
        self.wall.store(times.wall_lead(passed, total), Release);
        if suspended > MIN_SUSPENSION {
            let now = passed.0.saturating_add(total);
            self.resumed_at.fetch_max(now, Release);
        }
        let next = passed.0.saturating_add(OFFSET_MAX_AGE);
        self.read_next.store(next, Release);
    }

    /// Returns the nanoseconds for which the machine was suspended since the last reading.
    fn suspended_since(&self, passed: MonotonicTime, times: &ExactTimes) -> u64 {
        let wall = self.wall.load(Acquire);
        let reported = self.reported.fetch_max(times.suspended, Relaxed);
        if wall == NEVER_READ {
            return 0;
        }
        let suspended = times.suspended.saturating_sub(reported);
        let total = self.suspended.load(Relaxed).saturating_add(suspended);
        let jump = times.wall_lead(passed, total).saturating_sub(wall);
        let jump = u64::try_from(jump).unwrap_or(0).saturating_mul(1000);
        let jump = if jump > MAX_CORRECTION { jump } else { 0 };
        suspended.saturating_add(jump).min(MAX_SUSPENSION)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const SECOND: u64 = 1_000_000_000;

    fn times(wall: i64, suspended: u64) -> ExactTimes {
        ExactTimes { wall, suspended }
    }

    fn at(nanos: u64) -> MonotonicTime {
        MonotonicTime(nanos)
    }

    #[test]
    fn near_a_deadline_the_exact_clock_decides() {
        // A kernel whose ticks come up to 60 ms late, and a wall clock that is 7 s ahead.
        const DEADLINE: i64 = 7_500_000;
        let offsets = Offsets::default();
        let mut exact = 0;
        for real in (0..1_000_000).step_by(50) {
            let passed = at((real - real % 61_000) as u64 * 1000);
            let now = offsets.adjust(passed, || times(7_000_000 + real, 0));
            let is_before = offsets.is_before(now, DEADLINE, || {
                exact += 1;
                7_000_000 + real
            });
            assert_eq!(is_before, 7_000_000 + real < DEADLINE, "{real}");
        }
        // From 100 ms before the deadline, and after it, when the session is of no use any more.
        assert!((10_000..14_000).contains(&exact), "{exact}");
    }

    #[test]
    fn a_jump_of_the_wall_clock_is_noticed() {
        let offsets = Offsets::default();
        let exact = || unreachable!("far from the deadline");
        let now = offsets.adjust(at(0), || times(5_000_000, 0));
        assert!(offsets.is_before(now, 9_000_000, exact));
        let now = offsets.adjust(at(999_000), || unreachable!("read a moment ago"));
        assert!(offsets.is_before(now, 9_000_000, exact));
        let now = offsets.adjust(at(1_000_000), || times(9_000_000, 0));
        assert!(!offsets.is_before(now, 9_000_000, || 9_000_000));
        // Back again: the engine's own clock goes on.
        let later = offsets.adjust(at(2_000_000), || times(5_002_000, 0));
        assert!(offsets.is_before(later, 9_000_000, exact));
        assert!(later > now);
    }

    #[test]
    fn a_suspension_counts_as_time_passed() {
        let offsets = Offsets::default();
        let adjust =
            |passed, wall, suspended| offsets.adjust(at(passed), || times(wall, suspended));
        // The machine slept for a while before the engine was built.
        assert_eq!(adjust(0, 1_000_000, 40 * SECOND), at(0));
        assert_eq!(offsets.resumed_at(), at(0));
        // The two clocks are not read at the same moment.
        assert_eq!(adjust(SECOND, 2_000_000, 40 * SECOND + 80), at(SECOND + 80));
        assert_eq!(offsets.resumed_at(), at(0));
        // Ten seconds, which the wall clock shows too; they count once.
        assert_eq!(
            adjust(2 * SECOND, 13_000_000, 50 * SECOND + 80),
            at(12 * SECOND + 80)
        );
        assert_eq!(offsets.resumed_at(), at(12 * SECOND + 80));
        assert_eq!(
            adjust(3 * SECOND, 14_000_000, 50 * SECOND + 80),
            at(13 * SECOND + 80)
        );
    }

    #[test]
    fn a_pause_that_only_the_wall_clock_shows_counts_too() {
        let offsets = Offsets::default();
        let adjust = |passed, wall| offsets.adjust(at(passed), || times(wall, 0));
        assert_eq!(adjust(0, 1_000_000), at(0));
        // A small correction is none.
        assert_eq!(adjust(SECOND, 2_900_000), at(SECOND));
        // A virtual machine was stopped for an hour: its clock was set when it went on.
        let hour = 3600 * SECOND;
        assert_eq!(adjust(2 * SECOND, 3_603_900_000), at(2 * SECOND + hour));
        assert_eq!(offsets.resumed_at(), at(2 * SECOND + hour));
        assert_eq!(adjust(3 * SECOND, 3_604_900_000), at(3 * SECOND + hour));
    }
}
