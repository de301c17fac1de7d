//! Deliveries of webhooks that were accepted, so that each counts once.

use std::{
    collections::HashMap,
    sync::{
        Mutex, MutexGuard, PoisonError,
        atomic::{AtomicI64, Ordering::Relaxed},
    },
};

use chrono::{DateTime, Utc};

use super::error::WebhookError;

/// Deliveries that are remembered; reached at 300 a second.
const MAX_REMEMBERED: usize = 100_000;

/// The accepted deliveries.
#[derive(Default)]
pub(super) struct Deliveries {
    /// Guards the deliveries by id. Never held across an await.
    deliveries: Mutex<HashMap<String, Delivery>>,
    /// The time of the last genuine delivery, in microseconds since 1970; zero if there was none.
    last_genuine: AtomicI64,
}

struct Delivery {
    remembered_until: DateTime<Utc>,
    is_applied: bool,
}

impl Deliveries {
    /// Records a delivery, if it is the first with this id.
    pub(super) fn record(
        &self,
        id: &str,
        until: DateTime<Utc>,
        now: DateTime<Utc>,
    ) -> Result<(), WebhookError> {
        let mut seen = self.lock();
        // After that time its timestamp is refused.
        match seen
            .get(id)
            .filter(|delivery| delivery.remembered_until >= now)
        {
            Some(delivery) if delivery.is_applied => return Err(WebhookError::Replayed),
            Some(_) => return Err(WebhookError::NotApplied),
            None => {}
        }
        if seen.len() >= seen.capacity().min(MAX_REMEMBERED) {
            seen.retain(|_, delivery| delivery.remembered_until >= now);
        }
        if seen.len() >= MAX_REMEMBERED {
            return Err(WebhookError::TooMany);
        }
        let delivery = Delivery {
            remembered_until: until,
            is_applied: false,
        };
        seen.insert(id.to_owned(), delivery);
        Ok(())
    }

    /// Records the time of a genuine delivery, accepted or not.
    pub(super) fn note_genuine(&self, now: DateTime<Utc>) {
        self.last_genuine.store(now.timestamp_micros(), Relaxed);
    }

    /// Returns the time of the last genuine delivery.
    pub(super) fn last_genuine_at(&self) -> Option<DateTime<Utc>> {
        let micros = self.last_genuine.load(Relaxed);
        DateTime::from_timestamp_micros(micros).filter(|_| micros != 0)
    }

    /// Records that a delivery was applied.
    pub(super) fn applied(&self, id: &str) {
        if let Some(delivery) = self.lock().get_mut(id) {
            delivery.is_applied = true;
        }
    }

    /// Lets a delivery come again.
    pub(super) fn forget(&self, id: &str) {
        self.lock().remove(id);
    }

    fn lock(&self) -> MutexGuard<'_, HashMap<String, Delivery>> {
        self.deliveries
            .lock()
            .unwrap_or_else(PoisonError::into_inner)
    }
}
