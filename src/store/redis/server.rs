//! Checks whether a Redis server is fit for use, and what its errors mean.

use redis::{RedisError, aio::ConnectionLike};

use crate::store::error::{ContextError, StoreError};

/// Oldest supported server. Valkey reports that it is Redis 7.2.
const MIN_VERSION: (u32, u32) = (6, 2);

/// Prefix of all keys, in braces, so that they share one slot of a cluster.
pub(super) const PREFIX: &str = "{customer_sessions}:";

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

/// Refuses a server that is too old, a replica, or evicts sessions.
pub(super) async fn check_server(connection: &mut impl ConnectionLike) -> Result<(), StoreError> {
    let context = "asking Redis for its version (this takes the right to run INFO)";
    let info = redis::cmd("INFO").query_async::<String>(connection).await;
    check_info(&info.map_err(|error| store_error(context, error))?)
}

/// Checks the answer to `INFO`.
fn check_info(info: &str) -> Result<(), StoreError> {
    let field = |name: &str| {
        let mut lines = info.lines().filter_map(|line| line.split_once(':'));
        lines
            .find(|(key, _)| *key == name)
            .map(|(_, value)| value.trim())
    };
    let Some(version) = field("redis_version") else {
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
    if field("role") == Some("slave") {
        return Err(StoreError::unavailable(
            "this server is a replica, which would bring revoked sessions back for as long as \
             it lags behind; connect to the primary",
        ));
    }
    match field("maxmemory_policy") {
        Some(policy) if policy.starts_with("allkeys") => Err(StoreError::unavailable(format!(
            "this server evicts sessions when its memory is full (maxmemory-policy is \
             {policy}); set it to noeviction, or to one of the volatile ones"
        ))),
        _ => Ok(()),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_server_that_will_not_do_is_refused() {
        let good = "# Server\r\nredis_version:7.0.15\r\nrole:master\r\n\
                    maxmemory_policy:volatile-lru\r\n";
        assert!(check_info(good).is_ok());
        for (good_part, bad_part) in [
            ("redis_version:7.0.15", "redis_version:6.0.16"),
            ("redis_version:7.0.15", "dragonfly_version:1"),
            ("role:master", "role:slave"),
            ("volatile-lru", "allkeys-lru"),
        ] {
            let info = good.replace(good_part, bad_part);
            assert!(check_info(&info).is_err(), "{bad_part}");
        }
    }
}
