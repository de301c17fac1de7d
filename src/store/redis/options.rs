//! Settings of connections: time limits, TLS and the primary that sentinels name.

use std::time::Duration;

use redis::{
    AsyncConnectionConfig, Client, ConnectionAddr, ConnectionInfo, IntoConnectionInfo as _,
    RedisResult,
    aio::MultiplexedConnection,
    cluster::{ClusterClient, ClusterClientBuilder},
    io::tcp::{TcpSettings, socket2::TcpKeepalive},
};

use super::{
    certificates::Certificates,
    password::{ClusterCredentials, connect, without_password},
    server::store_error,
    transport::{check_scheme, check_transport},
};
use crate::store::{
    error::StoreError,
    password::{ANSWER_TIMEOUT, PasswordProvider},
    redis_tls,
};

/// Time limit of opening a connection, unless it is told otherwise.
pub(super) const CONNECTION_TIMEOUT: Duration = Duration::from_secs(1);

/// Time limit of an answer, unless it is told otherwise. The connection is replaced after it.
pub(super) const RESPONSE_TIMEOUT: Duration = Duration::from_secs(1);

/// The range of both.
const MIN_TIMEOUT: Duration = Duration::from_millis(10);
const MAX_TIMEOUT: Duration = Duration::from_secs(60);

/// Idle time after which the kernel asks the other side for a sign of life, and the time from one of
/// these questions to the next. A network that forgets idle connections is thus kept from it.
const KEEPALIVE: [Duration; 2] = [Duration::from_secs(15), Duration::from_secs(5)];

/// Time after which the kernel gives up a connection on which nothing is acknowledged.
const USER_TIMEOUT: Duration = Duration::from_secs(5);

/// Attempts of the cluster's client to follow a redirect, or to reach a node that is being replaced, and
/// the range of the pauses between them in milliseconds.
const CLUSTER_RETRIES: u32 = 5;
const CLUSTER_PAUSES: [u64; 2] = [10, 200];

/// Settings of connections.
#[derive(Clone, Debug)]
pub(super) struct ConnectionOptions {
    pub(super) connection_timeout: Duration,
    pub(super) response_timeout: Duration,
    pub(super) allow_plaintext: bool,
    pub(super) certificates: Certificates,
    /// The name by which sentinels know the primary.
    pub(super) sentinel: Option<String>,
    /// It takes the place of the password in the URL.
    pub(super) password: Option<PasswordProvider>,
}

impl Default for ConnectionOptions {
    fn default() -> Self {
        Self {
            connection_timeout: CONNECTION_TIMEOUT,
            response_timeout: RESPONSE_TIMEOUT,
            allow_plaintext: false,
            certificates: Certificates::default(),
            sentinel: None,
            password: None,
        }
    }
}

impl ConnectionOptions {
    /// Refuses time limits outside their range.
    pub(super) fn check(&self) -> Result<(), StoreError> {
        for (name, timeout) in [
            ("connection_timeout", self.connection_timeout),
            ("response_timeout", self.response_timeout),
        ] {
            if !(MIN_TIMEOUT..=MAX_TIMEOUT).contains(&timeout) {
                return Err(StoreError::unavailable(format!(
                    "`{name}` is {timeout:?}, and must be from {MIN_TIMEOUT:?} to {MAX_TIMEOUT:?}"
                )));
            }
        }
        Ok(())
    }

