//! Everything an operator can see: each counter and each event by name.
//!
//! No event carries a token: what stores say is searched for it before it gets here.

use std::{
    error::Error,
    fmt,
    sync::atomic::{AtomicU64, Ordering::Relaxed},
};

/// What the engine has done since it was built, and what it holds now.
///
/// Read it with [`CustomerSessions::statistics`](crate::CustomerSessions::statistics). The
/// figures are counted without locks, so under load one may be a moment ahead of another.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
#[non_exhaustive]
pub struct Statistics {
    /// Requests let in from the cache.
    pub hits: u64,
    /// Requests let in after a lookup.
    pub verified: u64,
    /// Requests let in by an answer that is no longer fresh, because the store fails.
    pub stale: u64,
    /// Requests refused because their token is remembered to be unknown.
    pub absent_hits: u64,
    /// Lookups started in the store. Many requests may share one.
    pub lookups: u64,
    /// Requests refused because their token cannot have been issued in this format.
    pub screened: u64,
    /// Requests refused as an invalid token, for whatever reason.
    pub rejected: u64,
    /// Lookups that failed, took too long or panicked.
    pub store_errors: u64,
    /// Requests refused because too many lookups were under way.
    pub overloaded: u64,
    /// Answers thrown away because an invalidation came while they were under way.
    pub overtaken: u64,
    /// Lookups started in the background, for sessions that are in use.
    pub refreshes: u64,
    /// Invalidations applied, from this node or another.
    pub invalidations: u64,
    /// Messages of other nodes that could not be read.
    pub unreadable: u64,
    /// How often the circuit breaker has opened.
    pub breaker_opened: u64,
    /// Whether the circuit breaker is open now, or trying the store.
    pub breaker_open: bool,
    /// Sources of invalidations that are without a connection now. While there is one, every
    /// request asks the store.
    pub sources_lost: u64,
    /// Lookups under way now.
    pub lookups_in_flight: u64,
    /// Sessions in the cache now. Moka counts in batches; the figure lags a little.
    pub cached_sessions: u64,
    /// Tokens remembered to be unknown now, counted in the same way.
    pub cached_absent: u64,
}

/// As many cache lines for the counter of hits; a power of two.
const STRIPES: usize = 16;

/// The engine's counters.
#[derive(Default)]
pub(crate) struct Counters {
    hits: [CacheLine; STRIPES],
    pub(crate) verified: Counter,
    pub(crate) stale: Counter,
    pub(crate) absent_hits: Counter,
    pub(crate) lookups: Counter,
    pub(crate) screened: Counter,
    pub(crate) found_invalid: Counter,
    pub(crate) store_errors: Counter,
    pub(crate) overloaded: Counter,
    pub(crate) overtaken: Counter,
    pub(crate) refreshes: Counter,
    pub(crate) invalidations: Counter,
    pub(crate) unreadable: Counter,
}

#[derive(Default)]
pub(crate) struct Counter(AtomicU64);

impl Counter {
    pub(crate) fn add_one(&self) {
        self.0.fetch_add(1, Relaxed);
    }

    fn get(&self) -> u64 {
        self.0.load(Relaxed)
    }
}

#[derive(Default)]
#[repr(align(64))]
struct CacheLine(Counter);

impl Counters {
    /// Counts a hit, and tells whether it is one in 32 of those that count on this line. Different
    /// `spread`s count on different cache lines, so that cores which serve different customers do
    /// not wait for each other.
    pub(crate) fn hit(&self, shard_bits: usize) -> bool {
        self.hits[shard_bits % STRIPES].0.0.fetch_add(1, Relaxed) % 32 == 0
    }

    /// A number that differs from lookup to lookup, for what must not be in step.
    pub(crate) fn jitter(&self) -> usize {
        // Weyl's sequence: even over any few numbers.
        (self.lookups.get().wrapping_mul(0x9e37_79b9_7f4a_7c15) >> 33) as usize
    }

    pub(crate) fn snapshot(&self) -> Statistics {
        Statistics {
            hits: self.hits.iter().map(|line| line.0.get()).sum(),
            verified: self.verified.get(),
            stale: self.stale.get(),
            refreshes: self.refreshes.get(),
            unreadable: self.unreadable.get(),
            absent_hits: self.absent_hits.get(),
            lookups: self.lookups.get(),
            screened: self.screened.get(),
            rejected: self.screened.get() + self.absent_hits.get() + self.found_invalid.get(),
            store_errors: self.store_errors.get(),
            overloaded: self.overloaded.get(),
            overtaken: self.overtaken.get(),
            invalidations: self.invalidations.get(),
            ..Statistics::default()
        }
    }
}

