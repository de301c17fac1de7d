//! Connections that a SQL store keeps at hand between two lookups.
//!
//! A connection that goes back to the pool is tested there, in a task of its own, with one more
//! round trip. With SQLite this makes a lookup six times as long.

use std::{
    sync::{Mutex, MutexGuard, PoisonError},
    time::{Duration, Instant},
};

use sqlx::{Database, Error, Pool, pool::PoolConnection};

/// After which a connection goes back to the pool, which then looks at it.
const LONGEST: Duration = Duration::from_secs(30);

pub(super) struct AtHand<DB: Database> {
    /// Guards the connections that nobody uses right now, and since when they are out of the
    /// pool; the one used last comes last. Nobody awaits while holding it.
    idle: Mutex<Vec<(Instant, PoolConnection<DB>)>>,
    limit: usize,
}

/// A connection on loan. Dropped, it goes back to the pool, which tests whether a lookup that
/// failed, or was given up, has left it sound.
pub(super) struct Loan<DB: Database> {
    pub(super) connection: PoolConnection<DB>,
    since: Instant,
}

impl<DB: Database> AtHand<DB> {
    /// Keeps at most `limit` connections. The pool must not be anybody else's: closing it waits
    /// for them.
    pub(super) fn new(limit: usize) -> Self {
        Self {
            idle: Mutex::new(Vec::with_capacity(limit)),
            limit,
        }
    }

    /// One that is at hand. It may have been lost since it was used last.
    pub(super) fn take(&self) -> Option<Loan<DB>> {
        let (since, connection) = self.lock().pop()?;
        Some(Loan { connection, since })
    }

    /// One from the pool.
    pub(super) async fn borrow(&self, pool: &Pool<DB>) -> Result<Loan<DB>, Error> {
        Ok(Loan {
            connection: pool.acquire().await?,
            since: Instant::now(),
        })
    }

    /// Takes a connection back that is sound.
    pub(super) fn give(&self, loan: Loan<DB>) {
        let mut idle = self.lock();
        if idle.len() < self.limit && loan.since.elapsed() < LONGEST {
            idle.push((loan.since, loan.connection));
        }
    }

    /// Gives all back to the pool: one was lost, so the others may be, too.
    pub(super) fn clear(&self) {
        let lost = std::mem::take(&mut *self.lock());
        drop(lost);
    }

    // The vector is whole at every point where code could panic.
    fn lock(&self) -> MutexGuard<'_, Vec<(Instant, PoolConnection<DB>)>> {
        self.idle.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl<DB: Database> Drop for AtHand<DB> {
    fn drop(&mut self) {
        // Going back to the pool takes a task, and there may be no runtime any more.
        for (_, connection) in self.lock().drain(..) {
            drop(connection.detach());
        }
    }
}
