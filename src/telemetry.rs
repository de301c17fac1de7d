//! All that an operator sees: counters and log events.
//!
//! No event carries a token. The messages of stores are searched for it before they get here.

use std::{
    error::Error,
    fmt,
    sync::atomic::{AtomicU64, Ordering::Relaxed},
};

/// The figures of an engine: what it has done since it was built, and what it holds now.
///
/// They are read with [`CustomerSessions::statistics`](crate::CustomerSessions::statistics). They
/// are counted without locks, so under load one may be a moment ahead of another.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
#[non_exhaustive]
pub struct Statistics {
    /// Requests authenticated from the cache.
    pub hits: u64,
    /// Requests authenticated after a lookup.
    pub verified: u64,
    /// Requests authenticated by a stale session, because the store fails or is slow.
    pub stale: u64,
    /// Requests refused from the cache, because their token is known to open nothing.
    pub negative_hits: u64,
    /// Lookups started in the store. Many requests may share one.
    pub lookups: u64,
    /// Requests refused because their token does not have the format of this service.
    pub screened: u64,
    /// Requests refused for an invalid token, for any reason.
    pub rejected: u64,
    /// Requests refused by a guard of a layer, such as
    /// [`require_scope`](crate::CustomerSessionLayer::require_scope), after they were authenticated;
    /// they are counted there too, and not as [`rejected`](Self::rejected).
    pub refused_by_guards: u64,
    /// Lookups that failed, took too long or panicked.
    pub store_errors: u64,
    /// Requests refused because too many lookups were in flight.
    pub overloaded: u64,
    /// Results of lookups that were not used, because an invalidation came while they were in flight.
    pub superseded: u64,
    /// Lookups started in the background, for sessions that are in use.
    pub refreshes: u64,
    /// Times that a stream has checked its session. Streams are not counted as requests.
    pub stream_checks: u64,
    /// Invalidations applied, from this node or another.
    pub invalidations: u64,
    /// Messages from sources that could not be read.
    pub malformed_messages: u64,
    /// Number of times that the circuit breaker has opened.
    pub breaker_opened: u64,
    /// `true` while the circuit breaker is open or half-open.
    pub breaker_open: bool,
    /// Sources of invalidations that are listened to now.
    pub sources_listening: u64,
    /// Those of them that are disconnected now, or have answered no question for two seconds. While
    /// there is one, every request asks the store.
    pub sources_disconnected: u64,
    /// Lookups in flight now.
    pub lookups_in_flight: u64,
    /// Changes of the store under way now, those included whose callers have given up.
    pub changes_in_flight: u64,
    /// Lookups that wait for a permit now. Only those of tokens that were live before wait.
    pub lookups_waiting: u64,
    /// Uses of sessions that the store has recorded.
    pub uses_recorded: u64,
    /// Uses that wait to be recorded now.
    pub uses_waiting: u64,
    /// Uses that were not recorded, because too many were waiting or the store refused them.
    pub uses_lost: u64,
    /// Sessions in the cache now. Moka counts in batches, so the figure lags a little.
    pub cached_sessions: u64,
    /// Unknown tokens in the cache now, counted in the same way.
    pub negative_entries: u64,
}

/// Cache lines of the counter of hits; a power of two.
const STRIPES: usize = 16;

/// The engine's counters.
#[derive(Default)]
pub(crate) struct Counters {
    hits: [CacheLine; STRIPES],
    pub(crate) verified: Counter,
    pub(crate) stale: Counter,
    pub(crate) negative_hits: Counter,
    pub(crate) lookups: Counter,
    pub(crate) screened: Counter,
    pub(crate) found_invalid: Counter,
    pub(crate) refused_by_guards: Counter,
    pub(crate) store_errors: Counter,
    pub(crate) overloaded: Counter,
    pub(crate) superseded: Counter,
    pub(crate) refreshes: Counter,
    pub(crate) stream_checks: Counter,
    pub(crate) invalidations: Counter,
    pub(crate) malformed_messages: Counter,
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
    /// Counts a hit, and returns `true` for one in 32 of those that count on the same cache line.
    /// Different `shard_bits` count on different cache lines, so that cores which serve different
    /// customers do not wait for each other.
    #[inline]
    pub(crate) fn hit(&self, shard_bits: usize) -> bool {
        self.hits[shard_bits % STRIPES].0.0.fetch_add(1, Relaxed) % 32 == 0
    }

    /// Returns a number that differs from lookup to lookup.
    pub(crate) fn jitter(&self) -> usize {
        // A Weyl sequence is even over any few numbers in a row.
        (self.lookups.get().wrapping_mul(0x9e37_79b9_7f4a_7c15) >> 33) as usize
    }

