//! When a source of invalidations asks whether it still hears, and when it reconnects.

use std::{collections::VecDeque, future::Future, pin::Pin, time::Duration};

use tokio::time::{Instant, error::Elapsed, sleep_until, timeout};

use crate::{invalidation::SourceEvent, random::random};

/// Time from one question to the next: below a second, so that a timer which is late is in time.
const QUESTION_INTERVAL: Duration = Duration::from_millis(900);

/// Time limit of an answer, and of connecting.
pub(super) const TIME_LIMIT: Duration = Duration::from_secs(1);

/// Pauses between two attempts to connect: doubled from the first to the last.
const MIN_PAUSE: Duration = Duration::from_millis(50);
const MAX_PAUSE: Duration = Duration::from_millis(400);

/// The state of a source's connection: what it must report, and when it asks or reconnects.
#[derive(Debug)]
pub(super) struct Heartbeat {
    /// Reported before anything that arrives.
    pending: VecDeque<SourceEvent>,
    /// Time of the next question.
    ask_at: Instant,
    retry_at: Instant,
    pause: Duration,
}

impl Heartbeat {
    /// Creates the state of a new connection, which has answered a question asked at `asked_at`.
    /// `first` says what may have been missed before.
    pub(super) fn connected(first: impl Into<SourceEvent>, asked_at: std::time::Instant) -> Self {
        Self {
            pending: [first.into(), SourceEvent::Alive { asked_at }].into(),
            ask_at: Instant::from_std(asked_at) + QUESTION_INTERVAL,
            retry_at: Instant::now(),
            pause: MIN_PAUSE,
        }
    }

    /// Takes the event that comes before any other.
    pub(super) fn take_pending(&mut self) -> Option<SourceEvent> {
        self.pending.pop_front()
    }

    /// Returns the time of the next question.
    pub(super) fn ask_at(&self) -> Instant {
        self.ask_at
    }

    /// Returns `true` if a question is due, and sets the time of the one after it.
    pub(super) fn is_due(&mut self) -> bool {
        let now = Instant::now();
        let is_due = now >= self.ask_at;
        if is_due {
            self.ask_at = now + QUESTION_INTERVAL;
        }
        is_due
    }

    /// Records that the connection is lost.
    pub(super) fn on_disconnect(&mut self) {
        self.pending = [SourceEvent::Disconnected].into();
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
        let jitter = Duration::from_micros(random() % 50_000);
        self.retry_at = Instant::now() + self.pause + jitter;
        self.pause = (2 * self.pause).min(MAX_PAUSE);
    }
}

/// A question under way. It is kept from one call of `recv` to the next, so that dropping such a
/// call loses no answer.
pub(super) struct Question<T> {
    answer: Pin<Box<dyn Future<Output = Result<T, Elapsed>> + Send>>,
}

impl<T: 'static> Question<T> {
    /// Asks a question, whose answer must come within the [`TIME_LIMIT`].
    pub(super) fn new(answer: impl Future<Output = T> + Send + 'static) -> Self {
        Self {
            answer: Box::pin(timeout(TIME_LIMIT, answer)),
        }
    }
}

impl<T> Question<T> {
    /// Waits for the answer. Must not be called after it has come. Cancel-safe.
    pub(super) async fn answer(&mut self) -> Result<T, Elapsed> {
        self.answer.as_mut().await
    }
}
