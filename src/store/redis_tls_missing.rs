//! The stand-in for `redis_tls.rs` without the feature `redis-rustls`.

use redis::{Client, ConnectionInfo, cluster::ClusterClientBuilder};

use super::{
    error::{ContextError, StoreError},
    redis::certificates::Certificates,
};

/// Returns what opens connections, and refuses certificates.
pub(super) fn client(
    info: ConnectionInfo,
    certificates: &Certificates,
) -> Result<Client, StoreError> {
    if !certificates.is_empty() {
        return Err(StoreError::unavailable(
            "there are certificates for TLS to Redis; enable the feature `redis-rustls`",
        ));
    }
    let context = "reading the URL of a Redis server";
    Client::open(info).map_err(|error| StoreError::unavailable(ContextError::new(context, error)))
}

/// Leaves connections to a cluster as they are: there are no certificates.
pub(super) fn cluster(
    cluster: ClusterClientBuilder,
    _certificates: &Certificates,
) -> ClusterClientBuilder {
    cluster
}
