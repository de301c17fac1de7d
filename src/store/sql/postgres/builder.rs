//! The builder of a store: its connections, and the schema of its tables.

use std::{
    sync::{
        Arc,
        atomic::{AtomicBool, Ordering},
    },
    time::Duration,
};

use sqlx::{
    Connection, Error, PgConnection, PgPool, Row as _,
    postgres::{PgConnectOptions, PgPoolOptions},
};
use tokio::time::timeout;

use super::{
    PostgresStore,
    connector::Connector,
    own_pool::OwnPool,
    password::with_password,
    pooler::PoolerCheck,
    server::{self, IS_REPLICA, KIND, check_kind},
};
use crate::store::{
    error::{ContextError, StoreError},
    password::PasswordProvider,
    pepper::Peppers,
    sql::{
        error::store_error,
        idle_connections::{IdleConnections, Peer, TRUSTED_IDLE, is_alive},
        schema_name::SchemaName,
        statements::StatementMode,
        store::SqlStore,
    },
};

/// Connections that the store opens itself, unless it is told otherwise.
const MAX_CONNECTIONS: u32 = 10;

/// Time a request waits for a connection, a new one included.
const ACQUIRE_TIMEOUT: Duration = Duration::from_secs(1);

/// Time the first connection may take.
const CONNECT_TIMEOUT: Duration = Duration::from_secs(5);

/// The method that takes a provider, for errors.
const PASSWORD_PROVIDER: &str = "PostgresStoreBuilder::password_provider";

/// The error of a provider for a pool that gets its password from the application.
const PROVIDER_OF_POOL: &str = "`password_provider` is for the pool that `connect` makes; give new options \
     to a pool of your own by its `set_connect_options`, and call `build` without a provider";

/// Builds a [`PostgresStore`].
///
/// ```no_run
/// use customer_session::store::{Peppers, PostgresStore};
///
/// # async fn start(url: &str, peppers: Peppers) -> Result<(), Box<dyn std::error::Error>> {
/// let store = PostgresStore::builder(peppers)
///     .schema("auth")
///     .max_connections(4)
///     .application_name("api")
///     .connect(url)
///     .await?;
/// # Ok(())
/// # }
/// ```
#[derive(Clone, Debug)]
#[must_use = "a builder does nothing until it connects"]
pub struct PostgresStoreBuilder {
    peppers: Peppers,
    schema: Option<String>,
    max_connections: u32,
    application_name: Option<String>,
    password: Option<PasswordProvider>,
    transaction_pooling: bool,
    allow_plaintext: bool,
    external_customers: bool,
}

/// The error of a store behind a pooler that uses the tables that a search path leads to.
const NO_SCHEMA: &str = "with transaction_pooling(true), name the schema of the tables, such as by \
     `schema(\"public\")`: the search path may be that of another client of the pooler";

impl PostgresStoreBuilder {
    pub(super) fn new(peppers: Peppers) -> Self {
        Self {
            peppers,
            schema: None,
            max_connections: MAX_CONNECTIONS,
            application_name: None,
            password: None,
            transaction_pooling: false,
            allow_plaintext: false,
            external_customers: false,
        }
    }

    /// Sets the schema of the tables, which must exist. The store then names it in every statement.
    /// By default the tables are in the first schema of the search path.
    ///
    /// The name is taken as it is, in upper and lower case: 1 to 63 bytes, without quotes,
    /// backslashes and control characters.
    pub fn schema(mut self, name: impl Into<String>) -> Self {
        self.schema = Some(name.into());
        self
    }

    /// Sets how many connections the store may open; 10 by default, at least 1. A source of
    /// invalidations opens one more.
    pub fn max_connections(mut self, max: u32) -> Self {
        self.max_connections = max.max(1);
        self
    }

    /// Sets the name by which the connections show up in `pg_stat_activity`.
    pub fn application_name(mut self, name: impl Into<String>) -> Self {
        self.application_name = Some(name.into());
        self
    }

