//! Sentinels, which know the primary by a name.

use redis::{Client, RedisConnectionInfo, RedisResult, aio::MultiplexedConnection, cmd};

use super::{
    options::ConnectionOptions,
    password::with_password,
    server::store_error,
    transport::{connection_error, is_refused},
};
use crate::store::error::StoreError;

/// Asks a sentinel for the primary with this name. User, password and database of the sentinel's URL are
/// those of the primary. A sentinel that refuses the password is asked without one.
pub(super) async fn primary_named_by(
    sentinel: &Client,
    name: &str,
    options: &ConnectionOptions,
) -> Result<Client, StoreError> {
    let addr = sentinel.get_connection_info().addr();
    let context = format!("asking the sentinel at {addr} for the primary `{name}`");
    let connection = open(sentinel, options).await;
    let mut connection =
        connection.map_err(|error| connection_error(context.as_str(), addr, error))?;
    let mut ask = cmd("SENTINEL");
    ask.arg("get-master-addr-by-name").arg(name);
    let primary: Option<(String, u16)> = ask
        .query_async(&mut connection)
        .await
        .map_err(|error| store_error(context.as_str(), error))?;
    let Some((host, port)) = primary else {
        return Err(StoreError::unavailable(format!(
            "the sentinel at {addr} does not know a primary with the name `{name}`; see SENTINEL MASTERS"
        )));
    };
    options.client_at(sentinel, host, port)
}

/// Opens a connection to a sentinel.
async fn open(
    sentinel: &Client,
    options: &ConnectionOptions,
) -> RedisResult<MultiplexedConnection> {
    let info = sentinel.get_connection_info();
    let open = async |settings| {
        let client = Client::open(info.clone().set_redis_settings(settings))?;
        let config = options.config();
        client
            .get_multiplexed_async_connection_with_config(&config)
            .await
    };
    let settings = info.redis_settings().clone().set_db(0);
    let anonymous = RedisConnectionInfo::default().set_protocol(redis::ProtocolVersion::RESP3);
    let Some(provider) = &options.password else {
        return match open(settings).await {
            Err(error) if is_refused(&error) => open(anonymous).await,
            connection => connection,
        };
    };
    let password = provider.current().await?;
    let mut connection = open(with_password(settings.clone(), &password)).await;
    // It may have no passwords, which is not a reason to ask for another one.
    if connection.as_ref().is_err_and(is_refused) {
        connection = open(anonymous).await;
    }
    if connection.as_ref().is_err_and(is_refused)
        && let Some(password) = provider.after_refusal(Some(&password)).await?
    {
        connection = open(with_password(settings, &password)).await;
    }
    connection
}
