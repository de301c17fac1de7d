//! What the engine hears of changes: its own, and those of other nodes.

use std::sync::{Arc, Mutex, PoisonError};

use tokio::sync::{Notify, futures::Notified};

use super::{
    engine::Engine,
    marks::{Marks, Target},
    witness::Witnesses,
};
use crate::{
    invalidation::{Invalidation, SourceEvent},
    observe,
};

/// As many bells for sessions, and for customers; a power of two.
const BELLS: usize = 1024;

/// Where changes are written down, and who is told of them.
pub(super) struct Hearing {
    pub(super) marks: Marks,
    pub(super) witnesses: Witnesses,
    sessions: Box<[Notify]>,
    customers: Box<[Notify]>,
    /// Guards how many sources have lost their connection. Held to count and to change whether
    /// memory is trusted, never across an await.
    lost: Mutex<u64>,
}

impl Hearing {
    pub(super) fn new(stripes: usize) -> Self {
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
    pub(super) fn listen(&self, session: &str, customer: &str) -> [Notified<'_>; 2] {
        [
            self.bell(&self.sessions, session).notified(),
            self.bell(&self.customers, customer).notified(),
        ]
    }

    pub(super) fn sources_lost(&self) -> u64 {
        *self.lost.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn change(&self, change: &Invalidation, target: Target<'_>) {
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

    fn lose(&self) {
        let mut lost = self.lost.lock().unwrap_or_else(PoisonError::into_inner);
        *lost += 1;
        self.marks.distrust();
    }

    fn find_again(&self) {
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

impl Engine {
    /// Stops the use of everything that was read before the change `invalidation` stands for.
    pub(super) fn invalidate(&self, invalidation: &Invalidation) {
        let target = match invalidation {
            Invalidation::Session(id) => Target::Session(id.as_str()),
            Invalidation::Customer(id) => Target::Customer(id.as_str()),
            Invalidation::All => Target::All,
        };
        self.hearing.change(invalidation, target);
        if *invalidation == Invalidation::All {
            self.cache.clear();
        }
        self.counters.invalidations.add_one();
    }
}

/// The engine's ear at one source.
pub(super) struct Ear {
    engine: Arc<Engine>,
    is_lost: bool,
    has_heard_nonsense: bool,
}

impl Ear {
    pub(super) fn new(engine: Arc<Engine>) -> Self {
        Self {
            engine,
            is_lost: false,
            has_heard_nonsense: false,
        }
    }

    pub(super) fn hear(&mut self, event: &SourceEvent) {
        match event {
            SourceEvent::Disconnected if self.is_lost => {}
            SourceEvent::Disconnected => {
                self.is_lost = true;
                self.engine.hearing.lose();
                observe::source_lost();
            }
            // What is remembered must be looked up again, but should the store fail meanwhile it
            // is no worse than while nothing was heard: it is doubted, not thrown away.
            SourceEvent::Invalidate(Invalidation::All) if self.is_lost => {
                self.find_again();
                observe::source_found();
            }
            SourceEvent::Malformed => {
                self.engine.counters.unreadable.add_one();
                if !self.has_heard_nonsense {
                    self.has_heard_nonsense = true;
                    observe::message_unreadable();
                }
            }
            SourceEvent::Invalidate(change) => self.engine.invalidate(change),
            // What is trusted does not depend on it yet.
            SourceEvent::Alive { .. } => {}
        }
    }

    fn find_again(&mut self) {
        self.is_lost = false;
        self.engine.hearing.find_again();
        self.engine.counters.invalidations.add_one();
    }
}

/// Whoever stops listening while nothing is heard relies on the cache's lifetime from then on.
impl Drop for Ear {
    fn drop(&mut self) {
        if self.is_lost {
            self.find_again();
        }
    }
}
