//! What the store answered, and how long that is good for.

use std::{
    any::Any,
    sync::{Arc, Weak},
};

use super::key::HalfKey;
use crate::{
    clock::Moment,
    customer::{Badge, Customer},
    engine::{
        revocations::table::{Stamp, Stripes},
        upstream::refresh::Refresh,
        watch::Watcher,
    },
    session::CustomerSession,
};

/// An answer of the store.
#[derive(Clone)]
pub(crate) enum Answer {
    Found(Arc<Found>),
    Absent(Absent),
}

/// A live session, and all that the engine knows of it. The caches, the customer who is handed to
/// handlers and the lifetime that is handed to streams share it, so that a hit neither copies it
/// nor looks in many places.
pub(crate) struct Found {
    pub(crate) key: HalfKey,
    /// Read before the store was asked.
    pub(crate) stamp: Stamp,
    /// Where the marks are that concern it.
    pub(crate) stripes: Stripes,
    /// Counted from before the store was asked.
    pub(crate) fresh_until: Moment,
    /// In microseconds since 1970.
    pub(crate) expires_at: i64,
    /// From when on a hit has it looked up again in the background.
    pub(crate) refresh: Refresh,
    pub(crate) session: Arc<CustomerSession>,
    /// Until when it may be used while the store fails.
    pub(crate) stale_until: Moment,
    /// Weak, since the engine holds it in turn; `None`: there is no engine, and only expiry ends
    /// it.
    pub(crate) watcher: Option<Weak<Watcher>>,
}

/// There is no such session, or none that could be let in.
#[derive(Clone, Copy)]
pub(crate) struct Absent {
    /// Read before the store was asked.
    pub(crate) stamp: Stamp,
    /// Where the marks are of the session that could not be let in.
    pub(crate) stripes: Option<Stripes>,
    /// Counted from before the store was asked.
    pub(crate) fresh_until: Moment,
}

impl Answer {
    pub(crate) fn stamp(&self) -> Stamp {
        match self {
            Self::Found(found) => found.stamp,
            Self::Absent(absent) => absent.stamp,
        }
    }
}

impl Found {
    /// A session of which nothing was asked.
    pub(crate) fn unread(session: Arc<CustomerSession>, watcher: Option<Weak<Watcher>>) -> Self {
        Self {
            key: HalfKey::default(),
            stamp: Stamp::default(),
            stripes: Stripes::default(),
            fresh_until: Moment::default(),
            expires_at: session.expires_at.timestamp_micros(),
            refresh: Refresh::default(),
            session,
            stale_until: Moment::default(),
            watcher,
        }
    }
}

impl Badge for Found {
    fn customer(&self) -> &Customer {
        &self.session.customer
    }

    fn into_any(self: Arc<Self>) -> Arc<dyn Any + Send + Sync> {
        self
    }
}
