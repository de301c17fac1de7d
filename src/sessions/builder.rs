//! How an engine is set up, and what it does unless told otherwise.

use std::{fmt, sync::Arc, time::Duration};

use super::CustomerSessions;
use crate::{
    clock::{Clock, TimeSource},
    engine::{Engine, Settings},
    store::SessionStore,
    token::TokenFormat,
};

/// Builds [`CustomerSessions`]. Every setting has a default, and building cannot fail.
#[derive(Clone)]
#[must_use = "nothing is built until `build` is called"]
pub struct CustomerSessionsBuilder<S> {
    store: S,
    clock: Option<Arc<dyn Clock>>,
    token_format: Option<TokenFormat>,
    cache_ttl: Duration,
    cache_capacity: u64,
    negative_ttl: Duration,
    stale_if_error: Duration,
    store_timeout: Duration,
    breaker_cooldown: Duration,
    max_concurrent_lookups: usize,
}

impl<S: SessionStore> CustomerSessions<S> {
    /// Sets out to build the sessions of `store`.
    pub fn builder(store: S) -> CustomerSessionsBuilder<S> {
        CustomerSessionsBuilder::new(store)
    }
}

impl<S: SessionStore> CustomerSessionsBuilder<S> {
    fn new(store: S) -> Self {
        Self {
            store,
            clock: None,
            token_format: None,
            cache_ttl: Duration::from_secs(60),
            cache_capacity: 50_000,
            negative_ttl: Duration::from_secs(5),
            stale_if_error: Duration::ZERO,
            store_timeout: Duration::from_secs(2),
            breaker_cooldown: Duration::from_millis(500),
            max_concurrent_lookups: 1024,
        }
    }

    /// How long a session is let in without asking the store again; 60 seconds by default.
    ///
    /// A session in use is looked up again in the background when 80 to 90 % of that has passed,
    /// so that its requests do not wait.
    ///
    /// It is counted from before the store was asked. It bounds how long a change that this
    /// engine does not hear of (made in the store by hand, or on another node without
    /// [`listen`](CustomerSessions::listen)) goes unnoticed. Zero: nothing is cached, every
    /// request waits for a lookup.
    pub fn cache_ttl(mut self, ttl: Duration) -> Self {
        self.cache_ttl = ttl;
        self
    }

    /// How many sessions are cached; 50,000 by default. A quarter as many unknown tokens are
    /// remembered beside them. Zero: nothing is cached.
    ///
    /// A table in front of the cache has as many places, a million at the most, of 8 to 16 bytes
    /// each. A session that has a place stays there until another takes it, even if the cache has
    /// dropped it meanwhile; so while sessions come and go, up to twice as many may be held.
    ///
    /// Expect 400 bytes a session, and what its customer carries.
    pub fn cache_capacity(mut self, sessions: u64) -> Self {
        self.cache_capacity = sessions;
        self
    }

    /// How long a token is remembered to be unknown; 5 seconds by default. It bounds how long
    /// a session that was put into the store behind this engine's back is refused, if its
    /// token was tried before. Zero: unknown tokens are not remembered.
    pub fn negative_ttl(mut self, ttl: Duration) -> Self {
        self.negative_ttl = ttl;
        self
    }

    /// How much longer than [`cache_ttl`](Self::cache_ttl) a session is let in while the store
    /// fails; zero by default: not at all.
    ///
    /// Only a session that was verified before is, and only one that has neither expired nor, as
    /// far as this node has heard, been revoked. What happens elsewhere while this node cannot
    /// reach the store goes unnoticed for up to `cache_ttl` and `stale_if_error` together: that is the
    /// price of answering at all.
    pub fn stale_if_error(mut self, stale_if_error: Duration) -> Self {
        self.stale_if_error = stale_if_error;
        self
    }