    /// Asks `provider` for the password of new connections, such as a token that a cloud gives for a
    /// quarter of an hour. It takes the place of the password in the URL.
    ///
    /// It is asked before a connection is opened, if its last answer is older than a minute; and at once
    /// if the server refuses that answer: the next answer is then tried, unless it is the same. If there is
    /// no other password, it is asked again a second later at the earliest. One question at a time is
    /// under way. Connections that are open stay open. A
    /// [source of invalidations](PostgresStore::invalidations) asks it too.
    ///
    /// If it fails, panics, or has not answered within three seconds, the last password is tried. If there is
    /// none, or the server refuses it, the error says why there is no other. It shows the text of your error,
    /// which must not contain a secret; the last password that was returned is removed from it.
    ///
    /// ```no_run
    /// use customer_session::store::{Peppers, PostgresStore};
    ///
    /// # async fn token() -> Result<String, std::io::Error> { Ok(String::new()) }
    /// # async fn start(url: &str, peppers: Peppers) -> Result<(), Box<dyn std::error::Error>> {
    /// // async fn token() -> Result<String, ...>
    /// let builder = PostgresStore::builder(peppers).password_provider(token);
    /// let store = builder.connect(url).await?;
    /// # Ok(())
    /// # }
    /// ```
    pub fn password_provider<F, A, E>(mut self, provider: F) -> Self
    where
        F: Fn() -> A + Send + Sync + 'static,
        A: Future<Output = Result<String, E>> + Send + 'static,
        E: Into<Box<dyn std::error::Error + Send + Sync>>,
    {
        self.password = Some(PasswordProvider::new(PASSWORD_PROVIDER, provider));
        self
    }

    /// Allows connections over a network that may be in plain text; off by default.
    ///
    /// Without it, `sslmode` must be `require`, `verify-ca` or `verify-full`, unless the server is on
    /// this machine: `localhost`, a loopback address, or a Unix socket. The same holds for a pool that
    /// is handed in.
    pub fn allow_plaintext(mut self, is_allowed: bool) -> Self {
        self.allow_plaintext = is_allowed;
        self
    }

    /// Makes the store work behind a pooler in transaction mode, such as PgBouncer with
    /// `pool_mode=transaction`; off by default.
    ///
    /// It then prepares no statement by name, and runs each statement in a transaction, since only that
    /// keeps the messages of one statement together. A lookup takes four round trips instead of one.
    /// Without this setting, such a pooler is refused: behind it, one statement could run in place of
    /// another.
    ///
    /// It needs the [`schema`](Self::schema), such as `public`: the search path may be that of another
    /// client of the pooler.
    pub fn transaction_pooling(mut self, is_on: bool) -> Self {
        self.transaction_pooling = is_on;
        self
    }

    /// Has the store read the customers of the application's own table, by the view
    /// `customer_session_customers` that the application defines. By default the store has a table of
    /// that name, and adds each customer with the first session.
    ///
    /// The store then writes no customer. [`insert`](crate::SessionRegistry::insert) refuses a session
    /// of a customer that the view does not show with
    /// [`Conflict`](crate::StoreErrorKind::Conflict), and
    /// [`update_customer`](crate::SessionRegistry::update_customer) fails. The guide's page
    /// [`external_customers`](crate::guide::external_customers) shows the view, and the trigger by
    /// which a change of a customer reaches all nodes.
    pub fn external_customers(mut self) -> Self {
        self.external_customers = true;
        self
    }

    /// Connects to `url`: `postgres://user:password@host/database`.
    ///
    /// # Errors
    ///
    /// [`Unavailable`](crate::StoreErrorKind::Unavailable) if the URL is not one of PostgreSQL, if
    /// the server cannot be reached or refuses, if it is too old or a replica, or if the schema's name is not
    /// valid. So it is if the server is on another machine and the URL does not demand TLS, unless
    /// [plain text is allowed](Self::allow_plaintext), and if there is a pooler in transaction mode, which
    /// takes a second connection to find out, and [`transaction_pooling`](Self::transaction_pooling) is off.
    pub async fn connect(self, url: &str) -> Result<PostgresStore, StoreError> {
        self.connect_with(server::options(url)?).await
    }

