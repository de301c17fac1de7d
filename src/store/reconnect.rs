//! When a source of invalidations tries its connection, and when it connects again.

use std::time::Duration;

use tokio::time::{Instant, sleep_until};

use crate::invalidation::{Invalidation, SourceEvent};

/// After so much silence the connection is tried.
const SILENCE: Duration = Duration::from_secs(1);

/// How long the answer to that may take, and how long connecting may take.
pub(super) const PATIENCE: Duration = Duration::from_secs(1);

/// Between two attempts to connect: doubling, from the first to the last.
const FIRST_PAUSE: Duration = Duration::from_millis(50);
const LAST_PAUSE: Duration = Duration::from_millis(400);

/// What a source says for itself, and the times it goes by.
#[derive(Debug)]
pub(super) struct Heartbeat {
    /// Said before anything that is heard.
    first: Option<SourceEvent>,
    /// When the connection is tried, if nothing is heard until then.
    pub(super) due: Instant,
    retry_at: Instant,
    pause: Duration,
}

impl Heartbeat {
    /// Of a connection that has just been made: anything may have happened before.
    pub(super) fn begin() -> Self {
        let now = Instant::now();
        Self {
            first: Some(Invalidation::All.into()),
            due: now + SILENCE,
            retry_at: now,
            pause: FIRST_PAUSE,
        }
    }

    /// What is to be said before anything else.
    pub(super) fn first(&mut self) -> Option<SourceEvent> {
        self.first.take()
    }

    /// Something was heard.
    pub(super) fn alive(&mut self) {
        self.due = Instant::now() + SILENCE;
    }

    /// The connection is gone.
    pub(super) fn lost(&mut self) {
        self.first = Some(SourceEvent::Disconnected);
        self.retry_at = Instant::now();
        self.pause = FIRST_PAUSE;
    }

    /// Waits until the next attempt to connect.
    pub(super) async fn retry(&mut self) {
        sleep_until(self.retry_at).await;
    }

    /// An attempt to connect has failed.
    pub(super) fn failed(&mut self) {
        // So that nodes that lost their server together do not come back in step.
        let jitter = Duration::from_micros(u64::from(random()) % 50_000);
        self.retry_at = Instant::now() + self.pause + jitter;
        self.pause = (2 * self.pause).min(LAST_PAUSE);
    }
}

/// Random enough for times.
fn random() -> u32 {
    let mut bytes = [0; 4];
    // Without randomness they come back in step.
    let _ = getrandom::fill(&mut bytes);
    u32::from_ne_bytes(bytes)
}
