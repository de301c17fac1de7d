//! Removes expired sessions from the store, and customers without any, a few at a time.

use std::{sync::Arc, time::Duration};

use tokio::{
    task::spawn_blocking,
    time::{Instant, timeout},
};

use super::CustomerSessions;
use crate::{
    customer::CustomerId,
    engine::{
        Engine,
        upstream::guard::{Panicked, catch_panic},
    },
    random::random_fraction,
    store::{SessionRegistry, StoreError},
    telemetry,
};

/// Sessions that the store removes in one call: enough to get on, few enough to hold no lock for
/// long.
const BATCH: u32 = 10;

/// Customers that the store looks at in one call.
const CUSTOMER_BATCH: u32 = 100;

/// Time between two passes over all customers. A pass reads each of them once.
const CUSTOMER_INTERVAL: Duration = Duration::from_secs(24 * 60 * 60);

/// Bounds of the pause after a full batch, which is as long as the batch took: half of the time
/// the store serves lookups alone.
const MIN_PAUSE: Duration = Duration::from_millis(1);
const MAX_PAUSE: Duration = Duration::from_secs(1);

/// A batch that takes longer is given up until the next time.
const BATCH_TIMEOUT: Duration = Duration::from_secs(60);

const MIN_INTERVAL: Duration = Duration::from_secs(1);

impl<S: SessionRegistry> CustomerSessions<S> {
    /// Removes expired sessions from the store `every` so often (a second at least), and has the
    /// cache drop what is of no use.
    ///
    /// A session is removed when it has been expired for a
    /// [day](super::CustomerSessionsBuilder::purge_margin), so that a node whose clock is wrong
    /// deletes no live session of the others. The SQL stores and Redis also ask the server's clock.
    ///
    /// Once a day, and after the start, customers without sessions are forgotten too. Of deleted
    /// customers the id and the time of the deletion stay. A pass over all customers takes the store as
    /// long as it takes to read each once, and pauses in between: with many machines and millions of
    /// customers, purge on one or two machines.
    ///
    /// Nothing runs until the application spawns the returned future. The intervals vary by a
    /// tenth, and the first by all of it, so that machines that start together do not purge
    /// together. Expired sessions are refused whether they are purged or not.
    ///
    /// The future may be dropped at any time. It ends by itself when nothing else holds these
    /// sessions any more; a store that fails is asked again the next time.
    ///
    /// ```
    /// # use std::time::Duration;
    /// # use customer_session::{CustomerSessions, SessionRegistry};
    /// # fn start<S: SessionRegistry>(sessions: CustomerSessions<S>) {
    /// tokio::spawn(sessions.purge(Duration::from_secs(600)));
    /// # }
    /// ```
    pub fn purge(&self, every: Duration) -> impl Future<Output = ()> + Send + use<S> {
        let every = every.max(MIN_INTERVAL);
        let store = Arc::downgrade(&self.store);
        let engine = Arc::downgrade(&self.engine);
        async move {
            tokio::time::sleep(every.mul_f64(random_fraction())).await;
            let mut is_first_batch = true;
            let mut customers = CustomerPass::due_at(Instant::now());
            loop {
                let started = Instant::now();
                // Held for one batch at a time, so that the last other owner is the last.
                let purged = match (store.upgrade(), engine.upgrade()) {
                    (Some(store), Some(engine)) => {
                        // Once a round: it looks at the whole cache.
                        if is_first_batch {
                            let engine = Arc::clone(&engine);
                            spawn_blocking(move || engine.run_pending_tasks());
                        }
                        purge_batch(&*store, &engine, &mut customers).await
                    }
                    _ => return,
                };
                let is_full = matches!(purged, Ok(true));
                is_first_batch = !is_full;
                let wait = match purged {
                    Ok(true) => started.elapsed().clamp(MIN_PAUSE, MAX_PAUSE),
                    Ok(false) => every.mul_f64(0.9 + 0.2 * random_fraction()),
                    Err(error) => {
                        telemetry::purge_failed(&error);
                        every.mul_f64(0.9 + 0.2 * random_fraction())
                    }
                };
                tokio::time::sleep(wait).await;
            }
        }
    }
}

/// Purges a batch of sessions or, once there are none left, of customers if a pass is due. Returns
/// `true` if more is to be done at once.
async fn purge_batch(
    store: &impl SessionRegistry,
    engine: &Engine,
    customers: &mut CustomerPass,
) -> Result<bool, StoreError> {
    let sessions = within_limit(store.purge_expired(engine.purge_before(), BATCH)).await?;
    if sessions >= u64::from(BATCH) {
        return Ok(true);
    }
    if Instant::now() < customers.due_at {
        return Ok(false);
    }
    let after = customers.after.as_ref();
    customers.after = within_limit(store.purge_customers(after, CUSTOMER_BATCH)).await?;
    if customers.after.is_none() {
        *customers = CustomerPass::due_at(Instant::now() + CUSTOMER_INTERVAL);
    }
    Ok(customers.after.is_some())
}

/// How far a pass over all customers has come.
struct CustomerPass {
    due_at: Instant,
    /// The last customer that was looked at.
    after: Option<CustomerId>,
}

impl CustomerPass {
    fn due_at(due_at: Instant) -> Self {
        Self {
            due_at,
            after: None,
        }
    }
}

/// Runs a batch for as long as one may take. A panic of the store is an error.
async fn within_limit<T>(
    batch: impl Future<Output = Result<T, StoreError>>,
) -> Result<T, StoreError> {
    match timeout(BATCH_TIMEOUT, catch_panic(batch)).await {
        Ok(Ok(purged)) => purged,
        Ok(Err(Panicked)) => Err(StoreError::unavailable("the store panicked")),
        Err(elapsed) => Err(StoreError::timeout(elapsed)),
    }
}
