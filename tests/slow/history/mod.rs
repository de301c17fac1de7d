//! Three nodes that share a real server, everything that may go wrong, and a history of every
//! operation, which is searched for broken promises afterwards.
//!
//! `HISTORY_SECONDS` (60, for each store) and `HISTORY_SEED` (from the clock, printed) may be
//! set. Histories written by hand, and nodes with a defect on purpose, show that the search finds
//! what is broken.

pub(crate) mod checker;
mod handwritten;
pub(crate) mod record;

#[cfg(all(feature = "postgres", feature = "redis"))]
mod cluster;
#[cfg(all(feature = "postgres", feature = "redis"))]
mod load;
#[cfg(all(feature = "postgres", feature = "redis"))]
mod nemesis;
#[cfg(all(feature = "postgres", feature = "redis"))]
mod real;
#[cfg(all(feature = "postgres", feature = "redis"))]
mod store;

#[cfg(not(all(feature = "postgres", feature = "redis")))]
#[test]
fn is_skipped() {
    test_support::servers::say(
        "SKIPPED: histories need the features `postgres` and `redis`; scripts/test tests \
         everything",
    );
}
