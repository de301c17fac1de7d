//! How far purging has come.

use std::{
    sync::{Mutex, MutexGuard, PoisonError},
    time::Duration,
};

use chrono::{DateTime, Utc};
use tokio::time::Instant;

/// Time after which a search for what has ended begins again. So what was locked at the time, or was
/// added behind the search, is found too.
const RESTART_INTERVAL: Duration = Duration::from_secs(3600);

/// The places at which the next steps of a purge begin.
#[derive(Default)]
pub(super) struct PurgeProgress {
    sessions: TimeCursor,
    rotations: TimeCursor,
    remains: Cursor<Remains>,
}

/// A session that ended with its customer's epoch: the customer, the epoch, and the time at which the
/// session was created.
pub(super) type Remains = (String, u32, Option<DateTime<Utc>>);

impl PurgeProgress {
    pub(super) fn sessions(&self) -> &TimeCursor {
        &self.sessions
    }

    pub(super) fn rotations(&self) -> &TimeCursor {
        &self.rotations
    }

    pub(super) fn remains(&self) -> &Cursor<Remains> {
        &self.remains
    }
}

/// The place at which the next step begins, in the order of the times at which something has ended. It
/// stays where it is when all has been removed: what ends next, ends later.
#[derive(Default)]
pub(super) struct TimeCursor(Mutex<TimeProgress>);

#[derive(Default)]
struct TimeProgress {
    /// None for the beginning.
    place: Option<DateTime<Utc>>,
    begun: Option<Instant>,
}

impl TimeCursor {
    /// Returns the place at which the next step begins, which removes what has ended `before` a time.
    /// Once an hour that is the beginning, and so it is if that time has been passed already: only
    /// what was added since then can be left.
    pub(super) fn place(&self, before: DateTime<Utc>) -> Option<DateTime<Utc>> {
        let mut progress = self.lock();
        let now = Instant::now();
        let is_due = |begun| now.saturating_duration_since(begun) >= RESTART_INTERVAL;
        if progress.begun.is_none_or(is_due) {
            *progress = TimeProgress {
                place: None,
                begun: Some(now),
            };
        }
        progress.place.filter(|place| *place < before)
    }

    /// Records the last place that a step has reached, if it has removed something.
    pub(super) fn advance(&self, reached: Option<DateTime<Utc>>) {
        if reached.is_some() {
            self.lock().place = reached;
        }
    }

    fn lock(&self) -> MutexGuard<'_, TimeProgress> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// The place at which the next step begins; none for the beginning.
pub(super) struct Cursor<T>(Mutex<Option<T>>);

impl<T> Default for Cursor<T> {
    fn default() -> Self {
        Self(Mutex::default())
    }
}

impl<T: Clone> Cursor<T> {
    pub(super) fn place(&self) -> Option<T> {
        self.lock().clone()
    }

    /// Records the last place that a step has reached, if it has removed all that it might. Otherwise
    /// nothing is left behind it, and the next step looks at what others have added or held before.
    pub(super) fn advance(&self, reached: Option<T>, is_full: bool) {
        *self.lock() = reached.filter(|_| is_full);
    }

    fn lock(&self) -> MutexGuard<'_, Option<T>> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test(start_paused = true)]
    async fn a_cursor_of_times_stays_and_begins_again_once_an_hour() {
        let cursor = TimeCursor::default();
        let time = |seconds| DateTime::from_timestamp(seconds, 0);
        let place = |before| cursor.place(time(before).expect("a time"));
        assert_eq!(place(3), None);
        cursor.advance(time(1));
        assert_eq!(place(3), time(1));
        // Nothing was left.
        cursor.advance(None);
        assert_eq!(place(3), time(1));
        tokio::time::advance(RESTART_INTERVAL - Duration::from_millis(1)).await;
        assert_eq!(place(3), time(1));
        tokio::time::advance(Duration::from_millis(1)).await;
        assert_eq!(place(3), None);
        cursor.advance(time(2));
        assert_eq!(place(3), time(2));
        tokio::time::advance(RESTART_INTERVAL - Duration::from_millis(1)).await;
        assert_eq!(place(3), time(2));
        tokio::time::advance(Duration::from_millis(1)).await;
        assert_eq!(place(3), None);
    }

    #[test]
    fn a_cursor_of_times_that_was_passed_begins_again() {
        let cursor = TimeCursor::default();
        let time = |seconds| DateTime::from_timestamp(seconds, 0).expect("a time");
        assert_eq!(cursor.place(time(9)), None);
        cursor.advance(Some(time(5)));
        assert_eq!(cursor.place(time(6)), Some(time(5)));
        for before in [5, 4] {
            assert_eq!(cursor.place(time(before)), None);
        }
        assert_eq!(cursor.place(time(6)), Some(time(5)));
    }
}