pub(crate) fn lookup_failed(error: &dyn Error) {
    #[cfg(feature = "tracing")]
    tracing::warn!(error = with_causes(error), "session lookup failed");
    #[cfg(not(feature = "tracing"))]
    let _ = error;
}

pub(crate) fn outcome_unknown(change: &dyn fmt::Debug, error: &dyn Error) {
    #[cfg(feature = "tracing")]
    tracing::warn!(
        ?change,
        error = with_causes(error),
        "the store did not confirm a change; what is cached about it is dropped all the same"
    );
    #[cfg(not(feature = "tracing"))]
    let _ = (change, error);
}

pub(crate) fn purge_failed(error: &dyn Error) {
    #[cfg(feature = "tracing")]
    tracing::warn!(
        error = with_causes(error),
        "purging expired sessions failed"
    );
    #[cfg(not(feature = "tracing"))]
    let _ = error;
}

pub(crate) fn source_ended() {
    #[cfg(feature = "tracing")]
    tracing::info!("the source of invalidations has ended");
}

pub(crate) fn source_lost() {
    #[cfg(feature = "tracing")]
    tracing::warn!(
        "the source of invalidations has lost its connection; until it is back every request asks \
         the store"
    );
}

pub(crate) fn source_found() {
    #[cfg(feature = "tracing")]
    tracing::info!("the source of invalidations is back");
}

pub(crate) fn message_unreadable() {
    #[cfg(feature = "tracing")]
    tracing::warn!(
        "a message among the invalidations could not be read and is ignored; further ones are \
         counted only"
    );
}

pub(crate) fn breaker_opened() {
    #[cfg(feature = "tracing")]
    tracing::warn!("the session store has failed again and again; it is left alone for a moment");
}

pub(crate) fn breaker_closed() {
    #[cfg(feature = "tracing")]
    tracing::info!("the session store answers again");
}

pub(crate) fn rejected(reason: &dyn fmt::Debug) {
    #[cfg(feature = "tracing")]
    tracing::debug!(?reason, "request refused");
    #[cfg(not(feature = "tracing"))]
    let _ = reason;
}

#[cfg(feature = "polar")]
pub(crate) fn webhook_secret_refused() {
    #[cfg(feature = "tracing")]
    tracing::error!("an empty webhook secret is not taken: anybody could sign with it");
}

#[cfg(feature = "polar")]
pub(crate) fn webhook_refused(error: &dyn Error) {
    #[cfg(feature = "tracing")]
    tracing::warn!(error = with_causes(error), "webhook refused");
    #[cfg(not(feature = "tracing"))]
    let _ = error;
}

#[cfg(feature = "axum")]
pub(crate) fn handler_failed(error: &dyn Error) {
    #[cfg(feature = "tracing")]
    tracing::warn!(
        error = with_causes(error),
        "a handler failed because of the session store"
    );
    #[cfg(not(feature = "tracing"))]
    let _ = error;
}

#[cfg(feature = "axum")]
pub(crate) fn layer_missing(extractor: &str) {
    #[cfg(feature = "tracing")]
    tracing::error!(
        "a handler asks for `{extractor}`, but its route has no layer: add \
         `.layer(sessions.layer())` after the routes, or, if the service has no \
         `CustomerSessions`, `.layer(CustomerSessionLayer::new(store))`"
    );
    #[cfg(not(feature = "tracing"))]
    let _ = extractor;
}

/// Runs `future` in the span of whoever asked for it.
pub(crate) fn in_current_span<F: Future>(future: F) -> impl Future<Output = F::Output> {
    #[cfg(feature = "tracing")]
    return tracing::Instrument::in_current_span(future);
    #[cfg(not(feature = "tracing"))]
    future
}

/// The error and all that caused it.
pub(crate) fn with_causes(error: &dyn Error) -> String {
    let mut text = error.to_string();
    let mut cause = error.source();
    while let Some(error) = cause {
        let said = error.to_string();
        // Some errors repeat their causes themselves.
        if !text.ends_with(&said) {
            text.push_str(": ");
            text.push_str(&said);
        }
        cause = error.source();
    }
    text
}
