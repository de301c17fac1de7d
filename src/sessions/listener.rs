//! Applies what a source of invalidations says.

use std::sync::Arc;

use crate::{
    engine::Engine,
    invalidation::{Invalidation, SourceEvent},
    observe,
};

/// The engine's listener at one source.
pub(crate) struct Listener {
    engine: Arc<Engine>,
    is_disconnected: bool,
    has_warned: bool,
}

impl Listener {
    pub(crate) fn new(engine: Arc<Engine>) -> Self {
        Self {
            engine,
            is_disconnected: false,
            has_warned: false,
        }
    }

    pub(crate) fn apply(&mut self, event: &SourceEvent) {
        match event {
            SourceEvent::Disconnected if self.is_disconnected => {}
            SourceEvent::Disconnected => {
                self.is_disconnected = true;
                self.engine.revocations.on_disconnect();
                observe::source_lost();
            }
            // What is remembered must be looked up again, but should the store fail meanwhile it
            // is no worse than while nothing was heard: it is doubted, not thrown away.
            SourceEvent::Invalidate(Invalidation::All) if self.is_disconnected => {
                self.on_reconnect();
                observe::source_found();
            }
            SourceEvent::Malformed => {
                self.engine.counters.unreadable.add_one();
                if !self.has_warned {
                    self.has_warned = true;
                    observe::message_unreadable();
                }
            }
            SourceEvent::Invalidate(change) => self.engine.invalidate(change),
            // What is trusted does not depend on it yet.
            SourceEvent::Alive { .. } => {}
        }
    }

    fn on_reconnect(&mut self) {
        self.is_disconnected = false;
        self.engine.revocations.on_reconnect();
        self.engine.counters.invalidations.add_one();
    }
}

/// Whoever stops listening while nothing is heard relies on the cache's lifetime from then on.
impl Drop for Listener {
    fn drop(&mut self) {
        if self.is_disconnected {
            self.on_reconnect();
        }
    }
}
