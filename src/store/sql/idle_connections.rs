//! Connections of a SQL store between two lookups.
//!
//! A pool of sqlx tests a connection that is returned to it, in a task of its own, with one more
//! round trip, and before its next use unless it is told otherwise. Where driver and server share a
//! core that halves the lookups a second (`cd benches && cargo run --release --bin stores`). So a few
//! connections stay out of the pool for up to half a minute.
//!
//! A pool of the application's own gets them back sooner: when they were not used for a second, and
//! as soon as the pool has nothing left to give.

use std::{
    pin::Pin,
    sync::{Arc, Mutex, MutexGuard, PoisonError},
    time::{Duration, Instant},
};

use sqlx::{Connection, Database, Error, Pool, database::HasStatementCache, pool::PoolConnection};
use tokio::{runtime::Handle, time::timeout};

/// Time out of the pool after which a connection is returned to it, to be tested there.
const MAX_TIME_OUT_OF_POOL: Duration = Duration::from_secs(30);

/// Idle time after which a connection is returned to a pool of the application's own.
const MAX_IDLE_TIME: Duration = Duration::from_secs(1);

/// Time from one look at such a pool to the next, while connections are kept out of it.
const RETURN_INTERVAL: Duration = Duration::from_millis(50);

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

/// Takes connections from a pool in a way of its own.
pub(super) trait Acquire<DB: Database>: Send + Sync {
    fn acquire<'a>(
        &'a self,
        pool: &'a Pool<DB>,
    ) -> Pin<Box<dyn Future<Output = Result<PoolConnection<DB>, Error>> + Send + 'a>>;
}

/// Connections that are kept out of the pool, idle, for the next lookups.
pub(super) struct IdleConnections<DB: Database> {
    kept: Arc<Mutex<Kept<DB>>>,
    limit: usize,
    peer: Peer,
    /// The pool is the application's.
    is_borrowing: bool,
    acquire: Option<Box<dyn Acquire<DB>>>,
}

/// The connections not in use. Their lock is never held across an await.
struct Kept<DB: Database> {
    /// The one used last is the last.
    connections: Vec<PooledConnection<DB>>,
    /// A task looks after them, to return them in time.
    is_watched: bool,
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
    /// Keeps at most `limit` connections of a pool of the store's own.
    pub(super) fn of_own_pool(limit: usize, peer: Peer) -> Self {
        let connections = Vec::with_capacity(limit);
        let kept = Kept {
            connections,
            is_watched: false,
        };
        Self {
            kept: Arc::new(Mutex::new(kept)),
            limit,
            peer,
            is_borrowing: false,
            acquire: None,
        }
    }

    /// Takes connections from the pool by `acquire`.
    #[allow(dead_code, reason = "for pools whose password changes")]
    pub(super) fn by(self, acquire: impl Acquire<DB> + 'static) -> Self {
        Self {
            acquire: Some(Box::new(acquire)),
            ..self
        }
    }

    /// Keeps at most half of the connections of `pool`, which is the application's.
    pub(super) fn borrowed_from(pool: &Pool<DB>, peer: Peer) -> Self {
        let limit = pool.options().get_max_connections() / 2;
        Self {
            is_borrowing: true,
            ..Self::of_own_pool(limit as usize, peer)
        }
    }

    /// Takes an idle connection, if there is one. It may have been lost since its last use.
    pub(super) async fn take(&self) -> Option<PooledConnection<DB>> {
        let mut connection = lock(&self.kept).connections.pop()?;
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
        let connection = match &self.acquire {
            Some(acquire) => acquire.acquire(pool).await?,
            None => pool.acquire().await?,
        };
        let now = Instant::now();
        Ok(PooledConnection {
            connection: Some(connection),
            peer: self.peer,
            taken_at: now,
            used_at: now,
        })
    }

    /// Keeps a connection of `pool` that waits for no answer, or returns it.
    pub(super) fn put(&self, mut connection: PooledConnection<DB>, pool: &Pool<DB>) {
        connection.used_at = Instant::now();
        let may_keep = connection.taken_at.elapsed() < MAX_TIME_OUT_OF_POOL
            && !(self.is_borrowing && must_return(pool));
        let mut kept = lock(&self.kept);
        if !may_keep || kept.connections.len() >= self.limit {
            drop(kept);
            return connection.return_to_pool();
        }
        kept.connections.push(connection);
        let must_watch = self.is_borrowing && !kept.is_watched;
        kept.is_watched |= must_watch;
        drop(kept);
        if must_watch {
            let watch = Watch {
                kept: Arc::clone(&self.kept),
                is_over: false,
            };
            // A runtime that ends drops it, now or later, and the connections with it.
            if let Ok(runtime) = Handle::try_current() {
                runtime.spawn(watch.return_in_time(pool.clone()));
            }
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
        drop(take_all(&self.kept));
    }
}

/// The task that looks after the connections of an application's pool. If its runtime ends before it
/// does, they are dropped, since they belong to that runtime.
struct Watch<DB: Database> {
    kept: Arc<Mutex<Kept<DB>>>,
    is_over: bool,
}

impl<DB: Database> Watch<DB> {
    /// Returns connections that are not used, or that the application may wait for. Ends when none is
    /// kept.
    async fn return_in_time(mut self, pool: Pool<DB>) {
        while !self.is_over {
            tokio::time::sleep(RETURN_INTERVAL).await;
            for connection in self.take_unused(&pool) {
                connection.return_to_pool();
            }
        }
    }

    fn take_unused(&mut self, pool: &Pool<DB>) -> Vec<PooledConnection<DB>> {
        let mut kept = lock(&self.kept);
        let unused = if must_return(pool) {
            kept.connections.len()
        } else {
            let is_unused =
                |connection: &PooledConnection<DB>| connection.used_at.elapsed() >= MAX_IDLE_TIME;
            kept.connections.partition_point(is_unused)
        };
        let unused = kept.connections.drain(..unused).collect();
        kept.is_watched = !kept.connections.is_empty();
        self.is_over = !kept.is_watched;
        unused
    }
}

impl<DB: Database> Drop for Watch<DB> {
    fn drop(&mut self) {
        if !self.is_over {
            lock(&self.kept).is_watched = false;
            drop(take_all(&self.kept));
        }
    }
}

/// Returns `true` if a pool has no connection left to give, or waits for all of them to be closed.
fn must_return<DB: Database>(pool: &Pool<DB>) -> bool {
    let is_used_up = pool.num_idle() == 0 && pool.size() >= pool.options().get_max_connections();
    is_used_up || pool.is_closed()
}

fn take_all<DB: Database>(kept: &Mutex<Kept<DB>>) -> Vec<PooledConnection<DB>> {
    std::mem::take(&mut lock(kept).connections)
}

// The connections are whole at every point where code could panic.
fn lock<DB: Database>(kept: &Mutex<Kept<DB>>) -> MutexGuard<'_, Kept<DB>> {
    kept.lock().unwrap_or_else(PoisonError::into_inner)
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
