//! Sessions in Redis or Valkey.

pub(super) mod builder;
pub(super) mod certificates;
mod claim;
mod connection;
mod derivation;
mod endpoint;
mod insertion;
pub(super) mod invalidations;
mod keys;
mod link;
mod listing;
mod lookup;
mod options;
mod overlap;
mod password;
mod probe;
mod purge;
mod record;
mod registry;
mod replacement;
mod revocation;
mod scan;
mod score;
mod scripts;
mod sentinel;
mod server;
mod transport;
mod uses;

use std::{fmt, sync::Arc};

use chrono::{DateTime, Utc};
use redis::FromRedisValue;

use self::{
    connection::{Connection, Failure, Request},
    invalidations::RedisInvalidations,
    keys::Keys,
    scripts::Scripts,
};
use crate::{
    shared_caches::SharedCaches,
    store::{
        error::StoreError,
        health_check::HealthCheck,
        pepper::{MAX_ROTATIONS, Peppers, UsedPepper, keeps_changing},
    },
};

/// Keeps sessions in Redis 6.2 or newer, or in Valkey, for several machines.
///
/// It works on a single server, behind sentinels, and on a cluster, which it notices by itself. Every change
/// takes effect by one script, which the server runs as a whole. There are two exceptions: sessions that were
/// created before a time are ended customer by customer, and on a cluster a revocation of all sessions
/// takes effect shard by shard.
///
/// Before its first answer, and every ten seconds, the store checks the server and the [`Peppers`]; while
/// something is wrong with them, every method fails and says what to do. [`check`](Self::check) checks at
/// once. Behind sentinels the store asks them again as soon as a source of its
/// [`invalidations`](Self::invalidations) has lost the primary. Clones share their connection, which reconnects by itself.
///
/// Uses of sessions ([`touch`](crate::SessionRegistry::touch)) are kept in one hash for each customer, and are
/// never later than the server's clock. Those of one call take effect customer by customer.
///
/// The server decides how much survives a crash. With `appendonly yes` and
/// `appendfsync always` every revocation that has returned does, with `everysec` those of the
/// last second may be undone, and without a file all sessions are gone.
///
/// ```no_run
/// use customer_session::{CustomerSessions, store::{Peppers, RedisStore}};
///
/// # async fn start() -> Result<(), Box<dyn std::error::Error>> {
/// let peppers = Peppers::new(std::env::var("SESSION_PEPPER")?);
/// let store = RedisStore::connect("redis://localhost", peppers).await?;
/// let sessions = CustomerSessions::builder(store).build();
/// # Ok(())
/// # }
/// ```
#[derive(Clone)]
pub struct RedisStore {
    connection: Arc<Connection>,
    keys: Arc<Keys>,
    peppers: Arc<Peppers>,
    scripts: Arc<Scripts>,
    health_check: Arc<HealthCheck>,
    caches: SharedCaches,
}

impl RedisStore {
    /// Sets the prefix of all keys, as [`RedisStoreBuilder::key_prefix`](builder::RedisStoreBuilder::key_prefix)
    /// does.
    #[must_use]
    pub fn key_prefix(mut self, prefix: impl Into<String>) -> Self {
        self.keys = Keys::new(prefix).into();
        self.health_check = Arc::default();
        self.caches = SharedCaches::new();
        self
    }

    /// Begins to listen to what any store with these keys changes, by connections like the store's own.
    ///
    /// # Errors
    ///
    /// [`Unavailable`](crate::StoreErrorKind::Unavailable) if the servers cannot be reached or refuse, or if
    /// the application has opened the store's connection: then call [`RedisInvalidations::connect`].
    pub async fn invalidations(&self) -> Result<RedisInvalidations, StoreError> {
        let Some(endpoint) = self.connection.endpoint() else {
            return Err(StoreError::unavailable(
                "the store does not know the URL of its server; call `RedisInvalidations::connect(url)`",
            ));
        };
        RedisInvalidations::listening(endpoint.clone(), Keys::clone(&self.keys)).await
    }

