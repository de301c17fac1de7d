//! One lookup per token: whoever asks for a token that is being looked up waits for that
//! lookup.
//!
//! A lookup runs in a task of its own, so that no caller's leaving stops the others. It is
//! owned by those who wait: when the last of them leaves, it is stopped.

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

pub(crate) type SharedResult = Result<LookupResult, StoreError>;

const SHARDS: usize = 16;

/// The lookups under way.
#[derive(Default)]
pub(crate) struct SingleFlight {
    /// Each guards the flights whose keys fall to it. Held for a table access, never across an
    /// await, hence a plain mutex.
    shards: [Mutex<HashMap<TokenHash128, Flight, BuildIdentityHasher>>; SHARDS],
    numbers: AtomicU64,
}

struct Flight {
    number: LookupId,
    epoch: Epoch,
    lookup: Weak<Lookup>,
}

/// Tells a flight from a later one for the same token.
#[derive(Clone, Copy, PartialEq, Eq)]
pub(crate) struct LookupId(u64);

/// A lookup as seen by those who wait for it.
pub(crate) struct Lookup {
    landing: watch::Receiver<Option<SharedResult>>,
    /// Goes back when the lookup lands or the last who waits leaves, whichever is first. Held
    /// to take it.
    permit: Mutex<Option<OwnedSemaphorePermit>>,
    task: OnceLock<AbortHandle>,
}

/// What a lookup that was not under way needs to set out.
pub(crate) struct Leader {
    pub(crate) number: LookupId,
    pub(crate) epoch: Epoch,
    pub(crate) land: watch::Sender<Option<SharedResult>>,
}

impl SingleFlight {
    /// The lookup for `key` that is under way, unless it set out before `not_before`; else a
    /// new one, which the caller must start.
    ///
    /// `prepare` gives its epoch and its permit. It is started without the lock: a task that
    /// ends at once takes itself off the list, which needs the lock.
    pub(crate) fn join<E>(
        &self,
        key: TokenHash128,
        not_before: Epoch,
        prepare: impl FnOnce() -> Result<(Epoch, Option<OwnedSemaphorePermit>), E>,
    ) -> Result<(Arc<Lookup>, Option<Leader>), E> {
        let mut shard = self.shard(key);
        let under_way = shard
            .get(&key)
            .filter(|flight| flight.epoch >= not_before)
            .and_then(|flight| flight.lookup.upgrade());
        if let Some(lookup) = under_way {
            return Ok((lookup, None));
        }
        let (epoch, permit) = prepare()?;
        let (land, landing) = watch::channel(None);
        let lookup = Arc::new(Lookup {
            landing,
            permit: Mutex::new(permit),
            task: OnceLock::new(),
        });
        let number = LookupId(self.numbers.fetch_add(1, Relaxed));
        let flight = Flight {
            number,
            epoch,
            lookup: Arc::downgrade(&lookup),
        };
        shard.insert(key, flight);
        let leader = Leader {
            number,
            epoch,
            land,
        };
        Ok((lookup, Some(leader)))
    }

    /// Takes a flight off the list, unless a later one has taken its place.
    pub(crate) fn leave(&self, key: TokenHash128, number: LookupId) {
        let mut shard = self.shard(key);
        if shard.get(&key).is_some_and(|it| it.number == number) {
            shard.remove(&key);
        }
    }

    pub(crate) fn len(&self) -> usize {
        self.shards.iter().map(|shard| lock(shard).len()).sum()
    }

    fn shard(
        &self,
        key: TokenHash128,
    ) -> MutexGuard<'_, HashMap<TokenHash128, Flight, BuildIdentityHasher>> {
        lock(&self.shards[key.shard_bits() % SHARDS])
    }
}

/// A table is whole wherever code that holds its lock could panic.
fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

impl Lookup {
    /// Says which task does the work, so that it can be stopped.
    pub(crate) fn runs_in(&self, task: AbortHandle) {
        // Called once, by whoever started it.
        let _ = self.task.set(task);
    }

    pub(crate) fn return_permit(&self) {
        lock(&self.permit).take();
    }

    /// Waits until the lookup has landed. The caller keeps its handle meanwhile: the last
    /// handle to go stops the lookup.
    pub(crate) async fn landed(&self) -> SharedResult {
        let mut landing = self.landing.clone();
        match landing.wait_for(Option::is_some).await.as_deref() {
            Ok(Some(landing)) => landing.clone(),
            _ => Err(StoreError::unavailable(
                "the lookup ended without an answer: its runtime has shut down",
            )),
        }
    }
}

impl Drop for Lookup {
    fn drop(&mut self) {
        if let Some(task) = self.task.get() {
            task.abort();
        }
    }
}