    /// Connects with the driver's options, for what a URL cannot say. `extra_float_digits` is not used.
    ///
    /// # Errors
    ///
    /// Those of [`connect`](Self::connect).
    pub async fn connect_with(
        self,
        options: PgConnectOptions,
    ) -> Result<PostgresStore, StoreError> {
        let options = match &self.application_name {
            Some(name) => options.application_name(name),
            None => options,
        };
        let names = self.names()?;
        let connector = Connector::new(options, self.allow_plaintext, self.password.clone());
        let mut options = connector.options()?;
        if let Some(provider) = &self.password {
            let password = async {
                let password = provider.current().await;
                password.map_err(|error| store_error(context(&options), error.into()))
            };
            options = with_password(&options, &timed(&options, password).await?);
        }
        try_connecting(&options).await?;
        let pooler = PoolerCheck::default();
        if !self.transaction_pooling {
            timed(&options, pooler.run(&options)).await?;
        }
        let leads_to_replica = Arc::new(AtomicBool::new(false));
        let noted = Arc::clone(&leads_to_replica);
        let pool = PgPoolOptions::new()
            .max_connections(self.max_connections)
            .acquire_timeout(ACQUIRE_TIMEOUT)
            .test_before_acquire(false)
            .before_acquire(|connection, metadata| {
                Box::pin(async move {
                    Ok(metadata.idle_for < TRUSTED_IDLE || is_alive(connection).await)
                })
            })
            // A connection made after a failover may lead to what is a replica now.
            .after_connect(move |connection, _| {
                let leads_to_replica = Arc::clone(&noted);
                Box::pin(async move {
                    let (_, is_replica) = kind(connection).await?;
                    leads_to_replica.store(is_replica, Ordering::Relaxed);
                    match is_replica {
                        true => Err(Error::Protocol(IS_REPLICA.to_owned())),
                        false => Ok(()),
                    }
                })
            })
            .connect_lazy_with(options);
        // The rest is left for changes, which take their connection from the pool.
        let max_idle = self.max_connections as usize * 6 / 10;
        let own_pool = OwnPool::new(self.password.clone(), leads_to_replica);
        let idle = IdleConnections::of_own_pool(max_idle, Peer::Server).by(own_pool);
        Ok(self.store(pool, idle, names, pooler, connector))
    }

    /// Uses the connections of `pool`, which keeps its own size and options.
    ///
    /// sqlx tests a connection each time it is returned to the pool, and before its next use
    /// unless the pool is told otherwise: one or two more round trips for each lookup. So the store
    /// keeps connections between lookups, at most half of those that the pool may open. It returns
    /// them when they were not used for a second, or after half a minute; and within 50 ms when all
    /// connections of the pool are in use, or when the pool is closed. Lookups are then as fast as over the
    /// connections that [`connect`](Self::connect) opens. The pool's hooks, such as `before_acquire`,
    /// run when a connection is taken from the pool, and not for each lookup.
    ///
    /// # Errors
    ///
    /// [`Unavailable`](crate::StoreErrorKind::Unavailable) if the schema's name is not valid or, with
    /// [`transaction_pooling`](Self::transaction_pooling), not given, or if there
    /// is a [`password_provider`](Self::password_provider): a pool of your own gets new options from you, by
    /// its `set_connect_options`, and a source of invalidations then uses them too.
    pub fn build(self, pool: PgPool) -> Result<PostgresStore, StoreError> {
        if self.password.is_some() {
            return Err(StoreError::unavailable(PROVIDER_OF_POOL));
        }
        let names = self.names()?;
        Ok(self.store_over(pool, names))
    }

