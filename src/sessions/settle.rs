//! Changes of the store that the cache follows, whatever becomes of their caller.

use std::{pin::pin, sync::Arc, time::Duration};

use tokio::{runtime::Handle, sync::oneshot, time::timeout};

use super::CustomerSessions;
use crate::{
    engine::{
        Engine,
        pending_changes::ChangeExtent,
        upstream::guard::{Panicked, catch_panic},
    },
    invalidation::Invalidation,
    store::{SessionRegistry, StoreError, StoreErrorKind},
    telemetry,
};

/// The result of a change in the store.
pub(super) struct Settled<T> {
    /// The answer to the caller.
    pub(super) answer: T,
    /// Invalidations to record.
    pub(super) invalidations: Vec<Invalidation>,
}

/// Time for which a change may go on after its caller has heard that it took too long. A store that
/// never answers would otherwise hold its slot until the process ends.
const MAX_DELAY: Duration = Duration::from_secs(300);

impl<S: SessionRegistry> CustomerSessions<S> {
    /// Makes a change of what `assumed` covers, as [`settle_as`](Self::settle_as) says.
    pub(super) async fn settle<T: Send + 'static>(
        &self,
        assumed: Invalidation,
        change: impl Future<Output = Result<Settled<T>, StoreError>> + Send + 'static,
    ) -> Result<T, StoreError> {
        self.settle_as(ChangeExtent::from(&assumed), Some(assumed), change)
            .await
    }

    /// Makes a change of one session, or adds one, as [`settle_as`](Self::settle_as) says.
    pub(super) async fn settle_session<T: Send + 'static>(
        &self,
        assumed: Option<Invalidation>,
        change: impl Future<Output = Result<Settled<T>, StoreError>> + Send + 'static,
    ) -> Result<T, StoreError> {
        self.settle_as(ChangeExtent::Session, assumed, change).await
    }

    /// Makes a change in the store and records it, in a task that a dropped caller cannot stop
    /// between the two.
    ///
    /// If the change succeeds, its own invalidations are recorded. If its outcome is unknown,
    /// `assumed` is. If it takes longer than the write timeout, `assumed` is recorded at once and
    /// again when the change ends, and nothing that it may concern is cached in between, here or in
    /// the other caches in front of the store.
    async fn settle_as<T: Send + 'static>(
        &self,
        extent: ChangeExtent,
        assumed: Option<Invalidation>,
        change: impl Future<Output = Result<Settled<T>, StoreError>> + Send + 'static,
    ) -> Result<T, StoreError> {
        let runtime = Handle::try_current().map_err(StoreError::unavailable)?;
        let slot = self.engine.pending_changes().try_begin(extent);
        let slot = slot.ok_or_else(|| {
            StoreError::unavailable("too many changes are under way; this one was not made")
        })?;
        let (answer, answered) = oneshot::channel();
        let record = RecordOnDrop {
            engine: Arc::clone(&self.engine),
            invalidations: Vec::from_iter(assumed.clone()),
        };
        runtime.spawn(telemetry::in_current_span(async move {
            run(assumed, change, record, answer).await;
            drop(slot);
        }));
        answered.await.unwrap_or_else(|_| {
            Err(StoreError::unavailable(
                "the runtime shut down; the change may have happened",
            ))
        })
    }
}

/// Makes a change, records it, and answers the caller, who may be gone.
async fn run<T>(
    assumed: Option<Invalidation>,
    change: impl Future<Output = Result<Settled<T>, StoreError>>,
    mut record: RecordOnDrop,
    answer: oneshot::Sender<Result<T, StoreError>>,
) {
    let engine = Arc::clone(&record.engine);
    let mut answer = Some(answer);
    let mut reply = |outcome: Result<T, StoreError>| {
        // After a timeout the caller has its answer.
        let Some(answer) = answer.take() else { return };
        if let (Some(change), Err(error)) = (&assumed, &outcome)
            && !matches!(
                error.kind(),
                StoreErrorKind::Conflict | StoreErrorKind::Invalid
            )
        {
            telemetry::outcome_unknown(change, error);
        }
        // The caller may be gone.
        let _ = answer.send(outcome);
    };
    let mut change = pin!(catch_panic(change));
    let mut unconfirmed = None;
    let outcome = match timeout(engine.write_timeout(), &mut change).await {
        Ok(outcome) => Ok(outcome),
        Err(elapsed) => {
            if let Some(assumed) = &assumed {
                unconfirmed = Some(engine.pending_changes().unconfirmed(assumed));
                engine.publish(assumed);
            }
            reply(Err(StoreError::timeout(elapsed)));
            timeout(MAX_DELAY, change).await
        }
    };
    let outcome = match outcome {
        Ok(Ok(outcome)) => outcome,
        Ok(Err(Panicked)) => Err(StoreError::unavailable(
            "the store panicked; the change may have happened",
        )),
        Err(elapsed) => Err(StoreError::timeout(elapsed)),
    };
    let outcome = outcome.map(|settled| {
        record.invalidations = settled.invalidations;
        settled.answer
    });
    // Before the caller gets the answer.
    drop(record);
    drop(unconfirmed);
    reply(outcome);
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
