//! The clocks.

use std::{
    ops::Add,
    pin::Pin,
    sync::{
        Arc, LazyLock,
        atomic::{
            AtomicI64, AtomicU64,
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
    /// The default reads the operating system's monotonic clock; on Linux it counts the time for
    /// which the machine was suspended. A clock for tests overrides it, so that the age of cached
    /// sessions is set by hand too.
    fn monotonic(&self) -> Duration {
        ORIGIN.elapsed() + suspended()
    }

    /// Returns a future that resolves when the clock is moved by hand after this call; `None` for a
    /// clock that moves by itself, which is the default.
    ///
    /// Streams that watch their session wait for it. Without it they look at a clock that is not
    /// [`SystemClock`] once a second.
    fn moved(&self) -> Option<Pin<Box<dyn Future<Output = ()> + Send>>> {
        None
    }
}

/// The operating system's clocks.
///
/// On Linux the engine reads the time of the kernel's last tick, which costs a fifth as much as the
/// exact time. A tick takes 4 milliseconds on most machines, and 10 at most; so a cached session may
/// be used one tick longer than [`cache_ttl`](crate::CustomerSessionsBuilder::cache_ttl). Whether a
/// session has expired is decided by the exact time.
///
/// The monotonic clock counts the time for which the machine was suspended, as the system tells it
/// (`CLOCK_BOOTTIME` on Linux) or as a jump of the wall clock by more than a second shows it. A
/// suspension is noticed at the kernel's next tick.
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
/// Reading a clock is a good part of the cost of a hit, so a hit reads one that moves in ticks. What
/// the others add to it is read again each millisecond.
pub(crate) struct TimeSource {
    custom: Option<Arc<dyn Clock>>,
    /// The monotonic time when this was created, in nanoseconds.
    start: u64,
    offsets: Offsets,
}

/// Time before a deadline at which the exact clock is read: a tick was seen to come 18 ms late, and
/// may be later on a machine whose processors are held up.
const CLOCK_MARGIN: i64 = 100_000;

impl TimeSource {
    /// Creates a source that reads `custom`, or the system's clocks if it is `None`.
    pub(crate) fn new(custom: Option<Arc<dyn Clock>>) -> Self {
        Self {
            start: monotonic(custom.as_deref()),
            custom,
            offsets: Offsets::default(),
        }
    }

    pub(crate) fn is_system(&self) -> bool {
        self.custom.is_none()
    }

    /// Returns a future that resolves when the clock is moved by hand, if that can be told.
    pub(crate) fn moved(&self) -> Option<Pin<Box<dyn Future<Output = ()> + Send>>> {
        self.custom.as_ref().and_then(|clock| clock.moved())
    }

    pub(crate) fn now(&self) -> DateTime<Utc> {
        match &self.custom {
            None => Utc::now(),
            Some(clock) => clock.now(),
        }
    }

    /// Returns `true` before `deadline`, in microseconds since 1970, by the wall clock. `now` was
    /// read just now. A jump of the wall clock is noticed within a millisecond, or at the next tick.
    #[inline]
    pub(crate) fn is_before(&self, now: MonotonicTime, deadline: i64) -> bool {
        if let Some(clock) = &self.custom {
            return clock.now().timestamp_micros() < deadline;
        }
        self.offsets
            .is_before(now, deadline, || Utc::now().timestamp_micros())
    }

    #[inline]
    pub(crate) fn monotonic_now(&self) -> MonotonicTime {
        let passed = monotonic(self.custom.as_deref()).saturating_sub(self.start);
        let passed = MonotonicTime(passed);
        if self.custom.is_some() {
            return passed;
        }
        self.offsets.adjust(passed, exact_times)
    }

    /// Returns the engine's time at `instant`, or `None` if the engine is younger, or the machine was
    /// suspended since. On a clock that is not the system's, the engine is as old as the instant.
    pub(crate) fn at(&self, instant: Instant) -> Option<MonotonicTime> {
        let ago = nanos(instant.elapsed());
        if self.custom.is_some() {
            return Some(MonotonicTime(self.monotonic_now().0.saturating_sub(ago)));
        }
        self.offsets.read_again();
        let at = MonotonicTime(self.monotonic_now().0.checked_sub(ago)?);
        (at >= self.offsets.resumed_at()).then_some(at)
    }
}

/// The lead of other clocks over the one that a hit reads.
struct Offsets {
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
struct ExactTimes {
    /// Microseconds since 1970.
    wall: i64,
    /// Nanoseconds for which the machine was suspended since it was started, as the system tells.
    suspended: u64,
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

/// Longest time, in nanoseconds, that is not taken for a suspension: the two clocks are read one
/// after the other, and the wall clock may be corrected a little.
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
    fn adjust(&self, passed: MonotonicTime, read: impl FnOnce() -> ExactTimes) -> MonotonicTime {
        if passed.0 >= self.read_next.load(Acquire) {
            self.update(passed, &read());
        }
        MonotonicTime(passed.0 + self.suspended.load(Relaxed))
    }

    /// Returns `true` before `deadline`. Near it the exact clock decides.
    #[inline]
    fn is_before(&self, now: MonotonicTime, deadline: i64, exact: impl FnOnce() -> i64) -> bool {
        let wall = (now.0 / 1000) as i64 + self.wall.load(Relaxed);
        wall + CLOCK_MARGIN < deadline || exact() < deadline
    }

    /// Has the offsets read again at the next use.
    fn read_again(&self) {
        self.read_next.store(0, Release);
    }

    fn resumed_at(&self) -> MonotonicTime {
        MonotonicTime(self.resumed_at.load(Acquire))
    }

    /// Takes over what was read. If two callers do so at once, a suspension may count twice: what
    /// was cached is then a little older than it should be.
    #[cold]
    fn update(&self, passed: MonotonicTime, times: &ExactTimes) {
        let suspended = self.suspended_since(passed, times);
        let total = self.suspended.fetch_add(suspended, Relaxed) + suspended;
        self.wall.store(times.wall_lead(passed, total), Release);
        if suspended > MAX_CORRECTION / 1000 {
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

/// Returns the exact clocks.
fn exact_times() -> ExactTimes {
    ExactTimes {
        suspended: nanos(suspended()),
        wall: Utc::now().timestamp_micros(),
    }
}

fn nanos(duration: Duration) -> u64 {
    u64::try_from(duration.as_nanos()).unwrap_or(u64::MAX)
}

/// Returns the nanoseconds since a fixed point.
#[inline]
fn monotonic(custom: Option<&dyn Clock>) -> u64 {
    match custom {
        None => ticks(),
        Some(clock) => nanos(clock.monotonic()),
    }
}

/// Returns the time of the last tick, which the kernel keeps in memory. The exact time would be
/// computed from the processor's counter, and reading that takes longer than all the rest.
#[cfg(target_os = "linux")]
#[inline]
fn ticks() -> u64 {
    let time = rustix::time::clock_gettime(rustix::time::ClockId::MonotonicCoarse);
    // It counts up from zero.
    time.tv_sec as u64 * 1_000_000_000 + time.tv_nsec as u64
}

/// Returns how long the machine was suspended since it was started.
#[cfg(target_os = "linux")]
fn suspended() -> Duration {
    use rustix::time::{ClockId, clock_gettime};

    let read = |clock| {
        let time = clock_gettime(clock);
        Duration::new(time.tv_sec as u64, time.tv_nsec as u32)
    };
    // In this order a pause between the two readings does not look like a suspension.
    let since_boot = read(ClockId::Boottime);
    since_boot.saturating_sub(read(ClockId::Monotonic))
}

#[cfg(not(target_os = "linux"))]
fn ticks() -> u64 {
    nanos(ORIGIN.elapsed())
}

/// Returns zero: the system does not tell.
#[cfg(not(target_os = "linux"))]
fn suspended() -> Duration {
    Duration::ZERO
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

    #[test]
    fn the_system_clocks_are_read() {
        let source = TimeSource::new(None);
        let now = Utc::now().timestamp_micros();
        assert!(source.is_before(source.monotonic_now(), now + 60_000_000));
        assert!(!source.is_before(source.monotonic_now(), now));
        let before = Instant::now();
        std::thread::sleep(Duration::from_millis(20));
        assert!(TimeSource::new(None).at(before).is_none(), "it is younger");
        let asked = source.at(Instant::now()).expect("no suspension");
        assert!(source.monotonic_now().since(asked) < Duration::from_secs(5));
    }

    #[test]
    fn a_session_is_not_let_in_a_moment_after_its_end_nor_refused_a_moment_before() {
        let source = TimeSource::new(None);
        let end = Utc::now().timestamp_micros() + 30_000;
        loop {
            let before = Utc::now().timestamp_micros();
            let is_before = source.is_before(source.monotonic_now(), end);
            let after = Utc::now().timestamp_micros();
            assert!(is_before || after >= end, "refused too early");
            assert!(!is_before || before < end, "let in too late");
            if before >= end + 1000 {
                break;
            }
        }
    }

    #[test]
    fn monotonic_times_saturate() {
        let end = MonotonicTime::default() + Duration::MAX;
        assert_eq!(end + Duration::from_secs(1), end);
        assert_eq!(MonotonicTime::default().since(end), Duration::ZERO);
    }
}
