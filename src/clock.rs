//! Where the time comes from.

use std::{
    sync::LazyLock,
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
#[derive(Clone, Copy, Debug, Default)]
pub struct SystemClock;

impl Clock for SystemClock {
    fn now(&self) -> DateTime<Utc> {
        Utc::now()
    }
}
