//! The store, behind everything that protects the service and the store from each other: single
//! flight, permits, the circuit breaker, the store timeout.

pub(crate) mod breaker;
pub(crate) mod guard;
pub(crate) mod refresh;
pub(crate) mod single_flight;

use std::{sync::Arc, time::Duration};

use tokio::{
    sync::{OwnedSemaphorePermit, Semaphore},
    time::timeout,
};

use self::{
    breaker::{Breaker, Ticket},
    guard::{Panicked, catch_panic, verify},
    single_flight::SingleFlight,
};
use super::{config::Config, error::AuthenticateError};
use crate::{
    clock::MonotonicTime,
    session::CustomerSession,
    store::{SessionStore, StoreError},
    telemetry::Statistics,
    token::SessionToken,
};

pub(crate) struct Upstream {
    store: Arc<dyn SessionStore>,
    /// `None`: no limit.
    permits: Option<Arc<Semaphore>>,
    /// Permits that background lookups leave to requests.
    reserved: usize,
    breaker: Arc<Breaker>,
    pub(super) flights: SingleFlight,
}

impl Upstream {
    pub(crate) fn new(store: Arc<dyn SessionStore>, config: &Config) -> Self {
        let max = config.max_concurrent_lookups();
        let permits = |max: usize| Arc::new(Semaphore::new(max.min(Semaphore::MAX_PERMITS)));
        Self {
            store,
            permits: max.map(permits),
            reserved: max.map_or(0, |max| max / 2),
            breaker: Arc::new(Breaker::new(config.breaker_cooldown())),
            flights: SingleFlight::default(),
        }
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

    /// Takes a permit for one lookup; `None` if there is no limit.
    ///
    /// # Errors
    ///
    /// [`AuthenticateError::Overloaded`] if all permits are taken.
    pub(crate) fn permit(&self) -> Result<Option<OwnedSemaphorePermit>, AuthenticateError> {
        match &self.permits {
            None => Ok(None),
            Some(permits) => match Arc::clone(permits).try_acquire_owned() {
                Ok(permit) => Ok(Some(permit)),
                Err(_) => Err(AuthenticateError::Overloaded),
            },
        }
    }

    /// Asks the circuit breaker for permission to call the store.
    pub(crate) fn ticket(&self, now: MonotonicTime) -> Result<Ticket, AuthenticateError> {
        self.breaker.try_acquire(now).ok_or_else(|| {
            StoreError::unavailable("the circuit breaker is open: the store failed repeatedly")
                .into()
        })
    }

    /// Returns `true` if a background lookup may start. Half of the permits are for requests.
    pub(crate) fn has_background_capacity(&self) -> bool {
        self.permits
            .as_ref()
            .is_none_or(|permits| permits.available_permits() > self.reserved)
    }

    /// Returns what is left of the circuit breaker's cooldown.
    pub(crate) fn retry_after(&self, now: MonotonicTime) -> Duration {
        self.breaker.retry_after(now)
    }

    pub(crate) fn add_statistics(&self, statistics: &mut Statistics) {
        statistics.lookups_in_flight = self.flights.len() as u64;
        statistics.breaker_open = self.breaker.is_open();
        statistics.breaker_opened = self.breaker.times_opened();
    }
}
