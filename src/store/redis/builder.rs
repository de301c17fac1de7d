//! The builder of a store: where its servers are, and how it connects to them.

use std::{sync::Arc, time::Duration};

use redis::aio::ConnectionLike;

use super::{
    RedisStore, connection::Connection, endpoint::Endpoint, keys::Keys, options::ConnectionOptions,
    scripts::Scripts, server::PREFIX,
};
use crate::{
    shared_caches::SharedCaches,
    store::{error::StoreError, password::PasswordProvider, pepper::Peppers},
};

/// The method that takes a provider, for errors.
const PASSWORD_PROVIDER: &str = "RedisStoreBuilder::password_provider";

/// Builds a [`RedisStore`].
///
/// ```no_run
/// use customer_session::store::{Peppers, RedisStore};
///
/// # async fn start(peppers: Peppers) -> Result<(), Box<dyn std::error::Error>> {
/// // Three sentinels, and the name by which they know the primary.
/// let sentinels = ["rediss://app:secret@a.example:26379", "rediss://app:secret@b.example:26379"];
/// let store = RedisStore::builder(peppers)
///     .key_prefix("shop:")
///     .sentinel("mymaster")
///     .root_certificate(std::fs::read("ca.pem")?)
///     .connect_any(sentinels)
///     .await?;
/// # Ok(())
/// # }
/// ```
#[derive(Clone, Debug)]
#[must_use = "a builder does nothing until it connects"]
pub struct RedisStoreBuilder {
    peppers: Peppers,
    key_prefix: String,
    options: ConnectionOptions,
}

impl RedisStoreBuilder {
    fn new(peppers: Peppers) -> Self {
        Self {
            peppers,
            key_prefix: PREFIX.to_owned(),
            options: ConnectionOptions::default(),
        }
    }

    /// Sets the prefix of all keys, and of the channel on which changes are announced; `cs:` by default.
    /// On a cluster, a prefix with a part in braces would keep all keys on one node.
    pub fn key_prefix(mut self, prefix: impl Into<String>) -> Self {
        self.key_prefix = prefix.into();
        self
    }

    /// Sets how long a connection waits for an answer; 1 second by default, from 10 milliseconds to 60
    /// seconds. The connection is replaced after it, and a lookup or a list is repeated once on the new
    /// one. On a cluster, an answer may take twice as long if other nodes must be asked.
    ///
    /// Keep it below the [`store_timeout`](crate::CustomerSessionsBuilder::store_timeout), which otherwise
    /// ends the wait first. A source of invalidations has a second for each of its questions, whatever is
    /// set here.
    pub fn response_timeout(mut self, timeout: Duration) -> Self {
        self.options.response_timeout = timeout;
        self
    }

    /// Sets how long opening a connection may take, with TLS and the password; 1 second by default, from
    /// 10 milliseconds to 60 seconds. It is for each server and each sentinel that is tried.
    pub fn connection_timeout(mut self, timeout: Duration) -> Self {
        self.options.connection_timeout = timeout;
        self
    }

    /// Connects to the primary that sentinels know by `name`, such as `mymaster`. The URLs are those of
    /// the sentinels; give all of them to [`connect_any`](Self::connect_any).
    ///
    /// User, password and database of these URLs are those of the primary. A sentinel that refuses them
    /// is asked without a password. With `rediss://`, sentinels and primary must both have TLS. After a
    /// failover, the store and its source of invalidations ask the sentinels again.
    pub fn sentinel(mut self, name: impl Into<String>) -> Self {
        self.options.sentinel = Some(name.into());
        self
    }

    /// Asks `provider` for the password of new connections, such as a token that a cloud gives for a
    /// quarter of an hour. The user is that of the URL; a password in the URL is not used.
    ///
    /// It is asked before a connection is opened, if its last answer is older than a minute; and at once
    /// if the server refuses that answer: the next answer is then tried, unless it is the same. If there is
    /// no other password, it is asked again a second later at the earliest. One question at a time is
    /// under way. Connections that are open are left as they are; when the server closes one, it is
    /// replaced. A [source of invalidations](RedisStore::invalidations) asks it too. A sentinel that refuses
    /// the answer is asked without a password. On a cluster it is asked for each connection to a node that
    /// is replaced while the store runs, but not twice in a second.
    ///
    /// If it fails, panics, or has not answered within three seconds, the last password is tried. If there is
    /// none, or the server refuses it, the error says why there is no other. It shows the text of your error,
    /// which must not contain a secret; the last password that was returned is removed from it. The time
    /// that it takes is not part of the [`connection_timeout`](Self::connection_timeout).
    ///
    /// ```no_run
    /// use customer_session::store::{Peppers, RedisStore};
    ///
    /// # async fn token() -> Result<String, std::io::Error> { Ok(String::new()) }
    /// # async fn start(peppers: Peppers) -> Result<(), Box<dyn std::error::Error>> {
    /// // async fn token() -> Result<String, ...>
    /// let builder = RedisStore::builder(peppers).password_provider(token);
    /// let store = builder.connect("rediss://service@redis.example").await?;
    /// # Ok(())
    /// # }
    /// ```
    pub fn password_provider<F, A, E>(mut self, provider: F) -> Self
    where
        F: Fn() -> A + Send + Sync + 'static,
        A: Future<Output = Result<String, E>> + Send + 'static,
        E: Into<Box<dyn std::error::Error + Send + Sync>>,
    {
        self.options.password = Some(PasswordProvider::new(PASSWORD_PROVIDER, provider));
        self
    }

