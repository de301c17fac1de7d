//! Sentinels, which know the primary by a name.

use redis::{Client, RedisConnectionInfo, cmd};

use super::{
    options::ConnectionOptions,
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
    let info = sentinel.get_connection_info().clone();
    let addr = info.addr().clone();
    let context = format!("asking the sentinel at {addr} for the primary `{name}`");
    let settings = info.redis_settings().clone();
    let anonymous = RedisConnectionInfo::default().set_protocol(redis::ProtocolVersion::RESP3);
    let open = async |settings| {
        let client = Client::open(info.clone().set_redis_settings(settings))?;
        options.open(&client).await
    };
    let mut connection = open(settings.set_db(0)).await;
    if connection.as_ref().is_err_and(is_refused) {
        connection = open(anonymous).await;
    }
    let mut connection =
        connection.map_err(|error| connection_error(context.as_str(), &addr, error))?;
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
