//! When a server was last found to be as it should.

use std::{
    sync::{Mutex, PoisonError},
    time::{Duration, Instant},
};

/// After which the server is checked again: it may have become a replica.
const CHECKED_FOR: Duration = Duration::from_secs(10);

/// When everything was last found to be as it should.
#[derive(Debug, Default)]
pub(super) struct Checked {
    /// Guards a moment; nobody awaits while holding it.
    last: Mutex<Option<Instant>>,
}

impl Checked {
    /// Whether whoever asks must check first. While one checks again, the others go on.
    pub(super) fn is_due(&self, now: Instant) -> bool {
        let mut last = self.last.lock().unwrap_or_else(PoisonError::into_inner);
        match *last {
            None => true,
            Some(checked) if now.saturating_duration_since(checked) >= CHECKED_FOR => {
                *last = Some(now);
                true
            }
            Some(_) => false,
        }
    }

    pub(super) fn set(&self, found_good: Option<Instant>) {
        *self.last.lock().unwrap_or_else(PoisonError::into_inner) = found_good;
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_server_is_checked_again_now_and_then_by_one() {
        let checked = Checked::default();
        let now = Instant::now();
        assert!(
            checked.is_due(now) && checked.is_due(now),
            "all wait for the first"
        );
        checked.set(Some(now));
        assert!(!checked.is_due(now + CHECKED_FOR / 2));
        assert!(checked.is_due(now + CHECKED_FOR));
        assert!(!checked.is_due(now + CHECKED_FOR), "the others go on");
        checked.set(None);
        assert!(checked.is_due(now));
    }
}
