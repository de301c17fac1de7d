//! A clock that is held by hand.

use std::{
    pin::Pin,
    sync::{Arc, Mutex, MutexGuard, PoisonError},
    time::Duration,
};

use chrono::{DateTime, TimeDelta, Utc};
use tokio::sync::watch;

use crate::clock::Clock;

/// A clock that stands still until it is told to move. Clones share their time.
///
/// ```
/// use std::time::Duration;
///
/// use customer_session::{Clock, testing::ManualClock};
///
/// let clock = ManualClock::new("2030-01-01T00:00:00Z".parse()?);
/// clock.advance(Duration::from_secs(90));
/// assert_eq!(clock.now().to_rfc3339(), "2030-01-01T00:01:30+00:00");
/// # Ok::<_, Box<dyn std::error::Error>>(())
/// ```
#[derive(Clone, Debug)]
pub struct ManualClock {
    /// Guards both clocks together: `advance` moves both.
    time: Arc<Mutex<Time>>,
    moved: watch::Sender<()>,
}

#[derive(Debug)]
struct Time {
    wall: DateTime<Utc>,
    monotonic: Duration,
}

impl ManualClock {
    /// Creates a clock that shows `now`.
    pub fn new(now: DateTime<Utc>) -> Self {
        Self {
            time: Arc::new(Mutex::new(Time {
                wall: now,
                monotonic: Duration::ZERO,
            })),
            moved: watch::Sender::new(()),
        }
    }

    /// Lets time pass: both clocks move on by `duration`.
    pub fn advance(&self, duration: Duration) {
        let mut time = self.time();
        time.monotonic = time.monotonic.saturating_add(duration);
        time.wall = TimeDelta::from_std(duration)
            .ok()
            .and_then(|duration| time.wall.checked_add_signed(duration))
            .unwrap_or(DateTime::<Utc>::MAX_UTC);
        drop(time);
        self.moved.send_replace(());
    }

    /// Sets the wall clock, forward or back, as an operator or NTP would. No time passes.
    pub fn set(&self, now: DateTime<Utc>) {
        self.time().wall = now;
        self.moved.send_replace(());
    }

    fn time(&self) -> MutexGuard<'_, Time> {
        self.time.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Clock for ManualClock {
    fn now(&self) -> DateTime<Utc> {
        self.time().wall
    }

    fn monotonic(&self) -> Duration {
        self.time().monotonic
    }

    fn moved(&self) -> Option<Pin<Box<dyn Future<Output = ()> + Send>>> {
        let mut moved = self.moved.subscribe();
        Some(Box::pin(async move {
            // An error means that the clock is gone, and moves no more.
            if moved.changed().await.is_err() {
                std::future::pending().await
            }
        }))
    }
}
