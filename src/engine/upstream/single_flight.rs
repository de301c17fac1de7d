//! One lookup per token: a request for a token that is being looked up waits for that lookup.
//!
//! A lookup runs in a task of its own, so that one caller that leaves does not stop the others. It
//! belongs to its waiters: when the last of them leaves, it is aborted.

use std::{
    collections::HashMap,
    sync::{
        Arc, Mutex, MutexGuard, OnceLock, PoisonError, Weak,
        atomic::{AtomicU64, Ordering::Relaxed},
    },
};

use tokio::{
    sync::{OwnedSemaphorePermit, watch},
    task::AbortHandle,
};

use crate::{
    engine::{
        cache::{
            entry::LookupResult,
            key::{BuildIdentityHasher, TokenHash128},
        },
        revocations::table::Epoch,
    },
    store::StoreError,
};

/// The result that all waiters of a lookup get.
type SharedResult = Result<LookupResult, StoreError>;

type Shard = HashMap<TokenHash128, InFlight, BuildIdentityHasher>;

const SHARDS: usize = 16;

/// The lookups in flight.
#[derive(Default)]
pub(crate) struct SingleFlight {
    /// Each guards the lookups whose keys fall to it. Held for a table access, never across an
    /// await, so a std mutex is enough.
    shards: [Mutex<Shard>; SHARDS],
    next_id: AtomicU64,
}

struct InFlight {
    id: LookupId,
    epoch: Epoch,
    lookup: Weak<SharedLookup>,
}

/// Tells a lookup from a later one for the same token.
#[derive(Clone, Copy, PartialEq, Eq)]
pub(crate) struct LookupId(u64);

/// A lookup as its waiters see it. Dropping the last handle aborts it.
pub(crate) struct SharedLookup {
    result: watch::Receiver<Option<SharedResult>>,
    /// Returned when the lookup ends or the last waiter leaves, whichever is first. The mutex is
    /// held to take it.
    permit: Mutex<Option<OwnedSemaphorePermit>>,
    task: OnceLock<AbortHandle>,
}

/// The parts of a new lookup that the caller who starts it needs.
pub(crate) struct Leader {
    pub(crate) id: LookupId,
    pub(crate) epoch: Epoch,
    pub(crate) result: watch::Sender<Option<SharedResult>>,
}

impl SingleFlight {
    /// Returns the lookup in flight for `key`, unless it began before `not_before`; else registers a
    /// new one, which the caller must start outside the lock: a task that ends at once deregisters
    /// itself, which needs the lock.
    ///
    /// `prepare` provides the epoch and the permit of a new lookup.
    pub(crate) fn join_or_lead<E>(
        &self,
        key: TokenHash128,
        not_before: Epoch,
        prepare: impl FnOnce() -> Result<(Epoch, Option<OwnedSemaphorePermit>), E>,
    ) -> Result<(Arc<SharedLookup>, Option<Leader>), E> {
        let mut shard = self.shard(key);
        let in_flight = shard
            .get(&key)
            .filter(|in_flight| in_flight.epoch >= not_before)
            .and_then(|in_flight| in_flight.lookup.upgrade());
        if let Some(lookup) = in_flight {
            return Ok((lookup, None));
        }
        let (epoch, permit) = prepare()?;
        let (sender, receiver) = watch::channel(None);
        let lookup = Arc::new(SharedLookup {
            result: receiver,
            permit: Mutex::new(permit),
            task: OnceLock::new(),
        });
        let id = LookupId(self.next_id.fetch_add(1, Relaxed));
        let in_flight = InFlight {
            id,
            epoch,
            lookup: Arc::downgrade(&lookup),
        };
        shard.insert(key, in_flight);
        let leader = Leader {
            id,
            epoch,
            result: sender,
        };
        Ok((lookup, Some(leader)))
    }

    /// Deregisters the lookup `id`, unless a later one has taken its place.
    pub(crate) fn remove(&self, key: TokenHash128, id: LookupId) {
        let mut shard = self.shard(key);
        if shard.get(&key).is_some_and(|in_flight| in_flight.id == id) {
            shard.remove(&key);
        }
    }

    pub(crate) fn len(&self) -> usize {
        self.shards.iter().map(|shard| lock(shard).len()).sum()
    }

    fn shard(&self, key: TokenHash128) -> MutexGuard<'_, Shard> {
        lock(&self.shards[key.shard_bits() % SHARDS])
    }
}

/// Locks a mutex whose value is whole wherever code that holds the lock could panic.
fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

impl SharedLookup {
    /// Records the task, so that dropping the last waiter aborts it.
    pub(crate) fn set_task(&self, task: AbortHandle) {
        // The leader alone calls this, once.
        let _ = self.task.set(task);
    }

    pub(crate) fn return_permit(&self) {
        lock(&self.permit).take();
    }

    /// Waits for the result. The caller keeps its handle meanwhile, since dropping the last one
    /// aborts the lookup.
    pub(crate) async fn result(&self) -> SharedResult {
        let mut receiver = self.result.clone();
        match receiver.wait_for(Option::is_some).await.as_deref() {
            Ok(Some(result)) => result.clone(),
            _ => Err(StoreError::unavailable(
                "the lookup ended without an answer: its runtime has shut down",
            )),
        }
    }
}

impl Drop for SharedLookup {
    fn drop(&mut self) {
        if let Some(task) = self.task.get() {
            task.abort();
        }
    }
}
