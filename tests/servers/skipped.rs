//! Says aloud what is not tested for want of a feature.

use test_support::servers::say;

#[cfg(not(feature = "sqlite"))]
#[test]
fn sqlite_is_skipped() {
    say("SKIPPED: SqliteStore needs the feature `sqlite`; scripts/test tests everything");
}

#[cfg(not(feature = "postgres"))]
#[test]
fn postgres_is_skipped() {
    say("SKIPPED: PostgresStore needs the feature `postgres`; scripts/test tests everything");
}

#[cfg(not(feature = "redis"))]
#[test]
fn redis_is_skipped() {
    say("SKIPPED: RedisStore needs the feature `redis`; scripts/test tests everything");
}

#[cfg(not(all(feature = "postgres", feature = "redis")))]
#[test]
fn invalidations_are_skipped() {
    say(
        "SKIPPED: the sources of invalidations need the features `postgres` and `redis`; \
         scripts/test tests everything",
    );
}

#[cfg(not(all(feature = "sqlite", feature = "postgres", feature = "redis")))]
#[test]
fn examples_are_skipped() {
    say("SKIPPED: the examples need their features; scripts/test tests everything");
}