    /// Checks the server and the peppers. The other methods count it as one of their own checks.
    ///
    /// # Errors
    ///
    /// An error that says what is wrong, and what to do.
    pub async fn check(&self) -> Result<(), StoreError> {
        self.health_check.record(self.check_or_invalidate()).await
    }

    async fn run_check(&self) -> Result<(), StoreError> {
        self.connection.check(&self.keys).await?;
        self.check_peppers().await
    }

    /// Refuses peppers that lack the one in use, and puts a new first one in use. Its time is that
    /// of this machine's clock.
    async fn check_peppers(&self) -> Result<(), StoreError> {
        let context = format!(
            "reading the fingerprints of the peppers (this takes the rights to run EVALSHA and SCRIPT \
             LOAD, and to the keys {}*)",
            self.keys.prefix()
        );
        let context = context.as_str();
        let mut call = self.scripts.peppers.key(self.keys.peppers());
        for _ in 0..MAX_ROTATIONS {
            // It adds the same pepper once.
            let used = match self.connection.send(Request::Script(&call), context).await {
                Err(failure) if failure.is_of_connection => {
                    self.connection.send(Request::Script(&call), context).await
                }
                used => used,
            };
            let used: Vec<String> = used.map_err(|failure| failure.error)?;
            let used = used.iter().map(|used| used_pepper(used));
            let used: Vec<_> = used.collect::<Result<_, _>>()?;
            let Some(new) = self.peppers.judge(&used)? else {
                return Ok(());
            };
            call = self.scripts.peppers.key(self.keys.peppers());
            call.arg(new.fingerprint)
                .arg(Utc::now().timestamp_micros())
                .arg(new.after);
        }
        Err(keeps_changing())
    }

    /// Checks, and makes every call wait for a check if that fails: the next answer may come from
    /// another server.
    async fn check_or_invalidate(&self) -> Result<(), StoreError> {
        let checked = self.run_check().await;
        if checked.is_err() {
            self.health_check.invalidate();
        }
        checked
    }

    /// Waits until the server and the peppers were found to be right.
    async fn ready(&self) -> Result<(), StoreError> {
        if self.connection.discard_after_loss() {
            self.health_check.invalidate();
        }
        let check = || {
            let store = self.clone();
            async move { store.check_or_invalidate().await }
        };
        self.health_check.run(check).await
    }

    /// Sends a request; `context` says what is attempted. The store must be [`ready`](Self::ready).
    async fn send<T: FromRedisValue>(
        &self,
        request: Request<'_>,
        context: &str,
    ) -> Result<T, StoreError> {
        let answer = self.try_send(request, context).await;
        answer.map_err(|failure| failure.error)
    }

    /// Sends a request that changes nothing. Sends it once more, on a new connection, if the first one
    /// was lost or silent.
    async fn read<T: FromRedisValue>(
        &self,
        request: Request<'_>,
        context: &str,
    ) -> Result<T, StoreError> {
        match self.try_send(request, context).await {
            Err(failure) if failure.is_of_connection => {
                self.ready().await?;
                self.send(request, context).await
            }
            answer => answer.map_err(|failure| failure.error),
        }
    }

    async fn try_send<T: FromRedisValue>(
        &self,
        request: Request<'_>,
        context: &str,
    ) -> Result<T, Failure> {
        let answer = self.connection.send(request, context).await;
        if answer.is_err() {
            // The next answer may come from another server.
            self.health_check.invalidate();
        }
        answer
    }
}

/// Reads what `lua/peppers.lua` answers: a fingerprint, and the moment from which it was in use.
fn used_pepper(used: &str) -> Result<UsedPepper, StoreError> {
    let (fingerprint, micros) = used.split_once(' ').unwrap_or_default();
    let used_since = micros
        .parse()
        .ok()
        .and_then(DateTime::from_timestamp_micros);
    let corrupt = || StoreError::corrupt("the fingerprint of a pepper is corrupt");
    Ok(UsedPepper {
        fingerprint: fingerprint.to_owned(),
        used_since: used_since.ok_or_else(corrupt)?,
    })
}

impl fmt::Debug for RedisStore {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("RedisStore")
            .field("key_prefix", &self.keys.prefix())
            .field("peppers", &self.peppers)
            .finish_non_exhaustive()
    }
}
