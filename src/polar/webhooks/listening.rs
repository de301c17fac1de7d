//! Whether a source of invalidations is received from, as its service sees it.

use std::{
    sync::atomic::{AtomicBool, Ordering::Relaxed},
    time::Duration,
};

use tokio::time::Instant;

use crate::telemetry;

/// Time after the start in which a delivery may wait for a listener that is yet to begin.
const START_UP: Duration = Duration::from_secs(2);

/// The state of the listener, which the service and its source share.
pub(super) struct Listening {
    created_at: Instant,
    has_begun: AtomicBool,
    has_warned: AtomicBool,
}

impl Listening {
    pub(super) fn new() -> Self {
        Self {
            created_at: Instant::now(),
            has_begun: AtomicBool::new(false),
            has_warned: AtomicBool::new(false),
        }
    }

    /// Notes that the source is received from. Returns `true` the first time.
    pub(super) fn begin(&self) -> bool {
        !self.has_begun.swap(true, Relaxed)
    }

    /// Returns how long a delivery may wait for the listener, `limit` at most. `None` if nothing listens.
    pub(super) fn patience(&self, limit: Duration) -> Option<Duration> {
        if self.has_begun.load(Relaxed) {
            return Some(limit);
        }
        let left = START_UP.checked_sub(self.created_at.elapsed())?;
        (!left.is_zero()).then(|| left.min(limit))
    }

    /// Logs once that nothing listens.
    pub(super) fn warn(&self) {
        if !self.has_warned.swap(true, Relaxed) {
            telemetry::webhooks_without_listener();
        }
    }
}
