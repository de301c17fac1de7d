//! The clocks.

use std::{
    ops::Add,
    sync::{
        Arc, LazyLock,
        atomic::{
            AtomicI64,
            Ordering::{Acquire, Relaxed, Release},
        },
    },
    time::{Duration, Instant},
};

use chrono::{DateTime, Utc};

static ORIGIN: LazyLock<Instant> = LazyLock::new(Instant::now);

/// A source of time: a wall clock, which decides whether a session has expired, and a monotonic
/// clock, which decides how old a cached session is.
///
/// Services use [`SystemClock`]. Tests use `testing::ManualClock` (feature `testing`), which they
/// set by hand.
pub trait Clock: Send + Sync + 'static {
    /// Returns the wall-clock time in UTC. It may jump in either direction.
    fn now(&self) -> DateTime<Utc>;

    /// Returns the time since a fixed point. It never goes back, whatever [`now`](Clock::now) does.
    ///
    /// The default reads the operating system's monotonic clock. A clock for tests overrides it, so
    /// that the age of cached sessions is set by hand too.
    fn monotonic(&self) -> Duration {
        ORIGIN.elapsed()
    }
}

/// The operating system's clocks.
///
/// On Linux the engine reads the time of the kernel's last tick, which costs a fifth as much. A
/// tick takes 4 milliseconds on most machines, and 10 at most. So a session may end up to two ticks
/// early, but never late, and a cached session may be used one tick longer than
/// [`cache_ttl`](crate::CustomerSessionsBuilder::cache_ttl).
#[derive(Clone, Copy, Debug, Default)]
pub struct SystemClock;

impl Clock for SystemClock {
    fn now(&self) -> DateTime<Utc> {
        Utc::now()
    }
}

/// The last time that RFC 3339 can express: a year of four digits, to the microsecond.
pub(crate) const END_OF_TIME: DateTime<Utc> =
    match DateTime::from_timestamp_micros(253_402_300_799_999_999) {
        Some(time) => time,
        None => DateTime::<Utc>::MAX_UTC,
    };

/// The clocks that the engine reads: the system's, or a user's.
///
/// Reading a clock is a good part of the cost of a hit, so a hit reads one: the wall clock is the
/// monotonic clock plus an offset, which is read again each millisecond.
pub(crate) struct TimeSource {
    custom: Option<Arc<dyn Clock>>,
    /// The monotonic time when this was created.
    start: Duration,
    wall: WallClock,
}

impl TimeSource {
    /// Creates a source that reads `custom`, or the system's clocks if it is `None`.
    pub(crate) fn new(custom: Option<Arc<dyn Clock>>) -> Self {
        Self {
            start: monotonic(custom.as_deref()),
            custom,
            wall: WallClock::default(),
        }
    }

    pub(crate) fn is_system(&self) -> bool {
        self.custom.is_none()
    }

    pub(crate) fn now(&self) -> DateTime<Utc> {
        match &self.custom {
            None => Utc::now(),
            Some(clock) => clock.now(),
        }
    }

    /// Returns the wall-clock time in microseconds since 1970 for a monotonic time that was read just
    /// now. It is up to two ticks ahead, never behind. A jump of the wall clock is noticed within a
    /// millisecond, or at the next tick.
    #[inline]
    pub(crate) fn wall_micros(&self, now: MonotonicTime) -> i64 {
        if let Some(clock) = &self.custom {
            return clock.now().timestamp_micros();
        }
        self.wall.at((now.0 / 1000) as i64, || {
            (Utc::now().timestamp_micros(), tick().as_micros() as i64)
        })
    }

    #[inline]
    pub(crate) fn monotonic_now(&self) -> MonotonicTime {
        MonotonicTime::default() + monotonic(self.custom.as_deref()).saturating_sub(self.start)
    }
}

/// A wall clock derived from a monotonic clock that moves in ticks. All values are microseconds.
struct WallClock {
    /// Lead over the monotonic clock, and two ticks more: time goes on until the next tick, which may
    /// be a little late.
    offset: AtomicI64,
    /// Monotonic time at which the offset was read.
    read_at: AtomicI64,
}

