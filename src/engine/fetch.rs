//! How a request gets an answer from the store: it joins the lookup in flight for its token or
//! starts one, and uses the result if it is still current. The lookup itself is in `lookup.rs`.

use std::{pin::pin, sync::Arc, time::Duration};

use tokio::{
    runtime::Handle,
    time::{Instant, timeout, timeout_at},
};

use super::{
    Authenticated, Engine,
    cache::{
        entry::{CachedSession, LookupResult},
        key::TokenHash128,
    },
    cache_status::CacheStatus,
    error::AuthenticateError,
    lookup::{DEADLINE_SLACK, Prepared},
    upstream::{
        breaker::is_outage,
        known::TokenClass,
        permits::{Purpose, PurposeKind},
        single_flight::shut_down,
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

/// Pauses between attempts to refresh a session in one `cache_ttl`: two to four attempts are made
/// before the session is too old.
const ATTEMPTS_IN_TTL: u32 = 20;

/// Shortest time after which a request that waits for a slow store looks at the lookup again.
const MIN_STALE_RECHECK: Duration = Duration::from_millis(50);

/// The lookup that authenticates a request which the cache did not.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(crate) enum LookupPolicy {
    /// A lookup for all requests with the token or, if the store fails, a stale session.
    #[default]
    OrStale,
    /// A lookup for all requests with the token.
    Shared,
    /// A lookup that has begun after the request came, for this request alone.
    Alone,
}

impl Engine {
    /// Returns `true` if neither a revocation nor the session's end has come since the session was
    /// admitted.
    pub(crate) fn is_still_admitted(&self, session: &CachedSession) -> bool {
        let token = session.session.token.expose().as_bytes();
        self.is_current(session, token) && self.is_unexpired(session, self.clock.monotonic_now())
    }

    /// Authenticates `token` by asking the store, together with all requests for the same token.
    pub(crate) async fn authenticate(
        self: &Arc<Self>,
        token: SessionToken,
    ) -> Result<Authenticated, AuthenticateError> {
        self.authenticate_by(LookupPolicy::OrStale, token).await
    }

    /// Authenticates `token` by asking the store as `policy` says.
    pub(crate) async fn authenticate_by(
        self: &Arc<Self>,
        policy: LookupPolicy,
        token: SessionToken,
    ) -> Result<Authenticated, AuthenticateError> {
        let result = match policy {
            LookupPolicy::OrStale => self.lookup_or_stale(&token, &Purpose::REQUEST).await,
            LookupPolicy::Shared => self.lookup(&token, &Purpose::REQUEST).await,
            LookupPolicy::Alone => self.lookup_alone(&token).await,
        };
        if let Ok(authenticated) = &result {
            self.note_use(&authenticated.session);
        }
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

    /// Returns the store's answer or, if the store fails, hangs or is slow, a stale session.
    pub(super) async fn lookup_or_stale(
        self: &Arc<Self>,
        token: &SessionToken,
        purpose: &Purpose,
    ) -> Result<Authenticated, AuthenticateError> {
        let mut lookup = pin!(self.lookup(token, purpose));
        // A stream has time.
        let may_be_early =
            !self.config.stale_if_error.is_zero() && purpose.kind == PurposeKind::Request;
        let mut wait = self.config.stale_after;
        let result = loop {
            if !may_be_early {
                break lookup.await;
            }
            if let Ok(result) = timeout(wait, lookup.as_mut()).await {
                break result;
            }
            if let Some(stale) = self.admit_while_slow(token) {
                return Ok(stale);
            }
            wait = wait.max(MIN_STALE_RECHECK);
        };
        let is_outage = match &result {
            Err(AuthenticateError::Store(error)) => is_outage(error),
            // A flood is not an outage: it must not prolong a session that was revoked elsewhere.
            Err(AuthenticateError::Overloaded) => self.upstream.is_hanging(),
            _ => false,
        };
        if is_outage {
            return self.admit_stale(token, |_| true).map_or(result, Ok);
        }
        result
    }

    /// Authenticates by a stale session while the store has yet to answer. In a flood, in which the
    /// lookup may not even have begun, and while invalidations may be missed, only its answer counts.
    fn admit_while_slow(&self, token: &SessionToken) -> Option<Authenticated> {
        let key = self.cache.key(token.expose().as_bytes());
        if !self.upstream.flights.has_asked(key) && !self.upstream.is_hanging() {
            return None;
        }
        let now = self.clock.monotonic_now();
        self.admit_stale(token, |session| self.is_trusted(session, now))
    }

    /// Authenticates by a session that was verified before and `may_be_used`, for when the store fails.
    /// It must be neither expired nor revoked, and not older than `cache_ttl` and `stale_if_error`
    /// together.
    fn admit_stale(
        &self,
        token: &SessionToken,
        may_be_used: impl Fn(&CachedSession) -> bool,
    ) -> Option<Authenticated> {
        if self.config.stale_if_error.is_zero() {
            return None;
        }
        let token = token.expose().as_bytes();
        let now = self.clock.monotonic_now();
        let session = self.cached(self.cache.key(token), token, |session| {
            self.is_usable_in_outage(session, now)
                && self.is_in_use(session, now)
                && may_be_used(session)
        })?;
        Some(Authenticated {
            session,
            cache_status: CacheStatus::Stale,
        })
    }

    /// Returns the store's answer, from a lookup that is shared, and made again if a revocation
    /// overtakes it.
    async fn lookup(
        self: &Arc<Self>,
        token: &SessionToken,
        purpose: &Purpose,
    ) -> Result<Authenticated, AuthenticateError> {
        let key = self.cache.key(token.expose().as_bytes());
        let limit = Instant::now() + self.config.wait_limit();
        // The first lookup ends by its own timeout, unless its runtime stands still. Those after it
        // share what is left of the time.
        let mut deadline = limit + DEADLINE_SLACK;
        for _ in 0..MAX_LOOKUP_ATTEMPTS {
            let lookup = self.join_or_start(key, token, purpose)?;
            let until = deadline.min(lookup.deadline);
            let result = match timeout_at(until, lookup.result()).await {
                // It began to wait for a permit earlier than this caller, who has time left.
                Ok(Err(AuthenticateError::Overloaded)) if Instant::now() < limit => continue,
                Ok(result) => result?,
                // Its runtime stands still, and another may do better; or it asks the store by now.
                Err(_) if Instant::now() < deadline => continue,
                Err(_) if lookup.is_waiting() => return Err(AuthenticateError::Overloaded),
                Err(elapsed) => {
                    self.counters.store_errors.add_one();
                    return Err(StoreError::timeout(elapsed).into());
                }
            };
            if self.may_land(&result, token.expose().as_bytes()) {
                return self.admit(result);
            }
            self.counters.superseded.add_one();
            deadline = limit;
        }
        Err(superseded())
    }

    /// Authenticates by the result of a lookup, which may be used.
    fn admit(&self, result: LookupResult) -> Result<Authenticated, AuthenticateError> {
        let session = self.live(result).ok_or(AuthenticateError::InvalidToken)?;
        Ok(Authenticated {
            session,
            cache_status: CacheStatus::Miss,
        })
    }

    /// Returns the store's answer from a lookup that is not shared, and made again if a revocation
    /// overtakes it. Its result is cached.
    async fn lookup_alone(
        self: &Arc<Self>,
        token: &SessionToken,
    ) -> Result<Authenticated, AuthenticateError> {
        let attempts = async {
            for _ in 0..MAX_LOOKUP_ATTEMPTS {
                let result = self.fetch_alone(token).await?;
                if self.may_land(&result, token.expose().as_bytes()) {
                    return self.admit(result);
                }
                self.counters.superseded.add_one();
            }
            Err(superseded())
        };
        let limit = self.config.wait_limit() + DEADLINE_SLACK;
        timeout(limit, attempts).await.unwrap_or_else(|elapsed| {
            self.counters.store_errors.add_one();
            Err(StoreError::timeout(elapsed).into())
        })
    }

    /// Asks the store, not together with others, and caches the result.
    async fn fetch_alone(
        self: &Arc<Self>,
        token: &SessionToken,
    ) -> Result<LookupResult, AuthenticateError> {
        let runtime = Handle::try_current().map_err(StoreError::unavailable)?;
        let key = self.cache.key(token.expose().as_bytes());
        let (class, prepared) = self.prepare_alone(key, token).await?;
        let before = self.cached_entry(key, token.expose().as_bytes());
        let (engine, token) = (Arc::clone(self), token.clone());
        let lookup = runtime.spawn(telemetry::in_current_span(async move {
            let result = engine.fetch(&token, class, prepared).await?;
            let result = engine.land(before.as_ref(), key, &token, result);
            engine.sweep_if_due();
            Ok::<_, StoreError>(result)
        }));
        Ok(lookup.await.map_err(|_| shut_down())??)
    }

    /// Returns the live session that `token` opens according to the store, whatever is cached. The
    /// lookup is not shared, and its result is not cached.
    pub(crate) async fn lookup_uncached(
        self: &Arc<Self>,
        token: &SessionToken,
    ) -> Result<Option<Arc<CachedSession>>, AuthenticateError> {
        let runtime = Handle::try_current().map_err(StoreError::unavailable)?;
        let key = self.cache.key(token.expose().as_bytes());
        let (class, prepared) = self.prepare_alone(key, token).await?;
        let before = self.cached_entry(key, token.expose().as_bytes());
        let (engine, token) = (Arc::clone(self), token.clone());
        // A task: like any lookup, it finishes and keeps its permit until then.
        let lookup = runtime.spawn(telemetry::in_current_span(async move {
            engine.fetch(&token, class, prepared).await
        }));
        let result = lookup.await.map_err(|_| shut_down())??;
        Ok(self.live(self.reconcile(before.as_ref(), key, result)))
    }

    /// Returns the session that `token` opens according to the store, live or not. The lookup is not
    /// shared, and its result is not cached.
    pub(crate) async fn find(
        self: &Arc<Self>,
        token: &SessionToken,
    ) -> Result<Option<CustomerSession>, AuthenticateError> {
        let runtime = Handle::try_current().map_err(StoreError::unavailable)?;
        let key = self.cache.key(token.expose().as_bytes());
        let (class, prepared) = self.prepare_alone(key, token).await?;
        let (engine, token) = (Arc::clone(self), token.clone());
        let lookup = runtime.spawn(telemetry::in_current_span(async move {
            engine.query_store(&token, class, prepared).await
        }));
        Ok(lookup.await.map_err(|_| shut_down())??)
    }

    /// Takes what a lookup needs that is not shared.
    async fn prepare_alone(
        &self,
        key: TokenHash128,
        token: &SessionToken,
    ) -> Result<(TokenClass, Prepared), AuthenticateError> {
        let class = self.class_of(key, token);
        let prepared = match self.prepare(key.half(), class)? {
            Some(prepared) => prepared,
            None if class == TokenClass::Unknown => return Err(AuthenticateError::Overloaded),
            None => {
                let limit = Instant::now() + self.config.wait_limit();
                self.wait_for_permit(key.half(), limit).await?
            }
        };
        Ok((class, prepared))
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
        if !session.refresh.claim(now, pause) {
            return;
        }
        let Some(purpose) = self.upstream.permits.try_refresh() else {
            return;
        };
        // A refusal or a failure is made good by a later attempt, or by the request that finds the
        // session too old.
        if self
            .join_or_start(key, &session.session.token, &purpose)
            .is_ok()
        {
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

/// Returns the error of a request whose lookups were all overtaken by revocations.
fn superseded() -> AuthenticateError {
    StoreError::unavailable("the session changed faster than it could be read").into()
}
