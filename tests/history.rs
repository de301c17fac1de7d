//! Three nodes that share a real server, everything that may go wrong, and a history of every
//! operation, which is searched for a broken promise afterwards.
//!
//! `HISTORY_SECONDS` (60, for each store) and `HISTORY_SEED` (from the clock, printed) may be
//! set. That the search finds something is shown too: by histories written by hand, and by
//! nodes that are wrong on purpose.
#![cfg(unix)]
#![allow(unreachable_pub, reason = "modules of a test")]
#![cfg_attr(
    not(all(feature = "postgres", feature = "redis")),
    allow(dead_code, reason = "the histories of real servers are skipped")
)]

#[path = "history/checker.rs"]
mod checker;
#[path = "history/handwritten.rs"]
mod handwritten;
#[path = "history/record.rs"]
mod record;
#[path = "support/servers.rs"]
mod servers;

#[cfg(all(feature = "postgres", feature = "redis"))]
#[path = "history/cluster.rs"]
mod cluster;
#[cfg(all(feature = "postgres", feature = "redis"))]
#[path = "support/dice.rs"]
mod dice;
#[cfg(all(feature = "postgres", feature = "redis"))]
#[path = "history/load.rs"]
mod load;
#[cfg(all(feature = "postgres", feature = "redis"))]
#[path = "history/nemesis.rs"]
mod nemesis;
#[cfg(all(feature = "postgres", feature = "redis"))]
#[path = "support/proxy.rs"]
mod proxy;
#[cfg(all(feature = "postgres", feature = "redis"))]
#[path = "history/real.rs"]
mod real;
#[cfg(all(feature = "postgres", feature = "redis"))]
#[path = "history/store.rs"]
mod store;

#[cfg(not(all(feature = "postgres", feature = "redis")))]
#[test]
fn is_skipped() {
    servers::say(
        "SKIPPED: histories need the features `postgres` and `redis`; scripts/test tests \
         everything",
    );
}
