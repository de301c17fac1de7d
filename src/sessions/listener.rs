//! Applies the events of one source of invalidations to the engine.

use std::sync::Arc;

use crate::{
    engine::{Engine, revocations::sources::SourceId},
    invalidation::{Invalidation, SourceEvent},
    telemetry,
};

/// The engine's side of one source. Dropping it ends what the source has said of itself: from then
/// on `cache_ttl` bounds how long a change goes unnoticed, unless the cache requires a source.
pub(crate) struct Listener {
    engine: Arc<Engine>,
    id: SourceId,
    is_heard: bool,
    is_disconnected: bool,
    has_warned: bool,
}

impl Listener {
    pub(crate) fn new(engine: Arc<Engine>) -> Self {
        Self {
            id: engine.add_source(),
            engine,
            is_heard: false,
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
                self.engine.on_disconnect(self.id);
                telemetry::source_disconnected();
            }
            // What is cached must be looked up again, but is not dropped: if the store fails
            // meanwhile, it is as good as it was during the gap.
            SourceEvent::Invalidate(Invalidation::All) if self.is_disconnected => {
                self.is_disconnected = false;
                self.engine.on_reconnect(self.id);
                telemetry::source_reconnected();
            }
            SourceEvent::Invalidate(invalidation) => self.engine.invalidate(invalidation),
            SourceEvent::Resumed => {
                if std::mem::take(&mut self.is_disconnected) {
                    self.engine.on_resume(self.id);
                    telemetry::source_reconnected();
                }
            }
            SourceEvent::Malformed => {
                self.engine.on_malformed();
                if !self.has_warned {
                    self.has_warned = true;
                    telemetry::malformed_message();
                }
            }
            SourceEvent::Alive { asked_at } => self.engine.on_answer(self.id, *asked_at),
        }
        let vouches = !matches!(event, SourceEvent::Disconnected | SourceEvent::Malformed);
        if vouches && !self.is_heard {
            self.is_heard = true;
            self.engine.on_source_heard(self.id);
        }
    }
}

impl Drop for Listener {
    fn drop(&mut self) {
        self.engine.remove_source(self.id);
        if std::thread::panicking() {
            telemetry::source_panicked();
        } else {
            telemetry::source_ended();
        }
    }
}
