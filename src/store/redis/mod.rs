//! Sessions in Redis or Valkey.

pub(super) mod invalidations;
mod record;
mod registry;
mod scripts;
mod server;

use std::{
    fmt,
    sync::Arc,
    time::{Duration, Instant},
};

use redis::{
    Client, FromRedisValue, Script,
    aio::{ConnectionManager, ConnectionManagerConfig},
};

use self::{
    scripts::Scripts,
    server::{HealthCheck, PREFIX, check_server, store_error},
};
use crate::{
    shared_caches::SharedCaches,
    store::{error::StoreError, pepper::Peppers},
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

    /// Checks the server and the peppers.
    ///
    /// # Errors
    ///
    /// An error that says what is wrong, and what to do.
    pub async fn check(&self) -> Result<(), StoreError> {
        let mut connection = self.connection.clone();
        check_server(&mut connection).await?;
        let key = format!("{}peppers", self.prefix);
        let known: Vec<String> = redis::cmd("SMEMBERS")
            .arg(&key)
            .query_async(&mut connection)
            .await
            .map_err(|error| store_error("reading the fingerprints of the peppers", error))?;
        if let Some(fingerprint) = self.peppers.verify(&known)? {
            let mut remember = redis::cmd("SADD");
            let remembered: Result<(), _> = remember
                .arg(&key)
                .arg(fingerprint)
                .query_async(&mut connection)
                .await;
            remembered
                .map_err(|error| store_error("writing the fingerprint of a pepper", error))?;
        }
        Ok(())
    }

    /// Runs a script once the server and the peppers were found to be right.
    async fn run<T: FromRedisValue>(
        &self,
        script: &Script,
        arguments: &[&str],
        context: impl FnOnce() -> String,
    ) -> Result<T, StoreError> {
        let now = Instant::now();
        if self.health_check.is_due(now) {
            let checked = self.check().await;
            self.health_check.set(checked.is_ok().then_some(now));
            checked?;
        }
        let mut call = script.key(&*self.prefix);
        for argument in arguments {
            call.arg(*argument);
        }
        let answer = call.invoke_async(&mut self.connection.clone()).await;
        answer.map_err(|error| {
            // The next answer may come from another server.
            self.health_check.set(None);
            store_error(context(), error)
        })
    }
}

impl fmt::Debug for RedisStore {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("RedisStore")
            .field("key_prefix", &self.prefix)
            .field("peppers", &self.peppers)
            .finish_non_exhaustive()
    }
}
