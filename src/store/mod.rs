//! Where sessions are kept: the stores that come with the crate.
//!
//! A service that only checks sessions needs a [`SessionStore`], one method. A service that also
//! issues and revokes them needs a [`SessionRegistry`]. All the stores here are both; the guide's
//! page [`operations`](crate::guide::operations) says which to take.

pub(crate) mod error;
#[cfg(any(feature = "sqlite", feature = "postgres", feature = "redis"))]
mod health_check;
#[cfg(any(feature = "sqlite", feature = "postgres", feature = "redis"))]
mod json;
mod memory;
#[cfg(any(feature = "postgres", feature = "redis"))]
mod messages;
#[cfg(any(feature = "postgres", feature = "redis"))]
mod password;
#[cfg(any(feature = "sqlite", feature = "postgres", feature = "redis"))]
mod pepper;
mod pointers;
#[cfg(any(feature = "postgres", feature = "redis"))]
mod reconnect;
#[cfg(feature = "redis")]
mod redis;
#[cfg(all(feature = "redis", feature = "redis-rustls"))]
mod redis_tls;
#[cfg(all(feature = "redis", not(feature = "redis-rustls")))]
#[path = "redis_tls_missing.rs"]
mod redis_tls;
mod revocable;
#[cfg(any(feature = "sqlite", feature = "postgres"))]
mod sql;
pub(crate) mod traits;
mod validation;

pub(crate) use self::{
    error::{StoreError, StoreErrorKind},
    traits::{SessionRegistry, SessionStore},
};

pub use self::memory::MemoryStore;
#[cfg(any(feature = "sqlite", feature = "postgres", feature = "redis"))]
pub use self::pepper::Peppers;
#[cfg(feature = "redis")]
pub use self::redis::{RedisStore, builder::RedisStoreBuilder, invalidations::RedisInvalidations};
pub use self::revocable::Revocable;
#[cfg(feature = "postgres")]
pub use self::sql::postgres::{
    PostgresStore, builder::PostgresStoreBuilder, invalidations::PostgresInvalidations,
};
#[cfg(feature = "sqlite")]
pub use self::sql::sqlite::{SqliteStore, builder::SqliteStoreBuilder};
