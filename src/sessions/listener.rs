//! Applies the events of one source of invalidations to the engine.

use std::sync::Arc;

use crate::{
    engine::Engine,
    invalidation::{Invalidation, SourceEvent},
    telemetry,
};

/// The engine's side of one source. Dropping it while the source is disconnected ends the
/// suspension of the cache: from then on `cache_ttl` bounds how long a change goes unnoticed.
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

    /// Applies one event.
    pub(crate) fn apply(&mut self, event: &SourceEvent) {
        match event {
            SourceEvent::Disconnected if self.is_disconnected => {}
            SourceEvent::Disconnected => {
                self.is_disconnected = true;
                self.engine.on_disconnect();
                telemetry::source_disconnected();
            }
            // What is cached must be looked up again, but is not dropped: if the store fails
            // meanwhile, it is as good as it was during the gap.
            SourceEvent::Invalidate(Invalidation::All) if self.is_disconnected => {
                self.reconnect();
                telemetry::source_reconnected();
            }
            SourceEvent::Invalidate(invalidation) => self.engine.invalidate(invalidation),
            SourceEvent::Malformed => {
                self.engine.on_malformed();
                if !self.has_warned {
                    self.has_warned = true;
                    telemetry::malformed_message();
                }
            }
            // Trust does not depend on it yet.
            SourceEvent::Alive { .. } => {}
        }
    }

    fn reconnect(&mut self) {
        self.is_disconnected = false;
        self.engine.on_reconnect();
    }
}

impl Drop for Listener {
    fn drop(&mut self) {
        if self.is_disconnected {
            self.reconnect();
        }
    }
}
