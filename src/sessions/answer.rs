//! What the store answered, and how long that is good for.

use std::{
    any::Any,
    sync::{Arc, Weak},
};

use super::{
    cache::HalfKey,
    engine::Engine,
    marks::{Stamp, Stripes},
    refresh::Refresh,
};
use crate::{
    clock::Moment,
    customer::{Badge, Customer},
    session::CustomerSession,
};

/// An answer of the store.
#[derive(Clone)]
pub(super) enum Answer {
    Found(Arc<Found>),
    Absent(Absent),
}

/// A live session, and all that the engine knows of it. The caches, the customer who is handed to
/// handlers and the lifetime that is handed to streams share it, so that a hit neither copies it
/// nor looks in many places.
pub(crate) struct Found {
    pub(super) key: HalfKey,
    /// Read before the store was asked.
    pub(super) stamp: Stamp,
    /// Where the marks are that concern it.
    pub(super) stripes: Stripes,
    /// Counted from before the store was asked.
    pub(super) fresh_until: Moment,
    /// In microseconds since 1970.
    pub(super) expires_at: i64,
    /// From when on a hit has it looked up again in the background.
    pub(super) refresh: Refresh,
    pub(super) session: Arc<CustomerSession>,
    /// Until when it may be used while the store fails.
    pub(super) stale_until: Moment,
    /// Weak, since the engine holds it in turn; `None`: there is no engine, and only expiry ends
    /// it.
    pub(super) engine: Option<Weak<Engine>>,
}

/// There is no such session, or none that could be let in.
#[derive(Clone, Copy)]
pub(super) struct Absent {
    /// Read before the store was asked.
    pub(super) stamp: Stamp,
    /// Where the marks are of the session that could not be let in.
    pub(super) stripes: Option<Stripes>,
    /// Counted from before the store was asked.
    pub(super) fresh_until: Moment,
}

impl Answer {
    pub(super) fn stamp(&self) -> Stamp {
        match self {
            Self::Found(found) => found.stamp,
            Self::Absent(absent) => absent.stamp,
        }
    }
}

impl Found {
    /// A session of which nothing was asked.
    pub(super) fn unread(session: Arc<CustomerSession>, engine: Option<Weak<Engine>>) -> Self {
        Self {
            key: HalfKey::default(),
            stamp: Stamp::default(),
            stripes: Stripes::default(),
            fresh_until: Moment::default(),
            expires_at: session.expires_at.timestamp_micros(),
            refresh: Refresh::default(),
            session,
            stale_until: Moment::default(),
            engine,
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
