//! Whether there is a pooler in transaction mode between a store and its server.
//!
//! Behind such a pooler, statements that are prepared by name get mixed up: one connection of the
//! server serves many clients, each of which gives its statements the same names. A revocation then
//! runs another statement, and is reported as done. The processes of the server betray the pooler,
//! as simple queries see them: each of these is one message, which cannot be parted.

use std::{
    pin::pin,
    sync::atomic::{AtomicBool, Ordering},
    time::Duration,
};

use sqlx::{
    AssertSqlSafe, Connection as _, Error, PgConnection, Row as _, postgres::PgConnectOptions,
};
use tokio::{sync::OnceCell, time::timeout};

use crate::store::{error::StoreError, sql::store::within_time_limit};

/// The error where there is such a pooler, and the store is not set up for it.
const REFUSED: &str = "there is a pooler in transaction mode in front of the server (PgBouncer with \
     pool_mode=transaction, or another), behind which one statement may run in place of another; \
     call `PostgresStore::builder(peppers).transaction_pooling(true)`, or connect to the server itself, and \
     start the service again: a store that has met such a pooler may have connections left through it";

const CONTEXT: &str = "looking for a pooler in transaction mode, which takes two connections";

/// Number of times that the processes are compared. An idle pooler is found the first time. A busy one
/// with three processes to give was overlooked by one round of ten.
const ROUNDS: u32 = 8;

/// Time after which a connection counts as one that waits for the other's transaction. The verdict does
/// not depend on it.
const PATIENCE: Duration = Duration::from_millis(250);

/// The process that answers, told from those of other servers and of earlier starts.
const PROCESS: &str = "SELECT pg_backend_pid()::text || ' of ' \
     || extract(epoch FROM pg_postmaster_start_time())::text";

/// What is known about a pooler in front of a server.
#[derive(Debug, Default)]
pub(super) struct PoolerCheck {
    /// Set once two connections were compared, to `true` if there is a pooler.
    compared: OnceCell<bool>,
    /// A connection has changed its process. Nothing unsets it: other connections, which are in use or in
    /// a pool of the application's, may lead through the pooler too, and their statements be mixed up.
    has_changed: AtomicBool,
}

impl PoolerCheck {
    /// Refuses a pooler in transaction mode. It takes two connections of its own, once.
    ///
    /// # Errors
    ///
    /// There is such a pooler, or the server does not answer.
    pub(super) async fn run(&self, options: &PgConnectOptions) -> Result<(), StoreError> {
        let compare = || {
            let context = || CONTEXT.to_owned();
            within_time_limit(context, Box::pin(is_transaction_pooler(options)))
        };
        let is_pooler = *self.compared.get_or_try_init(compare).await?;
        self.refuse(is_pooler)
    }

    /// Refuses a connection that was answered by different processes.
    pub(super) fn compare(&self, processes: &[String]) -> Result<(), StoreError> {
        self.refuse(processes.windows(2).any(|pair| pair[0] != pair[1]))
    }

    fn refuse(&self, is_pooler: bool) -> Result<(), StoreError> {
        if is_pooler {
            self.has_changed.store(true, Ordering::Relaxed);
        }
        match self.has_changed.load(Ordering::Relaxed) {
            true => Err(StoreError::unavailable(REFUSED)),
            false => Ok(()),
        }
    }
}

/// Returns which process of the server answers.
pub(super) async fn server_process(connection: &mut PgConnection) -> Result<String, Error> {
    let row = sqlx::raw_sql(PROCESS).fetch_one(connection).await?;
    row.try_get(0)
}

/// Compares the processes of two connections, one of which holds its own by a transaction. Without a
/// pooler, and with one in session mode, each connection has a process to itself.
async fn is_transaction_pooler(options: &PgConnectOptions) -> Result<bool, Error> {
    let mut free = PgConnection::connect_with(options).await?;
    let mut holder = PgConnection::connect_with(options).await?;
    let first = server_process(&mut free).await?;
    for _ in 0..ROUNDS {
        // A pooler that takes its connections in turn answers the second question by another.
        let again = server_process(&mut free).await?;
        let begin = sqlx::raw_sql(AssertSqlSafe(format!("BEGIN; {PROCESS}")));
        let held: String = begin.fetch_one(&mut holder).await?.try_get(0)?;
        let beside = {
            let mut asking = pin!(server_process(&mut free));
            // If it waits, either the server is slow, or a pooler has no other connection for it.
            let answer = timeout(PATIENCE, &mut asking).await;
            sqlx::raw_sql("COMMIT").execute(&mut holder).await?;
            match answer {
                Ok(process) => process?,
                Err(_) => asking.await?,
            }
        };
        if held == first || again != first || beside != first {
            return Ok(true);
        }
    }
    drop(free.close().await);
    drop(holder.close().await);
    Ok(false)
}
