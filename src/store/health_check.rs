//! When a store checks its server and its peppers again.

use std::{
    error::Error as _,
    sync::{Arc, Mutex, MutexGuard, PoisonError},
    time::Duration,
};

use tokio::{
    sync::OwnedMutexGuard,
    time::{Instant, timeout},
};

use super::error::{ContextError, StoreError};

/// Time after which a store is checked again: the server may have become a replica, or another
/// machine may have changed the pepper.
const CHECK_INTERVAL: Duration = Duration::from_secs(10);

/// Time limit of one check.
const CHECK_TIMEOUT: Duration = Duration::from_secs(5);

const CONTEXT: &str = "checking the store";

/// Age at which the last success no longer counts while a check takes long, or cannot be made.
const MAX_AGE: Duration = Duration::from_secs(30);

/// The outcome of the last checks, by which calls of a store are let through.
///
/// The first call that finds a check due makes it, and the others go on meanwhile. Once a check was
/// refused, and before the first one, every call waits for a check; those that wait share it. A check
/// goes on when its caller is dropped, so that callers with little time get the outcome of one that
/// takes longer.
#[derive(Debug, Default)]
pub(super) struct HealthCheck {
    outcome: Arc<Outcome>,
    /// Held while a check is under way.
    checking: Arc<tokio::sync::Mutex<()>>,
}

#[derive(Debug, Default)]
struct Outcome {
    /// Guards plain values, whole at every point. Never held across an await.
    state: Mutex<State>,
}

#[derive(Debug, Default)]
struct State {
    success: Option<Success>,
    /// The error of the last check that was refused, and the number of all of these.
    failure: Option<StoreError>,
    failures: u64,
    /// Number of times that the last success was forgotten.
    invalidations: u64,
}

#[derive(Clone, Copy, Debug)]
struct Success {
    at: Instant,
    /// When the next check is due.
    next: Instant,
}

/// The state at the beginning of a check.
struct Begun {
    at: Instant,
    invalidations: u64,
}

enum Decision {
    GoOn,
    /// This call finds a check due; the others go on.
    Check,
    /// Nothing is known, after so many failures.
    Wait {
        failures: u64,
    },
}

impl HealthCheck {
    /// Returns `Ok` if the store may be used, and runs `check` first if it is due.
    ///
    /// An error of the driver is not a verdict: a connection may have been lost, or a pool may be
    /// busy. While the last success is younger than [`MAX_AGE`], calls go on in spite of it.
    ///
    /// # Errors
    ///
    /// The error of the check, which may be that of another call.
    pub(super) async fn run<F>(&self, check: impl FnOnce() -> F) -> Result<(), StoreError>
    where
        F: Future<Output = Result<(), StoreError>> + Send + 'static,
    {
        match self.outcome.decide(Instant::now()) {
            Decision::GoOn => Ok(()),
            Decision::Check => match Arc::clone(&self.checking).try_lock_owned() {
                Ok(checking) => self.run_in_task(checking, check()).await,
                Err(_) => Ok(()),
            },
            Decision::Wait { failures } => {
                let checking = Arc::clone(&self.checking).lock_owned().await;
                match self.outcome.result_since(failures) {
                    Some(result) => result,
                    None => self.run_in_task(checking, check()).await,
                }
            }
        }
    }

    /// Runs a check that was asked for, whether or not one is due, and records its outcome.
    ///
    /// # Errors
    ///
    /// The error of the check.
    pub(super) async fn record(
        &self,
        check: impl Future<Output = Result<(), StoreError>>,
    ) -> Result<(), StoreError> {
        let begun = self.outcome.begin();
        let checked = check.await;
        self.outcome.record(&begun, &checked);
        checked
    }

    /// Makes every call wait for a check.
    #[allow(dead_code, reason = "for a connection that reconnects by itself")]
    pub(super) fn invalidate(&self) {
        let mut state = self.outcome.lock();
        state.success = None;
        state.invalidations += 1;
    }

    /// Runs a check to its end, whatever becomes of the caller.
    async fn run_in_task(
        &self,
        checking: OwnedMutexGuard<()>,
        check: impl Future<Output = Result<(), StoreError>> + Send + 'static,
    ) -> Result<(), StoreError> {
        let outcome = Arc::clone(&self.outcome);
        let begun = outcome.begin();
        let task = tokio::spawn(async move {
            let _checking = checking;
            let checked = timeout(CHECK_TIMEOUT, check).await;
            let checked = checked.unwrap_or_else(|elapsed| {
                Err(StoreError::timeout(ContextError::new(CONTEXT, elapsed)))
            });
            match outcome.record(&begun, &checked) {
                true => Ok(()),
                false => checked,
            }
        });
        // It has panicked, or its runtime has ended.
        let ended = |error| Err(StoreError::unavailable(ContextError::new(CONTEXT, error)));
        task.await.unwrap_or_else(ended)
    }
}

