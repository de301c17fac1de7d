//! How far purging has come.

use std::sync::Mutex;

use chrono::{DateTime, Utc};

/// The times at which the next steps of a purge begin.
#[derive(Default)]
pub(super) struct PurgeProgress {
    sessions: Cursor,
    rotations: Cursor,
}

impl PurgeProgress {
    pub(super) fn sessions(&self) -> &Cursor {
        &self.sessions
    }

    pub(super) fn rotations(&self) -> &Cursor {
        &self.rotations
    }
}

/// The time at which the next step begins; none at the beginning of time.
#[derive(Default)]
pub(super) struct Cursor(Mutex<Option<DateTime<Utc>>>);

impl Cursor {
    pub(super) fn time(&self) -> Option<DateTime<Utc>> {
        *self
            .0
            .lock()
            .unwrap_or_else(|poisoned| poisoned.into_inner())
    }

    /// Records the last time that a step has reached, if it has removed all that it might. Otherwise
    /// nothing is left behind it, and the next step looks at what others have added or held before.
    pub(super) fn advance(&self, reached: Option<DateTime<Utc>>, is_full: bool) {
        let next = reached.filter(|_| is_full);
        *self
            .0
            .lock()
            .unwrap_or_else(|poisoned| poisoned.into_inner()) = next;
    }
}
