//! A lookup: it takes a permit, asks the store, and puts what it finds into the cache. It runs in a
//! task of its own, so that it finishes whatever becomes of the request that started it.

use std::{sync::Arc, time::Duration};

use chrono::{DateTime, Utc};
use tokio::{
    runtime::Handle,
    time::{Instant, timeout_at},
};

use super::{
    Engine,
    cache::{
        entry::{CachedSession, LookupResult, NegativeEntry},
        key::{TokenHash64, TokenHash128},
    },
    due_time::DueTime,
    error::AuthenticateError,
    revocations::table::Epoch,
    upstream::{
        breaker::Ticket,
        known::TokenClass,
        permits::{Permit, Purpose, PurposeKind},
        refresh::refresh_at,
        single_flight::{Leader, LookupId, SharedLookup, SharedResult},
    },
};
use crate::{
    clock::MonotonicTime, session::CustomerSession, store::StoreError, telemetry,
    token::SessionToken,
};

/// Extra time that a caller waits beyond the store timeout.
pub(super) const DEADLINE_SLACK: Duration = Duration::from_millis(50);

/// The times at which a lookup began, by both clocks and by the epoch. All are read before the
/// store is asked.
struct LookupStart {
    epoch: Epoch,
    monotonic: MonotonicTime,
    wall: DateTime<Utc>,
}

/// The permissions of a lookup that is about to ask the store.
pub(super) struct Prepared {
    ticket: Ticket,
    /// Kept until the store has answered.
    permit: Permit,
    epoch: Epoch,
}

impl Engine {
    /// Joins the lookup in flight for `token`, or starts one, which finishes whatever becomes of the
    /// caller. A known token's lookup waits for a permit, until the caller would be gone.
    pub(super) fn join_or_start(
        self: &Arc<Self>,
        key: TokenHash128,
        token: &SessionToken,
        purpose: &Purpose,
    ) -> Result<SharedLookup, AuthenticateError> {
        let runtime = Handle::try_current().map_err(StoreError::unavailable)?;
        let class = match purpose.kind {
            PurposeKind::Request => self.class_of(key, token),
            // Their session was live here.
            PurposeKind::Stream | PurposeKind::Refresh => TokenClass::Known,
        };
        let may_wait = class == TokenClass::Known && purpose.kind != PurposeKind::Refresh;
        let not_before = self.revocations.table.oldest_usable();
        let limit = Instant::now() + self.config.wait_limit();
        let flights = &self.upstream.flights;
        let (lookup, leader) =
            flights.join_or_lead(key, not_before, limit + DEADLINE_SLACK, || {
                match self.prepare(key.half(), class)? {
                    Some(prepared) => Ok((Some(prepared.epoch), Some(prepared))),
                    None if may_wait => Ok((None, None)),
                    None => Err(AuthenticateError::Overloaded),
                }
            })?;
        if let Some(leader) = leader {
            let guard = LookupGuard {
                engine: Arc::clone(self),
                key,
                id: leader.id,
            };
            let (token, purpose) = (token.clone(), purpose.clone());
            runtime.spawn(telemetry::in_current_span(async move {
                let (engine, mut leader) = (&guard.engine, leader);
                let result = engine.lead(key, &token, class, &mut leader, limit).await;
                engine.sweep_if_due();
                // Deregistered before the waiters wake: a later caller starts a new lookup.
                drop((guard, purpose));
                leader.finish(result);
            }));
        }
        Ok(lookup)
    }

    /// Looks `token` up, once there is a permit, and caches the result.
    async fn lead(
        &self,
        key: TokenHash128,
        token: &SessionToken,
        class: TokenClass,
        leader: &mut Leader<Option<Prepared>>,
        limit: Instant,
    ) -> SharedResult {
        let prepared = match leader.prepared.take() {
            Some(prepared) => prepared,
            None => {
                let prepared = self.wait_for_permit(key.half(), limit).await?;
                let deadline = Instant::now() + self.config.wait_limit() + DEADLINE_SLACK;
                let flights = &self.upstream.flights;
                flights.begin(key, leader, prepared.epoch, deadline);
                prepared
            }
        };
        let before = self.cached_entry(key, token.expose().as_bytes());
        let result = self.fetch(token, class, prepared).await?;
        Ok(self.land(before.as_ref(), key, token, result))
    }

    /// Caches a result that may be used, and records a change that it shows of the session that was
    /// cached *before* the store was asked. Returns the result such that it stays current.
    pub(super) fn land(
        &self,
        before: Option<&Arc<CachedSession>>,
        key: TokenHash128,
        token: &SessionToken,
        result: LookupResult,
    ) -> LookupResult {
        if let (Some(before), LookupResult::Session(found)) = (before, &result) {
            found.next_use.copy_from(&before.next_use);
        }
        let result = self.reconcile(before, key, result);
        if self.may_land(&result, token.expose().as_bytes()) {
            match &result {
                LookupResult::Session(_) => self.upstream.known.insert(key.half()),
                LookupResult::NotFound(_) => self.upstream.known.remove(key.half()),
            }
            self.cache_unless_unconfirmed(key, &result);
        }
        result
    }

    /// Caches a result, unless a change of its session may happen at any time.
    fn cache_unless_unconfirmed(&self, key: TokenHash128, result: &LookupResult) {
        let session = match result {
            LookupResult::Session(session) => Some(&session.session),
            LookupResult::NotFound(_) => None,
        };
        if !session.is_some_and(|session| self.pending_changes.may_concern(session)) {
            let now = self.clock.monotonic_now();
            let is_usable = |other: &CachedSession| self.is_usable(other, now);
            self.cache.insert(key, result.clone(), is_usable);
        }
    }

