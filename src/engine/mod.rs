//! From a token to the session that it opens: what a request meets, without HTTP.
//!
//! Five invariants make a revocation final, in the order in which they matter:
//!
//! 1. A lookup reads the current epoch before it asks the store.
//! 2. A revocation is recorded after the change is visible to the store's readers.
//! 3. Recording advances the epoch before it writes it into the revocation table, and both are done
//!    before the revocation returns.
//! 4. Every use of an answer, be it cached, stale or just fetched, passes
//!    [`is_current`](Engine::is_current). An answer that was overtaken is dead on arrival, so
//!    inserting it needs no lock.
//! 5. An epoch in the table never decreases.

pub(crate) mod cache;
mod cache_status;
mod changes;
pub(crate) mod config;
mod due_time;
mod error;
mod fetch;
mod idleness;
mod lookup;
mod outages;
pub(crate) mod pending_changes;
mod reconcile;
pub(crate) mod revocations;
mod session_watch;
mod sweep;
#[cfg(test)]
mod tests;
pub(crate) mod upstream;
mod uses;
pub(crate) mod watch;

use std::{
    sync::{Arc, Weak, atomic::AtomicBool},
    time::Duration,
};

use chrono::{DateTime, TimeDelta, Utc};

pub(crate) use self::fetch::LookupPolicy;
use self::{
    cache::{
        SessionCache,
        entry::{CachedSession, Entry, LookupResult},
        key::TokenHash128,
    },
    config::Config,
    pending_changes::PendingChanges,
    revocations::Revocations,
    sweep::Sweep,
    upstream::Upstream,
    uses::Uses,
    watch::Watcher,
};
pub use self::{cache_status::CacheStatus, error::AuthenticateError, watch::SessionEnd};
use crate::{
    clock::{MonotonicTime, TimeSource},
    newest_changes::NewestChanges,
    shared_caches::SharedCaches,
    store::{SessionRegistry, SessionStore},
    telemetry::{Counters, Statistics},
    token::{SessionToken, TokenFormat},
};

/// Authenticates tokens. It knows nothing of HTTP, and its store by its trait alone.
pub(crate) struct Engine {
    config: Config,
    clock: TimeSource,
    cache: SessionCache,
    revocations: Revocations,
    upstream: Upstream,
    pending_changes: PendingChanges,
    newest_changes: NewestChanges<MonotonicTime>,
    counters: Counters,
    sweep: Sweep,
    /// `None`: uses are not recorded.
    uses: Option<Uses>,
    /// The other caches in this process in front of the same store, if it knows them.
    shared_caches: Option<SharedCaches>,
    /// Set once the engine has checked that a source is listened to.
    has_looked_for_source: AtomicBool,
    /// Handed to what outlives a request.
    watcher: Arc<Watcher<CachedSession>>,
}

/// The outcome of a cache lookup.
pub(crate) enum CacheLookup {
    /// The token opens this session.
    Hit(Authenticated),
    /// The token opens nothing.
    NegativeHit,
    /// The store must be asked.
    Miss,
}

/// A session that authenticates a request, and where it came from.
pub(crate) struct Authenticated {
    pub(crate) session: Arc<CachedSession>,
    pub(crate) cache_status: CacheStatus,
}

impl Engine {
    /// Creates an engine, which records uses in `uses` if that is there.
    pub(crate) fn new(
        store: Arc<dyn SessionStore>,
        uses: Option<Arc<dyn SessionRegistry>>,
        config: Config,
    ) -> Arc<Self> {
        let shared_caches = store.shared_caches().cloned();
        let unconfirmed = shared_caches.as_ref().map(SharedCaches::unconfirmed);
        let unconfirmed = unconfirmed.cloned().unwrap_or_default();
        let engine = Arc::new_cyclic(|engine: &Weak<Self>| Self {
            clock: TimeSource::new(config.clock.clone()),
            cache: SessionCache::new(&config),
            revocations: Revocations::new(config.stripes(), config.requires_source),
            upstream: Upstream::new(store, &config),
            pending_changes: PendingChanges::new(unconfirmed),
            newest_changes: NewestChanges::default(),
            counters: Counters::default(),
            sweep: Sweep::new(),
            uses: uses.map(|store| Uses::new(store, &config)),
            watcher: Arc::new(Watcher::new(Weak::clone(engine))),
            shared_caches,
            has_looked_for_source: AtomicBool::new(false),
            config,
        });
        if let Some(caches) = &engine.shared_caches {
            let engine: Weak<Self> = Arc::downgrade(&engine);
            caches.add(engine);
        }
        engine
    }

