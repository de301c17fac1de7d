//! The heart of the crate: from a token to the session it opens.
//!
//! Invariants, in the order in which they matter:
//!
//! 1. A lookup is stamped before it asks the store.
//! 2. A mark is written after the change it stands for is visible to the store's readers.
//! 3. The logical clock advances before the mark is written, and the mark is written before
//!    the revocation returns.
//! 4. Every use of an answer, cached or landing, passes [`RevocationTable::pass`]: an answer that was
//!    overtaken is dead on arrival, so inserting it needs no lock.
//! 5. RevocationTable never go back.

pub(crate) mod cache;
mod cache_status;
mod error;
mod fetch;
pub(crate) mod revocations;
#[cfg(test)]
mod tests;
pub(crate) mod upstream;
pub(crate) mod watch;
mod watching;

use std::{
    sync::{Arc, Weak},
    time::Duration,
};

use chrono::{DateTime, Utc};
use tokio::{sync::Semaphore, time::Instant};

use self::{
    cache::{
        SessionCache,
        entry::{CachedSession, LookupResult},
    },
    revocations::{Revocations, table::Target},
    upstream::{
        breaker::{Breaker, is_outage},
        single_flight::SingleFlight,
    },
    watch::Watcher,
};
pub use self::{cache_status::CacheStatus, error::AuthenticateError, watch::SessionEnd};
use crate::{
    clock::{MonotonicTime, TimeSource},
    invalidation::Invalidation,
    observe::{Counters, Statistics},
    session::CustomerSession,
    store::{SessionStore, StoreError},
    token::{SessionToken, TokenFormat},
};

/// Lookups made for one request whose results are overtaken by revocations.
///
/// With 4,096 stripes, a thousand revocations a second and a lookup of 10 ms, a result is overtaken
/// by revocations of other sessions with a probability of 0.24 %; eight in a row, 1e-21.
const MAX_LOOKUP_ATTEMPTS: usize = 8;

/// What counts as the store timeout where there is none.
const DEFAULT_WAIT: Duration = Duration::from_secs(60);

/// How much longer than a lookup may take one waits for it.
const DEADLINE_SLACK: Duration = Duration::from_millis(50);

/// What the engine is built from.
pub(crate) struct Settings {
    pub(crate) store: Arc<dyn SessionStore>,
    pub(crate) time: TimeSource,
    pub(crate) token_format: TokenFormat,
    pub(crate) cache_capacity: u64,
    pub(crate) cache_ttl: Duration,
    pub(crate) negative_ttl: Duration,
    pub(crate) stale_if_error: Duration,
    /// `None`: no limit.
    pub(crate) store_timeout: Option<Duration>,
    /// `None`: a store that fails is asked all the same.
    pub(crate) breaker_cooldown: Option<Duration>,
    /// `None`: no limit.
    pub(crate) max_concurrent_lookups: Option<usize>,
    pub(crate) stripes: usize,
}

/// Authenticates tokens. It knows no HTTP, and its store only by trait.
pub(crate) struct Engine {
    /// For what is handed out and outlives a request.
    pub(crate) watcher: Arc<Watcher>,
    pub(crate) store: Arc<dyn SessionStore>,
    pub(crate) time: TimeSource,
    pub(crate) token_format: TokenFormat,
    pub(crate) cache_ttl: Duration,
    pub(crate) negative_ttl: Duration,
    pub(crate) stale_if_error: Duration,
    pub(crate) store_timeout: Option<Duration>,
    pub(crate) max_concurrent_lookups: Option<usize>,
    pub(crate) permits: Option<Arc<Semaphore>>,
    pub(crate) breaker: Arc<Breaker>,
    pub(crate) cache: SessionCache,
    pub(crate) flights: SingleFlight,
    pub(crate) revocations: Revocations,
    pub(crate) counters: Counters,
}

/// What can be said of a token without asking the store.
pub(crate) enum CacheLookup {
    /// It opens this session, which is live.
    Hit(Authenticated),
    /// It opens nothing.
    NegativeHit,
    /// The store must be asked.
    Miss,
}

/// Who is let in, and how that came about.
pub(crate) struct Authenticated {
    pub(crate) found: Arc<CachedSession>,
    pub(crate) cache_status: CacheStatus,
}

impl Engine {
    pub(crate) fn new(settings: Settings) -> Arc<Self> {
        Arc::new_cyclic(|this| Self {
            watcher: Arc::new(Watcher::new(Weak::clone(this))),
            cache: SessionCache::new(
                settings.cache_capacity,
                settings.cache_ttl,
                settings.stale_if_error,
                settings.negative_ttl,
            ),
            store: settings.store,
            time: settings.time,
            token_format: settings.token_format,
            cache_ttl: settings.cache_ttl,
            negative_ttl: settings.negative_ttl,
            stale_if_error: settings.stale_if_error,
            store_timeout: settings.store_timeout,
            breaker: Arc::new(Breaker::new(settings.breaker_cooldown)),
            max_concurrent_lookups: settings.max_concurrent_lookups,
            permits: settings
                .max_concurrent_lookups
                .map(|max| Arc::new(Semaphore::new(max.min(Semaphore::MAX_PERMITS)))),
            flights: SingleFlight::default(),
            revocations: Revocations::new(settings.stripes),
            counters: Counters::default(),
        })
    }

