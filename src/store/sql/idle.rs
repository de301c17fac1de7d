//! Connections on loan, and those that a SQL store keeps at hand between two lookups.
//!
//! A connection that goes back to the pool is tested there, in a task of its own, with one more
//! round trip. That makes a lookup twice as long (`cd benches && cargo run --release --bin stores`).

use std::{
    sync::{Mutex, MutexGuard, PoisonError},
    time::{Duration, Instant},
};

use sqlx::{Connection, Database, Error, Pool, pool::PoolConnection};
use tokio::{runtime::Handle, time::timeout};

/// After which a connection goes back to the pool, which then looks at it.
const LONGEST: Duration = Duration::from_secs(30);

/// A connection over a network that was idle for longer is tried before it is used.
const TRUSTED_IDLE: Duration = Duration::from_secs(1);

/// How long a server may take for that.
const PING_TIMEOUT: Duration = Duration::from_millis(250);

/// What is at the other end of a connection.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Peer {
    /// A file. It is always there.
    File,
    /// A server. It may have gone without a word, and then nothing ever answers.
    Server,
}

pub(super) struct AtHand<DB: Database> {
    /// Guards the connections that nobody uses right now; the one used last comes last. Nobody
    /// awaits while holding it.
    idle: Mutex<Vec<Loan<DB>>>,
    limit: usize,
    peer: Peer,
}

/// A connection on loan. One that is dropped was given up in the middle of something, and one
/// to a server is closed then: in the pool it would wait for the answer, and be in the way.
pub(super) struct Loan<DB: Database> {
    connection: Option<PoolConnection<DB>>,
    peer: Peer,
    since: Instant,
    used: Instant,
}

impl<DB: Database> AtHand<DB> {
    /// Keeps at most `limit` connections. The pool must not be anybody else's: closing it waits
    /// for them.
    pub(super) fn new(limit: usize, peer: Peer) -> Self {
        Self {
            idle: Mutex::new(Vec::with_capacity(limit)),
            limit,
            peer,
        }
    }

    /// One that is at hand. It may have been lost since it was used last.
    pub(super) async fn take(&self) -> Option<Loan<DB>> {
        let mut loan = self.lock().pop()?;
        if loan.peer == Peer::File || loan.used.elapsed() < TRUSTED_IDLE {
            return Some(loan);
        }
        if answers(loan.connection()).await {
            return Some(loan);
        }
        self.clear();
        None
    }

    /// One from the pool.
    pub(super) async fn borrow(&self, pool: &Pool<DB>) -> Result<Loan<DB>, Error> {
        Loan::new(pool, self.peer).await
    }

    /// Takes a connection back that is sound.
    pub(super) fn give(&self, mut loan: Loan<DB>) {
        loan.used = Instant::now();
        let mut idle = self.lock();
        if idle.len() < self.limit && loan.since.elapsed() < LONGEST {
            idle.push(loan);
        } else {
            drop(idle);
            loan.give_back();
        }
    }

    /// One was lost, so the others may be, too.
    pub(super) fn clear(&self) {
        let lost = std::mem::take(&mut *self.lock());
        drop(lost);
    }

    // The vector is whole at every point where code could panic.
    fn lock(&self) -> MutexGuard<'_, Vec<Loan<DB>>> {
        self.idle.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl<DB: Database> Loan<DB> {
    pub(super) async fn new(pool: &Pool<DB>, peer: Peer) -> Result<Self, Error> {
        let connection = Some(pool.acquire().await?);
        let since = Instant::now();
        Ok(Self {
            connection,
            peer,
            since,
            used: since,
        })
    }

    pub(super) fn connection(&mut self) -> &mut DB::Connection {
        self.connection
            .as_mut()
            .expect("it is there until it is given back")
    }

    /// Gives a connection back that is sound.
    pub(super) fn give_back(mut self) {
        drop(self.connection.take());
    }
}

impl<DB: Database> Drop for Loan<DB> {
    fn drop(&mut self) {
        let Some(mut connection) = self.connection.take() else {
            return;
        };
        if Handle::try_current().is_err() {
            // Going back to the pool takes a task, and there is no runtime any more.
            drop(connection.detach());
        } else if self.peer == Peer::Server {
            connection.close_on_drop();
        }
    }
}

/// Whether there is somebody at the other end.
pub(super) async fn answers(connection: &mut impl Connection) -> bool {
    matches!(timeout(PING_TIMEOUT, connection.ping()).await, Ok(Ok(())))
}
