//! One lookup per token: whoever asks for a token that is being looked up waits for that
//! lookup.
//!
//! A lookup runs in a task of its own, so that no caller's leaving stops the others. It is
//! owned by those who wait: when the last of them leaves, it is stopped.

use std::{
    collections::HashMap,
    sync::{
        Arc, Mutex, MutexGuard, PoisonError, Weak,
        atomic::{AtomicU64, Ordering::Relaxed},
    },
};

use tokio::{sync::watch, task::AbortHandle};

use super::{
    cache::{BuildAsItIs, Slot, TokenKey},
    marks::Stamp,
};
use crate::store::StoreError;

pub(super) type Landing = Result<Slot, StoreError>;

const SHARDS: usize = 16;

/// The lookups under way.
#[derive(Default)]
pub(super) struct Flights {
    /// Each guards the flights whose keys fall to it. Held for a table access and the start of
    /// a task, never across an await, hence a plain mutex.
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
pub(super) struct FlightNumber(u64);

/// A lookup as seen by those who wait for it.
pub(super) struct Lookup {
    landing: watch::Receiver<Option<Landing>>,
    task: AbortHandle,
}

impl Flights {
    /// The lookup for `key` that is under way, unless it set out before `not_before`; else
    /// the one that `depart` starts.
    pub(super) fn join<E>(
        &self,
        key: TokenKey,
        not_before: Stamp,
        depart: impl FnOnce(FlightNumber) -> Result<(Stamp, Lookup), E>,
    ) -> Result<Arc<Lookup>, E> {
        let mut shard = self.shard(key);
        let under_way = shard
            .get(&key)
            .filter(|flight| flight.stamp >= not_before)
            .and_then(|flight| flight.lookup.upgrade());
        if let Some(lookup) = under_way {
            return Ok(lookup);
        }
        let number = FlightNumber(self.numbers.fetch_add(1, Relaxed));
        // The lock is held while the task starts, so that a task which ends at once finds
        // itself registered.
        let (stamp, lookup) = depart(number)?;
        let lookup = Arc::new(lookup);
        let flight = Flight {
            number,
            stamp,
            lookup: Arc::downgrade(&lookup),
        };
        shard.insert(key, flight);
        Ok(lookup)
    }

    /// Takes a flight off the list, unless a later one has taken its place.
    pub(super) fn leave(&self, key: TokenKey, number: FlightNumber) {
        let mut shard = self.shard(key);
        if shard.get(&key).is_some_and(|it| it.number == number) {
            shard.remove(&key);
        }
    }

    pub(super) fn len(&self) -> usize {
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
    pub(super) fn new(landing: watch::Receiver<Option<Landing>>, task: AbortHandle) -> Self {
        Self { landing, task }
    }

    /// Waits until the lookup has landed. The caller keeps its handle meanwhile: the last
    /// handle to go stops the lookup.
    pub(super) async fn landed(&self) -> Landing {
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
        self.task.abort();
    }
}