    /// Answers from memory, if memory has an answer. Never waits, takes no lock of ours.
    pub(crate) fn lookup_cached(self: &Arc<Self>, token: &[u8]) -> CacheLookup {
        // A token that is remembered was accepted when the store was asked for it: only others
        // are looked at closely.
        if !self.token_format.has_shape(token) {
            return self.screen();
        }
        let half = self.cache.hash64(token);
        let now = self.time.monotonic_now();
        let read = |found: &Arc<CachedSession>| self.usable(found, token, now);
        if let Some(admitted) = self.cache.front(half, read) {
            if self.counters.hit(half.shard_bits()) {
                // So that moka, too, knows who is asked for.
                self.cache.session(self.cache.hash128(half, token));
            }
            return CacheLookup::Hit(admitted);
        }
        if !self.token_format.accepts(token) {
            return self.screen();
        }
        let key = self.cache.hash128(half, token);
        if let Some(found) = self.cache.session(key) {
            if let Some(admitted) = self.usable(&found, token, now) {
                let replace_live = self.counters.hit(half.shard_bits());
                self.cache
                    .promote(found, |there| self.is_of_use(there, now), replace_live);
                return CacheLookup::Hit(admitted);
            }
        }
        // Trusted even while invalidations may be missed: they do not tell of new sessions.
        match self.cache.absent(key) {
            Some(absent)
                if now < absent.fresh_until
                    && self
                        .revocations
                        .table
                        .is_current(absent.epoch, absent.stripes) =>
            {
                self.counters.absent_hits.add_one();
                CacheLookup::NegativeHit
            }
            _ => CacheLookup::Miss,
        }
    }

    /// Refuses what cannot be a token.
    pub(crate) fn screen(&self) -> CacheLookup {
        self.counters.screened.add_one();
        CacheLookup::NegativeHit
    }

    /// Answers by asking the store, together with everybody who asks for the same token.
    pub(crate) async fn authenticate(
        self: &Arc<Self>,
        token: SessionToken,
    ) -> Result<Authenticated, AuthenticateError> {
        let result = self.get(&token).await;
        match &result {
            Ok(admitted) if admitted.cache_status == CacheStatus::Stale => {
                self.counters.stale.add_one()
            }
            Ok(_) => self.counters.verified.add_one(),
            Err(AuthenticateError::InvalidToken) => self.counters.found_invalid.add_one(),
            Err(AuthenticateError::Overloaded) => self.counters.overloaded.add_one(),
            // Counted where it failed, once for all who waited.
            Err(AuthenticateError::Store(_)) => {}
        }
        result
    }

    /// Forgets that there was no session for `token`: there is one now.
    pub(crate) fn forget_absent(&self, token: &SessionToken) {
        self.cache
            .forget_absent(self.cache.key(token.expose().as_bytes()));
    }

    /// Stops the use of everything that was read before the change `invalidation` stands for.
    pub(crate) fn invalidate(&self, invalidation: &Invalidation) {
        let target = match invalidation {
            Invalidation::Session(id) => Target::Session(id.as_str()),
            Invalidation::Customer(id) => Target::Customer(id.as_str()),
            Invalidation::All => Target::All,
        };
        self.revocations.change(target);
        if *invalidation == Invalidation::All {
            self.cache.clear();
        }
        self.counters.invalidations.add_one();
    }

    /// The live session that `token` opens according to the store, whatever is cached.
    pub(crate) async fn look_up(
        &self,
        token: &SessionToken,
    ) -> Result<Option<Arc<CustomerSession>>, AuthenticateError> {
        let answer = self.ask(token).await?;
        let found = self.live(&answer, self.time.monotonic_now());
        Ok(found.map(|found| Arc::clone(&found.session)))
    }

    /// After which time a request that could not be answered may be repeated with some hope.
    pub(crate) fn retry_after(&self) -> Duration {
        self.breaker.retry_after(self.time.monotonic_now())
    }

    /// How long one waits for the store.
    pub(crate) fn wait_limit(&self) -> Duration {
        // No longer than can be added to a moment.
        self.store_timeout
            .unwrap_or(DEFAULT_WAIT)
            .min(24 * 60 * DEFAULT_WAIT)
    }

    pub(crate) fn watcher(&self) -> Weak<Watcher> {
        Arc::downgrade(&self.watcher)
    }

    pub(crate) fn now(&self) -> DateTime<Utc> {
        self.time.now()
    }

    pub(crate) fn token_format(&self) -> &TokenFormat {
        &self.token_format
    }

    pub(crate) fn maintain(&self) {
        let now = self.time.monotonic_now();
        self.cache.maintain(|found| self.is_of_use(found, now));
    }

