//! When a session ends, and who can tell.

use std::{pin::Pin, sync::Arc};

use crate::session::CustomerSession;

/// Why a session is no longer good.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
#[non_exhaustive]
pub enum SessionEnd {
    /// Its time is over.
    Expired,
    /// It was revoked, rotated, or its customer was deleted.
    Revoked,
    /// Whether it is still good could not be told for as long as an answer may be used: the
    /// store has failed for [`cache_ttl`](crate::CustomerSessionsBuilder::cache_ttl) and
    /// [`stale_if_error`](crate::CustomerSessionsBuilder::stale_if_error), and a request with this token would be
    /// answered with 503.
    Unconfirmed,
}

/// Tells when a session has ended.
pub(crate) trait Watch: Send + Sync {
    /// Waits until a request with this session's token would no longer be let in.
    fn watch(&self, session: Arc<CustomerSession>) -> Watching;
}

pub(crate) type Watching = Pin<Box<dyn Future<Output = SessionEnd> + Send>>;

/// A thin way from a session back to who watches it, so that an entry of the cache does not grow.
pub(crate) struct Watcher(Box<dyn Watch>);

impl Watcher {
    pub(crate) fn new(watch: impl Watch + 'static) -> Self {
        Self(Box::new(watch))
    }

    pub(crate) fn watch(&self, session: Arc<CustomerSession>) -> Watching {
        self.0.watch(session)
    }
}