    /// Returns the name of a setting that is not as by default.
    pub(super) fn first_set(&self) -> Option<&'static str> {
        let settings = [
            (
                "response_timeout",
                self.response_timeout != RESPONSE_TIMEOUT,
            ),
            (
                "connection_timeout",
                self.connection_timeout != CONNECTION_TIMEOUT,
            ),
            ("sentinel", self.sentinel.is_some()),
            ("password_provider", self.password.is_some()),
            ("allow_plaintext", self.allow_plaintext),
            ("root_certificate", self.certificates.root.is_some()),
            ("client_certificate", self.certificates.client.is_some()),
        ];
        let mut set = settings.into_iter().filter(|(_, is_set)| *is_set);
        set.next().map(|(name, _)| name)
    }

    /// Returns the time limit of opening a connection and of what is asked first on it, after the question
    /// for the password.
    pub(super) fn opening_timeout(&self) -> Duration {
        let answer = self.password.as_ref().map(|_| ANSWER_TIMEOUT);
        answer.unwrap_or_default() + self.connection_timeout + self.response_timeout
    }

    /// Reads a URL.
    ///
    /// # Errors
    ///
    /// [`Unavailable`](crate::StoreErrorKind::Unavailable) if it is not one of Redis, or if it and the
    /// options contradict each other.
    pub(super) fn client(&self, url: &str) -> Result<Client, StoreError> {
        check_scheme(url)?;
        let context = "this is not the URL of a Redis server, such as redis://host:6379";
        let info = url.into_connection_info();
        let info = info.map_err(|error| store_error(context, error))?;
        check_transport(info.addr(), self.allow_plaintext)?;
        // The third version of the protocol brings messages on the connection that asks.
        let settings = match &self.password {
            Some(_) => without_password(info.redis_settings()),
            None => info.redis_settings().clone(),
        };
        let settings = settings.set_protocol(redis::ProtocolVersion::RESP3);
        let info = info
            .set_redis_settings(settings)
            .set_tcp_settings(tcp_settings());
        redis_tls::client(info, &self.certificates)
    }

    /// Returns what opens connections to another server of the same kind: a node of the cluster, or the
    /// primary of a sentinel.
    pub(super) fn client_at(
        &self,
        client: &Client,
        host: String,
        port: u16,
    ) -> Result<Client, StoreError> {
        let info = client.get_connection_info().clone();
        let mut addr = info.addr().clone();
        match &mut addr {
            ConnectionAddr::TcpTls {
                host: to_host,
                port: to_port,
                ..
            } => (*to_host, *to_port) = (host, port),
            addr => *addr = ConnectionAddr::Tcp(host, port),
        }
        check_transport(&addr, self.allow_plaintext)?;
        let context = || format!("reading the address {addr}");
        let opened = Client::open(info.set_addr(addr.clone()));
        opened.map_err(|error| store_error(context(), error))
    }

    /// Opens a connection with a configuration that [`config`](Self::config) has begun.
    pub(super) async fn open_with(
        &self,
        client: &Client,
        config: AsyncConnectionConfig,
    ) -> RedisResult<MultiplexedConnection> {
        match &self.password {
            Some(provider) => connect(provider, client, &config).await,
            None => {
                client
                    .get_multiplexed_async_connection_with_config(&config)
                    .await
            }
        }
    }

    /// Returns the driver's configuration of a connection.
    pub(super) fn config(&self) -> AsyncConnectionConfig {
        AsyncConnectionConfig::new()
            .set_connection_timeout(Some(self.connection_timeout))
            .set_response_timeout(Some(self.response_timeout))
    }

    /// Begins to configure connections to a cluster, of which these are nodes.
    pub(super) fn cluster(&self, nodes: Vec<ConnectionInfo>) -> ClusterClientBuilder {
        let has_tls = nodes
            .iter()
            .any(|node| matches!(node.addr(), ConnectionAddr::TcpTls { .. }));
        let user = nodes.first().map(ConnectionInfo::redis_settings);
        let user = user.and_then(|settings| settings.username().map(str::to_owned));
        let cluster = ClusterClient::builder(nodes)
            .connection_timeout(self.connection_timeout)
            .response_timeout(self.response_timeout)
            // With all attempts.
            .overall_response_timeout(Some(2 * self.response_timeout))
            .retries(CLUSTER_RETRIES)
            .min_retry_wait(CLUSTER_PAUSES[0])
            .max_retry_wait(CLUSTER_PAUSES[1])
            .tcp_settings(tcp_settings());
        let cluster = match self.password.clone() {
            Some(provider) => {
                let timeout = self.connection_timeout;
                let credentials = ClusterCredentials::new(provider, user.as_deref(), timeout);
                cluster.set_credentials_provider(credentials)
            }
            None => cluster,
        };
        // The driver takes certificates for the wish to have TLS, even if there are none.
        match has_tls {
            true => redis_tls::cluster(cluster, &self.certificates),
            false => cluster,
        }
    }
}

fn tcp_settings() -> TcpSettings {
    let keepalive = TcpKeepalive::new()
        .with_time(KEEPALIVE[0])
        .with_interval(KEEPALIVE[1]);
    let settings = TcpSettings::default()
        .set_nodelay(true)
        .set_keepalive(keepalive);
    #[cfg(any(target_os = "android", target_os = "fuchsia", target_os = "linux"))]
    let settings = settings.set_user_timeout(USER_TIMEOUT);
    settings
}
