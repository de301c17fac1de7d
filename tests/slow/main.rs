//! Tests of seconds and minutes, which watch the clock: one at a time.

mod flood;
#[cfg(unix)]
mod history;
#[cfg(all(unix, feature = "postgres", feature = "redis"))]
mod outage;
mod rng;
mod stress;
