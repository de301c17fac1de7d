//! The calls per minute that are made for customers who turn out to be another organization's.

use std::{
    collections::VecDeque,
    pin::pin,
    sync::{Arc, Mutex, MutexGuard, PoisonError},
    time::Duration,
};

use tokio::{sync::Notify, time::timeout};

use crate::{clock::Clock, customer::CustomerId, store::error::StoreError};

const MINUTE: Duration = Duration::from_secs(60);

/// Longest wait for calls under way, whose outcome decides whether there is a call left.
const MAX_WAIT: Duration = Duration::from_millis(500);

/// Time after which a lookup that has waited in vain may be repeated.
const BUSY_RETRY: Duration = Duration::from_secs(1);

/// A sliding window of one minute. Calls for a customer that is found to be the organization's own, then
/// or later, do not count, so that a node which has just started learns its customers as fast as Polar
/// allows, and a replica that lags costs none. Nor do calls without an answer.
pub(super) struct CallBudget {
    clock: Arc<dyn Clock>,
    /// Calls per minute.
    limit: usize,
    /// Guards the calls. Never held across an await.
    calls: Mutex<Calls>,
    /// Notified when a call has ended.
    ended: Notify,
}

#[derive(Default)]
struct Calls {
    /// The monotonic times at which calls that count have ended, in their order, and their customers.
    counted: VecDeque<(Duration, CustomerId)>,
    /// Calls whose outcome is not known yet.
    in_flight: usize,
}

/// Calls that are made for one customer. They end when it is dropped, and count if it was said so.
pub(super) struct CallPermit<'a> {
    /// `None`: the calls are not limited.
    budget: Option<&'a CallBudget>,
    customer: CustomerId,
    calls: usize,
    is_counted: bool,
}

/// Why there is no call left.
enum Refusal {
    /// The calls of the last minute, for so long.
    Spent(Duration),
    /// Calls under way, which may not count.
    Busy,
}

impl CallBudget {
    pub(super) fn new(clock: Arc<dyn Clock>, limit: usize) -> Self {
        Self {
            clock,
            limit,
            calls: Mutex::default(),
            ended: Notify::new(),
        }
    }

    /// Returns a permit for one call.
    ///
    /// # Errors
    ///
    /// If the calls of this minute are spent, with the time until the next.
    pub(super) async fn permit(&self, customer: &CustomerId) -> Result<CallPermit<'_>, StoreError> {
        let taken = timeout(MAX_WAIT, async {
            loop {
                let mut ended = pin!(self.ended.notified());
                ended.as_mut().enable();
                match self.try_take() {
                    Ok(()) => return Ok(()),
                    Err(Refusal::Spent(left)) => return Err(left),
                    Err(Refusal::Busy) => ended.await,
                }
            }
        });
        match taken.await.unwrap_or(Err(BUSY_RETRY)) {
            Ok(()) => Ok(CallPermit {
                budget: Some(self),
                customer: customer.clone(),
                calls: 1,
                is_counted: false,
            }),
            Err(left) => Err(StoreError::unavailable(
                "the calls to Polar for customers that were never seen are used up for this minute",
            )
            .with_retry_after(left)),
        }
    }

    fn try_take(&self) -> Result<(), Refusal> {
        let now = self.clock.monotonic();
        let mut calls = self.lock();
        let is_over = |ended_at: Duration| now.saturating_sub(ended_at) >= MINUTE;
        while calls.counted.front().is_some_and(|(at, _)| is_over(*at)) {
            calls.counted.pop_front();
        }
        if calls.counted.len() + calls.in_flight < self.limit {
            calls.in_flight += 1;
            return Ok(());
        }
        Err(match calls.counted.front() {
            Some((first, _)) if calls.counted.len() >= self.limit => {
                Refusal::Spent((*first + MINUTE).saturating_sub(now))
            }
            _ => Refusal::Busy,
        })
    }

    /// Counts the calls that were made for a customer no more.
    pub(super) fn forgive(&self, customer: &CustomerId) {
        self.lock().counted.retain(|(_, other)| other != customer);
        self.ended.notify_waiters();
    }

    /// Ends calls under way.
    fn end(&self, customer: &CustomerId, number: usize, is_counted: bool) {
        let mut calls = self.lock();
        calls.in_flight -= number;
        if is_counted {
            let call = (self.clock.monotonic(), customer.clone());
            calls.counted.extend(std::iter::repeat_n(call, number));
        }
        drop(calls);
        self.ended.notify_waiters();
    }

    fn lock(&self) -> MutexGuard<'_, Calls> {
        self.calls.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl CallPermit<'_> {
    /// Returns a permit for any number of calls, which do not count.
    pub(super) fn unlimited(customer: &CustomerId) -> Self {
        Self {
            budget: None,
            customer: customer.clone(),
            calls: 0,
            is_counted: false,
        }
    }

    /// Permits one call more, if there is one without waiting.
    pub(super) fn try_add(&mut self) -> bool {
        let Some(budget) = self.budget else {
            return true;
        };
        let is_taken = budget.try_take().is_ok();
        self.calls += usize::from(is_taken);
        is_taken
    }

    /// Says whether the calls count: Polar has not found the customer, or it is not the organization's.
    pub(super) fn count(&mut self, is_counted: bool) {
        self.is_counted = is_counted;
    }
}