    /// How long a store is left alone after ten lookups in a row have failed; 500 milliseconds
    /// by default. Then one lookup tries it: if it succeeds all are let through again, else the
    /// next pause begins. Meanwhile whoever needs a lookup is answered at once, with 503 and
    /// what is left of the pause as `Retry-After`, or by [`stale_if_error`](Self::stale_if_error). Zero: a store
    /// that fails is asked all the same.
    ///
    /// An error of the kind [`Corrupt`](crate::StoreErrorKind::Corrupt) is no failure, and one
    /// that says itself [when to ask again](crate::StoreError::with_retry_after) tells neither. A
    /// lookup that everybody has left before its time tells nothing, so a time limit around
    /// requests should be longer than [`store_timeout`](Self::store_timeout).
    pub fn breaker_cooldown(mut self, pause: Duration) -> Self {
        self.breaker_cooldown = pause;
        self
    }

    /// How long a lookup may take, and a request may wait for lookups; 2 seconds by default.
    /// Zero: no limit.
    pub fn store_timeout(mut self, limit: Duration) -> Self {
        self.store_timeout = limit;
        self
    }

    /// How many lookups may be under way at once; 1024 by default. One more is refused at
    /// once, not queued. Streams that watch their session take half of them at most. Zero: no
    /// limit.
    pub fn max_concurrent_lookups(mut self, lookups: usize) -> Self {
        self.max_concurrent_lookups = lookups;
        self
    }

    /// The tokens that are looked up at all, and those that are issued; what the store says
    /// by default.
    pub fn token_format(mut self, format: TokenFormat) -> Self {
        self.token_format = Some(format);
        self
    }

    /// Where the time comes from; [`SystemClock`](crate::SystemClock) by default.
    pub fn clock(mut self, clock: impl Clock) -> Self {
        self.clock = Some(Arc::new(clock));
        self
    }

    /// Builds the sessions. Nothing runs yet, no runtime is needed yet.
    pub fn build(self) -> CustomerSessions<S> {
        let store = Arc::new(self.store);
        let settings = Settings {
            token_format: self.token_format.unwrap_or_else(|| store.token_format()),
            store: Arc::clone(&store) as Arc<dyn SessionStore>,
            time: TimeSource::new(self.clock),
            cache_capacity: self.cache_capacity,
            cache_ttl: self.cache_ttl,
            negative_ttl: self.negative_ttl,
            stale_if_error: self.stale_if_error,
            breaker_cooldown: Some(self.breaker_cooldown).filter(|pause| !pause.is_zero()),
            store_timeout: Some(self.store_timeout).filter(|limit| !limit.is_zero()),
            max_concurrent_lookups: Some(self.max_concurrent_lookups).filter(|max| *max > 0),
            stripes: stripes(self.cache_capacity),
        };
        CustomerSessions {
            store,
            engine: Engine::new(settings),
        }
    }
}

impl<S> fmt::Debug for CustomerSessionsBuilder<S> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("CustomerSessionsBuilder")
            .field("token_format", &self.token_format)
            .field("cache_ttl", &self.cache_ttl)
            .field("cache_capacity", &self.cache_capacity)
            .field("negative_ttl", &self.negative_ttl)
            .field("stale_if_error", &self.stale_if_error)
            .field("store_timeout", &self.store_timeout)
            .field("breaker_cooldown", &self.breaker_cooldown)
            .field("max_concurrent_lookups", &self.max_concurrent_lookups)
            .finish_non_exhaustive()
    }
}

/// Fewest stripes of the revocation table, for sessions and for customers alike: enough for a
/// thousand revocations a second, however few sessions are cached.
const MIN_STRIPES: u64 = 4096;

/// Most stripes of the revocation table: 8 MiB for sessions, and as much for customers.
const MAX_STRIPES: u64 = 1 << 20;

/// Returns the number of stripes for a cache of `capacity` sessions, a power of two.
fn stripes(capacity: u64) -> usize {
    capacity.clamp(MIN_STRIPES, MAX_STRIPES).next_power_of_two() as usize
}
