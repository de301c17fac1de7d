//! How the store is asked: together with others, with a permit, with the circuit breaker's leave,
//! and not for ever.

use std::sync::{Arc, Weak};

use tokio::{
    runtime::Handle,
    sync::OwnedSemaphorePermit,
    time::{Instant, timeout_at},
};

use super::{
    Engine,
    cache::{
        entry::{CachedSession, LookupResult, NegativeEntry},
        key::TokenHash128,
    },
    error::AuthenticateError,
    revocations::table::Epoch,
    upstream::{
        self,
        breaker::Pass,
        refresh::{Refresh, refresh_at},
        single_flight::{Lookup, LookupId},
    },
};
use crate::{
    clock::MonotonicTime, observe, session::CustomerSession, store::StoreError, token::SessionToken,
};

/// A twentieth of the cache's lifetime passes between two attempts: two to four are made.
const ATTEMPTS_IN_TTL: u32 = 20;

impl Engine {
    /// Joins the lookup under way for this token, or starts one.
    pub(crate) fn join(
        self: &Arc<Self>,
        key: TokenHash128,
        token: &SessionToken,
    ) -> Result<Arc<Lookup>, AuthenticateError> {
        let runtime = Handle::try_current().map_err(StoreError::unavailable)?;
        let table = &self.revocations.table;
        let mut pass = None;
        let (lookup, leader) = self.flights.join(key, table.oldest_usable(), || {
            let permit = self.permit()?;
            pass = Some(self.pass()?);
            Ok::<_, AuthenticateError>((table.current_epoch(), permit))
        })?;
        if let Some((leader, pass)) = leader.zip(pass) {
            let flight = InFlight {
                engine: Arc::clone(self),
                key,
                number: leader.number,
                lookup: Arc::downgrade(&lookup),
            };
            let (token, epoch, land) = (token.clone(), leader.epoch, leader.land);
            let task = runtime.spawn(observe::in_current_span(async move {
                let landed = flight.engine.fetch(&token, epoch, pass).await;
                if let Ok(answer) = &landed {
                    // Nothing is remembered that was read before a gap in what was heard: it
                    // would take the place of what was read since.
                    let is_late = answer.epoch() < flight.engine.revocations.table.oldest_usable();
                    if !is_late && flight.engine.passes(answer, token.expose().as_bytes()) {
                        flight.engine.cache.insert(key, answer.clone());
                    }
                }
                // Off the list before the waiters wake: who comes later asks anew.
                drop(flight);
                land.send_replace(Some(landed));
            }));
            lookup.runs_in(task.abort_handle());
        }
        Ok(lookup)
    }

    /// Asks the store for one caller alone.
    pub(crate) async fn ask(
        &self,
        token: &SessionToken,
    ) -> Result<LookupResult, AuthenticateError> {
        let _permit = self.permit()?;
        let pass = self.pass()?;
        Ok(self
            .fetch(token, self.revocations.table.current_epoch(), pass)
            .await?)
    }

    /// Asks the store, within the time allowed, and judges what it answers.
    async fn fetch(
        &self,
        token: &SessionToken,
        epoch: Epoch,
        pass: Pass,
    ) -> Result<LookupResult, StoreError> {
        self.counters.lookups.add_one();
        let (asked, asked_at) = (self.time.monotonic_now(), self.time.now());
        let answer = upstream::find(&*self.store, token, self.store_timeout).await;
        pass.report_answer(&answer, self.time.monotonic_now());
        let found = answer.inspect_err(|error| {
            self.counters.store_errors.add_one();
            observe::lookup_failed(error);
        })?;
        let table = &self.revocations.table;
        let stripes = |session: &CustomerSession| {
            table.stripes(session.id.as_str(), session.customer_id.as_str())
        };
        let now = self.time.now();
        match found {
            Some(session) if session.is_live_at(now) => {
                // Should the wall clock go back, the session still ends when it should have.
                let left = (session.expires_at - asked_at).to_std().unwrap_or_default();
                let good_for = left.min(self.cache_ttl);
                let at_worst = left.min(self.cache_ttl.saturating_add(self.stale_if_error));
                Ok(LookupResult::Session(Arc::new(CachedSession {
                    key: self.cache.hash64(token.expose().as_bytes()),
                    epoch,
                    stripes: stripes(&session),
                    fresh_until: asked + good_for,
                    expires_at: session.expires_at.timestamp_micros(),
                    refresh: Refresh::at(refresh_at(asked, good_for, self.counters.jitter())),
                    session: Arc::new(session),
                    stale_until: asked + at_worst,
                    watcher: Some(self.watcher()),
                })))
            }
            dead => Ok(LookupResult::NotFound(NegativeEntry {
                epoch,
                stripes: dead.as_ref().map(stripes),
                fresh_until: asked + self.negative_ttl,
            })),
        }
    }

    /// Leave of the circuit breaker to ask the store.
    fn pass(&self) -> Result<Pass, AuthenticateError> {
        self.breaker.pass(self.time.monotonic_now()).ok_or_else(|| {
            StoreError::unavailable("the store failed again and again and is left alone").into()
        })
    }

    /// Whether somebody may ask who is in no hurry: half of the lookups are for requests.
    pub(crate) fn has_background_capacity(&self) -> bool {
        let half = self.max_concurrent_lookups.map_or(0, |max| max / 2);
        self.permits
            .as_ref()
            .is_none_or(|permits| permits.available_permits() > half)
    }

    fn permit(&self) -> Result<Option<OwnedSemaphorePermit>, AuthenticateError> {
        match &self.permits {
            None => Ok(None),
            Some(permits) => match Arc::clone(permits).try_acquire_owned() {
                Ok(permit) => Ok(Some(permit)),
                Err(_) => Err(AuthenticateError::Overloaded),
            },
        }
    }

    /// Waits for `future` no longer than until `deadline`.
    pub(crate) async fn until<F: Future>(
        &self,
        deadline: Option<Instant>,
        future: F,
    ) -> Result<F::Output, StoreError> {
        match deadline {
            Some(deadline) => timeout_at(deadline, future).await.map_err(|elapsed| {
                self.counters.store_errors.add_one();
                StoreError::timeout(elapsed)
            }),
            None => Ok(future.await),
        }
    }

    /// Starts a lookup whose answer replaces `found`, unless one was started a moment ago.
    pub(crate) fn refresh(
        self: &Arc<Self>,
        key: TokenHash128,
        found: &CachedSession,
        now: MonotonicTime,
    ) {
        if !found
            .refresh
            .take_turn(now, self.cache_ttl / ATTEMPTS_IN_TTL)
        {
            return;
        }
        let Ok(runtime) = Handle::try_current() else {
            return;
        };
        // A refusal, like a failure, is made good by a later attempt, or by the request that
        // finds the answer too old.
        if let Ok(lookup) = self.join(key, &found.session.token) {
            self.counters.refreshes.add_one();
            // A lookup that nobody waits for is stopped.
            runtime.spawn(observe::in_current_span(async move {
                let _ = lookup.landed().await;
            }));
        }
    }
}

/// A lookup under way: on the list, and with its permit, until it is dropped.
struct InFlight {
    engine: Arc<Engine>,
    key: TokenHash128,
    number: LookupId,
    lookup: Weak<Lookup>,
}

impl Drop for InFlight {
    fn drop(&mut self) {
        self.engine.flights.leave(self.key, self.number);
        if let Some(lookup) = self.lookup.upgrade() {
            lookup.return_permit();
        }
    }
}
