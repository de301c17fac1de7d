//! The store, behind everything that protects the service and the store from each other: single
//! flight, permits, the circuit breaker, the store timeout. Tokens that were live before come first.

pub(crate) mod breaker;
pub(crate) mod guard;
mod hang_detector;
pub(crate) mod known;
pub(crate) mod permits;
pub(crate) mod refresh;
pub(crate) mod single_flight;

use std::{sync::Arc, time::Duration};

use tokio::time::timeout;

use self::{
    breaker::{Breaker, Ticket, is_outage},
    guard::{Panicked, catch_panic, verify},
    hang_detector::{HangDetector, Watched},
    known::{KnownTokens, TokenClass},
    permits::Permits,
    single_flight::SingleFlight,
};
use super::{cache::key::TokenHash64, config::Config, error::AuthenticateError};
use crate::{
    clock::MonotonicTime,
    session::CustomerSession,
    store::{SessionStore, StoreError},
    telemetry::Statistics,
    token::SessionToken,
};

pub(crate) struct Upstream {
    store: Arc<dyn SessionStore>,
    pub(super) permits: Permits,
    pub(super) known: KnownTokens,
    pub(super) flights: SingleFlight,
    breaker: Arc<Breaker>,
    hang_detector: HangDetector,
    /// The time without an answer after which the store counts as hanging.
    hangs_after: Duration,
}

impl Upstream {
    pub(crate) fn new(store: Arc<dyn SessionStore>, config: &Config) -> Self {
        Self {
            store,
            permits: Permits::new(config.max_concurrent_lookups()),
            known: KnownTokens::new(config.cache_capacity),
            flights: SingleFlight::default(),
            breaker: Arc::new(Breaker::new(config.breaker_cooldown())),
            hang_detector: HangDetector::default(),
            hangs_after: config.wait_limit() / 2,
        }
    }

    /// Asks the store as [`find`](Self::find) does, and judges the store by a known token's answer.
    pub(crate) async fn find_for(
        &self,
        class: TokenClass,
        token: &SessionToken,
        limit: Duration,
    ) -> Result<Option<CustomerSession>, StoreError> {
        let watched = (class == TokenClass::Known).then(|| self.hang_detector.watch());
        let answer = self.find(token, limit).await;
        if !answer.as_ref().is_err_and(is_outage) {
            watched.iter().for_each(Watched::answered);
        }
        answer
    }

    /// Asks the store for the session that `token` opens, and waits for `limit` at most. Returns an
    /// error for a panic and for an answer that breaks the contract.
    pub(crate) async fn find(
        &self,
        token: &SessionToken,
        limit: Duration,
    ) -> Result<Option<CustomerSession>, StoreError> {
        let answer = catch_panic(async {
            timeout(limit, self.store.find(token))
                .await
                .unwrap_or_else(|elapsed| Err(StoreError::timeout(elapsed)))
        });
        let found = answer
            .await
            .unwrap_or_else(|Panicked| Err(StoreError::unavailable("the store panicked")))
            .map_err(|error| error.without(token))?;
        verify(found, token)
    }

    /// Asks the circuit breaker for permission to call the store.
    pub(crate) fn ticket(
        &self,
        token: TokenHash64,
        class: TokenClass,
        now: MonotonicTime,
    ) -> Result<Ticket, AuthenticateError> {
        let ticket = self.breaker.try_acquire(token, class, now);
        let ticket = ticket.map(|ticket| ticket.among(self.known.len()));
        ticket.ok_or_else(|| {
            StoreError::unavailable("the circuit breaker is open: the store failed repeatedly")
                .into()
        })
    }

    /// Returns `true` if lookups of known tokens have begun, and none has been answered for half of the
    /// store timeout.
    pub(crate) fn is_hanging(&self) -> bool {
        self.hang_detector.is_hanging(self.hangs_after)
    }

    /// Returns `true` if the store has a source of invalidations.
    pub(crate) fn has_source(&self) -> bool {
        self.store.has_invalidation_source()
    }

    /// Returns what is left of the circuit breaker's cooldown.
    pub(crate) fn retry_after(&self, now: MonotonicTime) -> Duration {
        self.breaker.retry_after(now)
    }

    pub(crate) fn add_statistics(&self, statistics: &mut Statistics) {
        let waiting = self.permits.waiting();
        statistics.lookups_waiting = waiting as u64;
        statistics.lookups_in_flight = self.flights.len().saturating_sub(waiting) as u64;
        statistics.breaker_open = self.breaker.is_open();
        statistics.breaker_opened = self.breaker.times_opened();
    }
}