    pub(crate) fn statistics(&self) -> Statistics {
        let mut statistics = self.counters.snapshot();
        statistics.lookups_in_flight = self.flights.len() as u64;
        statistics.breaker_open = self.breaker.is_open();
        statistics.breaker_opened = self.breaker.times_opened();
        statistics.sources_lost = self.revocations.sources_lost();
        (statistics.cached_sessions, statistics.cached_absent) = self.cache.len();
        statistics
    }

    /// Lets somebody in by what is remembered, if that may be used; it is refreshed if it is due.
    #[inline]
    fn usable(
        self: &Arc<Self>,
        found: &Arc<CachedSession>,
        token: &[u8],
        now: MonotonicTime,
    ) -> Option<Authenticated> {
        let usable = now < found.fresh_until
            && self.revocations.table.is_trusted(found.epoch)
            && self.passes_found(found, token)
            && self.is_live(found, now);
        if !usable {
            return None;
        }
        if found.refresh.is_due(now) {
            self.refresh(self.cache.key(token), found, now);
        }
        Some(admitted(found, CacheStatus::Hit))
    }

    /// The store's answer; or, if it fails, what is remembered and may be used in that case.
    pub(crate) async fn get(
        self: &Arc<Self>,
        token: &SessionToken,
    ) -> Result<Authenticated, AuthenticateError> {
        let answer = self.landed(token).await;
        match &answer {
            Err(AuthenticateError::Store(error)) if is_outage(error) => {
                self.stale(token).map_or(answer, Ok)
            }
            _ => answer,
        }
    }

    /// The session that was verified before, neither expired nor revoked nor flushed since, and
    /// not too long ago. For when the store fails, and only then.
    fn stale(&self, token: &SessionToken) -> Option<Authenticated> {
        if self.stale_if_error.is_zero() {
            return None;
        }
        let token = token.expose().as_bytes();
        let found = self.cache.session(self.cache.key(token))?;
        let now = self.time.monotonic_now();
        let usable = now < found.stale_until
            && self.passes_found(&found, token)
            && self.is_live(&found, now);
        usable.then(|| admitted(&found, CacheStatus::Stale))
    }

    /// The one place where the answer of a lookup is used, guarded by the table.
    async fn landed(
        self: &Arc<Self>,
        token: &SessionToken,
    ) -> Result<Authenticated, AuthenticateError> {
        let key = self.cache.key(token.expose().as_bytes());
        let limit = self
            .store_timeout
            .and_then(|limit| Instant::now().checked_add(limit));
        // The first lookup ends by its own limit, unless the runtime it was started on stands
        // still; those after it share what is left of that.
        let mut deadline = limit.and_then(|limit| limit.checked_add(DEADLINE_SLACK));
        for _ in 0..MAX_LOOKUP_ATTEMPTS {
            let lookup = self.join(key, token)?;
            let answer = self.until(deadline, lookup.landed()).await??;
            let is_late = answer.epoch() < self.revocations.table.oldest_usable();
            if !is_late && self.passes(&answer, token.expose().as_bytes()) {
                let found = self
                    .live(&answer, self.time.monotonic_now())
                    .ok_or(AuthenticateError::InvalidToken)?;
                return Ok(admitted(found, CacheStatus::Miss));
            }
            self.counters.overtaken.add_one();
            deadline = limit;
        }
        let error = StoreError::unavailable("the session changed faster than it could be read");
        Err(error.into())
    }

    /// Whether no invalidation has overtaken the answer, and it is the answer for this token.
    pub(crate) fn passes(&self, answer: &LookupResult, token: &[u8]) -> bool {
        match answer {
            LookupResult::Session(found) => self.passes_found(found, token),
            LookupResult::NotFound(absent) => self
                .revocations
                .table
                .is_current(absent.epoch, absent.stripes),
        }
    }

    /// Whether anybody could still be let in by it at once.
    fn is_of_use(&self, found: &CachedSession, now: MonotonicTime) -> bool {
        let table = &self.revocations.table;
        now < found.fresh_until && table.is_current(found.epoch, Some(found.stripes))
    }

    fn passes_found(&self, found: &CachedSession, token: &[u8]) -> bool {
        let table = &self.revocations.table;
        found.session.token.is(token) && table.is_current(found.epoch, Some(found.stripes))
    }

    /// The session that was found, if it is live.
    fn live<'a>(
        &self,
        answer: &'a LookupResult,
        now: MonotonicTime,
    ) -> Option<&'a Arc<CachedSession>> {
        match answer {
            LookupResult::Session(found) if self.is_live(found, now) => Some(found),
            _ => None,
        }
    }

    /// Whether a session is live by the wall clock. Its customer was not deleted when it was read,
    /// or it would not have been found.
    fn is_live(&self, found: &CachedSession, now: MonotonicTime) -> bool {
        self.time.wall_micros(now) < found.expires_at
    }
}

fn admitted(found: &Arc<CachedSession>, cache_status: CacheStatus) -> Authenticated {
    Authenticated {
        found: Arc::clone(found),
        cache_status,
    }
}
