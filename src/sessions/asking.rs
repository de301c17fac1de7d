//! How the store is asked: together with others, with a permit, with the circuit breaker's leave,
//! and not for ever.

use std::{
    sync::{Arc, Weak},
    time::Duration,
};

use tokio::{
    runtime::Handle,
    sync::OwnedSemaphorePermit,
    time::{Instant, timeout_at},
};

use super::{
    AuthenticateError,
    breaker::Pass,
    cache::{Found, Slot, TokenKey},
    engine::Engine,
    flight::{FlightNumber, Lookup},
    lifetime::{Read, SessionLifetime},
    lookup,
    marks::Stamp,
    refresh::refresh_at,
};
use crate::{clock::later, observe, store::StoreError, token::SessionToken};

impl Engine {
    /// Joins the lookup under way for this token, or starts one.
    pub(super) fn join(
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
                if let Ok(slot) = &landed {
                    // Nothing is remembered that was read before a gap in what was heard: it
                    // would take the place of what was read since.
                    let is_late = slot.stamp < flight.engine.hearing.marks.oldest();
                    if !is_late && flight.engine.passes(slot, token.expose().as_bytes()) {
                        flight.engine.cache.insert(key, slot.clone());
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
    pub(super) async fn ask(&self, token: &SessionToken) -> Result<Slot, AuthenticateError> {
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
    ) -> Result<Slot, StoreError> {
        self.counters.lookups.add_one();
        let (asked, asked_at) = (self.time.instant(), self.time.now());
        let answer = lookup::find(&*self.store, token, self.store_timeout).await;
        pass.report_answer(&answer, self.time.instant());
        let found = answer.inspect_err(|error| {
            self.counters.store_errors.add_one();
            observe::lookup_failed(error);
        })?;
        let stripes = found.as_ref().map(|session| {
            self.hearing
                .marks
                .stripes(session.id.as_str(), session.customer_id.as_str())
        });
        let live = found.filter(|session| session.is_live_at(self.time.now()));
        // Should the wall clock go back, the session still ends when it should have.
        let left = live.as_ref().map_or(Duration::ZERO, |session| {
            (session.expires_at - asked_at).to_std().unwrap_or_default()
        });
        let good_for = match &live {
            Some(_) => left.min(self.cache_ttl),
            None => self.negative_ttl,
        };
        let fresh_until = later(asked, good_for);
        Ok(Slot {
            stamp,
            fresh_until,
            refresh_at: refresh_at(asked, good_for, self.counters.dice()),
            stale_until: later(asked, left.min(self.cache_ttl.saturating_add(self.grace))),
            stripes,
            found: live.map(|session| {
                let session = Arc::new(session);
                let engine = Some(Weak::clone(&self.this));
                let read = Read {
                    stamp,
                    stripes,
                    fresh_until,
                };
                let lifetime = SessionLifetime::new(Arc::clone(&session), engine, Some(read));
                Found {
                    expires_at: session.expires_at.timestamp_micros(),
                    customer: session.customer.with_badge(lifetime.clone()),
                    lifetime,
                    session,
                }
            }),
        })
    }

    /// Leave of the circuit breaker to ask the store.
    fn pass(&self) -> Result<Pass, AuthenticateError> {
        self.breaker.pass(self.time.instant()).ok_or_else(|| {
            StoreError::unavailable("the store failed again and again and is left alone").into()
        })
    }

    /// Whether somebody may ask who is in no hurry: half of the lookups are for requests.
    pub(super) fn has_room(&self) -> bool {
        let half = self.max_lookups.map_or(0, |max| max / 2);
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
    pub(super) async fn until<F: Future>(
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
