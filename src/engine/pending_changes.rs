//! Changes of the store that are under way: how many there may be, and which have not been confirmed
//! in time.

use std::sync::Arc;

use tokio::sync::{OwnedSemaphorePermit, Semaphore};

use crate::{
    invalidation::Invalidation,
    session::CustomerSession,
    unconfirmed_changes::{Unconfirmed, UnconfirmedChanges},
};

/// Most changes at once.
const MAX_CHANGES: usize = 1024;

/// Most changes of single sessions at once. The rest is for whole customers and for everything, so
/// that a flood of sign-outs cannot keep an operator from ending the sessions of a customer.
const MAX_SESSION_CHANGES: usize = MAX_CHANGES / 4 * 3;

pub(crate) struct PendingChanges {
    all: Arc<Semaphore>,
    of_sessions: Arc<Semaphore>,
    unconfirmed: Arc<UnconfirmedChanges>,
}

/// The extent of a change.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum ChangeExtent {
    /// One session, or a new one.
    Session,
    /// A customer, or everything.
    Many,
}

impl From<&Invalidation> for ChangeExtent {
    fn from(target: &Invalidation) -> Self {
        match target {
            Invalidation::Session(_) => Self::Session,
            Invalidation::Customer(_)
            | Invalidation::CustomerChanged { .. }
            | Invalidation::All => Self::Many,
        }
    }
}

/// Permission to make one change. It is returned when it is dropped.
pub(crate) struct ChangeSlot {
    _one_of_all: OwnedSemaphorePermit,
    _of_sessions: Option<OwnedSemaphorePermit>,
}

impl PendingChanges {
    /// Creates the changes of one engine. Those that are late join `unconfirmed`.
    pub(crate) fn new(unconfirmed: Arc<UnconfirmedChanges>) -> Self {
        Self {
            all: Arc::new(Semaphore::new(MAX_CHANGES)),
            of_sessions: Arc::new(Semaphore::new(MAX_SESSION_CHANGES)),
            unconfirmed,
        }
    }

    /// Takes a slot for a change; `None` if there are too many.
    pub(crate) fn try_begin(&self, extent: ChangeExtent) -> Option<ChangeSlot> {
        let take = |semaphore: &Arc<Semaphore>| Arc::clone(semaphore).try_acquire_owned().ok();
        let of_sessions = match extent {
            ChangeExtent::Many => None,
            ChangeExtent::Session => Some(take(&self.of_sessions)?),
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

    /// Notes that a change is late. To be called before the change is recorded.
    pub(crate) fn unconfirmed(&self, target: &Invalidation) -> Unconfirmed {
        self.unconfirmed.add(target)
    }

    /// Returns `true` if an unconfirmed change, of this engine or of one that shares its store, may
    /// end or change the session.
    pub(crate) fn may_concern(&self, session: &CustomerSession) -> bool {
        self.unconfirmed.may_concern(session)
    }
}
