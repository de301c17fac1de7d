//! How far purging has come.

use std::sync::{Mutex, MutexGuard};

use chrono::{DateTime, Utc};

/// The places at which the next steps of a purge begin.
#[derive(Default)]
pub(super) struct PurgeProgress {
    sessions: Cursor<DateTime<Utc>>,
    rotations: Cursor<DateTime<Utc>>,
    remains: Cursor<Remains>,
}

/// A session that ended with its customer's epoch: the customer, the epoch, and the time at which the
/// session was created.
pub(super) type Remains = (String, u32, Option<DateTime<Utc>>);

impl PurgeProgress {
    pub(super) fn sessions(&self) -> &Cursor<DateTime<Utc>> {
        &self.sessions
    }

    pub(super) fn rotations(&self) -> &Cursor<DateTime<Utc>> {
        &self.rotations
    }

    pub(super) fn remains(&self) -> &Cursor<Remains> {
        &self.remains
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
        self.0
            .lock()
            .unwrap_or_else(|poisoned| poisoned.into_inner())
    }
}
