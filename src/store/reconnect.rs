//! When a source of invalidations tests its connection, and when it reconnects.

use std::time::Duration;

use tokio::time::{Instant, sleep_until};

use crate::invalidation::{Invalidation, SourceEvent};

/// Silence after which the connection is tested.
const MAX_SILENCE: Duration = Duration::from_secs(1);

/// Time limit of that test, and of connecting.
pub(super) const TIME_LIMIT: Duration = Duration::from_secs(1);

/// Pauses between two attempts to connect: doubled from the first to the last.
const MIN_PAUSE: Duration = Duration::from_millis(50);
const MAX_PAUSE: Duration = Duration::from_millis(400);

/// The state of a source's connection: what it must report, and when it tests or reconnects.
#[derive(Debug)]
pub(super) struct Heartbeat {
    /// Reported before anything that arrives.
    pending: Option<SourceEvent>,
    /// Time at which the connection is tested, unless something arrives before.
    pub(super) test_at: Instant,
    retry_at: Instant,
    pause: Duration,
}

impl Heartbeat {
    /// Creates the state of a new connection: anything may have happened before it.
    pub(super) fn connected() -> Self {
        let now = Instant::now();
        Self {
            pending: Some(Invalidation::All.into()),
            test_at: now + MAX_SILENCE,
            retry_at: now,
            pause: MIN_PAUSE,
        }
    }

    /// Takes the event that comes before any other.
    pub(super) fn take_pending(&mut self) -> Option<SourceEvent> {
        self.pending.take()
    }

    /// Records that the other end is there.
    pub(super) fn on_alive(&mut self) {
        self.test_at = Instant::now() + MAX_SILENCE;
    }

    /// Records that the connection is lost.
    pub(super) fn on_disconnect(&mut self) {
        self.pending = Some(SourceEvent::Disconnected);
        self.retry_at = Instant::now();
        self.pause = MIN_PAUSE;
    }

    /// Waits until the next attempt to connect.
    pub(super) async fn wait_for_retry(&mut self) {
        sleep_until(self.retry_at).await;
    }

    /// Records that an attempt to connect has failed.
    pub(super) fn on_failed_attempt(&mut self) {
        // Nodes that lost their server together must not reconnect in step.
        let jitter = Duration::from_micros(u64::from(random()) % 50_000);
        self.retry_at = Instant::now() + self.pause + jitter;
        self.pause = (2 * self.pause).min(MAX_PAUSE);
    }
}

/// Returns a number that is random enough for pauses.
fn random() -> u32 {
    let mut bytes = [0; 4];
    // Without randomness the nodes reconnect in step.
    let _ = getrandom::fill(&mut bytes);
    u32::from_ne_bytes(bytes)
}