impl Drop for CallPermit<'_> {
    fn drop(&mut self) {
        if let Some(budget) = self.budget {
            budget.end(&self.customer, self.calls, self.is_counted);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::testing::ManualClock;

    const SECOND: Duration = Duration::from_secs(1);

    fn budget(limit: usize) -> (CallBudget, ManualClock) {
        let clock = ManualClock::new("2030-01-01T00:00:00Z".parse().expect("a time"));
        (CallBudget::new(Arc::new(clock.clone()), limit), clock)
    }

    async fn wait(budget: &CallBudget) -> Option<Duration> {
        let permit = budget.permit(&"another".into()).await;
        permit.err()?.retry_after()
    }

    async fn spend(budget: &CallBudget, customer: &str) {
        let permit = budget.permit(&customer.into()).await;
        permit.expect("a call").count(true);
    }

    #[tokio::test]
    async fn calls_that_count_are_limited_in_every_minute() {
        let (budget, clock) = budget(2);
        spend(&budget, "cus_1").await;
        clock.advance(20 * SECOND);
        spend(&budget, "cus_2").await;
        assert_eq!(wait(&budget).await, Some(40 * SECOND));
        clock.advance(40 * SECOND);
        // The first is a minute old.
        spend(&budget, "cus_3").await;
        assert_eq!(wait(&budget).await, Some(20 * SECOND));
    }

    #[tokio::test]
    async fn calls_count_only_if_it_is_said() {
        let (budget, _) = budget(2);
        let customer = CustomerId::from("cus_1");
        for _ in 0..10 {
            let mut permit = budget.permit(&customer).await.expect("a call");
            assert!(permit.try_add());
            assert!(!permit.try_add());
        }
        assert_eq!(budget.lock().counted.len(), 0);
        let mut permit = budget.permit(&customer).await.expect("a call");
        assert!(permit.try_add());
        permit.count(true);
        drop(permit);
        assert_eq!(wait(&budget).await, Some(MINUTE));
        budget.forgive(&"cus_2".into());
        assert_eq!(wait(&budget).await, Some(MINUTE));
        budget.forgive(&customer);
        assert_eq!(wait(&budget).await, None);
    }

    #[tokio::test(start_paused = true)]
    async fn a_lookup_waits_for_calls_under_way_but_not_for_long() {
        let (budget, _) = budget(1);
        let customer = CustomerId::from("cus_1");
        let first = budget.permit(&customer).await.expect("a call");
        assert_eq!(wait(&budget).await, Some(BUSY_RETRY));
        let (second, ()) = tokio::join!(budget.permit(&customer), async { drop(first) });
        let mut second = second.expect("the first does not count");
        second.count(true);
        let (third, fourth, ()) =
            tokio::join!(wait(&budget), wait(&budget), async { drop(second) });
        assert_eq!((third, fourth), (Some(MINUTE), Some(MINUTE)));
    }
}
