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
        entry::{Absent, Answer, Found},
        key::TokenKey,
    },
    error::AuthenticateError,
    revocations::table::Stamp,
    upstream::{
        self,
        breaker::Pass,
        refresh::{Refresh, refresh_at},
        single_flight::{FlightNumber, Lookup},
    },
};
use crate::{
    clock::Moment, observe, session::CustomerSession, store::StoreError, token::SessionToken,
};

/// A twentieth of the cache's lifetime passes between two attempts: two to four are made.
const ATTEMPTS_IN_TTL: u32 = 20;

impl Engine {
    /// Joins the lookup under way for this token, or starts one.
    pub(crate) fn join(
        self: &Arc<Self>,
        key: TokenKey,
        token: &SessionToken,
    ) -> Result<Arc<Lookup>, AuthenticateError> {
        let runtime = Handle::try_current().map_err(StoreError::unavailable)?;
        let marks = &self.hearing.marks;
        let mut pass = None;
        let (lookup, departure) = self.flights.join(key, marks.oldest(), || {
            let permit = self.permit()?;
            pass = Some(self.pass()?);
            Ok::<_, AuthenticateError>((marks.stamp(), permit))
        })?;
        if let Some((departure, pass)) = departure.zip(pass) {
            let flight = InFlight {
                engine: Arc::clone(self),
                key,
                number: departure.number,
                lookup: Arc::downgrade(&lookup),
            };
            let (token, stamp, land) = (token.clone(), departure.stamp, departure.land);
            let task = runtime.spawn(observe::in_current_span(async move {
                let landed = flight.engine.load(&token, stamp, pass).await;
                if let Ok(answer) = &landed {
                    // Nothing is remembered that was read before a gap in what was heard: it
                    // would take the place of what was read since.
                    let is_late = answer.stamp() < flight.engine.hearing.marks.oldest();
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
    pub(crate) async fn ask(&self, token: &SessionToken) -> Result<Answer, AuthenticateError> {
        let _permit = self.permit()?;
        let pass = self.pass()?;
        Ok(self.load(token, self.hearing.marks.stamp(), pass).await?)
    }

    /// Asks the store, within the time allowed, and judges what it answers.
    async fn load(
        &self,
        token: &SessionToken,
        stamp: Stamp,
        pass: Pass,
    ) -> Result<Answer, StoreError> {
        self.counters.lookups.add_one();
        let (asked, asked_at) = (self.time.moment(), self.time.now());
        let answer = upstream::find(&*self.store, token, self.store_timeout).await;
        pass.report_answer(&answer, self.time.moment());
        let found = answer.inspect_err(|error| {
            self.counters.store_errors.add_one();
            observe::lookup_failed(error);
        })?;
        let marks = &self.hearing.marks;
        let stripes = |session: &CustomerSession| {
            marks.stripes(session.id.as_str(), session.customer_id.as_str())
        };
        let now = self.time.now();
        match found {
            Some(session) if session.is_live_at(now) => {
                // Should the wall clock go back, the session still ends when it should have.
                let left = (session.expires_at - asked_at).to_std().unwrap_or_default();
                let good_for = left.min(self.cache_ttl);
                let at_worst = left.min(self.cache_ttl.saturating_add(self.stale_if_error));
                Ok(Answer::Found(Arc::new(Found {
                    key: self.cache.half_key(token.expose().as_bytes()),
                    stamp,
                    stripes: stripes(&session),
                    fresh_until: asked + good_for,
                    expires_at: session.expires_at.timestamp_micros(),
                    refresh: Refresh::at(refresh_at(asked, good_for, self.counters.dice())),
                    session: Arc::new(session),
                    stale_until: asked + at_worst,
                    watcher: Some(self.watcher()),
                })))
            }
            dead => Ok(Answer::Absent(Absent {
                stamp,
                stripes: dead.as_ref().map(stripes),
                fresh_until: asked + self.negative_ttl,
            })),
        }
    }

    /// Leave of the circuit breaker to ask the store.
    fn pass(&self) -> Result<Pass, AuthenticateError> {
        self.breaker.pass(self.time.moment()).ok_or_else(|| {
            StoreError::unavailable("the store failed again and again and is left alone").into()
        })
    }

    /// Whether somebody may ask who is in no hurry: half of the lookups are for requests.
    pub(crate) fn has_room(&self) -> bool {
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
    pub(crate) fn refresh(self: &Arc<Self>, key: TokenKey, found: &Found, now: Moment) {
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
    key: TokenKey,
    number: FlightNumber,
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
