//! The pool that a store opens itself.

use std::{
    pin::Pin,
    sync::{
        Arc, Mutex, PoisonError,
        atomic::{AtomicBool, Ordering},
    },
};

use sqlx::{Error, PgPool, Postgres, pool::PoolConnection};
use tokio::time::Instant;

use super::{
    password::{is_refused, with_password},
    server::IS_REPLICA,
};
use crate::store::{
    password::{Password, PasswordProvider},
    sql::idle_connections::Acquire,
};

/// Takes connections from a store's own pool.
pub(super) struct OwnPool {
    password: Option<PasswordProvider>,
    /// The time at which the password that the pool has was asked for.
    given_password: Mutex<Option<Instant>>,
    /// The last connection that was opened led to a replica. The pool goes on trying, and in the end
    /// only knows that it took too long.
    leads_to_replica: Arc<AtomicBool>,
}

impl OwnPool {
    pub(super) fn new(
        password: Option<PasswordProvider>,
        leads_to_replica: Arc<AtomicBool>,
    ) -> Self {
        Self {
            password,
            given_password: Mutex::new(None),
            leads_to_replica,
        }
    }

    /// Takes a connection from the pool, which opens connections by itself with the options that it was
    /// given last.
    async fn acquire_by(
        &self,
        provider: &PasswordProvider,
        pool: &PgPool,
    ) -> Result<PoolConnection<Postgres>, Error> {
        let opens = pool.num_idle() == 0 && pool.size() < pool.options().get_max_connections();
        if opens {
            provider.current().await?;
        }
        let given = self.give_last(provider, pool);
        match pool.acquire().await {
            Err(error) if is_refused(&error) => {
                if provider.after_refusal(given.as_ref()).await?.is_none() {
                    return Err(error);
                }
                self.give_last(provider, pool);
                pool.acquire().await
            }
            connection => connection,
        }
    }

    /// Gives the pool the last password, and returns it.
    fn give_last(&self, provider: &PasswordProvider, pool: &PgPool) -> Option<Password> {
        let last = provider.last()?;
        let given = self.given_password.lock();
        let mut given = given.unwrap_or_else(PoisonError::into_inner);
        if *given != Some(last.asked_at) {
            pool.set_connect_options(with_password(&pool.connect_options(), &last));
            *given = Some(last.asked_at);
        }
        Some(last)
    }
}

impl Acquire<Postgres> for OwnPool {
    fn acquire<'a>(
        &'a self,
        pool: &'a PgPool,
    ) -> Pin<Box<dyn Future<Output = Result<PoolConnection<Postgres>, Error>> + Send + 'a>> {
        Box::pin(async move {
            let connection = match &self.password {
                Some(provider) => self.acquire_by(provider, pool).await,
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
