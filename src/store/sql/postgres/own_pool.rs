//! The pool that a store opens itself.

use std::{
    pin::Pin,
    sync::{
        Arc,
        atomic::{AtomicBool, Ordering},
    },
};

use sqlx::{Error, PgPool, Postgres, pool::PoolConnection};

use super::{password::PasswordProvider, server::IS_REPLICA};
use crate::store::sql::idle_connections::Acquire;

/// Takes connections from a store's own pool.
pub(super) struct OwnPool {
    pub(super) password: Option<PasswordProvider>,
    /// The last connection that was opened led to a replica. The pool goes on trying, and in the end
    /// only knows that it took too long.
    pub(super) leads_to_replica: Arc<AtomicBool>,
}

impl Acquire<Postgres> for OwnPool {
    fn acquire<'a>(
        &'a self,
        pool: &'a PgPool,
    ) -> Pin<Box<dyn Future<Output = Result<PoolConnection<Postgres>, Error>> + Send + 'a>> {
        Box::pin(async move {
            let connection = match &self.password {
                Some(password) => password.acquire(pool).await,
                None => pool.acquire().await,
            };
            match connection {
                Err(Error::PoolTimedOut) if self.leads_to_replica.load(Ordering::Relaxed) => {
                    Err(Error::Configuration(IS_REPLICA.into()))
                }
                connection => connection,
            }
        })
    }
}
