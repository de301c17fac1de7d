//! What the store answered, and how long that is good for.

use std::{
    any::Any,
    sync::{Arc, Weak},
};

use super::key::TokenHash64;
use crate::{
    clock::MonotonicTime,
    customer::{Customer, SessionContext},
    engine::{
        revocations::table::{Epoch, Stripes},
        upstream::refresh::Refresh,
        watch::Watcher,
    },
    session::CustomerSession,
};

/// An answer of the store.
#[derive(Clone)]
pub(crate) enum LookupResult {
    Session(Arc<CachedSession>),
    NotFound(NegativeEntry),
}

/// A live session, and all that the engine knows of it. The caches, the customer who is handed to
/// handlers and the lifetime that is handed to streams share it, so that a hit neither copies it
/// nor looks in many buckets.
pub(crate) struct CachedSession {
    pub(crate) key: TokenHash64,
    /// Read before the store was asked.
    pub(crate) epoch: Epoch,
    /// Where the table are that concern it.
    pub(crate) stripes: Stripes,
    /// Counted from before the store was asked.
    pub(crate) fresh_until: MonotonicTime,
    /// In microseconds since 1970.
    pub(crate) expires_at: i64,
    /// From when on a hit has it looked up again in the background.
    pub(crate) refresh: Refresh,
    pub(crate) session: Arc<CustomerSession>,
    /// Until when it may be used while the store fails.
    pub(crate) stale_until: MonotonicTime,
    /// Weak, since the engine holds it in turn; `None`: there is no engine, and only expiry ends
    /// it.
    pub(crate) watcher: Option<Weak<Watcher>>,
}

/// There is no such session, or none that could be let in.
#[derive(Clone, Copy)]
pub(crate) struct NegativeEntry {
    /// Read before the store was asked.
    pub(crate) epoch: Epoch,
    /// Where the table are of the session that could not be let in.
    pub(crate) stripes: Option<Stripes>,
    /// Counted from before the store was asked.
    pub(crate) fresh_until: MonotonicTime,
}

impl LookupResult {
    pub(crate) fn epoch(&self) -> Epoch {
        match self {
            Self::Session(found) => found.epoch,
            Self::NotFound(absent) => absent.epoch,
        }
    }
}

impl CachedSession {
    /// A session of which nothing was asked.
    pub(crate) fn unread(session: Arc<CustomerSession>, watcher: Option<Weak<Watcher>>) -> Self {
        Self {
            key: TokenHash64::default(),
            epoch: Epoch::default(),
            stripes: Stripes::default(),
            fresh_until: MonotonicTime::default(),
            expires_at: session.expires_at.timestamp_micros(),
            refresh: Refresh::default(),
            session,
            stale_until: MonotonicTime::default(),
            watcher,
        }
    }
}

impl SessionContext for CachedSession {
    fn customer(&self) -> &Customer {
        &self.session.customer
    }

    fn into_any(self: Arc<Self>) -> Arc<dyn Any + Send + Sync> {
        self
    }
}
