//! Uses of sessions that wait to be recorded, and how long a session may stay without one.
//!
//! Of the uses of a session, one is noted in each `cache_ttl`, so that other hits cost nothing. What was
//! noted is written in batches, and never moves the end of a session: that it is idle is decided when
//! the store has answered. So a use cannot revive anything.

use std::{
    collections::HashMap,
    mem,
    sync::{Arc, Mutex, MutexGuard, PoisonError},
    time::Duration,
};

use chrono::{DateTime, TimeDelta, Utc};
use tokio::time::{Instant, timeout};

use super::{
    config::Config,
    outages::{Access, Outages},
    upstream::{
        breaker::is_outage,
        guard::{Panicked, catch_panic},
    },
};
use crate::{
    registry::SessionUse,
    session::SessionId,
    store::{SessionRegistry, StoreError},
    telemetry::{self, Statistics},
};

/// Shortest time from one writing to the next.
const WRITE_EVERY: Duration = Duration::from_secs(1);

/// Most uses in one call of the store.
const MAX_BATCH: usize = 1000;

/// Most uses that wait to be written. Beyond that, those of further sessions are lost.
const MAX_WAITING: usize = 100_000;

/// The uses of an engine that records them.
pub(super) struct Uses {
    store: Arc<dyn SessionRegistry>,
    /// Zero: no session ends by idleness.
    idle_timeout: TimeDelta,
    /// The longest time that a lookup takes.
    lookup_limit: Duration,
    /// Guards what is noted, and who writes it. Never held across an await.
    state: Mutex<State>,
}

#[derive(Default)]
struct State {
    waiting: HashMap<SessionId, SessionUse>,
    /// What was written a moment ago, and when: a lookup under way may have read the store before.
    written: HashMap<SessionId, (DateTime<Utc>, Instant)>,
    /// Set while a task writes, or waits to.
    has_writer: bool,
    last_written: Option<Instant>,
    outages: Outages,
    recorded: u64,
    lost: u64,
}

impl Uses {
    pub(super) fn new(store: Arc<dyn SessionRegistry>, config: &Config) -> Self {
        let idle_timeout = config.idle_timeout;
        Self {
            store,
            lookup_limit: config.wait_limit(),
            idle_timeout: TimeDelta::from_std(idle_timeout).unwrap_or(TimeDelta::MAX),
            state: Mutex::default(),
        }
    }

