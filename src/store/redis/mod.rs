//! Sessions in Redis or Valkey.

mod connection;
mod either;
mod endpoint;
pub(super) mod invalidations;
mod link;
mod record;
mod registry;
mod scripts;
mod server;

use std::{fmt, sync::Arc};

use chrono::{DateTime, Utc};
use redis::{FromRedisValue, Script, aio::ConnectionLike};

use self::{
    connection::{Connection, Failure},
    endpoint::Endpoint,
    scripts::Scripts,
    server::PREFIX,
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
    connection: Arc<Connection>,
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
        let connection = Connection::open(Endpoint::new(url)?).await?;
        Ok(Self::with(connection, peppers))
    }

    /// Uses `connection`, which must reconnect by itself and should have a response timeout, such as a
    /// `redis::aio::ConnectionManager`.
    pub fn new<C>(connection: C, peppers: Peppers) -> Self
    where
        C: ConnectionLike + Clone + Send + Sync + 'static,
    {
        Self::with(Connection::given(Arc::new(connection)), peppers)
    }

    fn with(connection: Connection, peppers: Peppers) -> Self {
        Self {
            connection: connection.into(),
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
        self.connection.check().await?;
        self.check_peppers().await
    }

    /// Refuses peppers that lack the one in use, and puts a new first one in use. Its time is that
    /// of this machine's clock.
    async fn check_peppers(&self) -> Result<(), StoreError> {
        let context = || "reading the fingerprints of the peppers".to_owned();
        let mut call = self.scripts.peppers.key(&*self.prefix);
        for _ in 0..MAX_ROTATIONS {
            let used: Vec<String> = self.connection.ask(&call, context).await?;
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
        let ran = self.try_run(script, arguments, context).await;
        ran.map_err(|failure| failure.error)
    }

    /// Runs a script that changes nothing. Runs it once more, on a new connection, if the first one was
    /// lost or silent.
    async fn read<T: FromRedisValue>(
        &self,
        script: &Script,
        arguments: &[&str],
        context: impl Fn() -> String,
    ) -> Result<T, StoreError> {
        match self.try_run(script, arguments, &context).await {
            Err(failure) if failure.is_of_connection => self.run(script, arguments, context).await,
            ran => ran.map_err(|failure| failure.error),
        }
    }

    async fn try_run<T: FromRedisValue>(
        &self,
        script: &Script,
        arguments: &[&str],
        context: impl FnOnce() -> String,
    ) -> Result<T, Failure> {
        let check = || {
            let store = self.clone();
            async move { store.check_or_invalidate().await }
        };
        let checked = self.health_check.run(check).await;
        checked.map_err(|error| Failure {
            error,
            is_of_connection: false,
        })?;
        let mut call = script.key(&*self.prefix);
        for argument in arguments {
            call.arg(*argument);
        }
        let answer = self.connection.send(&call, context).await;
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
            .field("key_prefix", &self.prefix)
            .field("peppers", &self.peppers)
            .finish_non_exhaustive()
    }
}
