//! The stores on real databases, and the examples that use them.
#![cfg(unix)]

#[cfg(all(feature = "sqlite", feature = "postgres", feature = "redis"))]
mod borrowed_pools;
#[cfg(all(feature = "postgres", feature = "redis"))]
mod changes;
#[cfg(all(feature = "postgres", feature = "redis"))]
mod checks;
#[cfg(all(feature = "postgres", feature = "redis"))]
mod epochs;
#[cfg(all(feature = "postgres", feature = "redis"))]
mod external_customers;
#[cfg(all(feature = "postgres", feature = "redis"))]
mod invalidations;
#[cfg(all(feature = "postgres", feature = "redis"))]
mod live_feed;
#[cfg(all(feature = "postgres", feature = "redis"))]
mod passwords;
#[cfg(any(feature = "postgres", feature = "redis", feature = "sqlite"))]
mod persistent_store;
#[cfg(all(feature = "postgres", feature = "redis"))]
mod poolers;
#[cfg(any(feature = "sqlite", all(feature = "postgres", feature = "redis")))]
mod portal;
#[cfg(feature = "postgres")]
mod postgres;
#[cfg(feature = "redis")]
mod redis;
#[cfg(feature = "redis")]
mod redis_acl;
#[cfg(all(feature = "postgres", feature = "redis"))]
mod redis_cluster;
#[cfg(feature = "redis")]
mod redis_connections;
#[cfg(feature = "redis")]
mod redis_history;
#[cfg(feature = "redis")]
mod redis_interleavings;
#[cfg(all(feature = "postgres", feature = "redis"))]
mod redis_passwords;
#[cfg(feature = "redis")]
mod redis_sentinel;
#[cfg(feature = "redis")]
mod redis_tls;
#[cfg(feature = "redis")]
mod redis_topologies;
#[cfg(all(feature = "postgres", feature = "redis"))]
mod refused_at_connect;
#[cfg(any(feature = "postgres", feature = "redis", feature = "sqlite"))]
mod revocable;
#[cfg(all(feature = "postgres", feature = "redis"))]
mod signs_of_life;
#[cfg(not(all(feature = "sqlite", feature = "postgres", feature = "redis")))]
mod skipped;
#[cfg(feature = "sqlite")]
mod sqlite;
#[cfg(all(feature = "sqlite", feature = "postgres", feature = "redis"))]
mod stale_connections;
#[cfg(all(feature = "sqlite", feature = "postgres", feature = "redis"))]
mod tables;
#[cfg(feature = "postgres")]
mod tls;
#[cfg(all(feature = "postgres", feature = "redis"))]
mod uses;
#[cfg(all(feature = "postgres", feature = "redis", feature = "polar"))]
mod webhooks;
