//! Where a server is, and how connections to it are opened.

use std::time::Duration;

use redis::{
    AsyncConnectionConfig, Client, IntoConnectionInfo as _, RedisResult,
    io::tcp::{TcpSettings, socket2::TcpKeepalive},
};

use super::{link::Link, server::store_error};
use crate::store::error::StoreError;

/// Time limit of opening a connection.
const CONNECTION_TIMEOUT: Duration = Duration::from_secs(1);

/// Time limit of an answer. The connection is replaced after it.
const RESPONSE_TIMEOUT: Duration = Duration::from_secs(1);

/// Idle time after which the kernel asks the other side for a sign of life, and the time from one of
/// these questions to the next. A network that forgets idle connections is thus kept from it.
const KEEPALIVE: [Duration; 2] = [Duration::from_secs(15), Duration::from_secs(5)];

/// Time after which the kernel gives up a connection on which nothing is acknowledged.
const USER_TIMEOUT: Duration = Duration::from_secs(5);

/// A server, by its URL.
#[derive(Clone)]
pub(super) struct Endpoint {
    client: Client,
}

impl Endpoint {
    /// Reads a URL.
    ///
    /// # Errors
    ///
    /// [`Unavailable`](crate::StoreErrorKind::Unavailable) if it is not one of Redis.
    pub(super) fn new(url: &str) -> Result<Self, StoreError> {
        let keepalive = TcpKeepalive::new()
            .with_time(KEEPALIVE[0])
            .with_interval(KEEPALIVE[1]);
        let settings = TcpSettings::default()
            .set_nodelay(true)
            .set_keepalive(keepalive);
        #[cfg(any(target_os = "android", target_os = "fuchsia", target_os = "linux"))]
        let settings = settings.set_user_timeout(USER_TIMEOUT);
        let client = url
            .into_connection_info()
            .and_then(|info| Client::open(info.set_tcp_settings(settings)));
        let context = "this is not the URL of a Redis server, such as redis://host:6379";
        let client = client.map_err(|error| store_error(context, error))?;
        Ok(Self { client })
    }

    /// Returns host and port, for errors.
    pub(super) fn address(&self) -> String {
        self.client.get_connection_info().addr().to_string()
    }

    /// Opens a connection.
    pub(super) async fn open(&self) -> RedisResult<Link> {
        let config = AsyncConnectionConfig::new()
            .set_connection_timeout(Some(CONNECTION_TIMEOUT))
            .set_response_timeout(Some(RESPONSE_TIMEOUT));
        let connection = self
            .client
            .get_multiplexed_async_connection_with_config(&config);
        connection.await.map(Link::Server)
    }
}