/// Microseconds until the offset between the clocks is read again.
const OFFSET_MAX_AGE: i64 = 1000;

impl Default for WallClock {
    fn default() -> Self {
        Self {
            offset: AtomicI64::new(0),
            read_at: AtomicI64::new(i64::MIN),
        }
    }
}

impl WallClock {
    /// Returns the wall-clock time at the monotonic time `passed`. `read_exact` returns the exact
    /// wall-clock time and the length of a tick.
    #[inline]
    fn at(&self, passed: i64, read_exact: impl FnOnce() -> (i64, i64)) -> i64 {
        if passed.saturating_sub(self.read_at.load(Acquire)) < OFFSET_MAX_AGE {
            return passed + self.offset.load(Relaxed);
        }
        let (now, tick) = read_exact();
        let now = now + 2 * tick;
        self.offset.store(now - passed, Relaxed);
        self.read_at.store(passed, Release);
        now
    }
}

/// A time on the engine's monotonic clock, in nanoseconds since the engine was built. It saturates
/// after 584 years.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) struct MonotonicTime(u64);

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

/// Returns the time since a fixed point.
fn monotonic(custom: Option<&dyn Clock>) -> Duration {
    match custom {
        None => ticks(),
        Some(clock) => clock.monotonic(),
    }
}

/// Returns the time of the last tick, which the kernel keeps in memory. The exact time would be
/// computed from the processor's counter, and reading that takes longer than all the rest.
#[cfg(target_os = "linux")]
fn ticks() -> Duration {
    let time = rustix::time::clock_gettime(rustix::time::ClockId::MonotonicCoarse);
    // It counts up from zero.
    Duration::new(time.tv_sec as u64, time.tv_nsec as u32)
}

/// Returns the length of a tick.
#[cfg(target_os = "linux")]
fn tick() -> Duration {
    let time = rustix::time::clock_getres(rustix::time::ClockId::MonotonicCoarse);
    Duration::new(time.tv_sec as u64, time.tv_nsec as u32)
}

#[cfg(not(target_os = "linux"))]
fn ticks() -> Duration {
    ORIGIN.elapsed()
}

#[cfg(not(target_os = "linux"))]
fn tick() -> Duration {
    Duration::ZERO
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_wall_clock_is_never_behind_and_at_most_two_ticks_ahead() {
        // A kernel that ticks every 4 ms, up to 3 ms late, and a wall clock that is 7 s ahead.
        const TICK: i64 = 4000;
        let wall = WallClock::default();
        let mut reads = 0;
        for real in (0..1_000_000).step_by(50) {
            let late = real / TICK * 777 % 3000;
            let passed = (real - late).div_euclid(TICK) * TICK;
            let told = wall.at(passed.max(0), || {
                reads += 1;
                (7_000_000 + real, TICK)
            });
            let ahead = told - 7_000_000 - real;
            assert!((0..=2 * TICK).contains(&ahead), "{ahead} at {real}");
        }
        assert!(reads <= 1_000_000 / TICK, "one per tick");
    }

    #[test]
    fn a_jump_of_the_wall_clock_is_noticed() {
        let wall = WallClock::default();
        assert_eq!(wall.at(0, || (5_000_000, 0)), 5_000_000);
        assert_eq!(wall.at(999, || unreachable!("relied on")), 5_000_999);
        assert_eq!(wall.at(1000, || (1_000_000, 0)), 1_000_000);
        assert_eq!(wall.at(1500, || unreachable!("relied on")), 1_000_500);
    }

    #[test]
    fn the_system_clocks_are_read() {
        let source = TimeSource::new(None);
        let off = source.wall_micros(source.monotonic_now()) - Utc::now().timestamp_micros();
        assert!(off.abs() < 1_000_000, "{off}");
    }

    #[test]
    fn monotonic_times_saturate() {
        let end = MonotonicTime::default() + Duration::MAX;
        assert_eq!(end + Duration::from_secs(1), end);
        assert_eq!(MonotonicTime::default().since(end), Duration::ZERO);
    }
}