    /// Allows connections over a network in plain text; off by default.
    ///
    /// Without it, the URL must begin with `rediss://`, unless the server is on this machine:
    /// `localhost`, a loopback address, or a Unix socket. The same holds for the primary that a sentinel
    /// names, and for the nodes of a cluster.
    pub fn allow_plaintext(mut self, is_allowed: bool) -> Self {
        self.options.allow_plaintext = is_allowed;
        self
    }

    /// Trusts the authorities with these certificates, in PEM, in place of those that the system trusts.
    ///
    /// It needs the feature `redis-rustls`. The server's certificate must name the host of the URL, and on
    /// a cluster the addresses that the nodes give each other (`cluster-announce-hostname`).
    pub fn root_certificate(mut self, pem: impl Into<Vec<u8>>) -> Self {
        self.options.certificates.root = Some(pem.into());
        self
    }

    /// Sets the certificate by which the client shows who it is (mutual TLS), and its private key, both in
    /// PEM. The certificates that lead to its authority may follow it.
    ///
    /// It needs the feature `redis-rustls`.
    pub fn client_certificate(
        mut self,
        certificate: impl Into<Vec<u8>>,
        key: impl Into<Vec<u8>>,
    ) -> Self {
        let key: Vec<u8> = key.into();
        self.options.certificates.client = Some((certificate.into(), key.into()));
        self
    }

    /// Connects to `url`: `redis://user:password@host:port/database`, with TLS `rediss://`, or
    /// `unix:///path/to/socket`. The port is 6379 if there is none. It may lead to any node of a cluster,
    /// which has no databases.
    ///
    /// # Errors
    ///
    /// [`Unavailable`](crate::StoreErrorKind::Unavailable) if the URL is not one of Redis, if the server
    /// cannot be reached or refuses, if it is too old, a replica, or one that evicts sessions, or if a
    /// setting is not valid. So it is if the server is on another machine and the URL does not demand TLS,
    /// unless [plain text is allowed](Self::allow_plaintext), and if the URL demands TLS and the feature
    /// `redis-rustls` is off. [`Timeout`](crate::StoreErrorKind::Timeout) if there is no answer in time.
    pub async fn connect(self, url: &str) -> Result<RedisStore, StoreError> {
        self.connect_any([url]).await
    }

    /// Connects by the first of these URLs that leads to a server that is fit for use. They are those of
    /// nodes of one cluster, of sentinels, or of servers of which one is the primary.
    ///
    /// All have the same user and password, and all or none have TLS.
    ///
    /// # Errors
    ///
    /// Those of [`connect`](Self::connect), for the last of them, or if there are none.
    pub async fn connect_any<U: AsRef<str>>(
        self,
        urls: impl IntoIterator<Item = U>,
    ) -> Result<RedisStore, StoreError> {
        let urls: Vec<U> = urls.into_iter().collect();
        let endpoint = Endpoint::new(&urls, self.options.clone())?;
        let connection = Connection::open(endpoint).await?;
        Ok(self.store(connection))
    }

    /// Uses `connection`, which must reconnect by itself and should have a response timeout, such as a
    /// `redis::aio::ConnectionManager`. TLS and the server's place are its own matter, and so is the
    /// [source of invalidations](super::invalidations::RedisInvalidations::connect).
    ///
    /// # Errors
    ///
    /// [`Unavailable`](crate::StoreErrorKind::Unavailable) if there is a setting for connections that the
    /// store opens itself: all but [`key_prefix`](Self::key_prefix).
    pub fn connection<C>(self, connection: C) -> Result<RedisStore, StoreError>
    where
        C: ConnectionLike + Clone + Send + Sync + 'static,
    {
        if let Some(setting) = self.options.first_set() {
            return Err(StoreError::unavailable(format!(
                "`{setting}` is for connections that the store opens itself; give it to the connection \
                 of your own"
            )));
        }
        Ok(self.store(Connection::given(Arc::new(connection))))
    }

    fn store(self, connection: Connection) -> RedisStore {
        RedisStore {
            connection: connection.into(),
            keys: Keys::new(self.key_prefix).into(),
            peppers: self.peppers.into(),
            scripts: Scripts::new().into(),
            health_check: Arc::default(),
            caches: SharedCaches::new(),
        }
    }
}

impl RedisStore {
    /// Connects to `url`: `redis://user:password@host:port/database`.
    /// [`builder`](Self::builder) leaves more to choose, such as sentinels, certificates and time limits.
    ///
    /// # Errors
    ///
    /// Those of [`RedisStoreBuilder::connect`].
    pub async fn connect(url: &str, peppers: Peppers) -> Result<Self, StoreError> {
        Self::builder(peppers).connect(url).await
    }

    /// Uses `connection`, as [`RedisStoreBuilder::connection`] does.
    pub fn new<C>(connection: C, peppers: Peppers) -> Self
    where
        C: ConnectionLike + Clone + Send + Sync + 'static,
    {
        Self::builder(peppers).store(Connection::given(Arc::new(connection)))
    }

    /// Begins to build a store: prefix of the keys, time limits, TLS, sentinels.
    pub fn builder(peppers: Peppers) -> RedisStoreBuilder {
        RedisStoreBuilder::new(peppers)
    }
}
