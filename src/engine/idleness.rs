//! How the engine ends sessions that are not used: it notes uses, has them written, and judges what a
//! lookup finds.

use std::{
    sync::{Arc, Weak},
    time::Duration,
};

use chrono::{DateTime, SubsecRound as _, TimeDelta, Utc};
use tokio::{runtime::Handle, time::sleep_until};

use super::{Engine, cache::entry::CachedSession, due_time::CoarseDueTime, uses::Uses};
use crate::{
    clock::MonotonicTime,
    registry::SessionUse,
    session::{CustomerSession, SessionSummary},
    store::StoreError,
    telemetry::Statistics,
};

/// Pauses while the store fails: the first one, and the longest.
const MIN_PAUSE: Duration = Duration::from_secs(1);
const MAX_PAUSE: Duration = Duration::from_secs(30);

/// The task that writes, from the first use that waits until none does. It holds the engine only while
/// it writes, so that an engine is dropped with its last handle.
struct Writer {
    engine: Weak<Engine>,
    is_done: bool,
}

impl Writer {
    async fn run(mut self) {
        let mut pause = Duration::ZERO;
        while let Some(next) = self.with_uses(|uses| uses.next_writing(pause)) {
            sleep_until(next).await;
            let Some(engine) = self.engine.upgrade() else {
                return;
            };
            let Some(uses) = &engine.uses else { return };
            pause = match uses.write(engine.write_timeout(), || engine.now()).await {
                true => Duration::ZERO,
                false => (2 * pause).clamp(MIN_PAUSE, MAX_PAUSE),
            };
            if uses.is_finished() {
                self.is_done = true;
                return;
            }
        }
    }

    fn with_uses<T>(&self, read: impl FnOnce(&Uses) -> T) -> Option<T> {
        self.engine.upgrade()?.uses.as_ref().map(read)
    }
}

impl Drop for Writer {
    fn drop(&mut self) {
        // Its runtime has ended.
        if !self.is_done {
            self.with_uses(Uses::on_writer_lost);
        }
    }
}

impl Engine {
    /// Returns when the next use of a session that was just looked up is noted.
    pub(super) fn first_use(&self) -> CoarseDueTime {
        match self.uses {
            Some(_) => CoarseDueTime::default(),
            None => CoarseDueTime::never(),
        }
    }

    /// Notes that a session is used, if that is due, and starts to write what was noted.
    pub(crate) fn note_use(self: &Arc<Self>, cached: &CachedSession) {
        let Some(uses) = &self.uses else { return };
        let now = self.clock.monotonic_now();
        if !cached.next_use.claim(now, self.config.cache_ttl) {
            return;
        }
        let (session, at) = (&cached.session, self.now().trunc_subsecs(6));
        let used = SessionUse::new(session.id.clone(), session.customer_id.clone(), at);
        if uses.note(used) {
            let writer = Writer {
                engine: Arc::downgrade(self),
                is_done: false,
            };
            // Without a runtime the writer is dropped, and a later use starts another.
            if let Ok(runtime) = Handle::try_current() {
                runtime.spawn(writer.run());
            }
        }
    }

    /// Returns how long a session that the store has found may be used if it is not used again;
    /// `None` if it has ended by idleness.
    pub(super) fn idle_time_left(
        &self,
        session: &CustomerSession,
        now: DateTime<Utc>,
    ) -> Option<TimeDelta> {
        match &self.uses {
            Some(uses) => uses.time_left(&session.id, session.last_use(), now),
            None => Some(TimeDelta::MAX),
        }
    }

    /// Returns `true` if a cached session has not ended by idleness, as far as this node knows.
    pub(super) fn is_in_use(&self, cached: &CachedSession, now: MonotonicTime) -> bool {
        let Some(uses) = &self.uses else { return true };
        let (session, wall) = (&cached.session, self.now());
        let noted = cached.next_use.claimed_ago(now, self.config.cache_ttl);
        let noted = noted.and_then(|ago| wall.checked_sub_signed(TimeDelta::from_std(ago).ok()?));
        let last_use = noted.map_or(session.last_use(), |noted| noted.max(session.last_use()));
        uses.time_left(&session.id, last_use, wall).is_some()
    }

    /// Adds to a listed session a use that the store may not have told yet. Returns `false` if the session has ended
    /// by idleness.
    pub(crate) fn update_last_use(&self, session: &mut SessionSummary, now: DateTime<Utc>) -> bool {
        let Some(uses) = &self.uses else { return true };
        let waiting = uses.last_use(&session.id);
        let used_at = &mut session.details.last_used_at;
        *used_at = (*used_at).max(waiting);
        let last_use = session.last_use();
        uses.time_left(&session.id, last_use, now).is_some()
    }

    /// Returns the time since which a session must have been used to be live at `now`, if there is one.
    pub(crate) fn used_since(&self, now: DateTime<Utc>) -> Option<DateTime<Utc>> {
        self.uses.as_ref().and_then(|uses| uses.used_since(now))
    }

    /// Notes whether the store could be read.
    pub(super) fn on_answer_of_store<T>(&self, answer: &Result<T, StoreError>) {
        if let Some(uses) = &self.uses {
            uses.on_answer(answer, self.now());
        }
    }

    pub(super) fn add_use_statistics(&self, statistics: &mut Statistics) {
        if let Some(uses) = &self.uses {
            uses.add_statistics(statistics);
        }
    }
}
