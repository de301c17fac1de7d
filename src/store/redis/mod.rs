//! Sessions in Redis or Valkey.

mod either;
pub(super) mod invalidations;
mod record;
mod registry;
mod scripts;
mod server;

use std::{fmt, sync::Arc, time::Duration};

use chrono::{DateTime, Utc};
use redis::{
    Client, FromRedisValue, Script,
    aio::{ConnectionManager, ConnectionManagerConfig},
};

use self::{
    scripts::Scripts,
    server::{PREFIX, check_server, store_error},
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
/// Every method is one script, which the server runs as a whole. Before its first answer, and every
/// ten seconds, the store checks the server and the [`Peppers`]; while something is wrong with them,
/// every method fails and says what to do. [`check`](Self::check) checks at once. Clones share their
/// connection, which reconnects by itself.
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
    connection: ConnectionManager,
    prefix: Arc<str>,
    peppers: Arc<Peppers>,
    scripts: Arc<Scripts>,
    health_check: Arc<HealthCheck>,
    caches: SharedCaches,
}

impl RedisStore {
    /// Connects to `url`: `redis://:password@host:port/database`.
    ///
    /// # Errors
    ///
    /// [`Unavailable`](crate::StoreErrorKind::Unavailable) if the URL is not one of Redis, or if the
    /// server cannot be reached or refuses.
    pub async fn connect(url: &str, peppers: Peppers) -> Result<Self, StoreError> {
        let client = Client::open(url).map_err(|error| {
            let context = "this is not the URL of a Redis server, such as redis://host:6379";
            store_error(context, error)
        })?;
        let target = format!(
            "connecting to Redis at {}",
            client.get_connection_info().addr()
        );
        // A server that is down is reported soon, and asked again by the next request.
        let config = ConnectionManagerConfig::new()
            .set_number_of_retries(2)
            .set_max_delay(Duration::from_millis(200))
            .set_connection_timeout(Some(Duration::from_secs(1)))
            .set_response_timeout(Some(Duration::from_secs(2)));
        let connection = ConnectionManager::new_with_config(client, config).await;
        Ok(Self::new(
            connection.map_err(|error| store_error(target, error))?,
            peppers,
        ))
    }

    /// Uses `connection`, which should have a response timeout.
    pub fn new(connection: ConnectionManager, peppers: Peppers) -> Self {
        Self {
            connection,
            prefix: PREFIX.into(),
            peppers: peppers.into(),
            scripts: Scripts::new().into(),
            health_check: Arc::default(),
            caches: SharedCaches::new(),
        }
    }

    /// Sets the prefix of all keys; `{customer_sessions}:` by default. On a cluster it needs a part in
    /// braces, which keeps the keys together.
    #[must_use]
    pub fn key_prefix(mut self, prefix: impl Into<String>) -> Self {
        self.prefix = prefix.into().into();
        self.health_check = Arc::default();
        self.caches = SharedCaches::new();
        self
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
        let mut connection = self.connection.clone();
        check_server(&mut connection).await?;
        self.check_peppers(&mut connection).await
    }

    /// Refuses peppers that lack the one in use, and puts a new first one in use. Its time is that
    /// of this machine's clock.
    async fn check_peppers(&self, connection: &mut ConnectionManager) -> Result<(), StoreError> {
        let mut call = self.scripts.peppers.key(&*self.prefix);
        for _ in 0..MAX_ROTATIONS {
            let used: Vec<String> = call
                .invoke_async(connection)
                .await
                .map_err(|error| store_error("reading the fingerprints of the peppers", error))?;
            let used = used.iter().map(|used| used_pepper(used));
            let used: Vec<_> = used.collect::<Result<_, _>>()?;
            let Some(new) = self.peppers.judge(&used)? else {
                return Ok(());
            };
            call = self.scripts.peppers.key(&*self.prefix);
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

    /// Runs a script once the server and the peppers were found to be right.
    async fn run<T: FromRedisValue>(
        &self,
        script: &Script,
        arguments: &[&str],
        context: impl FnOnce() -> String,
    ) -> Result<T, StoreError> {
        let check = || {
            let store = self.clone();
            async move { store.check_or_invalidate().await }
        };
        self.health_check.run(check).await?;
        let mut call = script.key(&*self.prefix);
        for argument in arguments {
            call.arg(*argument);
        }
        let answer = call.invoke_async(&mut self.connection.clone()).await;
        answer.map_err(|error| {
            // The next answer may come from another server.
            self.health_check.invalidate();
            store_error(context(), error)
        })
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
            .field("key_prefix", &self.prefix)
            .field("peppers", &self.peppers)
            .finish_non_exhaustive()
    }
}
