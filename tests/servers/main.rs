//! The stores on real databases, and the examples that use them.
#![cfg(unix)]

mod invalidations;
#[cfg(all(feature = "postgres", feature = "redis"))]
mod live_feed;
#[cfg(any(feature = "postgres", feature = "redis", feature = "sqlite"))]
mod persistent_store;
mod portal;
mod postgres;
mod redis;
mod sqlite;