    /// Looks `token` up in the cache. Never waits, and takes none of our locks.
    #[inline]
    pub(crate) fn lookup_cached(self: &Arc<Self>, token: &[u8]) -> CacheLookup {
        // A cached token was checked in full when it was looked up in the store.
        if !self.config.token_format.has_shape(token) {
            return self.screen();
        }
        let hash = self.cache.hash64(token);
        let now = self.clock.monotonic_now();
        let read = |session: &Arc<CachedSession>| self.admit_cached(session, token, now, true);
        if let Some(authenticated) = self.cache.front(hash, read) {
            if self.counters.hit(hash.shard_bits()) {
                // Keeps moka's idea of what is in use up to date.
                self.cache.session(self.cache.hash128(hash, token));
            }
            return CacheLookup::Hit(authenticated);
        }
        if !self.config.token_format.accepts(token) {
            return self.screen();
        }
        let key = self.cache.hash128(hash, token);
        if let Some(session) = self.cache.session(key) {
            if let Some(authenticated) = self.admit_cached(&session, token, now, true) {
                let replace_live = self.counters.hit(hash.shard_bits());
                self.cache
                    .promote(session, |other| self.is_usable(other, now), replace_live);
                return CacheLookup::Hit(authenticated);
            }
        }
        if self.opens_nothing(key, token, now) {
            self.counters.negative_hits.add_one();
            return CacheLookup::NegativeHit;
        }
        CacheLookup::Miss
    }

    /// Looks `token` up among those that open nothing, and in nothing else. Never waits.
    pub(crate) fn lookup_negative(&self, token: &[u8]) -> CacheLookup {
        let format = &self.config.token_format;
        if !format.has_shape(token) || !format.accepts(token) {
            return self.screen();
        }
        let now = self.clock.monotonic_now();
        if self.opens_nothing(self.cache.key(token), token, now) {
            self.counters.negative_hits.add_one();
            return CacheLookup::NegativeHit;
        }
        CacheLookup::Miss
    }

    /// Returns `true` if `token` is remembered to open nothing. This is relied on even while
    /// invalidations may be missed: they do not announce new sessions.
    fn opens_nothing(&self, key: TokenHash128, token: &[u8], now: MonotonicTime) -> bool {
        let entry = self.cache.negative_entry(key);
        entry.is_some_and(|entry| now < entry.fresh_until && self.is_current(&entry, token))
    }

    /// Refuses what cannot be a token of this service.
    pub(crate) fn screen(&self) -> CacheLookup {
        self.counters.screened.add_one();
        CacheLookup::NegativeHit
    }

    /// Counts a request that was authenticated and then refused by a guard.
    pub(crate) fn on_refused_by_guard(&self) {
        self.counters.refused_by_guards.add_one();
    }

    /// Notes that `token` opens a session now: it is known, and not remembered to open nothing.
    pub(crate) fn on_issued(&self, token: &SessionToken) {
        let key = self.cache.key(token.expose().as_bytes());
        self.upstream.known.insert(key.half());
        self.cache.forget_negative(key);
    }

    /// Returns the cached session of `token`, whether or not it may be used.
    pub(crate) fn cached_session(&self, token: &SessionToken) -> Option<Arc<CachedSession>> {
        let token = token.expose().as_bytes();
        self.cached_entry(self.cache.key(token), token)
    }

    /// Returns the changes of the store that are under way.
    pub(crate) fn pending_changes(&self) -> &PendingChanges {
        &self.pending_changes
    }

    pub(crate) fn write_timeout(&self) -> Duration {
        self.config.write_timeout()
    }

    /// Drops from the caches what is of no use any more, not even while the store fails. Looks at every
    /// session: to be called where no request waits.
    pub(crate) fn run_pending_tasks(&self) {
        let now = self.clock.monotonic_now();
        self.cache
            .run_pending_tasks(|session| self.is_usable_in_outage(session, now));
    }

    /// Returns the time after which a request that was answered with 503 may succeed.
    pub(crate) fn retry_after(&self) -> Duration {
        self.upstream.retry_after(self.clock.monotonic_now())
    }

