//! One lookup per token: a request for a token that is being looked up waits for that lookup.
//!
//! A lookup runs in a task of its own, and finishes even if all callers leave: the store works on what it was
//! asked in any case, so its answer may as well be cached, and its permit says how many there are.

use std::{
    collections::HashMap,
    sync::{
        Mutex, MutexGuard, PoisonError,
        atomic::{AtomicU64, Ordering::Relaxed},
    },
};

use tokio::{sync::watch, time::Instant};

use crate::{
    engine::{
        cache::{
            entry::LookupResult,
            key::{BuildIdentityHasher, TokenHash128},
        },
        error::AuthenticateError,
        revocations::table::Epoch,
    },
    store::StoreError,
};

/// The result that all waiters of a lookup get.
pub(crate) type SharedResult = Result<LookupResult, AuthenticateError>;

/// A lookup as far as it has come.
enum Progress {
    /// The lookup waits for a permit.
    Waiting,
    /// The store has been asked.
    Asked,
    Done(SharedResult),
}

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
    /// The epoch before the store was asked; `None` while the lookup waits for a permit.
    epoch: Option<Epoch>,
    lookup: SharedLookup,
}

/// Tells a lookup from a later one for the same token.
#[derive(Clone, Copy, PartialEq, Eq)]
pub(crate) struct LookupId(u64);

/// A lookup as its waiters see it.
#[derive(Clone)]
pub(crate) struct SharedLookup {
    progress: watch::Receiver<Progress>,
    /// The time by which it has ended, or at least asked the store, unless its runtime stands still.
    /// Nothing waits for it longer.
    pub(crate) deadline: Instant,
}

/// The parts of a new lookup that the caller who starts it needs.
pub(crate) struct Leader<T> {
    pub(crate) id: LookupId,
    pub(crate) prepared: T,
    progress: watch::Sender<Progress>,
}

impl SingleFlight {
    /// Returns the lookup in flight for `key`, unless it began before `not_before` or is past its
    /// deadline; else registers a new one, which the caller must start outside the lock: a task that
    /// ends at once deregisters itself, which needs the lock.
    ///
    /// `prepare` provides the epoch of a new lookup, unless it must wait for a permit first, and what
    /// else its leader needs.
    pub(crate) fn join_or_lead<T, E>(
        &self,
        key: TokenHash128,
        not_before: Epoch,
        deadline: Instant,
        prepare: impl FnOnce() -> Result<(Option<Epoch>, T), E>,
    ) -> Result<(SharedLookup, Option<Leader<T>>), E> {
        let mut shard = self.shard(key);
        let in_flight = shard.get(&key).filter(|in_flight| {
            in_flight.epoch.is_none_or(|epoch| epoch >= not_before)
                && Instant::now() < in_flight.lookup.deadline
        });
        if let Some(in_flight) = in_flight {
            return Ok((in_flight.lookup.clone(), None));
        }
        let (epoch, prepared) = prepare()?;
        let (sender, receiver) = watch::channel(match epoch {
            None => Progress::Waiting,
            Some(_) => Progress::Asked,
        });
        let lookup = SharedLookup {
            progress: receiver,
            deadline,
        };
        let id = LookupId(self.next_id.fetch_add(1, Relaxed));
        let in_flight = InFlight {
            id,
            epoch,
            lookup: lookup.clone(),
        };
        shard.insert(key, in_flight);
        let leader = Leader {
            id,
            prepared,
            progress: sender,
        };
        Ok((lookup, Some(leader)))
    }

    /// Notes that the lookup of `leader`, which has waited for a permit, asks the store now.
    pub(crate) fn begin<T>(
        &self,
        key: TokenHash128,
        leader: &Leader<T>,
        epoch: Epoch,
        deadline: Instant,
    ) {
        let mut shard = self.shard(key);
        if let Some(in_flight) = shard.get_mut(&key).filter(|other| other.id == leader.id) {
            in_flight.epoch = Some(epoch);
            in_flight.lookup.deadline = deadline;
        }
        drop(shard);
        leader.progress.send_replace(Progress::Asked);
    }

    /// Returns `true` if a lookup for `key` is in flight that has asked the store.
    pub(crate) fn has_asked(&self, key: TokenHash128) -> bool {
        let shard = self.shard(key);
        shard
            .get(&key)
            .is_some_and(|in_flight| in_flight.epoch.is_some())
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

impl<T> Leader<T> {
    /// Gives the result to all waiters.
    pub(crate) fn finish(self, result: SharedResult) {
        self.progress.send_replace(Progress::Done(result));
    }
}

impl SharedLookup {
    /// Waits for the result.
    pub(crate) async fn result(&self) -> SharedResult {
        let mut progress = self.progress.clone();
        let is_done = |progress: &Progress| matches!(progress, Progress::Done(_));
        match progress.wait_for(is_done).await.as_deref() {
            Ok(Progress::Done(result)) => result.clone(),
            _ => Err(shut_down().into()),
        }
    }

    /// Returns `true` if the store has not been asked yet.
    pub(crate) fn is_waiting(&self) -> bool {
        matches!(*self.progress.borrow(), Progress::Waiting)
    }
}

/// Returns the error of a lookup whose runtime has shut down.
pub(crate) fn shut_down() -> StoreError {
    StoreError::unavailable("the lookup ended without an answer: its runtime has shut down")
}
