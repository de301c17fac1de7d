//! Connections of a SQL store between two lookups.
//!
//! A pool of sqlx tests a connection that is returned to it, in a task of its own, with one more
//! round trip. The caller does not wait for that, but where driver and server share a core it
//! halves the lookups a second (`cd benches && cargo run --release --bin stores`). So a few
//! connections stay out of the pool for up to half a minute.

use std::{
    sync::{Mutex, MutexGuard, PoisonError},
    time::{Duration, Instant},
};

use sqlx::{Connection, Database, Error, Pool, database::HasStatementCache, pool::PoolConnection};
use tokio::{runtime::Handle, time::timeout};

/// Time out of the pool after which a connection is returned to it, to be tested there.
const MAX_TIME_OUT_OF_POOL: Duration = Duration::from_secs(30);

/// Idle time after which a connection over a network is tested before it is used.
pub(super) const TRUSTED_IDLE: Duration = Duration::from_secs(1);

/// Time within which a server must answer that test.
const PING_TIMEOUT: Duration = Duration::from_millis(250);

/// The other end of a connection.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Peer {
    /// A file, which is always there.
    File,
    /// A server, which may have disappeared without closing the connection.
    Server,
}

/// Connections that are kept out of the pool, idle, for the next lookups.
pub(super) struct IdleConnections<DB: Database> {
    /// Guards the connections not in use; the one used last is the last. Never held across an
    /// await.
    idle: Mutex<Vec<PooledConnection<DB>>>,
    limit: usize,
    peer: Peer,
}

/// A connection taken from a pool. Dropping it means that it was given up in the middle of a
/// statement: a connection to a server is then closed, since in the pool it would still wait for
/// the answer.
pub(super) struct PooledConnection<DB: Database> {
    connection: Option<PoolConnection<DB>>,
    peer: Peer,
    taken_at: Instant,
    used_at: Instant,
}

impl<DB: Database + HasStatementCache> IdleConnections<DB> {
    /// Keeps at most `limit` connections. The pool must belong to the store, since closing the
    /// pool waits for them.
    pub(super) fn new(limit: usize, peer: Peer) -> Self {
        Self {
            idle: Mutex::new(Vec::with_capacity(limit)),
            limit,
            peer,
        }
    }

    /// Takes an idle connection, if there is one. It may have been lost since its last use.
    pub(super) async fn take(&self) -> Option<PooledConnection<DB>> {
        let mut connection = self.lock().pop()?;
        if connection.peer == Peer::File || connection.used_at.elapsed() < TRUSTED_IDLE {
            return Some(connection);
        }
        if is_alive(connection.as_mut()).await {
            return Some(connection);
        }
        self.clear();
        None
    }

    /// Takes a connection from `pool`.
    pub(super) async fn acquire(&self, pool: &Pool<DB>) -> Result<PooledConnection<DB>, Error> {
        let connection = Some(pool.acquire().await?);
        let now = Instant::now();
        Ok(PooledConnection {
            connection,
            peer: self.peer,
            taken_at: now,
            used_at: now,
        })
    }

    /// Keeps a connection that waits for no answer, or returns it to its pool.
    pub(super) fn put(&self, mut connection: PooledConnection<DB>) {
        connection.used_at = Instant::now();
        let mut idle = self.lock();
        if idle.len() < self.limit && connection.taken_at.elapsed() < MAX_TIME_OUT_OF_POOL {
            idle.push(connection);
        } else {
            drop(idle);
            connection.return_to_pool();
        }
    }

    /// Takes a connection that is not as old as one that has just failed. Those that wait in the pool
    /// are closed, since what has happened to one may have happened to all.
    pub(super) async fn acquire_new(&self, pool: &Pool<DB>) -> Result<PooledConnection<DB>, Error> {
        self.close_idle(pool);
        let mut connection = self.acquire(pool).await?;
        // It was in use until now, or it is new.
        let is_fit = is_alive(connection.as_mut()).await
            && connection.as_mut().clear_cached_statements().await.is_ok();
        if is_fit {
            return Ok(connection);
        }
        drop(connection);
        self.close_idle(pool);
        self.acquire(pool).await
    }

    /// Closes the connections that are not in use, those in the pool too. A file loses none.
    pub(super) fn close_idle(&self, pool: &Pool<DB>) {
        if self.peer == Peer::File {
            return;
        }
        self.clear();
        for _ in 0..pool.size() {
            let Some(mut connection) = pool.try_acquire() else {
                return;
            };
            connection.close_on_drop();
        }
    }

    /// Drops all idle connections: one was lost, so the others may be lost too.
    pub(super) fn clear(&self) {
        let lost = std::mem::take(&mut *self.lock());
        drop(lost);
    }

    // The vector is whole at every point where code could panic.
    fn lock(&self) -> MutexGuard<'_, Vec<PooledConnection<DB>>> {
        self.idle.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl<DB: Database> PooledConnection<DB> {
    /// Returns the connection itself.
    pub(super) fn as_mut(&mut self) -> &mut DB::Connection {
        self.connection
            .as_mut()
            .expect("the connection is here until it is returned")
    }

    /// Returns a connection that waits for no answer to its pool.
    pub(super) fn return_to_pool(mut self) {
        drop(self.connection.take());
    }
}

impl<DB: Database> Drop for PooledConnection<DB> {
    fn drop(&mut self) {
        let Some(mut connection) = self.connection.take() else {
            return;
        };
        if Handle::try_current().is_err() {
            // Returning it to the pool takes a task, and there is no runtime any more.
            drop(connection.detach());
        } else if self.peer == Peer::Server {
            connection.close_on_drop();
        }
    }
}

/// Returns `true` if the other end answers in time.
pub(super) async fn is_alive(connection: &mut impl Connection) -> bool {
    matches!(timeout(PING_TIMEOUT, connection.ping()).await, Ok(Ok(())))
}
