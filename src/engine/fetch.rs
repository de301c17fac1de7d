//! How a request gets an answer from the store: it joins the lookup in flight for its token or
//! starts one, and uses the result if it is still current.

use std::{sync::Arc, time::Duration};

use chrono::{DateTime, Utc};
use tokio::{
    runtime::Handle,
    sync::OwnedSemaphorePermit,
    time::{Instant, timeout_at},
};

use super::{
    Authenticated, Engine,
    cache::{
        entry::{CachedSession, LookupResult, NegativeEntry},
        key::TokenHash128,
    },
    cache_status::CacheStatus,
    error::AuthenticateError,
    revocations::table::Epoch,
    upstream::{
        breaker::{Ticket, is_outage},
        refresh::{Refresh, refresh_at},
        single_flight::{LookupId, SharedLookup},
    },
};
use crate::{
    clock::MonotonicTime, session::CustomerSession, store::StoreError, telemetry,
    token::SessionToken,
};

/// Lookups made for one request whose results are overtaken by revocations.
///
/// With 4,096 stripes, a thousand revocations a second and a lookup of 10 ms, a result is overtaken
/// by revocations of other sessions with a probability of 0.24 %; eight in a row, 1e-21.
const MAX_LOOKUP_ATTEMPTS: usize = 8;

/// Extra time that a caller waits beyond the store timeout.
const DEADLINE_SLACK: Duration = Duration::from_millis(50);

/// Pauses between attempts to refresh a session in one `cache_ttl`: two to four attempts are made
/// before the session is too old.
const ATTEMPTS_IN_TTL: u32 = 20;

/// The times at which a lookup began, by both clocks and by the epoch. All are read before the
/// store is asked.
struct LookupStart {
    epoch: Epoch,
    monotonic: MonotonicTime,
    wall: DateTime<Utc>,
}

impl Engine {
    /// Authenticates `token` by asking the store, together with all requests for the same token.
    pub(crate) async fn authenticate(
        self: &Arc<Self>,
        token: SessionToken,
    ) -> Result<Authenticated, AuthenticateError> {
        let result = self.lookup_or_stale(&token).await;
        match &result {
            Ok(session) if session.cache_status == CacheStatus::Stale => {
                self.counters.stale.add_one()
            }
            Ok(_) => self.counters.verified.add_one(),
            Err(AuthenticateError::InvalidToken) => self.counters.found_invalid.add_one(),
            Err(AuthenticateError::Overloaded) => self.counters.overloaded.add_one(),
            // Counted where it failed, once for all that waited.
            Err(AuthenticateError::Store(_)) => {}
        }
        result
    }

    /// Returns the store's answer or, if the store fails, a stale session.
    pub(super) async fn lookup_or_stale(
        self: &Arc<Self>,
        token: &SessionToken,
    ) -> Result<Authenticated, AuthenticateError> {
        let result = self.lookup(token).await;
        match &result {
            Err(AuthenticateError::Store(error)) if is_outage(error) => {
                self.admit_stale(token).map_or(result, Ok)
            }
            _ => result,
        }
    }

    /// Returns the store's answer, from a lookup that is shared, and made again if a revocation
    /// overtakes it.
    async fn lookup(
        self: &Arc<Self>,
        token: &SessionToken,
    ) -> Result<Authenticated, AuthenticateError> {
        let key = self.cache.key(token.expose().as_bytes());
        let limit = Instant::now() + self.config.wait_limit();
        // The first lookup ends by its own timeout, unless its runtime stands still. Those after it
        // share what is left of the time.
        let mut deadline = limit + DEADLINE_SLACK;
        for _ in 0..MAX_LOOKUP_ATTEMPTS {
            let lookup = self.join_or_start(key, token)?;
            let until = deadline.min(lookup.deadline);
            let result = match timeout_at(until, lookup.result()).await {
                Ok(result) => result?,
                // Its runtime stands still, and another may do better.
                Err(_) if Instant::now() < deadline => continue,
                Err(elapsed) => {
                    self.counters.store_errors.add_one();
                    return Err(StoreError::timeout(elapsed).into());
                }
            };
            if self.may_land(&result, token.expose().as_bytes()) {
                let session = self.live(result).ok_or(AuthenticateError::InvalidToken)?;
                return Ok(Authenticated {
                    session,
                    cache_status: CacheStatus::Miss,
                });
            }
            self.counters.superseded.add_one();
            deadline = limit;
        }
        let error = StoreError::unavailable("the session changed faster than it could be read");
        Err(error.into())
    }