    /// Takes what a lookup needs; `None` if there is no permit for tokens of this class.
    ///
    /// # Errors
    ///
    /// The circuit breaker is open. That is looked at first, so that an outage is not taken for
    /// overload.
    pub(super) fn prepare(
        &self,
        token: TokenHash64,
        class: TokenClass,
    ) -> Result<Option<Prepared>, AuthenticateError> {
        let now = self.clock.monotonic_now();
        let ticket = self.upstream.ticket(token, class, now)?;
        let permit = self.upstream.permits.try_acquire(class);
        Ok(permit.map(|permit| Prepared {
            ticket,
            permit,
            epoch: self.revocations.table.current_epoch(),
        }))
    }

    /// Waits in line for what the lookup of a known token needs, until `limit` at most.
    pub(super) async fn wait_for_permit(
        &self,
        token: TokenHash64,
        limit: Instant,
    ) -> Result<Prepared, AuthenticateError> {
        let permit = timeout_at(limit, self.upstream.permits.acquire()).await;
        let permit = permit.map_err(|_| AuthenticateError::Overloaded)?;
        let now = self.clock.monotonic_now();
        Ok(Prepared {
            // Asked now: the breaker may have opened meanwhile.
            ticket: self.upstream.ticket(token, TokenClass::Known, now)?,
            permit,
            epoch: self.revocations.table.current_epoch(),
        })
    }

    /// Returns the class of a token. One whose session is still cached is known, too.
    pub(super) fn class_of(&self, key: TokenHash128, token: &SessionToken) -> TokenClass {
        let is_cached = || self.cached_entry(key, token.expose().as_bytes()).is_some();
        if self.upstream.known.contains(key.half()) || is_cached() {
            TokenClass::Known
        } else {
            TokenClass::Unknown
        }
    }

    /// Asks the store, within the store timeout, and makes an entry of its answer.
    pub(super) async fn fetch(
        &self,
        token: &SessionToken,
        class: TokenClass,
        prepared: Prepared,
    ) -> Result<LookupResult, StoreError> {
        let start = LookupStart {
            epoch: prepared.epoch,
            monotonic: self.clock.monotonic_now(),
            wall: self.clock.now(),
        };
        self.warn_without_source(start.monotonic);
        let found = self.query_store(token, class, prepared).await?;
        Ok(self.entry(token, found, &start))
    }

    /// Asks the store, within the store timeout.
    pub(super) async fn query_store(
        &self,
        token: &SessionToken,
        class: TokenClass,
        prepared: Prepared,
    ) -> Result<Option<CustomerSession>, StoreError> {
        self.counters.lookups.add_one();
        let limit = self.config.wait_limit();
        let answer = self.upstream.find_for(class, token, limit).await;
        let Prepared { ticket, permit, .. } = prepared;
        ticket.report_answer(&answer, self.clock.monotonic_now());
        self.on_answer_of_store(&answer);
        drop(permit);
        answer.inspect_err(|error| {
            self.counters.store_errors.add_one();
            telemetry::lookup_failed(error);
        })
    }

    /// Makes an entry of what the store has found.
    fn entry(
        &self,
        token: &SessionToken,
        found: Option<CustomerSession>,
        start: &LookupStart,
    ) -> LookupResult {
        let stripes = |session: &CustomerSession| self.revocations.stripes(session, start.epoch);
        let now = self.clock.now();
        let live = |session: &CustomerSession| {
            let is_live = session.is_live_at(now);
            is_live.then(|| self.idle_time_left(session, now)).flatten()
        };
        match found.map(|session| (live(&session), session)) {
            Some((Some(idle_left), mut session)) => {
                // A store may return a handle that leads to another session.
                session.customer = session.customer.detached();
                // If the wall clock goes back, the session still ends when it should have.
                let left = (session.expires_at - start.wall)
                    .to_std()
                    .unwrap_or_default();
                let idle_left = idle_left.to_std().unwrap_or_default();
                let ttl = self.config.cache_ttl;
                // While the store fails, no session ends by idleness.
                let outdated = self
                    .outdated_ttl(&session.customer)
                    .unwrap_or(Duration::MAX);
                let fresh_for = left.min(ttl).min(idle_left).min(outdated);
                let stale_for = left.min(ttl.saturating_add(self.config.stale_if_error));
                let refresh = refresh_at(start.monotonic, fresh_for, self.counters.jitter());
                LookupResult::Session(Arc::new(CachedSession {
                    hash: self.cache.hash64(token.expose().as_bytes()),
                    epoch: start.epoch,
                    stripes: stripes(&session),
                    fresh_until: start.monotonic + fresh_for,
                    expires_at: session.expires_at.timestamp_micros(),
                    refresh: DueTime::at(refresh),
                    next_use: self.first_use(),
                    stale_for: u32::try_from((stale_for - fresh_for).as_millis())
                        .unwrap_or(u32::MAX),
                    session,
                    watcher: Some(self.watcher()),
                }))
            }
            dead => LookupResult::NotFound(NegativeEntry {
                epoch: start.epoch,
                stripes: dead.as_ref().map(|(_, session)| stripes(session)),
                fresh_until: start.monotonic + self.config.negative_ttl,
            }),
        }
    }
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