    fn names(&self) -> Result<SchemaName, StoreError> {
        if self.transaction_pooling && self.schema.is_none() {
            return Err(StoreError::unavailable(NO_SCHEMA));
        }
        self.schema
            .as_deref()
            .map_or(Ok(SchemaName::default()), SchemaName::new)
    }

    /// Builds a store over a pool of the application's own.
    fn store_over(self, pool: PgPool, names: SchemaName) -> PostgresStore {
        let idle = IdleConnections::borrowed_from(&pool, Peer::Server);
        let connector = Connector::of_pool(pool.clone(), self.allow_plaintext);
        self.store(pool, idle, names, PoolerCheck::default(), connector)
    }

    fn store(
        self,
        pool: PgPool,
        idle: IdleConnections<sqlx::Postgres>,
        names: SchemaName,
        pooler: PoolerCheck,
        connector: Connector,
    ) -> PostgresStore {
        let mode = match self.transaction_pooling {
            true => StatementMode::Unnamed,
            false => StatementMode::Prepared,
        };
        PostgresStore {
            sql: SqlStore::new(pool, idle, self.peppers, names, mode).into(),
            pooler: pooler.into(),
            connector,
            purge_progress: Arc::default(),
            external_customers: self.external_customers,
        }
    }
}

impl PostgresStore {
    /// Opens connections to `url`, at most ten: `postgres://user:password@host/database`.
    /// [`builder`](Self::builder) leaves more to choose, such as the schema of the tables.
    ///
    /// # Errors
    ///
    /// [`Unavailable`](crate::StoreErrorKind::Unavailable) if the URL is not one of PostgreSQL, or
    /// if the server cannot be reached or refuses.
    pub async fn connect(url: &str, peppers: Peppers) -> Result<Self, StoreError> {
        Self::builder(peppers).connect(url).await
    }

    /// Uses the connections of `pool`, as [`PostgresStoreBuilder::build`] does.
    pub fn new(pool: PgPool, peppers: Peppers) -> Self {
        Self::builder(peppers).store_over(pool, SchemaName::default())
    }

    /// Begins to build a store: schema, number of connections, a pool of the application's own.
    pub fn builder(peppers: Peppers) -> PostgresStoreBuilder {
        PostgresStoreBuilder::new(peppers)
    }
}

/// Opens and closes a connection, for the error: a pool would go on trying, and in the end not
/// know why it failed.
async fn try_connecting(options: &PgConnectOptions) -> Result<(), StoreError> {
    let connecting = async {
        let mut connection = PgConnection::connect_with(options).await?;
        let kind = kind(&mut connection).await?;
        drop(connection.close().await);
        Ok(kind)
    };
    let connecting = async {
        let kind = connecting.await;
        let (version, is_replica) = kind.map_err(|error| store_error(context(options), error))?;
        check_kind(version, is_replica)
    };
    timed(options, connecting).await
}

/// Waits for a part of the first connection.
async fn timed<T>(
    options: &PgConnectOptions,
    connecting: impl Future<Output = Result<T, StoreError>>,
) -> Result<T, StoreError> {
    match timeout(CONNECT_TIMEOUT, connecting).await {
        Ok(done) => done,
        Err(elapsed) => {
            let context = format!(
                "{}: no answer within {CONNECT_TIMEOUT:?}; check host and port, whether a firewall lets \
                 it through, and whether it is PostgreSQL",
                context(options)
            );
            Err(StoreError::timeout(ContextError::new(context, elapsed)))
        }
    }
}

fn context(options: &PgConnectOptions) -> String {
    let (host, port) = (options.get_host(), options.get_port());
    format!("connecting to PostgreSQL at {host}:{port}")
}

/// Returns the version, and whether it is a replica. Asks by a simple query, which is safe through any
/// pooler.
async fn kind(connection: &mut PgConnection) -> Result<(i32, bool), Error> {
    let row = sqlx::raw_sql(KIND).fetch_one(connection).await?;
    Ok((row.try_get(0)?, row.try_get(1)?))
}