    pub(crate) fn watcher(&self) -> Weak<Watcher<CachedSession>> {
        Arc::downgrade(&self.watcher)
    }

    pub(crate) fn now(&self) -> DateTime<Utc> {
        self.clock.now()
    }

    /// Returns the time before which a session must have ended to be purged.
    pub(crate) fn purge_before(&self) -> DateTime<Utc> {
        let margin = TimeDelta::from_std(self.config.purge_margin).ok();
        let before = margin.and_then(|margin| self.now().checked_sub_signed(margin));
        before.unwrap_or(DateTime::<Utc>::MIN_UTC)
    }

    pub(crate) fn token_format(&self) -> &TokenFormat {
        &self.config.token_format
    }

    pub(crate) fn statistics(&self) -> Statistics {
        let mut statistics = self.counters.snapshot();
        self.upstream.add_statistics(&mut statistics);
        statistics.changes_in_flight = self.pending_changes.under_way() as u64;
        let now = self.clock.monotonic_now();
        (
            statistics.sources_listening,
            statistics.sources_disconnected,
        ) = self.revocations.sources(now);
        self.add_use_statistics(&mut statistics);
        (statistics.cached_sessions, statistics.negative_entries) = self.cache.len();
        statistics
    }

    /// Authenticates by a cached session, if it may be used, and refreshes it if that is due.
    /// `is_use`: for a request, not for a stream.
    #[inline]
    fn admit_cached(
        self: &Arc<Self>,
        session: &Arc<CachedSession>,
        token: &[u8],
        now: MonotonicTime,
        is_use: bool,
    ) -> Option<Authenticated> {
        let is_usable = is_fresh(session, now)
            && self.is_trusted(session, now)
            && self.is_current(&**session, token)
            && self.is_unexpired(session, now);
        if !is_usable {
            return None;
        }
        if session.refresh.is_due(now) {
            self.refresh(self.cache.key(token), session, now);
        }
        if is_use && session.next_use.is_due(now) {
            self.note_use(session);
        }
        Some(Authenticated {
            session: Arc::clone(session),
            cache_status: CacheStatus::Hit,
        })
    }

    /// Returns `true` if `entry` answers for `token` and no revocation has overtaken it.
    ///
    /// This is the one guard. A hit, a stale answer, a result that lands and an insertion all pass
    /// it.
    #[inline]
    fn is_current(&self, entry: &impl Entry, token: &[u8]) -> bool {
        let table = &self.revocations.table;
        entry.is_for(token) && table.is_current(entry.epoch(), entry.stripes())
    }

    /// Returns `true` if the result of a lookup may be used and cached: it is current, and was not
    /// read before a gap in the invalidations. It would take the place of what was read since.
    fn may_land(&self, result: &LookupResult, token: &[u8]) -> bool {
        !self.predates_gap(result) && self.is_current(result, token)
    }

    /// Returns `true` if an invalidation may have been missed since `result` was read.
    fn predates_gap(&self, result: &LookupResult) -> bool {
        result.epoch() < self.revocations.table.oldest_usable()
    }

    /// Returns `true` if no invalidation can have been missed since the session was read.
    #[inline]
    fn is_trusted(&self, session: &CachedSession, now: MonotonicTime) -> bool {
        self.revocations.is_trusted(session.epoch, now)
    }

    /// Returns `true` before the session's end, by the wall clock.
    #[inline]
    fn is_unexpired(&self, session: &CachedSession, now: MonotonicTime) -> bool {
        self.clock.is_before(now, session.expires_at)
    }

    /// Returns `true` if the cached session could still be used while the store fails.
    fn is_usable_in_outage(&self, session: &CachedSession, now: MonotonicTime) -> bool {
        let token = session.session.token.expose().as_bytes();
        now < session.stale_until()
            && self.is_current(session, token)
            && self.is_unexpired(session, now)
    }

    /// Returns `true` if a hit could still use the cached session.
    fn is_usable(&self, session: &CachedSession, now: MonotonicTime) -> bool {
        let token = session.session.token.expose().as_bytes();
        is_fresh(session, now) && self.is_current(session, token)
    }
}

/// Returns `true` while a hit may use the session without asking the store again.
#[inline]
fn is_fresh(session: &CachedSession, now: MonotonicTime) -> bool {
    now < session.fresh_until
}