    pub(crate) fn snapshot(&self) -> Statistics {
        Statistics {
            hits: self.hits.iter().map(|line| line.0.get()).sum(),
            verified: self.verified.get(),
            stale: self.stale.get(),
            refreshes: self.refreshes.get(),
            stream_checks: self.stream_checks.get(),
            malformed_messages: self.malformed_messages.get(),
            negative_hits: self.negative_hits.get(),
            lookups: self.lookups.get(),
            screened: self.screened.get(),
            rejected: self.screened.get() + self.negative_hits.get() + self.found_invalid.get(),
            refused_by_guards: self.refused_by_guards.get(),
            store_errors: self.store_errors.get(),
            overloaded: self.overloaded.get(),
            superseded: self.superseded.get(),
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

pub(crate) fn uses_not_recorded(error: &dyn Error) {
    #[cfg(feature = "tracing")]
    tracing::warn!(
        error = with_causes(error),
        "the store did not record when sessions were used"
    );
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

pub(crate) fn separate_caches(store: &str) {
    #[cfg(feature = "tracing")]
    tracing::warn!(
        store,
        "there are two caches in front of stores of the same type; if they are the same store, a \
         revocation by one goes unnoticed by the other until its cached answer is too old: take the \
         layer from the `CustomerSessions` that revokes, or implement `SessionStore::shared_caches`"
    );
    #[cfg(not(feature = "tracing"))]
    let _ = store;
}

pub(crate) fn no_source() {
    #[cfg(feature = "tracing")]
    tracing::warn!(
        "this store can tell what other nodes have changed, but nothing listens to it: spawn \
         `CustomerSessions::listen` with the store's source of invalidations"
    );
}

pub(crate) fn source_ended() {
    #[cfg(feature = "tracing")]
    tracing::warn!(
        "a source of invalidations has ended; from now on a change on another node goes unnoticed \
         until what is cached is looked up again"
    );
}

pub(crate) fn source_panicked() {
    #[cfg(feature = "tracing")]
    tracing::error!(
        "a source of invalidations has panicked and is not listened to any more; from now on a \
         change on another node goes unnoticed until what is cached is looked up again"
    );
}

pub(crate) fn source_disconnected() {
    #[cfg(feature = "tracing")]
    tracing::warn!(
        "the source of invalidations has lost its connection; until it is back, every request \
         asks the store"
    );
}

pub(crate) fn source_reconnected() {
    #[cfg(feature = "tracing")]
    tracing::info!("the source of invalidations is back");
}

pub(crate) fn malformed_message() {
    #[cfg(feature = "tracing")]
    tracing::warn!(
        "a message from the source of invalidations could not be read and is ignored; from now on \
         such messages are only counted"
    );
}

pub(crate) fn breaker_opened() {
    #[cfg(feature = "tracing")]
    tracing::warn!("the session store has failed repeatedly; the circuit breaker is open");
}

pub(crate) fn breaker_closed() {
    #[cfg(feature = "tracing")]
    tracing::info!("the session store answers again; the circuit breaker is closed");
}

pub(crate) fn rejected(reason: &dyn fmt::Debug) {
    #[cfg(feature = "tracing")]
    tracing::debug!(?reason, "request refused");
    #[cfg(not(feature = "tracing"))]
    let _ = reason;
}

#[cfg(feature = "polar")]
pub(crate) fn foreign_sessions(count: u64) {
    #[cfg(feature = "tracing")]
    tracing::warn!(
        count,
        "live token of another organization refused; if it should be a customer of yours, the access \
         token of the `PolarStore` is another organization's"
    );
    #[cfg(not(feature = "tracing"))]
    let _ = count;
}

#[cfg(feature = "polar")]
pub(crate) fn webhook_refused(error: &dyn Error) {
    #[cfg(feature = "tracing")]
    tracing::warn!(error = with_causes(error), "webhook refused");
    #[cfg(not(feature = "tracing"))]
    let _ = error;
}

#[cfg(feature = "polar")]
pub(crate) fn webhook_repeated() {
    #[cfg(feature = "tracing")]
    tracing::debug!("webhook repeated: it was accepted before, and has no second effect");
}

#[cfg(feature = "polar")]
pub(crate) fn webhook_is_none(error: &dyn Error) {
    #[cfg(feature = "tracing")]
    tracing::debug!(
        error = with_causes(error),
        "a request to the webhooks' route is not a webhook"
    );
    #[cfg(not(feature = "tracing"))]
    let _ = error;
}

#[cfg(feature = "polar")]
pub(crate) fn webhooks_without_listener() {
    #[cfg(feature = "tracing")]
    tracing::error!(
        "webhooks arrive, but nothing applies them, and Polar disables the endpoint after ten failures: \
         pass the `PolarInvalidations` that `Webhooks::service` returned to `CustomerSessions::listen`, \
         and spawn that future"
    );
}

#[cfg(feature = "polar")]
pub(crate) fn webhook_not_announced(error: &dyn Error) {
    #[cfg(feature = "tracing")]
    tracing::warn!(
        error = with_causes(error),
        "a change that a webhook told of could not be announced to the other nodes; Polar sends it again"
    );
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

#[cfg(feature = "axum")]
pub(crate) fn customer_replaced(extractor: &str) {
    #[cfg(feature = "tracing")]
    tracing::error!(
        "a handler asks for `{extractor}`, but the `Customer` in the request's extensions was not put \
         there by the layer: a middleware may put there what `CurrentSession::into_customer` or \
         `CurrentSession::acting_for` returns"
    );
    #[cfg(not(feature = "tracing"))]
    let _ = extractor;
}

/// Runs `future` in the span of its caller.
pub(crate) fn in_current_span<F: Future>(future: F) -> impl Future<Output = F::Output> {
    #[cfg(feature = "tracing")]
    return tracing::Instrument::in_current_span(future);
    #[cfg(not(feature = "tracing"))]
    future
}

/// Returns the text of `error` and of all its causes.
pub(crate) fn with_causes(error: &dyn Error) -> String {
    let mut text = error.to_string();
    let mut cause = error.source();
    while let Some(error) = cause {
        let text_of_cause = error.to_string();
        // Some errors repeat their causes themselves.
        if !text.ends_with(&text_of_cause) {
            text.push_str(": ");
            text.push_str(&text_of_cause);
        }
        cause = error.source();
    }
    text
}
