//! Changes that a store has not confirmed in time. They may yet happen, at a time of which nothing
//! tells, so that nothing about their targets is cached.

use std::{
    collections::HashMap,
    sync::{
        Arc, Mutex, MutexGuard, PoisonError,
        atomic::{AtomicUsize, Ordering::Relaxed},
    },
};

use crate::{
    customer::CustomerId, family::FamilyKey, invalidation::Invalidation, session::CustomerSession,
};

/// The unconfirmed changes of one store, by all caches in front of it that know of each other.
#[derive(Default)]
pub(crate) struct UnconfirmedChanges {
    /// Guards the targets and the number of changes of each. Held for a table access, never across
    /// an await. Hits do not take it.
    targets: Mutex<HashMap<Target, usize>>,
    /// The number of changes, so that lookups need not take the lock.
    number: AtomicUsize,
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
            Invalidation::Customer(id) | Invalidation::CustomerChanged { id, .. } => {
                Self::Customer(id.clone())
            }
            Invalidation::All => Self::All,
        }
    }
}

/// A change that the store has not confirmed in time, until it is dropped.
pub(crate) struct Unconfirmed {
    changes: Arc<UnconfirmedChanges>,
    target: Target,
}

impl UnconfirmedChanges {
    /// Notes that a change of `target` is late. To be called before the change is recorded: a lookup
    /// that is not overtaken by the record then finds it here when it lands.
    pub(crate) fn add(self: &Arc<Self>, target: &Invalidation) -> Unconfirmed {
        let target = Target::of(target);
        *self.lock().entry(target.clone()).or_default() += 1;
        self.number.fetch_add(1, Relaxed);
        Unconfirmed {
            changes: Arc::clone(self),
            target,
        }
    }

    /// Returns `true` if an unconfirmed change may end or change the session.
    pub(crate) fn may_concern(&self, session: &CustomerSession) -> bool {
        if self.number.load(Relaxed) == 0 {
            return false;
        }
        let targets = self.lock();
        targets.contains_key(&Target::All)
            || targets.contains_key(&Target::Session(FamilyKey::of(session.id.as_str())))
            || targets.contains_key(&Target::Customer(session.customer_id.clone()))
    }

    fn lock(&self) -> MutexGuard<'_, HashMap<Target, usize>> {
        self.targets.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Drop for Unconfirmed {
    fn drop(&mut self) {
        let mut targets = self.changes.lock();
        if let Some(number) = targets.get_mut(&self.target) {
            *number -= 1;
            if *number == 0 {
                targets.remove(&self.target);
            }
        }
        self.changes.number.fetch_sub(1, Relaxed);
    }
}
