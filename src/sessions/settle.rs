//! Changes of the store that the cache follows, whatever becomes of their caller.

use std::sync::Arc;

use tokio::runtime::Handle;

use super::CustomerSessions;
use crate::{
    engine::Engine,
    invalidation::Invalidation,
    store::{SessionRegistry, StoreError},
    telemetry,
};

/// The result of a change in the store.
pub(super) struct Settled<T> {
    /// The answer to the caller.
    pub(super) answer: T,
    /// Invalidations to record.
    pub(super) invalidations: Vec<Invalidation>,
}

impl<S: SessionRegistry> CustomerSessions<S> {
    /// Makes a change in the store and records it, in a task that a dropped caller cannot stop
    /// between the two.
    ///
    /// If the change succeeds, its own invalidations are recorded. If its outcome is unknown,
    /// `assumed` is.
    pub(super) async fn settle<T: Send + 'static>(
        &self,
        assumed: Option<Invalidation>,
        change: impl Future<Output = Result<Settled<T>, StoreError>> + Send + 'static,
    ) -> Result<T, StoreError> {
        let runtime = Handle::try_current().map_err(StoreError::unavailable)?;
        let mut record = RecordOnDrop {
            engine: Arc::clone(&self.engine),
            invalidations: Vec::from_iter(assumed.clone()),
        };
        let task = runtime.spawn(telemetry::in_current_span(async move {
            let outcome = match change.await {
                Ok(settled) => {
                    record.invalidations = settled.invalidations;
                    Ok(settled.answer)
                }
                Err(error) => {
                    if let Some(change) = &assumed {
                        telemetry::outcome_unknown(change, &error);
                    }
                    Err(error)
                }
            };
            // Before the caller gets the answer.
            drop(record);
            outcome
        }));
        task.await.unwrap_or_else(|error| {
            Err(StoreError::unavailable(if error.is_panic() {
                "the store panicked; the change may have happened"
            } else {
                "the runtime shut down; the change may have happened"
            }))
        })
    }
}

/// Records a change whatever became of it: done, failed, panicked, or stopped with its runtime.
struct RecordOnDrop {
    engine: Arc<Engine>,
    invalidations: Vec<Invalidation>,
}

impl Drop for RecordOnDrop {
    fn drop(&mut self) {
        for invalidation in &self.invalidations {
            self.engine.publish(invalidation);
        }
    }
}
