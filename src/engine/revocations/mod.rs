//! What the engine hears of changes: its own, and those of other nodes.

pub(crate) mod table;

use std::sync::{Mutex, PoisonError};

use tokio::sync::{Notify, futures::Notified};

use self::table::{RevocationTable, Target};

/// As many shards for sessions, and for customers; a power of two.
const NOTIFY_SHARDS: usize = 1024;

/// Where changes are written down, and who is told of them.
pub(crate) struct Revocations {
    pub(crate) table: RevocationTable,
    sessions: Box<[Notify]>,
    customers: Box<[Notify]>,
    /// Guards how many sources have lost their connection. Held to count and to change whether
    /// memory is trusted, never across an await.
    lost: Mutex<u64>,
}

impl Revocations {
    pub(crate) fn new(stripes: usize) -> Self {
        let shards = || (0..NOTIFY_SHARDS).map(|_| Notify::new()).collect();
        Self {
            table: RevocationTable::new(stripes),
            sessions: shards(),
            customers: shards(),
            lost: Mutex::default(),
        }
    }

    /// Resolves at the next change that may concern this session or this customer. It counts
    /// from when it was enabled or first polled.
    pub(crate) fn listen(&self, session: &str, customer: &str) -> [Notified<'_>; 2] {
        [
            self.notify(&self.sessions, session).notified(),
            self.notify(&self.customers, customer).notified(),
        ]
    }

    pub(crate) fn sources_lost(&self) -> u64 {
        *self.lost.lock().unwrap_or_else(PoisonError::into_inner)
    }

    pub(crate) fn change(&self, target: Target<'_>) {
        self.table.record(target);
        match target {
            Target::Session(id) => self.notify(&self.sessions, id).notify_waiters(),
            Target::Customer(id) => self.notify(&self.customers, id).notify_waiters(),
            Target::All => self.notify_all(),
        }
    }

    fn notify_all(&self) {
        self.sessions.iter().for_each(Notify::notify_waiters);
    }

    fn notify<'a>(&self, shards: &'a [Notify], id: &str) -> &'a Notify {
        &shards[self.table.hash(id) & (NOTIFY_SHARDS - 1)]
    }

    pub(crate) fn on_disconnect(&self) {
        let mut lost = self.lost.lock().unwrap_or_else(PoisonError::into_inner);
        *lost += 1;
        self.table.suspend_trust();
    }

    pub(crate) fn on_reconnect(&self) {
        let mut lost = self.lost.lock().unwrap_or_else(PoisonError::into_inner);
        *lost -= 1;
        if *lost == 0 {
            self.table.resume_trust();
        }
        drop(lost);
        self.notify_all();
    }
}
