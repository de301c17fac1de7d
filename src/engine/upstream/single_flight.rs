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
            entry::Answer,
            key::{BuildAsItIs, TokenKey},
        },
        revocations::table::Stamp,
    },
    store::StoreError,
};

pub(crate) type Landing = Result<Answer, StoreError>;

const SHARDS: usize = 16;

/// The lookups under way.
#[derive(Default)]
pub(crate) struct Flights {
    /// Each guards the flights whose keys fall to it. Held for a table access, never across an
    /// await, hence a plain mutex.
    shards: [Mutex<HashMap<TokenKey, Flight, BuildAsItIs>>; SHARDS],
    numbers: AtomicU64,
}

struct Flight {
    number: FlightNumber,
    stamp: Stamp,
    lookup: Weak<Lookup>,
}

/// Tells a flight from a later one for the same token.
#[derive(Clone, Copy, PartialEq, Eq)]
pub(crate) struct FlightNumber(u64);

/// A lookup as seen by those who wait for it.
pub(crate) struct Lookup {
    landing: watch::Receiver<Option<Landing>>,
    /// Goes back when the lookup lands or the last who waits leaves, whichever is first. Held
    /// to take it.
    permit: Mutex<Option<OwnedSemaphorePermit>>,
    task: OnceLock<AbortHandle>,
}

/// What a lookup that was not under way needs to set out.
pub(crate) struct Departure {
    pub(crate) number: FlightNumber,
    pub(crate) stamp: Stamp,
    pub(crate) land: watch::Sender<Option<Landing>>,
}

impl Flights {
    /// The lookup for `key` that is under way, unless it set out before `not_before`; else a
    /// new one, which the caller must start.
    ///
    /// `prepare` gives its stamp and its permit. It is started without the lock: a task that
    /// ends at once takes itself off the list, which needs the lock.
    pub(crate) fn join<E>(
        &self,
        key: TokenKey,
        not_before: Stamp,
        prepare: impl FnOnce() -> Result<(Stamp, Option<OwnedSemaphorePermit>), E>,
    ) -> Result<(Arc<Lookup>, Option<Departure>), E> {
        let mut shard = self.shard(key);
        let under_way = shard
            .get(&key)
            .filter(|flight| flight.stamp >= not_before)
            .and_then(|flight| flight.lookup.upgrade());
        if let Some(lookup) = under_way {
            return Ok((lookup, None));
        }
        let (stamp, permit) = prepare()?;
        let (land, landing) = watch::channel(None);
        let lookup = Arc::new(Lookup {
            landing,
            permit: Mutex::new(permit),
            task: OnceLock::new(),
        });
        let number = FlightNumber(self.numbers.fetch_add(1, Relaxed));
        let flight = Flight {
            number,
            stamp,
            lookup: Arc::downgrade(&lookup),
        };
        shard.insert(key, flight);
        let departure = Departure {
            number,
            stamp,
            land,
        };
        Ok((lookup, Some(departure)))
    }

    /// Takes a flight off the list, unless a later one has taken its place.
    pub(crate) fn leave(&self, key: TokenKey, number: FlightNumber) {
        let mut shard = self.shard(key);
        if shard.get(&key).is_some_and(|it| it.number == number) {
            shard.remove(&key);
        }
    }

    pub(crate) fn len(&self) -> usize {
        self.shards.iter().map(|shard| lock(shard).len()).sum()
    }

    fn shard(&self, key: TokenKey) -> MutexGuard<'_, HashMap<TokenKey, Flight, BuildAsItIs>> {
        lock(&self.shards[key.spread() % SHARDS])
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
    pub(crate) async fn landed(&self) -> Landing {
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
