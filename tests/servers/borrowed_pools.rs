//! Stores over a pool of the application's own: as fast as over their own pool, and in nobody's way.

use std::time::{Duration, Instant};

use customer_session::{
    CustomerSession, SessionStore,
    store::{PostgresStore, SqliteStore},
};
use futures_util::future::join_all;
use sqlx::{Database, PgPool, Pool, postgres::PgPoolOptions, sqlite::SqlitePoolOptions};
use tokio::time::{sleep, timeout};

use crate::persistent_store::{inserted, peppers, unique};
use test_support::{
    servers::{self, Server},
    wire::Wire,
};

const PATIENCE: Duration = Duration::from_secs(20);

fn postgres() -> Option<Server> {
    let server = Server::postgres();
    if server.is_none() {
        servers::missing("PostgreSQL");
    }
    server
}

/// A store over a pool as applications have it, and a session in it.
async fn over_pool(url: &str, max: u32) -> (PgPool, PostgresStore, CustomerSession) {
    let pool = PgPoolOptions::new().max_connections(max);
    let pool = pool.acquire_timeout(PATIENCE).connect(url).await;
    let pool = pool.expect("connected");
    let store = PostgresStore::new(pool.clone(), peppers());
    store.migrate().await.expect("migrated");
    let session = inserted(&store).await;
    (pool, store, session)
}

async fn find(store: &impl SessionStore, session: &CustomerSession) {
    let found = store.find(&session.token).await.expect("an answer");
    assert_eq!(found.as_ref(), Some(session));
}

/// Looks up by several tasks at once, so that several connections are kept.
async fn find_often(store: &impl SessionStore, session: &CustomerSession) {
    for _ in 0..20 {
        join_all((0..8).map(|_| find(store, session))).await;
    }
}

async fn wait_until(is_so: impl Fn() -> bool, what: &str) {
    let begun = Instant::now();
    while !is_so() {
        assert!(begun.elapsed() < PATIENCE, "{what}");
        sleep(Duration::from_millis(5)).await;
    }
}

async fn all_are_back<DB: Database>(pool: &Pool<DB>) {
    let is_whole = || pool.num_idle() == pool.size() as usize;
    wait_until(is_whole, "connections are not returned").await;
}

#[tokio::test]
async fn a_lookup_takes_one_round_trip_whoever_owns_the_pool() {
    let Some(server) = postgres() else { return };
    let wire = Wire::new(server.port).await;
    let url = format!(
        "postgres://tests@127.0.0.1:{}/postgres?sslmode=disable",
        wire.port
    );
    let own = PostgresStore::connect(&url, peppers()).await;
    let own = own.expect("connected");
    own.migrate().await.expect("migrated");
    let (pool, over_pool, session) = over_pool(&url, 10).await;
    assert!(pool.options().get_test_before_acquire(), "the default");
    for store in [own, over_pool] {
        find(&store, &session).await;
        let before = wire.round_trips();
        for _ in 0..200 {
            find(&store, &session).await;
        }
        let taken = wire.round_trips() - before;
        // A check that is due, and tests of connections that were just returned.
        assert!((200..240).contains(&taken), "{taken} round trips");
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn lookups_leave_the_application_its_connections() {
    let Some(server) = postgres() else { return };
    for max in [1, 2, 4, 10] {
        let (pool, store, session) = over_pool(&server.url(), max).await;
        find_often(&store, &session).await;
        // What the store has kept comes back, soon enough for a request.
        let begun = Instant::now();
        let all = join_all((0..max).map(|_| pool.acquire())).await;
        let all: Vec<_> = all.into_iter().map(|one| one.expect("acquired")).collect();
        assert!(begun.elapsed() < Duration::from_secs(1), "{max}");
        drop(all);
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn lookups_without_a_pause_leave_the_application_its_connections() {
    let Some(server) = postgres() else { return };
    let (pool, store, session) = over_pool(&server.url(), 4).await;
    let looking_up = tokio::spawn(async move {
        loop {
            find_often(&store, &session).await;
        }
    });
    for _ in 0..20 {
        let three = timeout(PATIENCE, join_all((0..3).map(|_| pool.acquire()))).await;
        for one in three.expect("in time") {
            one.expect("acquired");
        }
    }
    looking_up.abort();
}

#[tokio::test(flavor = "multi_thread")]
async fn connections_that_are_not_used_are_returned() {
    let Some(server) = postgres() else { return };
    let (pool, store, session) = over_pool(&server.url(), 10).await;
    for _ in 0..2 {
        find_often(&store, &session).await;
        let is_half = || pool.num_idle() + 5 >= pool.size() as usize;
        wait_until(is_half, "more than half are kept").await;
        all_are_back(&pool).await;
    }

    let file = std::env::temp_dir().join(format!("{}.db", unique("cst-borrowed")));
    let url = format!("sqlite:{}?mode=rwc", file.display());
    let pool = SqlitePoolOptions::new().max_connections(4);
    let pool = pool.connect(&url).await.expect("opened");
    let store = SqliteStore::new(pool.clone(), peppers());
    store.migrate().await.expect("migrated");
    let session = inserted(&store).await;
    find_often(&store, &session).await;
    all_are_back(&pool).await;
    std::fs::remove_file(file).expect("removed");
}

#[tokio::test(flavor = "multi_thread")]
async fn an_application_can_close_its_pool() {
    let Some(server) = postgres() else { return };
    let (pool, store, session) = over_pool(&server.url(), 10).await;
    find_often(&store, &session).await;
    // Also while lookups go on, which use what is kept.
    let looking_up = tokio::spawn(async move { while store.find(&session.token).await.is_ok() {} });
    let closed = timeout(PATIENCE, pool.close()).await;
    closed.expect("it does not wait for the store");
    let ended = timeout(PATIENCE, looking_up).await;
    ended.expect("there are no connections").expect("no panic");
}

/// Those of the runtime that has ended cannot be used, and must not be missing either.
#[test]
fn connections_of_a_runtime_that_has_ended_do_not_count() {
    let Some(server) = postgres() else { return };
    let runtime = || tokio::runtime::Runtime::new().expect("a runtime");
    let first = runtime();
    let (pool, store, session) = first.block_on(async {
        let (pool, store, session) = over_pool(&server.url(), 4).await;
        find_often(&store, &session).await;
        (pool, store, session)
    });
    drop(first);
    runtime().block_on(async {
        wait_until(|| pool.size() as usize == pool.num_idle(), "they count").await;
        find(&store, &session).await;
    });
}