    /// Returns the live session that `token` opens according to the store, whatever is cached. The
    /// lookup is not shared, and its result is not cached.
    pub(crate) async fn lookup_uncached(
        self: &Arc<Self>,
        token: &SessionToken,
    ) -> Result<Option<Arc<CustomerSession>>, AuthenticateError> {
        let runtime = Handle::try_current().map_err(StoreError::unavailable)?;
        let prepared = self.prepare()?;
        let key = self.cache.key(token.expose().as_bytes());
        let before = self.cached_entry(key, token.expose().as_bytes());
        let epoch = self.revocations.table.current_epoch();
        let (engine, token) = (Arc::clone(self), token.clone());
        // A task: like any lookup, it finishes and keeps its permit until then.
        let lookup = runtime.spawn(telemetry::in_current_span(async move {
            engine.fetch(&token, epoch, prepared).await
        }));
        let result = lookup.await.map_err(StoreError::unavailable)??;
        let session = self.live(self.reconcile(before.as_ref(), key, result));
        Ok(session.map(|session| Arc::clone(&session.session)))
    }

    /// Returns the session that `token` opens according to the store, live or not. The lookup is not
    /// counted, not limited in number, and not cached: it is part of a change.
    pub(crate) async fn find(
        &self,
        token: &SessionToken,
    ) -> Result<Option<CustomerSession>, StoreError> {
        self.upstream.find(token, self.config.wait_limit()).await
    }

    /// Joins the lookup in flight for `token`, or starts one, which finishes whatever becomes of the
    /// caller.
    fn join_or_start(
        self: &Arc<Self>,
        key: TokenHash128,
        token: &SessionToken,
    ) -> Result<SharedLookup, AuthenticateError> {
        let runtime = Handle::try_current().map_err(StoreError::unavailable)?;
        let table = &self.revocations.table;
        let deadline = Instant::now() + self.config.wait_limit() + DEADLINE_SLACK;
        let flights = &self.upstream.flights;
        let (lookup, leader) =
            flights.join_or_lead(key, table.oldest_usable(), deadline, || {
                let prepared = self.prepare()?;
                Ok::<_, AuthenticateError>((table.current_epoch(), prepared))
            })?;
        if let Some(leader) = leader {
            let guard = LookupGuard {
                engine: Arc::clone(self),
                key,
                id: leader.id,
            };
            let token = token.clone();
            let before = self.cached_entry(key, token.expose().as_bytes());
            runtime.spawn(telemetry::in_current_span(async move {
                let engine = &guard.engine;
                let result = engine.fetch(&token, leader.epoch, leader.prepared).await;
                let result = result.map(|result| engine.reconcile(before.as_ref(), key, result));
                if let Ok(result) = &result {
                    if engine.may_land(result, token.expose().as_bytes()) {
                        engine.cache.insert(key, result.clone());
                    }
                }
                // Deregistered before the waiters wake: a later caller starts a new lookup.
                drop(guard);
                leader.result.send_replace(Some(result));
            }));
        }
        Ok(lookup)
    }

    /// Takes what a lookup needs: permission of the circuit breaker, and a permit.
    fn prepare(&self) -> Result<Prepared, AuthenticateError> {
        Ok(Prepared {
            // First, so that an outage is not taken for overload.
            ticket: self.upstream.ticket(self.clock.monotonic_now())?,
            permit: self.upstream.permit()?,
        })
    }

