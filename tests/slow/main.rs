//! Tests of seconds and minutes, which watch the clock: one at a time, whatever
//! `--test-threads` says.
//!
//! Each has its length and its seed in the environment; its module names them. By hand:
//! `HISTORY_SECONDS=600 scripts/test --test slow history:: -- --nocapture`.

#[cfg(all(unix, feature = "postgres", feature = "redis"))]
mod delays;
mod flood;
#[cfg(unix)]
mod history;
#[cfg(all(unix, feature = "postgres", feature = "redis"))]
mod outage;
#[cfg(all(unix, feature = "polar"))]
mod polar;
mod stress;

/// Held by each test that watches the clock, counts the sockets of the process, or keeps the
/// machine busy.
static ALONE: tokio::sync::Mutex<()> = tokio::sync::Mutex::const_new(());