    // The state is whole at every point where code could panic, so a poisoned lock is sound.
    fn state(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Returns how long a session that was last used at `last_use`, as the store says, may still be used;
    /// `None` if that is over. Without an idle timeout it is `TimeDelta::MAX`.
    pub(super) fn time_left(
        &self,
        session: &SessionId,
        last_use: DateTime<Utc>,
        now: DateTime<Utc>,
    ) -> Option<TimeDelta> {
        if self.idle_timeout.is_zero() {
            return Some(TimeDelta::MAX);
        }
        let state = self.state();
        let last_use = last_use.max(state.last_use(session).unwrap_or(last_use));
        // Another node's clock may be ahead.
        let idle = (now - last_use).max(TimeDelta::zero());
        let idle = idle - state.outages.between(last_use, now);
        let left = self.idle_timeout.checked_sub(&idle)?;
        (left > TimeDelta::zero()).then_some(left)
    }

    /// Returns the time since which a live session must have been used.
    pub(super) fn used_since(&self, now: DateTime<Utc>) -> Option<DateTime<Utc>> {
        if self.idle_timeout.is_zero() {
            return None;
        }
        self.state().outages.usable_for(self.idle_timeout, now)
    }

    /// Returns the use of a session that waits to be written, or was written a moment ago.
    pub(super) fn last_use(&self, session: &SessionId) -> Option<DateTime<Utc>> {
        self.state().last_use(session)
    }

    /// Notes whether the store could be read.
    pub(super) fn on_answer<T>(&self, answer: &Result<T, StoreError>, now: DateTime<Utc>) {
        let outages = &mut self.state().outages;
        match answer {
            Err(error) if is_outage(error) => {
                outages.on_failure(Access::Read, now);
            }
            _ => outages.on_success(Access::Read, now),
        }
    }

    pub(super) fn add_statistics(&self, statistics: &mut Statistics) {
        let state = self.state();
        statistics.uses_recorded = state.recorded;
        statistics.uses_waiting = state.waiting.len() as u64;
        statistics.uses_lost = state.lost;
    }

    /// Notes a use. Returns `true` if the caller is to start a task that [writes](Self::write).
    pub(super) fn note(&self, used: SessionUse) -> bool {
        let mut state = self.state();
        state.note(used);
        !mem::replace(&mut state.has_writer, true)
    }

    /// Notes that the task which writes has ended, and another one is to be started.
    pub(super) fn on_writer_lost(&self) {
        self.state().has_writer = false;
    }

    /// Returns `true` if nothing waits. The next use then starts another task that writes.
    pub(super) fn is_finished(&self) -> bool {
        let mut state = self.state();
        state.has_writer = !state.waiting.is_empty();
        !state.has_writer
    }

    /// Returns the time of the next writing: a second after the last one, or `pause` if that is longer.
    pub(super) fn next_writing(&self, pause: Duration) -> Instant {
        let now = Instant::now();
        let last = self.state().last_written;
        last.map_or(now, |last| last + pause.max(WRITE_EVERY))
    }

    /// Writes what waits. Returns `false` if some of it could not be written.
    pub(super) async fn write(&self, limit: Duration, now: impl Fn() -> DateTime<Utc>) -> bool {
        let waiting: Vec<_> = {
            let (mut state, now) = (self.state(), Instant::now());
            state.last_written = Some(now);
            (state.written).retain(|_, (_, written)| now - *written <= self.lookup_limit);
            state.waiting.values().cloned().collect()
        };
        for batch in waiting.chunks(MAX_BATCH) {
            match self.touch(batch, limit).await {
                Ok(()) => self.state().on_written(batch, now()),
                Err(error) if is_outage(&error) => {
                    if self.state().outages.on_failure(Access::Write, now()) {
                        telemetry::uses_not_recorded(&error);
                    }
                    return false;
                }
                // The store will not take them another time either.
                Err(error) => {
                    telemetry::uses_not_recorded(&error);
                    self.state().on_lost(batch);
                }
            }
        }
        true
    }

    async fn touch(&self, batch: &[SessionUse], limit: Duration) -> Result<(), StoreError> {
        match catch_panic(timeout(limit, self.store.touch(batch))).await {
            Ok(Ok(written)) => written,
            Ok(Err(elapsed)) => Err(StoreError::timeout(elapsed)),
            Err(Panicked) => Err(StoreError::unavailable("the store panicked")),
        }
    }
}

impl State {
    /// Returns the last use that the store may not have told yet.
    fn last_use(&self, session: &SessionId) -> Option<DateTime<Utc>> {
        let waiting = self.waiting.get(session).map(|used| used.at);
        let written = self.written.get(session).map(|(at, _)| *at);
        waiting.max(written)
    }

    fn note(&mut self, used: SessionUse) {
        if let Some(known) = self.waiting.get_mut(&used.session) {
            known.at = known.at.max(used.at);
        } else if self.waiting.len() < MAX_WAITING {
            self.waiting.insert(used.session.clone(), used);
        } else {
            self.lost += 1;
        }
    }

    /// Removes uses from those that wait. A later use of a session waits for the next writing.
    fn forget(&mut self, batch: &[SessionUse]) {
        for used in batch {
            if self.waiting.get(&used.session) == Some(used) {
                self.waiting.remove(&used.session);
            }
        }
    }

    fn on_lost(&mut self, batch: &[SessionUse]) {
        self.forget(batch);
        self.lost += batch.len() as u64;
    }

    fn on_written(&mut self, batch: &[SessionUse], now: DateTime<Utc>) {
        let written = Instant::now();
        self.forget(batch);
        let room = MAX_WAITING.saturating_sub(self.written.len());
        for used in batch.iter().take(room) {
            self.written
                .insert(used.session.clone(), (used.at, written));
        }
        self.recorded += batch.len() as u64;
        self.outages.on_success(Access::Write, now);
    }
}
