//! Connections with passwords that change while a service runs.

use std::{io, pin::Pin, time::Duration};

use futures_util::{
    Stream, StreamExt as _,
    stream::{once, pending},
};
use redis::{
    AsyncConnectionConfig, Client, RedisConnectionInfo, RedisError, RedisResult,
    aio::MultiplexedConnection,
    auth::{BasicAuth, StreamingCredentialsProvider},
};

use tokio::time::timeout;

use super::transport::is_refused;
use crate::store::password::{Password, PasswordError, PasswordProvider};

/// The user of a server who has not been given a name.
const DEFAULT_USER: &str = "default";

/// Age up to which an answer serves the driver of a cluster, which does not tell when a server has refused
/// it. The driver asks when it has reached a server.
const DRIVER_MAX_AGE: Duration = Duration::from_secs(1);

/// Opens a connection with the password that `provider` has, and asks again if it is refused.
pub(super) async fn connect(
    provider: &PasswordProvider,
    client: &Client,
    config: &AsyncConnectionConfig,
) -> RedisResult<MultiplexedConnection> {
    let password = provider.current().await?;
    let connection = connect_by(&password, client, config).await;
    match connection {
        Err(error) if is_refused(&error) => match provider.after_refusal(Some(&password)).await? {
            Some(password) => connect_by(&password, client, config).await,
            None => Err(error),
        },
        connection => connection,
    }
}

async fn connect_by(
    password: &Password,
    client: &Client,
    config: &AsyncConnectionConfig,
) -> RedisResult<MultiplexedConnection> {
    let info = client.get_connection_info().clone();
    let settings = with_password(info.redis_settings().clone(), password);
    let client = Client::open(info.set_redis_settings(settings))?;
    client
        .get_multiplexed_async_connection_with_config(config)
        .await
}

/// Returns settings with this password.
pub(super) fn with_password(
    settings: RedisConnectionInfo,
    password: &Password,
) -> RedisConnectionInfo {
    settings.set_password(password.text())
}

/// Returns settings with the user and the database of a URL, and without its password.
pub(super) fn without_password(settings: &RedisConnectionInfo) -> RedisConnectionInfo {
    let kept = RedisConnectionInfo::default().set_db(settings.db());
    match settings.username() {
        Some(user) => kept.set_username(user),
        None => kept,
    }
}

/// Tells the driver of a cluster the password of each connection that it opens.
#[derive(Clone)]
pub(super) struct ClusterCredentials {
    provider: PasswordProvider,
    user: String,
    answer_timeout: Duration,
}

impl ClusterCredentials {
    /// Returns the credentials of `user`, or of the default user, for connections that must be open within
    /// `connection_timeout`.
    pub(super) fn new(
        provider: PasswordProvider,
        user: Option<&str>,
        connection_timeout: Duration,
    ) -> Self {
        Self {
            provider,
            user: user.unwrap_or(DEFAULT_USER).to_owned(),
            answer_timeout: connection_timeout / 2,
        }
    }

    async fn current(self) -> RedisResult<BasicAuth> {
        let answer = self.provider.current_within(DRIVER_MAX_AGE);
        let password = match timeout(self.answer_timeout, answer).await {
            Ok(answer) => answer?,
            Err(elapsed) => self
                .provider
                .last()
                .ok_or_else(|| io::Error::from(elapsed))?,
        };
        Ok(BasicAuth::new(self.user, password.text().to_owned()))
    }
}

impl StreamingCredentialsProvider for ClusterCredentials {
    /// Returns the password of a new connection. The driver subscribes twice for each: it opens the connection
    /// with the first password of one stream, and authenticates the open connection with all of the other.
    fn subscribe(&self) -> Pin<Box<dyn Stream<Item = RedisResult<BasicAuth>> + Send + 'static>> {
        // The driver logs a warning if it ends.
        Box::pin(once(self.clone().current()).chain(pending()))
    }
}

impl From<PasswordError> for RedisError {
    fn from(error: PasswordError) -> Self {
        // Not a refusal by the server.
        io::Error::other(error).into()
    }
}

#[cfg(test)]
mod tests {
    use std::{
        future::pending as never,
        sync::atomic::{AtomicBool, Ordering::Relaxed},
    };

    use tokio::time::{Instant, advance};

    use super::*;

    #[tokio::test(start_paused = true)]
    async fn the_driver_gets_the_last_password_if_there_is_no_answer_in_time() {
        let is_asked = AtomicBool::new(false);
        let provider = PasswordProvider::new("password_provider", move || {
            let is_first = !is_asked.swap(true, Relaxed);
            async move {
                match is_first {
                    true => Ok::<_, String>("hunter2".to_owned()),
                    false => never().await,
                }
            }
        });
        let limit = Duration::from_secs(1);
        let credentials = ClusterCredentials::new(provider, None, limit);
        for _ in 0..2 {
            let begun = Instant::now();
            let answer = credentials.subscribe().next().await;
            let answer = answer.expect("a stream").expect("a password");
            assert_eq!(
                (answer.username(), answer.password()),
                ("default", "hunter2")
            );
            assert!(begun.elapsed() < limit, "the driver has given up");
            advance(2 * DRIVER_MAX_AGE).await;
        }
    }
}
