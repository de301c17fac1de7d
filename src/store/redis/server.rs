//! Whether a Redis server will do, and what its errors mean.

use std::{
    sync::{Mutex, PoisonError},
    time::{Duration, Instant},
};

use redis::{RedisError, aio::ConnectionLike};

use crate::store::error::{ContextError, StoreError};

/// The oldest server that the scripts were written for; Valkey says that it is Redis 7.2.
const MIN_VERSION: (u32, u32) = (6, 2);

/// In braces, so that all keys are in one slot of a cluster.
pub(super) const PREFIX: &str = "{customer_sessions}:";
/// After which the server is checked again: it may have become a replica.
const CHECKED_FOR: Duration = Duration::from_secs(10);

/// When everything was last found to be as it should.
#[derive(Debug, Default)]
pub(super) struct Checked {
    /// Guards a moment; nobody awaits while holding it.
    last: Mutex<Option<Instant>>,
}

impl Checked {
    /// Whether whoever asks must check first. While one checks again, the others go on.
    pub(super) fn is_due(&self, now: Instant) -> bool {
        let mut last = self.last.lock().unwrap_or_else(PoisonError::into_inner);
        match *last {
            None => true,
            Some(checked) if now.saturating_duration_since(checked) >= CHECKED_FOR => {
                *last = Some(now);
                true
            }
            Some(_) => false,
        }
    }

    pub(super) fn set(&self, found_good: Option<Instant>) {
        *self.last.lock().unwrap_or_else(PoisonError::into_inner) = found_good;
    }
}

/// What an error of the driver means, met when the store tried to do something.
pub(super) fn failed(context: impl Into<String>, error: RedisError) -> StoreError {
    let context = context.into();
    if error.is_timeout() {
        StoreError::timeout(ContextError::new(context, error))
    } else if matches!(error.code(), Some("WRONGTYPE" | "DAMAGED"))
        || error.kind() == redis::ErrorKind::UnexpectedReturnType
    {
        StoreError::corrupt(ContextError::new(context, error))
    } else {
        StoreError::unavailable(ContextError::new(context, error))
    }
}

/// Refuses a server that will not do.
pub(super) async fn check_server(connection: &mut impl ConnectionLike) -> Result<(), StoreError> {
    let context = "asking Redis what it is (this needs the right to run INFO)";
    let info = redis::cmd("INFO").query_async::<String>(connection).await;
    check_info(&info.map_err(|error| failed(context, error))?)
}

/// What `INFO` says that matters here.
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
            "this server throws sessions away when its memory is full (maxmemory-policy is \
             {policy}); set it to noeviction, or to one of the volatile ones"
        ))),
        _ => Ok(()),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_server_is_checked_again_now_and_then_by_one() {
        let checked = Checked::default();
        let now = Instant::now();
        assert!(
            checked.is_due(now) && checked.is_due(now),
            "all wait for the first"
        );
        checked.set(Some(now));
        assert!(!checked.is_due(now + CHECKED_FOR / 2));
        assert!(checked.is_due(now + CHECKED_FOR));
        assert!(!checked.is_due(now + CHECKED_FOR), "the others go on");
        checked.set(None);
        assert!(checked.is_due(now));
    }

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
