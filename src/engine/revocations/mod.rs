//! Revocations and other changes that this node knows of: its own, and those of other nodes.

pub(crate) mod table;

use std::sync::{Mutex, MutexGuard, PoisonError};

use tokio::sync::{Notify, futures::Notified};

use self::table::{RevocationTable, Target};
use crate::invalidation::Invalidation;

/// Shards of the notifications about sessions, and of those about customers; a power of two.
const NOTIFY_SHARDS: usize = 1024;

/// The revocation table, and the notifications for streams that watch their session.
pub(crate) struct Revocations {
    pub(crate) table: RevocationTable,
    sessions: Box<[Notify]>,
    customers: Box<[Notify]>,
    /// Guards the number of sources that are disconnected. Held to count, and to change whether the
    /// cache is trusted; never across an await.
    disconnected: Mutex<u64>,
}

impl Revocations {
    pub(crate) fn new(stripes: usize) -> Self {
        let shards = || (0..NOTIFY_SHARDS).map(|_| Notify::new()).collect();
        Self {
            table: RevocationTable::new(stripes),
            sessions: shards(),
            customers: shards(),
            disconnected: Mutex::default(),
        }
    }

    /// Records a change, and notifies the streams that it may concern. To be called when the change
    /// is visible to the store's readers, not earlier.
    pub(crate) fn record(&self, invalidation: &Invalidation) {
        match invalidation {
            Invalidation::Session(id) => {
                self.table.record(Target::Session(id.as_str()));
                self.notify_session(id.as_str());
            }
            Invalidation::Customer(id) => {
                self.table.record(Target::Customer(id.as_str()));
                self.shard(&self.customers, id.as_str()).notify_waiters();
            }
            Invalidation::All => {
                self.table.record(Target::All);
                self.notify_all();
            }
        }
    }

    /// Returns futures that resolve at the next change that may concern this session or this
    /// customer, counted from when they are enabled or first polled.
    pub(crate) fn changes(&self, session: &str, customer: &str) -> [Notified<'_>; 2] {
        [
            self.shard(&self.sessions, session).notified(),
            self.shard(&self.customers, customer).notified(),
        ]
    }

    pub(crate) fn sources_disconnected(&self) -> u64 {
        *self.lock_disconnected()
    }

    /// Suspends the use of the cache: a source may be missing changes.
    pub(crate) fn on_disconnect(&self) {
        let mut disconnected = self.lock_disconnected();
        *disconnected += 1;
        self.table.suspend_trust();
    }

    /// Resumes the use of what is looked up from now on, if this was the last disconnected source.
    pub(crate) fn on_reconnect(&self) {
        let mut disconnected = self.lock_disconnected();
        *disconnected -= 1;
        if *disconnected == 0 {
            self.table.resume_trust();
        }
        drop(disconnected);
        self.notify_all();
    }

    fn notify_session(&self, id: &str) {
        self.shard(&self.sessions, id).notify_waiters();
    }

    fn notify_all(&self) {
        self.sessions.iter().for_each(Notify::notify_waiters);
    }

    fn shard<'a>(&self, shards: &'a [Notify], id: &str) -> &'a Notify {
        &shards[self.table.hash(id) & (NOTIFY_SHARDS - 1)]
    }

    fn lock_disconnected(&self) -> MutexGuard<'_, u64> {
        let disconnected = self.disconnected.lock();
        disconnected.unwrap_or_else(PoisonError::into_inner)
    }
}