impl Outcome {
    fn decide(&self, now: Instant) -> Decision {
        let mut state = self.lock();
        let failures = state.failures;
        match &mut state.success {
            Some(success) if success.counts(now) => {
                if now < success.next {
                    return Decision::GoOn;
                }
                success.next = now + CHECK_INTERVAL;
                Decision::Check
            }
            _ => Decision::Wait { failures },
        }
    }

    /// Returns the result of a check that has ended since there were so many failures.
    fn result_since(&self, failures: u64) -> Option<Result<(), StoreError>> {
        let state = self.lock();
        if state.still_counts() {
            return Some(Ok(()));
        }
        let error = state.failure.clone();
        error.filter(|_| state.failures != failures).map(Err)
    }

    /// Returns the state at the beginning of a check.
    fn begin(&self) -> Begun {
        Begun {
            at: Instant::now(),
            invalidations: self.lock().invalidations,
        }
    }

    /// Records the outcome of a check. Returns `true` if calls may go on.
    fn record(&self, begun: &Begun, checked: &Result<(), StoreError>) -> bool {
        let mut state = self.lock();
        let Err(error) = checked else {
            let is_newer = state.success.is_none_or(|success| success.at < begun.at);
            if is_newer && state.invalidations == begun.invalidations {
                let (at, next) = (begun.at, begun.at + CHECK_INTERVAL);
                state.success = Some(Success { at, next });
            }
            return true;
        };
        if state.still_counts() && is_of_driver(error) {
            return true;
        }
        state.success = None;
        state.failures += 1;
        state.failure = Some(error.clone());
        false
    }

