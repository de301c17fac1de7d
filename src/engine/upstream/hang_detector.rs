//! Tells a store that hangs from one that has too much to do.

use std::{
    sync::{Mutex, MutexGuard, PoisonError},
    time::Duration,
};

use tokio::time::Instant;

/// Judges the store by the lookups of known tokens. What strangers ask may take long for reasons of
/// their own.
#[derive(Default)]
pub(crate) struct HangDetector {
    /// Guards the state. Held to read or write it, never across an await. Hits do not take it.
    state: Mutex<State>,
}

#[derive(Default)]
struct State {
    in_flight: u64,
    /// The beginning of the first lookup since the last answer, or that answer if lookups were in
    /// flight then.
    unanswered_since: Option<Instant>,
}

/// A lookup of a known token in flight.
pub(crate) struct Watched<'a>(&'a HangDetector);

impl HangDetector {
    /// Notes that a lookup begins. It ends when the result is dropped.
    pub(crate) fn watch(&self) -> Watched<'_> {
        let mut state = self.state();
        state.unanswered_since.get_or_insert_with(Instant::now);
        state.in_flight += 1;
        Watched(self)
    }

    /// Returns `true` if lookups have begun and none has been answered for `limit`.
    pub(crate) fn is_hanging(&self, limit: Duration) -> bool {
        let since = self.state().unanswered_since;
        since.is_some_and(|since| since.elapsed() >= limit)
    }

    fn state(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Watched<'_> {
    /// Notes that the store has answered.
    pub(crate) fn answered(&self) {
        let mut state = self.0.state();
        state.unanswered_since = (state.in_flight > 1).then(Instant::now);
    }
}

impl Drop for Watched<'_> {
    fn drop(&mut self) {
        self.0.state().in_flight -= 1;
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test(start_paused = true)]
    async fn it_hangs_if_nothing_that_is_in_flight_is_answered() {
        const LIMIT: Duration = Duration::from_secs(1);
        let detector = HangDetector::default();
        let slow = detector.watch();
        tokio::time::advance(LIMIT / 2).await;
        detector.watch().answered();
        tokio::time::advance(LIMIT / 2).await;
        assert!(!detector.is_hanging(LIMIT), "another was answered");
        tokio::time::advance(LIMIT / 2).await;
        assert!(detector.is_hanging(LIMIT));
        drop(slow);
        assert!(detector.is_hanging(LIMIT), "it was given up");
        detector.watch().answered();
        tokio::time::advance(10 * LIMIT).await;
        assert!(!detector.is_hanging(LIMIT), "nothing was asked");
        let _new = detector.watch();
        assert!(!detector.is_hanging(LIMIT), "it has only begun");
    }
}
