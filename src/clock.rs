//! Where the time comes from.

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

/// Tells the time: the wall clock that `expires_at` is held against, and a steady one that
/// says how old a cached answer is.
///
/// [`SystemClock`] is what services use. Tests hand in `testing::ManualClock` (feature
/// `testing`) and hold the time by hand.
pub trait Clock: Send + Sync + 'static {
    /// The wall-clock time, in UTC. It may jump in either direction.
    fn now(&self) -> DateTime<Utc>;

    /// The time since some fixed moment; it never goes back, whatever [`now`](Clock::now) does.
    ///
    /// The default reads the operating system's monotonic clock. A clock made for tests
    /// overrides it so that the age of cached answers, too, can be held by hand.
    fn monotonic(&self) -> Duration {
        ORIGIN.elapsed()
    }
}

/// The operating system's clocks.
///
/// On Linux the engine reads the time of the kernel's last tick, which costs a fifth as much. A
/// tick takes 4 milliseconds on most machines, and 10 at most. So a session may end up to two ticks
/// early, but never late, and a cached answer may be used one tick longer than
/// [`cache_ttl`](crate::CustomerSessionsBuilder::cache_ttl).
#[derive(Clone, Copy, Debug, Default)]
pub struct SystemClock;

impl Clock for SystemClock {
    fn now(&self) -> DateTime<Utc> {
        Utc::now()
    }
}

/// The last moment that RFC 3339 can write: four digits of year, to the microsecond.
pub(crate) const END_OF_TIME: DateTime<Utc> =
    match DateTime::from_timestamp_micros(253_402_300_799_999_999) {
        Some(time) => time,
        None => DateTime::<Utc>::MAX_UTC,
    };

/// What the engine reads: the system's clocks without a detour, or a user's.
///
/// Reading a clock is a good part of what a hit costs, so a hit reads one: the wall clock is
/// the steady one and an offset, which is looked up anew each millisecond.
pub(crate) struct TimeSource {
    custom: Option<Arc<dyn Clock>>,
    /// What the monotonic clock showed when this was made.
    start: Duration,
    wall: WallClock,
}

impl TimeSource {
    /// The system's clocks if `custom` is `None`.
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

    /// The wall-clock time in microseconds since 1970, at the moment that
    /// [`moment`](Self::monotonic_now) has just told; up to two ticks later, not earlier. A jump of the wall
    /// clock is noticed within a millisecond, or at the next tick.
    pub(crate) fn wall_micros(&self, moment: MonotonicTime) -> i64 {
        if let Some(clock) = &self.custom {
            return clock.now().timestamp_micros();
        }
        self.wall.micros((moment.0 / 1000) as i64, || {
            (Utc::now().timestamp_micros(), tick().as_micros() as i64)
        })
    }

    pub(crate) fn monotonic_now(&self) -> MonotonicTime {
        MonotonicTime::default() + monotonic(self.custom.as_deref()).saturating_sub(self.start)
    }
}

/// The wall clock as told by a steady one that moves in ticks. All is in microseconds.
struct WallClock {
    /// By how much it is ahead of the steady one; two ticks more, since time goes on until the next,
    /// which may be a little late.
    offset: AtomicI64,
    /// What the steady one showed when that was looked up.
    looked_up: AtomicI64,
}

/// How long the offset between the clocks is relied on, in microseconds.
const OFFSET_MAX_AGE: i64 = 1000;

impl Default for WallClock {
    fn default() -> Self {
        Self {
            offset: AtomicI64::new(0),
            looked_up: AtomicI64::new(i64::MIN),
        }
    }
}

impl WallClock {
    /// The time when the steady clock shows `passed`; `look_up` tells it, and how long a tick is.
    fn micros(&self, passed: i64, look_up: impl FnOnce() -> (i64, i64)) -> i64 {
        if passed.saturating_sub(self.looked_up.load(Acquire)) < OFFSET_MAX_AGE {
            return passed + self.offset.load(Relaxed);
        }
        let (now, tick) = look_up();
        let now = now + 2 * tick;
        self.offset.store(now - passed, Relaxed);
        self.looked_up.store(passed, Release);
        now
    }
}

/// A moment on the engine's steady clock, in nanoseconds since the engine was built; the last is
/// 584 years after the first.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) struct MonotonicTime(u64);

impl MonotonicTime {
    pub(crate) fn as_nanos(self) -> u64 {
        self.0
    }

    /// The time since `earlier`; none if that is later.
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

/// The time since some fixed moment.
fn monotonic(custom: Option<&dyn Clock>) -> Duration {
    match custom {
        None => ticks(),
        Some(clock) => clock.monotonic(),
    }
}

/// As of the last tick: the kernel keeps it at hand, while the exact time is computed from the
/// processor's counter, whose reading takes longer than all the rest.
#[cfg(target_os = "linux")]
fn ticks() -> Duration {
    let time = rustix::time::clock_gettime(rustix::time::ClockId::MonotonicCoarse);
    // It counts up from zero.
    Duration::new(time.tv_sec as u64, time.tv_nsec as u32)
}

/// How long one tick takes.
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

    /// A kernel that ticks every 4 ms, each time up to 3 ms late, and a wall clock that is 7 s ahead.
    #[test]
    fn the_wall_clock_is_never_behind_and_two_ticks_ahead_at_the_most() {
        const TICK: i64 = 4000;
        let wall = WallClock::default();
        let mut look_ups = 0;
        for real in (0..1_000_000).step_by(50) {
            let late = real / TICK * 777 % 3000;
            let passed = (real - late).div_euclid(TICK) * TICK;
            let told = wall.micros(passed.max(0), || {
                look_ups += 1;
                (7_000_000 + real, TICK)
            });
            let ahead = told - 7_000_000 - real;
            assert!((0..=2 * TICK).contains(&ahead), "{ahead} at {real}");
        }
        assert!(look_ups <= 1_000_000 / TICK, "one a tick");
    }

    #[test]
    fn a_jump_of_the_wall_clock_is_noticed() {
        let wall = WallClock::default();
        assert_eq!(wall.micros(0, || (5_000_000, 0)), 5_000_000);
        assert_eq!(wall.micros(999, || unreachable!("relied on")), 5_000_999);
        assert_eq!(wall.micros(1000, || (1_000_000, 0)), 1_000_000);
        assert_eq!(wall.micros(1500, || unreachable!("relied on")), 1_000_500);
    }

    #[test]
    fn the_system_clocks_are_read() {
        let source = TimeSource::new(None);
        let off = source.wall_micros(source.monotonic_now()) - Utc::now().timestamp_micros();
        assert!(off.abs() < 1_000_000, "{off}");
    }

    #[test]
    fn moments_have_no_end_to_run_over() {
        let end = MonotonicTime::default() + Duration::MAX;
        assert_eq!(end + Duration::from_secs(1), end);
        assert_eq!(MonotonicTime::default().since(end), Duration::ZERO);
    }
}