    fn lock(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl State {
    fn still_counts(&self) -> bool {
        self.success
            .is_some_and(|success| success.counts(Instant::now()))
    }
}

impl Success {
    fn counts(&self, now: Instant) -> bool {
        now.saturating_duration_since(self.at) < MAX_AGE
    }
}

/// Returns `true` for an error of a driver, as against one that says what is wrong with the store.
fn is_of_driver(error: &StoreError) -> bool {
    error
        .source()
        .is_some_and(|source| source.is::<ContextError>())
}

#[cfg(test)]
mod tests {
    use std::{
        pin::Pin,
        sync::{
            Arc,
            atomic::{AtomicU32, Ordering::Relaxed},
        },
        task::Poll,
    };

    use super::*;

    fn refused() -> StoreError {
        StoreError::unavailable("another pepper")
    }

    fn lost() -> StoreError {
        StoreError::unavailable(ContextError::new("asking", "the connection was lost"))
    }

    /// Polls a call that cannot end yet.
    async fn begin(call: &mut (impl Future + Unpin)) {
        std::future::poll_fn(|context| {
            assert!(Pin::new(&mut *call).poll(context).is_pending());
            Poll::Ready(())
        })
        .await;
    }

    /// A store whose checks are counted.
    #[derive(Clone, Default)]
    struct CountedStore {
        health: Arc<HealthCheck>,
        checks: Arc<AtomicU32>,
    }

    impl CountedStore {
        /// Calls the store; a check takes a second.
        async fn call(&self, outcome: Result<(), StoreError>) -> Result<(), StoreError> {
            let checks = Arc::clone(&self.checks);
            let check = || async move {
                checks.fetch_add(1, Relaxed);
                tokio::time::sleep(Duration::from_secs(1)).await;
                outcome
            };
            self.health.run(check).await
        }

        /// Calls the store often at once. Returns how many calls failed.
        async fn call_often(&self, outcome: Result<(), StoreError>) -> usize {
            let calls = (0..1000).map(|_| {
                let (store, outcome) = (self.clone(), outcome.clone());
                tokio::spawn(async move { store.call(outcome).await })
            });
            let mut failed = 0;
            for call in calls.collect::<Vec<_>>() {
                failed += usize::from(call.await.expect("no panic").is_err());
            }
            failed
        }

        fn checks(&self) -> u32 {
            self.checks.swap(0, Relaxed)
        }
    }

    #[tokio::test(start_paused = true)]
    async fn calls_that_wait_share_one_check() {
        let store = CountedStore::default();
        for error in [refused(), lost()] {
            assert_eq!(store.call_often(Err(error)).await, 1000);
            assert_eq!(store.checks(), 1);
        }
        assert_eq!(store.call_often(Ok(())).await, 0);
        assert_eq!(store.checks(), 1);
        store.health.invalidate();
        assert_eq!(store.call_often(Ok(())).await, 0);
        assert_eq!(store.checks(), 1);
    }

    #[tokio::test(start_paused = true)]
    async fn a_check_that_is_due_is_made_by_one_call_and_the_others_go_on() {
        let store = CountedStore::default();
        store.call(Ok(())).await.expect("checked");
        tokio::time::advance(CHECK_INTERVAL / 2).await;
        assert_eq!(store.call_often(Err(refused())).await, 0);
        assert_eq!(store.checks(), 1, "it is not due");
        tokio::time::advance(CHECK_INTERVAL / 2).await;
        assert_eq!(store.call_often(Err(refused())).await, 1);
        assert_eq!(store.checks(), 1);
        assert_eq!(store.call_often(Err(refused())).await, 1000, "the verdict");
        assert_eq!(store.checks(), 1);
        store.call(Ok(())).await.expect("mended");
    }

    #[tokio::test(start_paused = true)]
    async fn a_check_that_cannot_be_made_is_not_a_verdict_for_a_while() {
        let store = CountedStore::default();
        store.call(Ok(())).await.expect("checked");
        for _ in 0..2 {
            tokio::time::advance(CHECK_INTERVAL).await;
            assert_eq!(store.call_often(Err(lost())).await, 0);
        }
        assert_eq!(store.checks(), 3);
        tokio::time::advance(CHECK_INTERVAL).await;
        assert_eq!(store.call_often(Err(lost())).await, 1000, "too long ago");
        assert_eq!(store.checks(), 1);
    }

    #[tokio::test(start_paused = true)]
    async fn a_check_that_hangs_does_not_block_the_next() {
        let store = CountedStore::default();
        let started = Instant::now();
        let hanging = store.health.run(std::future::pending);
        assert!(hanging.await.is_err());
        assert!(started.elapsed() < CHECK_INTERVAL, "it has a time limit");
        let mut dropped = Box::pin(store.health.run(std::future::pending));
        begin(&mut dropped).await;
        drop(dropped);
        assert!(store.call(Ok(())).await.is_err(), "it shares the outcome");
        store.call(Ok(())).await.expect("it checks itself");
        assert_eq!(store.checks(), 1);
        let panics = store.health.run(|| async { panic!("on purpose") });
        tokio::time::advance(MAX_AGE).await;
        assert!(panics.await.is_err());
        store.call(Ok(())).await.expect("it checks itself");
    }

    #[tokio::test(start_paused = true)]
    async fn a_check_goes_on_when_its_caller_has_no_time_left() {
        let store = CountedStore::default();
        let limited = async || {
            let limit = Duration::from_millis(300);
            timeout(limit, store.call(Ok(()))).await.is_ok()
        };
        for _ in 0..3 {
            assert!(!limited().await, "a check takes a second");
        }
        assert!(limited().await, "the first check has ended");
        assert_eq!(store.checks(), 1);

        // The same holds for a check that is due, and its outcome counts.
        tokio::time::advance(CHECK_INTERVAL).await;
        let mut dropped = Box::pin(store.call(Err(refused())));
        begin(&mut dropped).await;
        drop(dropped);
        store.call(Ok(())).await.expect("others go on meanwhile");
        tokio::time::sleep(Duration::from_secs(2)).await;
        assert_eq!(store.checks(), 1);
        store.call(Err(refused())).await.expect_err("the verdict");
    }

    #[tokio::test(start_paused = true)]
    async fn a_check_that_was_asked_for_counts() {
        let store = CountedStore::default();
        let ask = async |outcome| store.health.record(async { outcome }).await;
        ask(Ok(())).await.expect("checked");
        store.call(Err(refused())).await.expect("it is not due");
        assert_eq!(store.checks(), 0);
        // Its caller hears of each failure, and the others of a verdict.
        ask(Err(lost())).await.expect_err("it could not be made");
        store.call(Err(refused())).await.expect("no verdict");
        assert_eq!(store.checks(), 0);
        ask(Err(refused())).await.expect_err("a verdict");
        store.call(Err(refused())).await.expect_err("it is refused");
        assert_eq!(store.checks(), 1);

        // One that began before the last success does not take its place.
        let begun = store.health.outcome.begin();
        tokio::time::advance(CHECK_INTERVAL).await;
        ask(Ok(())).await.expect("checked");
        store.health.outcome.record(&begun, &Ok(()));
        store.call(Err(refused())).await.expect("it is not due");
        assert_eq!(store.checks(), 0);
    }

    #[tokio::test(start_paused = true)]
    async fn an_invalidation_during_a_check_is_not_lost() {
        let store = CountedStore::default();
        let mut checking = Box::pin(store.call(Ok(())));
        begin(&mut checking).await;
        store.health.invalidate();
        checking.await.expect("the answer of its own check");
        assert!(store.call(Err(refused())).await.is_err());
        assert_eq!(store.checks(), 2);
    }
}