    /// Asks the store, within the store timeout, and makes an entry of its answer.
    async fn fetch(
        &self,
        token: &SessionToken,
        epoch: Epoch,
        prepared: Prepared,
    ) -> Result<LookupResult, StoreError> {
        self.counters.lookups.add_one();
        let start = LookupStart {
            epoch,
            monotonic: self.clock.monotonic_now(),
            wall: self.clock.now(),
        };
        let answer = self.upstream.find(token, self.config.wait_limit()).await;
        let Prepared { ticket, permit } = prepared;
        ticket.report_answer(&answer, self.clock.monotonic_now());
        drop(permit);
        let found = answer.inspect_err(|error| {
            self.counters.store_errors.add_one();
            telemetry::lookup_failed(error);
        })?;
        Ok(self.entry(token, found, &start))
    }

    /// Makes an entry of what the store has found.
    fn entry(
        &self,
        token: &SessionToken,
        found: Option<CustomerSession>,
        start: &LookupStart,
    ) -> LookupResult {
        let stripes = |session: &CustomerSession| {
            let table = &self.revocations.table;
            table.stripes(
                session.id.as_str(),
                session.customer_id.as_str(),
                start.epoch,
            )
        };
        match found {
            Some(session) if session.is_live_at(self.clock.now()) => {
                // If the wall clock goes back, the session still ends when it should have.
                let left = (session.expires_at - start.wall)
                    .to_std()
                    .unwrap_or_default();
                let ttl = self.config.cache_ttl;
                let fresh_for = left.min(ttl);
                let stale_for = left.min(ttl.saturating_add(self.config.stale_if_error));
                let refresh = refresh_at(start.monotonic, fresh_for, self.counters.jitter());
                LookupResult::Session(Arc::new(CachedSession {
                    hash: self.cache.hash64(token.expose().as_bytes()),
                    epoch: start.epoch,
                    stripes: stripes(&session),
                    fresh_until: start.monotonic + fresh_for,
                    expires_at: session.expires_at.timestamp_micros(),
                    refresh: Refresh::at(refresh),
                    session: Arc::new(session),
                    stale_until: start.monotonic + stale_for,
                    watcher: Some(self.watcher()),
                }))
            }
            dead => LookupResult::NotFound(NegativeEntry {
                epoch: start.epoch,
                stripes: dead.as_ref().map(stripes),
                fresh_until: start.monotonic + self.config.negative_ttl,
            }),
        }
    }

    /// Starts a lookup whose result replaces `session` in the cache, unless one was started a moment
    /// ago.
    pub(super) fn refresh(
        self: &Arc<Self>,
        key: TokenHash128,
        session: &CachedSession,
        now: MonotonicTime,
    ) {
        let pause = self.config.cache_ttl / ATTEMPTS_IN_TTL;
        if !session.refresh.take_turn(now, pause) {
            return;
        }
        // A refusal or a failure is made good by a later attempt, or by the request that finds the
        // session too old.
        if self.join_or_start(key, &session.session.token).is_ok() {
            self.counters.refreshes.add_one();
        }
    }

    /// Returns the session of a result, if it is live now.
    fn live(&self, result: LookupResult) -> Option<Arc<CachedSession>> {
        match result {
            LookupResult::Session(session)
                if self.is_unexpired(&session, self.clock.monotonic_now()) =>
            {
                Some(session)
            }
            _ => None,
        }
    }
}

/// Permissions of a lookup that is about to ask the store.
struct Prepared {
    ticket: Ticket,
    /// Kept until the store has answered; `None` if there is no limit.
    permit: Option<OwnedSemaphorePermit>,
}

/// Deregisters a lookup when it is dropped.
struct LookupGuard {
    engine: Arc<Engine>,
    key: TokenHash128,
    id: LookupId,
}

impl Drop for LookupGuard {
    fn drop(&mut self) {
        self.engine.upstream.flights.remove(self.key, self.id);
    }
}
