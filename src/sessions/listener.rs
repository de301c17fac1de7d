//! Applies what a source of invalidations says.

use std::sync::Arc;

use crate::{
    engine::Engine,
    invalidation::{Invalidation, SourceEvent},
    observe,
};

/// The engine's ear at one source.
pub(crate) struct Ear {
    engine: Arc<Engine>,
    is_lost: bool,
    has_heard_nonsense: bool,
}

impl Ear {
    pub(crate) fn new(engine: Arc<Engine>) -> Self {
        Self {
            engine,
            is_lost: false,
            has_heard_nonsense: false,
        }
    }

    pub(crate) fn hear(&mut self, event: &SourceEvent) {
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
