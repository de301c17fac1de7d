//! Redis behind sentinels, which name another primary when one is killed.

use std::{future::Future, time::Duration};

use customer_session::{
    Invalidation, InvalidationSource as _, SessionStore as _, SourceEvent, StoreErrorKind,
    store::{RedisStore, RedisStoreBuilder},
};
use tokio::time::timeout;

use crate::{
    persistent_store::{assert_error, inserted, keeps_the_contract, peppers},
    redis_history::History,
};
use test_support::{
    RegistryExt as _,
    servers::{self, RedisSentinel, Server},
};

const NAME: &str = "mymaster";

fn started(topology: Option<RedisSentinel>) -> Option<RedisSentinel> {
    if topology.is_none() {
        servers::missing("Redis");
    }
    topology
}

fn builder() -> RedisStoreBuilder {
    RedisStore::builder(peppers()).sentinel(NAME)
}

async fn within_ten_seconds<T>(future: impl Future<Output = T>) -> T {
    let output = timeout(Duration::from_secs(10), future).await;
    output.expect("it is back within ten seconds")
}

#[tokio::test(flavor = "multi_thread")]
async fn the_store_and_its_source_follow_the_primary() {
    let Some(mut topology) = started(RedisSentinel::new()) else {
        return;
    };
    let store = builder().connect_any(topology.sentinel_urls()).await;
    let store = store.expect("connected");
    let mut source = store.invalidations().await.expect("it listens");
    let session = inserted(&store).await;
    let primary = topology.server(topology.primary());
    primary.wait_until_replicated_to(topology.server(1 - topology.primary()));

    let hearing = tokio::spawn(async move {
        let mut was_disconnected = false;
        loop {
            match source.recv().await.expect("it goes on") {
                SourceEvent::Disconnected => was_disconnected = true,
                SourceEvent::Alive { .. } if was_disconnected => return source,
                _ => {}
            }
        }
    });
    // The sentinels take their time, in which the source must not have ended.
    let topology = tokio::task::spawn_blocking(move || {
        topology.kill_primary();
        topology
    });
    let topology = topology.await.expect("replaced");
    within_ten_seconds(async {
        while store.find(&session.token).await.is_err() {
            tokio::task::yield_now().await;
        }
    })
    .await;
    let found = store.find(&session.token).await.expect("an answer");
    assert_eq!(found.as_ref(), Some(&session));
    let mut source = within_ten_seconds(hearing).await.expect("it resumes");
    assert!(store.end(&session.id).await.expect("revoked"));
    let expected: SourceEvent = Invalidation::Session(session.id.clone()).into();
    within_ten_seconds(async { while source.recv().await.expect("it goes on") != expected {} })
        .await;
    drop(topology);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_primary_that_is_killed_behind_sentinels_changes_no_answer() {
    let Some(mut topology) = started(RedisSentinel::new()) else {
        return;
    };
    let store = builder().connect_any(topology.sentinel_urls()).await;
    let store = store.expect("connected");
    let kept = inserted(&store).await;
    let mut history = History::start(&store, 8);
    history.progress().await;
    let topology = tokio::task::spawn_blocking(move || {
        let killed = topology.kill_replicated_primary();
        topology.restart(killed);
        topology
    });
    let topology = topology.await.expect("replaced");
    history.progress().await;
    let (_, failed) = history.end().await;
    assert!(failed > 0, "the clients have felt the failover");
    let found = store.find(&kept.token).await.expect("an answer");
    assert_eq!(found.as_ref(), Some(&kept));
    drop(topology);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_primary_that_the_sentinels_do_not_name_any_more_is_left() {
    let (Some(topology), Some(other)) = (started(RedisSentinel::new()), Server::redis()) else {
        return;
    };
    let store = builder().connect_any(topology.sentinel_urls()).await;
    let store = store.expect("connected");
    let mut source = store.invalidations().await.expect("it listens");
    let session = inserted(&store).await;
    let found = store.find(&session.token).await;
    assert!(found.expect("an answer").is_some());
    // The primary goes on as it was, as one does that is cut off.
    for sentinel in 0..3 {
        let sentinel = topology.sentinel(sentinel);
        assert_eq!(sentinel.redis_cli(&["SENTINEL", "REMOVE", NAME]), "OK");
        let port = other.port.to_string();
        let monitor = ["SENTINEL", "MONITOR", NAME, "127.0.0.1", &port, "2"];
        assert_eq!(sentinel.redis_cli(&monitor), "OK");
    }
    let disconnected =
        async { while source.recv().await.expect("it goes on") != SourceEvent::Disconnected {} };
    within_ten_seconds(disconnected).await;
    // From now on what is cached is not used. The other one has no such session.
    let found = store.find(&session.token).await.expect("an answer");
    assert!(found.is_none(), "the store still asks the old primary");
    let all = Invalidation::All.into();
    within_ten_seconds(async { while source.recv().await.expect("it goes on") != all {} }).await;
    store.check().await.expect("the other one is fit for use");
    let session = inserted(&store).await;
    assert!(store.end(&session.id).await.expect("revoked"));
    let ended = Invalidation::Session(session.id).into();
    within_ten_seconds(async { while source.recv().await.expect("it goes on") != ended {} }).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn the_contract_holds_behind_sentinels_of_which_one_is_down() {
    let Some(mut topology) = started(RedisSentinel::new()) else {
        return;
    };
    topology.sentinel_mut(0).kill();
    let store = builder().connect_any(topology.sentinel_urls()).await;
    keeps_the_contract(store.expect("connected")).await;
}

#[tokio::test]
async fn an_unknown_name_and_a_server_that_is_no_sentinel_are_refused() {
    let Some(topology) = started(RedisSentinel::new()) else {
        return;
    };
    let unavailable = StoreErrorKind::Unavailable;
    let other = RedisStore::builder(peppers()).sentinel("other");
    let outcome = other.connect_any(topology.sentinel_urls()).await;
    let says = ["does not know a primary with the name `other`"];
    assert_error(outcome, unavailable, &says);
    let outcome = builder().connect(&topology.server(0).url()).await;
    assert_error(outcome, unavailable, &["asking the sentinel at"]);
    let outcome = RedisStore::connect(&topology.sentinel_urls()[0], peppers()).await;
    assert_error(outcome, unavailable, &["this is a sentinel"]);
}

#[tokio::test]
async fn a_password_is_for_the_primary_and_sentinels_may_have_none() {
    let users = [
        ("user", "default off"),
        ("user", "app on >hunter2 ~* &* +@all"),
        ("masteruser", "tests-administrator"),
        ("masterauth", "any"),
    ];
    let sentinels = [
        ("sentinel", "auth-user mymaster tests-administrator"),
        ("sentinel", "auth-pass mymaster any"),
    ];
    let Some(topology) = started(RedisSentinel::with(&users, &sentinels)) else {
        return;
    };
    let url = |password: &str| {
        let user = format!("redis://app:{password}@");
        topology.sentinel_urls()[0].replace("redis://", &user)
    };
    let store = builder().connect(&url("hunter2")).await.expect("connected");
    store.check().await.expect("all is well");
    let error = builder().connect(&url("hunter3")).await;
    let error = error.expect_err("another password");
    let shown = format!("{error:?}");
    assert!(
        shown.contains("refuses the user or the password"),
        "{shown}"
    );
    assert!(!shown.contains("hunter"), "{shown}");
}
