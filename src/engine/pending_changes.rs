//! Changes of the store that are under way: how many there may be, and which have not been confirmed
//! in time.

use std::{
    collections::HashMap,
    sync::{
        Arc, Mutex, MutexGuard, PoisonError,
        atomic::{AtomicUsize, Ordering::Relaxed},
    },
};

use tokio::sync::{OwnedSemaphorePermit, Semaphore};

use crate::{
    customer::CustomerId, family::FamilyKey, invalidation::Invalidation, session::CustomerSession,
};

/// Most changes at once.
const MAX_CHANGES: usize = 1024;

/// Most changes of single sessions at once. The rest is for whole customers and for everything, so
/// that a flood of sign-outs cannot keep an operator from ending the sessions of a customer.
const MAX_SESSION_CHANGES: usize = MAX_CHANGES / 4 * 3;

pub(crate) struct PendingChanges {
    all: Arc<Semaphore>,
    of_sessions: Arc<Semaphore>,
    /// Guards the targets of the changes that the store has not confirmed in time, and their numbers.
    /// Held for a table access, never across an await. Hits do not take it.
    unconfirmed: Mutex<HashMap<Target, usize>>,
    /// The size of the table, so that lookups need not take the lock.
    number_unconfirmed: AtomicUsize,
}

/// The target of a change. An id may be one that the session was rotated from, so a session is named
/// by its family.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
enum Target {
    Session(FamilyKey),
    Customer(CustomerId),
    All,
}

impl Target {
    fn of(invalidation: &Invalidation) -> Self {
        match invalidation {
            Invalidation::Session(id) => Self::Session(FamilyKey::of(id.as_str())),
            Invalidation::Customer(id) => Self::Customer(id.clone()),
            Invalidation::All => Self::All,
        }
    }
}

/// Permission to make one change. It is returned when it is dropped.
pub(crate) struct ChangeSlot {
    _one_of_all: OwnedSemaphorePermit,
    _of_sessions: Option<OwnedSemaphorePermit>,
}

/// A change that the store has not confirmed in time. While it exists, nothing that it may concern
/// is put into the cache: the change may yet happen, at a time of which nothing tells.
pub(crate) struct Unconfirmed<'a> {
    changes: &'a PendingChanges,
    target: Target,
}

impl PendingChanges {
    pub(crate) fn new() -> Self {
        Self {
            all: Arc::new(Semaphore::new(MAX_CHANGES)),
            of_sessions: Arc::new(Semaphore::new(MAX_SESSION_CHANGES)),
            unconfirmed: Mutex::default(),
            number_unconfirmed: AtomicUsize::new(0),
        }
    }

    /// Takes a slot for a change of `target`, or of a new session; `None` if there are too many.
    pub(crate) fn try_begin(&self, target: Option<&Invalidation>) -> Option<ChangeSlot> {
        let take = |semaphore: &Arc<Semaphore>| Arc::clone(semaphore).try_acquire_owned().ok();
        let of_sessions = match target {
            Some(Invalidation::Customer(_) | Invalidation::All) => None,
            Some(Invalidation::Session(_)) | None => Some(take(&self.of_sessions)?),
        };
        Some(ChangeSlot {
            _one_of_all: take(&self.all)?,
            _of_sessions: of_sessions,
        })
    }

    /// Returns the number of changes under way.
    pub(crate) fn under_way(&self) -> usize {
        MAX_CHANGES - self.all.available_permits()
    }

    /// Notes that a change is late. To be called before the change is recorded: a lookup that is
    /// not overtaken by the record then finds it here when it lands.
    pub(crate) fn unconfirmed(&self, target: &Invalidation) -> Unconfirmed<'_> {
        let target = Target::of(target);
        *self.table().entry(target.clone()).or_default() += 1;
        self.number_unconfirmed.fetch_add(1, Relaxed);
        Unconfirmed {
            changes: self,
            target,
        }
    }

    /// Returns `true` if an unconfirmed change may end or change the session.
    pub(crate) fn may_concern(&self, session: &CustomerSession) -> bool {
        if self.number_unconfirmed.load(Relaxed) == 0 {
            return false;
        }
        let table = self.table();
        table.contains_key(&Target::All)
            || table.contains_key(&Target::Session(FamilyKey::of(session.id.as_str())))
            || table.contains_key(&Target::Customer(session.customer_id.clone()))
    }

    fn table(&self) -> MutexGuard<'_, HashMap<Target, usize>> {
        self.unconfirmed
            .lock()
            .unwrap_or_else(PoisonError::into_inner)
    }
}

impl Drop for Unconfirmed<'_> {
    fn drop(&mut self) {
        let mut table = self.changes.table();
        if let Some(number) = table.get_mut(&self.target) {
            *number -= 1;
            if *number == 0 {
                table.remove(&self.target);
            }
        }
        self.changes.number_unconfirmed.fetch_sub(1, Relaxed);
    }
}
