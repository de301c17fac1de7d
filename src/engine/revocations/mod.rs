//! What the engine hears of changes: its own, and those of other nodes.

pub(crate) mod table;
pub(crate) mod witness;

use std::sync::{Mutex, PoisonError};

use tokio::sync::{Notify, futures::Notified};

use self::{
    table::{Marks, Target},
    witness::Witnesses,
};
use crate::invalidation::Invalidation;

/// As many bells for sessions, and for customers; a power of two.
const BELLS: usize = 1024;

/// Where changes are written down, and who is told of them.
pub(crate) struct Hearing {
    pub(crate) marks: Marks,
    pub(crate) witnesses: Witnesses,
    sessions: Box<[Notify]>,
    customers: Box<[Notify]>,
    /// Guards how many sources have lost their connection. Held to count and to change whether
    /// memory is trusted, never across an await.
    lost: Mutex<u64>,
}

impl Hearing {
    pub(crate) fn new(stripes: usize) -> Self {
        let bells = || (0..BELLS).map(|_| Notify::new()).collect();
        Self {
            marks: Marks::new(stripes),
            witnesses: Witnesses::default(),
            sessions: bells(),
            customers: bells(),
            lost: Mutex::default(),
        }
    }

    /// Resolves at the next change that may concern this session or this customer. It counts
    /// from when it was enabled or first polled.
    pub(crate) fn listen(&self, session: &str, customer: &str) -> [Notified<'_>; 2] {
        [
            self.bell(&self.sessions, session).notified(),
            self.bell(&self.customers, customer).notified(),
        ]
    }

    pub(crate) fn sources_lost(&self) -> u64 {
        *self.lost.lock().unwrap_or_else(PoisonError::into_inner)
    }

    pub(crate) fn change(&self, change: &Invalidation, target: Target<'_>) {
        self.marks.mark(target);
        self.witnesses.tell(change);
        match target {
            Target::Session(id) => self.bell(&self.sessions, id).notify_waiters(),
            Target::Customer(id) => self.bell(&self.customers, id).notify_waiters(),
            Target::All => self.ring_all(),
        }
    }

    fn ring_all(&self) {
        self.sessions.iter().for_each(Notify::notify_waiters);
    }

    fn bell<'a>(&self, bells: &'a [Notify], id: &str) -> &'a Notify {
        &bells[self.marks.spread(id) & (BELLS - 1)]
    }

    pub(crate) fn lose(&self) {
        let mut lost = self.lost.lock().unwrap_or_else(PoisonError::into_inner);
        *lost += 1;
        self.marks.distrust();
    }

    pub(crate) fn find_again(&self) {
        let mut lost = self.lost.lock().unwrap_or_else(PoisonError::into_inner);
        *lost -= 1;
        if *lost == 0 {
            self.marks.trust();
        }
        drop(lost);
        // What was announced meanwhile, a lookup that goes alone has not heard of either.
        self.witnesses.tell(&Invalidation::All);
        self.ring_all();
    }
}
