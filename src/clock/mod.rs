//! The clocks.

mod monotonic_time;
mod offsets;

use std::{
    pin::Pin,
    sync::{Arc, LazyLock},
    time::{Duration, Instant},
};

use chrono::{DateTime, Utc};

pub(crate) use self::monotonic_time::MonotonicTime;
use self::offsets::{ExactTimes, Offsets};

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

/// Returns how long the machine was suspended since it was started. It never decreases, whatever
/// happens between the two readings.
#[cfg(target_os = "linux")]
fn suspended() -> Duration {
    use std::sync::atomic::{AtomicU64, Ordering::Relaxed};

    use rustix::time::{ClockId, clock_gettime};

    static LARGEST: AtomicU64 = AtomicU64::new(0);

    let read = |clock| {
        let time = clock_gettime(clock);
        Duration::new(time.tv_sec as u64, time.tv_nsec as u32)
    };
    // In this order a pause between the two readings does not look like a suspension.
    let since_boot = read(ClockId::Boottime);
    let suspended = nanos(since_boot.saturating_sub(read(ClockId::Monotonic)));
    Duration::from_nanos(LARGEST.fetch_max(suspended, Relaxed).max(suspended))
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

    #[test]
    fn the_system_clocks_are_read() {
        let source = TimeSource::new(None);
        let now = Utc::now().timestamp_micros();
        assert!(source.is_before(source.monotonic_now(), now + 60_000_000));
        assert!(!source.is_before(source.monotonic_now(), now));
        let before = Instant::now().checked_sub(Duration::from_secs(10));
        let before = before.expect("the machine has run for longer");
        assert!(source.at(before).is_none(), "it is younger");
        // From the first tick on, the source is older than the moment.
        let asked = std::iter::repeat_with(|| source.at(Instant::now()));
        let asked = asked.flatten().next().expect("there is no end");
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
}
