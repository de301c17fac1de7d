//! How a change reaches the engine: one of its own, one that another cache in front of the same store
//! has made, or one that a source reports.

use std::{
    sync::{Arc, atomic::Ordering::Relaxed},
    time::{Duration, Instant},
};

use tokio::task::spawn_blocking;

use super::{Engine, revocations::sources::SourceId};
use crate::{
    clock::MonotonicTime, customer::Customer, invalidation::Invalidation,
    shared_caches::SharedCache, telemetry,
};

/// Time for which the newest change of a customer is remembered: the store's replicas lag less.
const CHANGE_REMEMBERED_FOR: Duration = Duration::from_secs(5 * 60);

/// Shortest time for which an answer is used whose customer is older than a change that was announced.
const MIN_OUTDATED_TTL: Duration = Duration::from_secs(1);

/// Time after which an engine that could listen to a source, and does not, logs a warning.
const SOURCE_EXPECTED_WITHIN: Duration = Duration::from_secs(60);

impl Engine {
    /// Stops the use of everything that was read before the change that `invalidation` announces.
    pub(crate) fn invalidate(&self, invalidation: &Invalidation) {
        let now = self.clock.monotonic_now();
        if let Invalidation::CustomerChanged { id, modified_at } = invalidation {
            // Before the change is recorded: a lookup that is not overtaken by the record then finds
            // the time here when it lands.
            let until = now + CHANGE_REMEMBERED_FOR;
            self.newest_changes.record(id, *modified_at, until, now);
        }
        self.revocations.record(invalidation);
        self.counters.invalidations.add_one();
        self.sweep.schedule(now);
    }

    /// Returns how long an answer may be used whose customer is older than a change that was announced:
    /// a second, or as long as the store lags already. `None` if it is not older.
    pub(super) fn outdated_ttl(&self, customer: &Customer) -> Option<Duration> {
        let now = self.clock.monotonic_now();
        let known = customer.modified_at.unwrap_or(customer.created_at);
        let (newest, until) = self.newest_changes.newest(&customer.id, now)?;
        let lag = CHANGE_REMEMBERED_FOR.saturating_sub(until.since(now));
        (known < newest).then(|| lag.max(MIN_OUTDATED_TTL))
    }

    /// Applies a change that this engine has made or found, here and in the other caches in front of
    /// the same store.
    pub(crate) fn publish(&self, invalidation: &Invalidation) {
        self.invalidate(invalidation);
        self.tell_others(invalidation);
    }

    /// Tells the other caches in front of the same store of a change.
    pub(super) fn tell_others(&self, invalidation: &Invalidation) {
        if let Some(caches) = &self.shared_caches {
            caches.tell_others(self, invalidation);
        }
    }

    /// Sweeps the caches, on a thread where no request waits, if that is due. To be called in a task.
    pub(super) fn sweep_if_due(self: &Arc<Self>) {
        if self.sweep.take_turn(self.clock.monotonic_now()) {
            let engine = Arc::clone(self);
            spawn_blocking(move || engine.run_pending_tasks());
        }
    }

    /// Begins to listen to a source.
    pub(crate) fn add_source(&self) -> SourceId {
        self.revocations.add_source()
    }

    /// Ends listening to a source.
    pub(crate) fn remove_source(&self, id: SourceId) {
        self.revocations
            .remove_source(id, self.clock.monotonic_now());
    }

    /// Warns once if there is a source to listen to, and after a minute nothing does.
    pub(super) fn warn_without_source(&self, now: MonotonicTime) {
        let is_due = now >= MonotonicTime::default() + SOURCE_EXPECTED_WITHIN;
        if is_due && self.upstream.has_source() && !self.has_looked_for_source.swap(true, Relaxed) {
            let (listening, _) = self.revocations.sources(now);
            if listening == 0 {
                telemetry::no_source();
            }
        }
    }

    /// Records that a source is heard.
    pub(crate) fn on_source_heard(&self, id: SourceId) {
        self.revocations.on_heard(id);
    }

    /// Stops the use of the cache, since a source of invalidations is disconnected.
    pub(crate) fn on_disconnect(&self, id: SourceId) {
        self.revocations.on_disconnect(id);
    }

    /// Allows the use of what is looked up from now on. What was cached before must be looked up
    /// again, but is kept for `stale_if_error`.
    pub(crate) fn on_reconnect(&self, id: SourceId) {
        self.revocations.on_reconnect(id);
        self.counters.invalidations.add_one();
    }

    /// Allows the use of what is cached again: the source has reported what was announced meanwhile.
    pub(crate) fn on_resume(&self, id: SourceId) {
        self.revocations.on_resume(id);
    }

    /// Records that a question which a source asked at `asked_at` has been answered. An answer from
    /// before the machine was suspended says nothing of the time since.
    pub(crate) fn on_answer(&self, id: SourceId, asked_at: Instant) {
        let asked_at = self.clock.at(asked_at);
        self.revocations.on_answer(id, asked_at);
    }

    /// Counts a message of a source that could not be read.
    pub(crate) fn on_malformed(&self) {
        self.counters.malformed_messages.add_one();
    }
}

impl SharedCache for Engine {
    fn apply(&self, invalidation: &Invalidation) {
        self.invalidate(invalidation);
    }
}
