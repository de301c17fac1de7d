//! Where the time comes from.

use std::{
    sync::{Arc, LazyLock},
    time::{Duration, Instant, SystemTime},
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
/// Both come as the standard library's types, since these compare fastest: a hit reads each
/// clock once, and that is a good part of what it costs.
pub(crate) struct TimeSource {
    custom: Option<Arc<dyn Clock>>,
    /// What the monotonic clock of `custom` showed at `origin`.
    start: Duration,
    origin: Instant,
}

impl TimeSource {
    /// The system's clocks if `custom` is `None`.
    pub(crate) fn new(custom: Option<Arc<dyn Clock>>) -> Self {
        Self {
            start: custom
                .as_ref()
                .map_or(Duration::ZERO, |clock| clock.monotonic()),
            custom,
            origin: Instant::now(),
        }
    }

    pub(crate) fn now(&self) -> DateTime<Utc> {
        match &self.custom {
            None => Utc::now(),
            Some(clock) => clock.now(),
        }
    }

    pub(crate) fn system_time(&self) -> SystemTime {
        match &self.custom {
            None => SystemTime::now(),
            Some(clock) => clock.now().into(),
        }
    }

    pub(crate) fn instant(&self) -> Instant {
        match &self.custom {
            None => Instant::now(),
            Some(clock) => {
                let passed = clock.monotonic().saturating_sub(self.start);
                later(self.origin, passed)
            }
        }
    }
}

/// `instant` and `duration`, but no later than the operating system can tell.
pub(crate) fn later(instant: Instant, duration: Duration) -> Instant {
    const CENTURY: Duration = Duration::from_secs(100 * 365 * 24 * 60 * 60);
    instant
        .checked_add(duration.min(CENTURY))
        .unwrap_or(instant)
}
