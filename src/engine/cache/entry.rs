//! Results of lookups, with all that decides how long they may be used.

use std::{
    any::Any,
    sync::{Arc, Weak},
    time::Duration,
};

use super::key::TokenHash64;
use crate::{
    clock::MonotonicTime,
    customer::{Customer, SessionContext},
    engine::{
        due_time::{CoarseDueTime, DueTime},
        revocations::table::{Epoch, Stripes},
        watch::Watcher,
    },
    session::CustomerSession,
};

/// The result of a lookup.
#[derive(Clone)]
pub(crate) enum LookupResult {
    Session(Arc<CachedSession>),
    NotFound(NegativeEntry),
}

/// A live session and all that the engine knows of it.
///
/// The caches, the customer that handlers get, the session and its lifetime share one allocation, so
/// that a hit copies nothing and reads from one place. What a hit reads comes first, in this order.
#[repr(C)]
pub(crate) struct CachedSession {
    pub(crate) hash: TokenHash64,
    /// The epoch before the store was asked.
    pub(crate) epoch: Epoch,
    pub(crate) stripes: Stripes,
    /// Counted from before the store was asked.
    pub(crate) fresh_until: MonotonicTime,
    /// Microseconds since 1970.
    pub(crate) expires_at: i64,
    /// The next attempt to look it up before it is too old.
    pub(crate) refresh: DueTime,
    /// The next use that is noted.
    pub(crate) next_use: CoarseDueTime,
    /// Milliseconds for which it may be used after `fresh_until` while the store fails.
    pub(crate) stale_for: u32,
    pub(crate) session: CustomerSession,
    /// Weak, since the engine holds the entry in turn; `None` for a session without an engine, which
    /// only its expiry ends.
    pub(crate) watcher: Option<Weak<Watcher<Self>>>,
}

/// The result that there is no such session, or none that is live.
#[derive(Clone, Copy)]
pub(crate) struct NegativeEntry {
    /// The epoch before the store was asked.
    pub(crate) epoch: Epoch,
    /// The stripes of the session that is not live, if there is one.
    pub(crate) stripes: Option<Stripes>,
    /// Counted from before the store was asked.
    pub(crate) fresh_until: MonotonicTime,
}

/// The properties of an entry that the engine's guard checks.
pub(crate) trait Entry {
    /// Returns `true` if this is the entry of `token`.
    fn is_for(&self, token: &[u8]) -> bool;

    /// Returns the epoch before the store was asked.
    fn epoch(&self) -> Epoch;

    /// Returns the stripes of the session that it is about, if it is about one.
    fn stripes(&self) -> Option<Stripes>;
}

impl Entry for CachedSession {
    #[inline]
    fn is_for(&self, token: &[u8]) -> bool {
        self.session.token.is(token)
    }

    #[inline]
    fn epoch(&self) -> Epoch {
        self.epoch
    }

    #[inline]
    fn stripes(&self) -> Option<Stripes> {
        Some(self.stripes)
    }
}

impl Entry for NegativeEntry {
    /// Returns `true`: an unknown token is not kept, only its hash.
    fn is_for(&self, _: &[u8]) -> bool {
        true
    }

    fn epoch(&self) -> Epoch {
        self.epoch
    }

    fn stripes(&self) -> Option<Stripes> {
        self.stripes
    }
}

impl Entry for LookupResult {
    fn is_for(&self, token: &[u8]) -> bool {
        match self {
            Self::Session(session) => session.is_for(token),
            Self::NotFound(entry) => entry.is_for(token),
        }
    }

    fn epoch(&self) -> Epoch {
        match self {
            Self::Session(session) => session.epoch(),
            Self::NotFound(entry) => entry.epoch(),
        }
    }

    fn stripes(&self) -> Option<Stripes> {
        match self {
            Self::Session(session) => session.stripes(),
            Self::NotFound(entry) => entry.stripes(),
        }
    }
}

impl LookupResult {
    /// Changes the stripes of a result that is not shared yet.
    pub(crate) fn set_stripes(&mut self, stripes: Stripes) {
        match self {
            Self::Session(session) => {
                if let Some(session) = Arc::get_mut(session) {
                    session.stripes = stripes;
                }
            }
            Self::NotFound(entry) => entry.stripes = Some(stripes),
        }
    }
}

impl CachedSession {
    /// Returns the end of its use while the store fails.
    pub(crate) fn stale_until(&self) -> MonotonicTime {
        self.fresh_until + Duration::from_millis(self.stale_for.into())
    }

    /// Creates an entry that was not read from the store and is never used by the cache.
    pub(crate) fn detached(session: CustomerSession) -> Self {
        Self {
            hash: TokenHash64::default(),
            epoch: Epoch::default(),
            stripes: Stripes::default(),
            fresh_until: MonotonicTime::default(),
            expires_at: session.expires_at.timestamp_micros(),
            refresh: DueTime::default(),
            next_use: CoarseDueTime::never(),
            stale_for: 0,
            session,
            watcher: None,
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
