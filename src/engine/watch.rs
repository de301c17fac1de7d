//! The end of a session, and the way from a cached session to the engine that can tell it.

use std::{pin::Pin, sync::Arc};

/// The reason why a session has ended.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
#[non_exhaustive]
pub enum SessionEnd {
    /// The session has expired, or was not used for as long as
    /// [`idle_timeout`](crate::CustomerSessionsBuilder::idle_timeout) allows.
    Expired,
    /// The session was revoked or rotated, or its customer was deleted.
    Revoked,
    /// The store has failed for so long that the session can no longer be trusted: longer than
    /// [`cache_ttl`](crate::CustomerSessionsBuilder::cache_ttl) and
    /// [`stale_if_error`](crate::CustomerSessionsBuilder::stale_if_error). A request with this token
    /// would be answered with 503. Or so many sessions had to be looked up at once that this one's
    /// turn did not come within a minute.
    Unconfirmed,
}

/// Tells when a session has ended; `S` is a session that was looked up.
pub(crate) trait Watch<S>: Send + Sync {
    /// Waits until a request with this session's token would be refused.
    fn watch(&self, session: Arc<S>) -> Watching;

    /// Notes that the session is used, if it is live.
    fn note_use(&self, session: Arc<S>);
}

pub(crate) type Watching = Pin<Box<dyn Future<Output = SessionEnd> + Send>>;

/// A [`Watch`] behind a thin pointer, so that a cached session stays small.
pub(crate) struct Watcher<S>(Box<dyn Watch<S>>);

impl<S> Watcher<S> {
    pub(crate) fn new(watch: impl Watch<S> + 'static) -> Self {
        Self(Box::new(watch))
    }

    pub(crate) fn watch(&self, session: Arc<S>) -> Watching {
        self.0.watch(session)
    }

    pub(crate) fn note_use(&self, session: Arc<S>) {
        self.0.note_use(session);
    }
}
