//! Checks whether a Redis server is fit for use, and what its errors mean.

use redis::{Cmd, RedisError, Value, aio::ConnectionLike, cmd, from_redis_value};

use super::keys::Keys;
use crate::store::error::{ContextError, StoreError};

/// Oldest supported server. Valkey reports that it is Redis 7.2.
const MIN_VERSION: (u32, u32) = (6, 2);

/// Prefix of all keys. Each session has two or more, so it is short.
pub(super) const PREFIX: &str = "cs:";

/// A server that is fit for use.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Server {
    /// One that has all keys.
    Single,
    NodeOfCluster,
}

/// Converts an error of the driver; `context` says what was attempted.
pub(super) fn store_error(context: impl Into<String>, error: RedisError) -> StoreError {
    let context = context.into();
    if error.is_timeout() {
        StoreError::timeout(ContextError::new(context, error))
    } else if matches!(error.code(), Some("WRONGTYPE" | "CORRUPT"))
        || error.kind() == redis::ErrorKind::UnexpectedReturnType
    {
        StoreError::corrupt(ContextError::new(context, error))
    } else {
        StoreError::unavailable(ContextError::new(context, error))
    }
}

/// Refuses a server that is too old, a replica, one that evicts sessions, and a cluster that is not whole.
pub(super) async fn check_server(
    connection: &mut impl ConnectionLike,
) -> Result<Server, StoreError> {
    let context = "asking Redis for its version (this takes the right to run INFO)";
    let info = cmd("INFO").query_async::<Value>(connection).await;
    let info = info.map_err(|error| store_error(context, error))?;
    // A connection to a cluster asks all nodes. The check of one is enough.
    let info = match info {
        Value::Map(nodes) => nodes
            .into_iter()
            .map(|(_, info)| info)
            .next()
            .unwrap_or(Value::Nil),
        info => info,
    };
    let info: String =
        from_redis_value(info).map_err(|error| store_error(context, error.into()))?;
    let server = check_info(&info)?;
    if server == Server::NodeOfCluster {
        let context = "asking Redis for the state of the cluster (this takes the right to run \
                       CLUSTER INFO)";
        let state = cmd("CLUSTER")
            .arg("INFO")
            .query_async::<String>(connection)
            .await;
        check_state(&state.map_err(|error| store_error(context, error))?)?;
    }
    Ok(server)
}

/// Refuses a user who may not announce changes: a script that fails to do so has made the change.
pub(super) async fn check_channel(
    connection: &mut impl ConnectionLike,
    keys: &Keys,
) -> Result<(), StoreError> {
    let channel = keys.channel();
    // A source of invalidations skips it.
    let published = Cmd::publish(&channel, "probe:")
        .query_async::<u64>(connection)
        .await;
    let context = || {
        format!(
            "publishing on the channel {channel} (this takes the right to run PUBLISH, and to it)"
        )
    };
    published.map_err(|error| store_error(context(), error))?;
    Ok(())
}

/// Returns a line of an answer to `INFO`.
fn field<'a>(info: &'a str, name: &str) -> Option<&'a str> {
    let mut lines = info.lines().filter_map(|line| line.split_once(':'));
    lines
        .find(|(key, _)| *key == name)
        .map(|(_, value)| value.trim())
}

/// Checks the answer to `INFO`.
fn check_info(info: &str) -> Result<Server, StoreError> {
    let Some(version) = field(info, "redis_version") else {
        return Err(StoreError::unavailable("this is neither Redis nor Valkey"));
    };
    let mut numbers = version.split('.').map_while(|number| number.parse().ok());
    let found: Option<(u32, u32)> = numbers.next().zip(numbers.next());
    if found.is_none_or(|found| found < MIN_VERSION) {
        let (major, minor) = MIN_VERSION;
        return Err(StoreError::unavailable(format!(
            "this is Redis {version}; {major}.{minor} or newer is needed"
        )));
    }
    match field(info, "maxmemory_policy") {
        None | Some("noeviction") => {}
        Some(policy) => {
            return Err(StoreError::unavailable(format!(
                "this server evicts sessions when its memory is full, and signs customers out \
                 (maxmemory-policy is {policy}); set it to noeviction"
            )));
        }
    }
    // Valkey has another name for it.
    let mode = field(info, "redis_mode").or_else(|| field(info, "server_mode"));
    if mode == Some("sentinel") {
        return Err(StoreError::unavailable(
            "this is a sentinel; say which primary it watches over by \
             `RedisStore::builder(peppers).sentinel(name)`",
        ));
    }
    if field(info, "cluster_enabled") == Some("1") {
        // A replica knows where the primaries are.
        return Ok(Server::NodeOfCluster);
    }
    if field(info, "role") == Some("slave") {
        return Err(StoreError::unavailable(
            "this server is a replica, which would bring revoked sessions back for as long as \
             it lags behind; connect to the primary",
        ));
    }
    Ok(Server::Single)
}

/// Checks the answer to `CLUSTER INFO`.
fn check_state(info: &str) -> Result<(), StoreError> {
    if field(info, "cluster_state") == Some("ok") {
        return Ok(());
    }
    let assigned = field(info, "cluster_slots_assigned").unwrap_or("?");
    Err(StoreError::unavailable(format!(
        "the Redis cluster is not whole: {assigned} of 16384 slots are assigned, and a primary may be \
         down; see CLUSTER NODES"
    )))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_server_that_will_not_do_is_refused() {
        let good = "# Server\r\nredis_version:7.0.15\r\nredis_mode:standalone\r\nrole:master\r\n\
                    maxmemory_policy:noeviction\r\ncluster_enabled:0\r\n";
        assert_eq!(check_info(good).expect("good"), Server::Single);
        for (good_part, bad_part) in [
            ("redis_version:7.0.15", "redis_version:6.0.16"),
            ("redis_version:7.0.15", "dragonfly_version:1"),
            ("role:master", "role:slave"),
            ("noeviction", "allkeys-lru"),
            ("noeviction", "volatile-lru"),
            ("standalone", "sentinel"),
            ("redis_mode:standalone", "server_mode:sentinel"),
        ] {
            let info = good.replace(good_part, bad_part);
            assert!(check_info(&info).is_err(), "{bad_part}");
        }
        let node = good
            .replace("enabled:0", "enabled:1")
            .replace("master", "slave");
        assert_eq!(check_info(&node).expect("good"), Server::NodeOfCluster);
    }

    #[test]
    fn a_cluster_that_is_not_whole_is_refused() {
        assert!(check_state("cluster_enabled:1\r\ncluster_state:ok\r\n").is_ok());
        let failed = "cluster_state:fail\r\ncluster_slots_assigned:16000\r\n";
        let error = check_state(failed).expect_err("slots are missing");
        assert!(format!("{error:?}").contains("16000 of 16384"));
    }
}
