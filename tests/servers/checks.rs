//! When a store checks its server and its tables.

use std::time::{Duration, Instant};

use customer_session::{CustomerSessions, SessionStore as _, store::PostgresStore};

use crate::persistent_store::{inserted, peppers};
use test_support::{
    RegistryExt as _,
    proxy::Proxy,
    servers::{self, Server},
    wire::Wire,
};

fn postgres() -> Option<Server> {
    let server = Server::postgres();
    if server.is_none() {
        servers::missing("PostgreSQL");
    }
    server
}

fn url(port: u16) -> String {
    format!("postgres://tests@127.0.0.1:{port}/postgres?sslmode=disable")
}

/// A lookup takes two round trips the first time: to parse, and to execute.
#[tokio::test]
async fn what_was_checked_by_hand_is_not_checked_again() {
    let Some(server) = postgres() else { return };
    let wire = Wire::new(server.port).await;
    for migrates in [true, false] {
        let store = PostgresStore::connect(&url(wire.port), peppers()).await;
        let store = store.expect("connected");
        match migrates {
            true => store.migrate().await.expect("migrated"),
            false => store.check().await.expect("all is well"),
        }
        let token = crate::persistent_store::session(&store, "cus_1").token;
        let before = wire.round_trips();
        assert_eq!(store.find(&token).await.expect("an answer"), None);
        let taken = wire.round_trips() - before;
        assert!(taken <= 4, "{taken} round trips after migrate: {migrates}");
    }
}

/// The server is far away: a check takes longer than a request may.
#[tokio::test(flavor = "multi_thread")]
async fn a_check_that_takes_longer_than_the_store_timeout_counts_in_the_end() {
    let Some(server) = postgres() else { return };
    let near = PostgresStore::connect(&url(server.port), peppers()).await;
    let near = near.expect("connected");
    near.migrate().await.expect("migrated");
    let session = inserted(&near).await;

    let way = Proxy::new(server.port).await;
    let store = PostgresStore::connect(&url(way.port), peppers()).await;
    let store = store.expect("connected");
    way.delay(Duration::from_millis(40));
    let begun = Instant::now();
    store.check().await.expect("all is well");
    let limit = Duration::from_millis(500);
    assert!(begun.elapsed() > limit, "{:?}", begun.elapsed());
    // Another store, which has checked nothing yet.
    let store = PostgresStore::connect(&url(way.port), peppers()).await;
    let sessions = CustomerSessions::builder(store.expect("connected"))
        .store_timeout(limit)
        .build();
    let begun = Instant::now();
    while sessions.authenticate(&session.token).await.is_err() {
        assert!(begun.elapsed() < Duration::from_secs(20), "it never counts");
    }
    assert!(near.end(&session.id).await.expect("revoked"));
}
