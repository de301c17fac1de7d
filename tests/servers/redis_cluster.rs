//! Sessions in a Redis cluster, while its slots move and its primaries fail.

use std::{collections::HashMap, sync::Arc};

use customer_session::{
    CustomerSession, Invalidation, InvalidationSource as _, Revocation, SessionRegistry as _,
    SessionStore as _, SourceEvent, store::RedisStore,
};
use tokio::time::timeout;

use crate::{
    invalidations::{next, receive_until},
    persistent_store::{self, inserted, peppers, session},
    redis_history::{DEADLINE, History},
};
use test_support::{
    RegistryExt as _,
    servers::{self, RedisCluster},
};

fn cluster() -> Option<RedisCluster> {
    let cluster = RedisCluster::new(3, 1);
    if cluster.is_none() {
        servers::missing("Redis");
    }
    cluster
}

async fn connect(cluster: &RedisCluster) -> RedisStore {
    let store = RedisStore::connect(&cluster.urls()[0], peppers()).await;
    store.expect("connected")
}

/// Returns the slot of what is kept of a session's customer.
fn slot(cluster: &RedisCluster, session: &CustomerSession) -> u16 {
    cluster.slot_of(&format!("cs:c:{{={}}}", session.customer_id))
}

#[tokio::test(flavor = "multi_thread")]
async fn the_store_keeps_the_contract_on_a_cluster() {
    let Some(cluster) = cluster() else { return };
    // Any node will do, a replica too.
    for url in [&cluster.urls()[0], &cluster.urls()[4]] {
        let store = RedisStore::connect(url, peppers()).await;
        persistent_store::keeps_the_contract(store.expect("connected")).await;
    }
    let store = RedisStore::connect(&cluster.urls()[1], peppers()).await;
    let store = Arc::new(store.expect("connected"));
    persistent_store::no_request_is_refused_by_a_rotation_that_overlaps(store).await;
    // Also by a connection of the application's own.
    let client = redis::cluster::ClusterClient::new(cluster.urls()).expect("URLs");
    let connection = client.get_async_connection().await.expect("connected");
    let store = RedisStore::new(connection, peppers());
    let one = inserted(&store).await;
    assert!(store.find(&one.token).await.expect("an answer").is_some());
    assert!(store.end(&one.id).await.expect("an answer"));
    assert!(store.find(&one.token).await.expect("an answer").is_none());
}

#[tokio::test(flavor = "multi_thread")]
async fn sessions_spread_over_the_nodes_and_every_node_is_heard() {
    let Some(cluster) = cluster() else { return };
    let store = connect(&cluster).await;
    let mut source = store.invalidations().await.expect("it listens");
    receive_until(&mut source, Invalidation::All).await;
    let mut sessions = HashMap::new();
    for _ in 0..60 {
        let one = inserted(&store).await;
        let node = cluster.owner_of(slot(&cluster, &one));
        sessions.entry(node).or_insert_with(Vec::new).push(one);
    }
    assert_eq!(sessions.len(), 3, "each node has some");
    for one in sessions.into_values().flatten() {
        store.end(&one.id).await.expect("revoked");
        assert_eq!(
            next(&mut source).await,
            Invalidation::Session(one.id.clone()).into()
        );
        // A cluster passes each message on to the other nodes.
        for _ in 0..2 {
            assert_eq!(
                next(&mut source).await,
                Invalidation::Session(one.id.clone()).into()
            );
        }
    }
    let others = [inserted(&store).await, inserted(&store).await];
    let before = Revocation::CreatedBefore(chrono::Utc::now() + chrono::TimeDelta::minutes(1));
    for what in [before, Revocation::All] {
        assert!(store.revoke(&what).await.expect("revoked").any);
        receive_until(&mut source, Invalidation::All).await;
        for one in &others {
            assert!(store.find(&one.token).await.expect("an answer").is_none());
            assert_eq!(store.summaries(&one.customer_id).await.expect("a list"), []);
        }
        let again = session(&store, others[0].customer_id.as_str());
        store.add(&again).await.expect("inserted");
        assert!(store.find(&again.token).await.expect("an answer").is_some());
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_slot_that_moves_changes_no_answer() {
    let Some(cluster) = cluster() else { return };
    let store = connect(&cluster).await;
    let [one, other] = [inserted(&store).await, inserted(&store).await];
    let moved = slot(&cluster, &one);
    let from = cluster.owner_of(moved);
    let to = (0..3).find(|node| *node != from).expect("another");
    let finds = async |session: &CustomerSession| {
        let found = store.find(&session.token).await;
        found.expect("an answer").is_some()
    };
    cluster.begin_move(moved, to);
    assert!(finds(&one).await && finds(&other).await);
    let second = session(&store, one.customer_id.as_str());
    // Some keys of the customer are here and some are there: an error is an answer, a wrong one is not.
    let inserted = store.add(&second).await;
    assert_eq!(finds(&second).await, inserted.is_ok());
    cluster.move_keys(moved, to);
    assert!(finds(&one).await);
    cluster.finish_move(moved, to);
    assert!(finds(&one).await && finds(&other).await);
    assert!(store.end(&one.id).await.expect("revoked"));
    assert!(!finds(&one).await);
    let third = session(&store, one.customer_id.as_str());
    store.add(&third).await.expect("inserted");
    assert!(finds(&third).await);
    store.end_customer(&one.customer_id).await.expect("revoked");
    assert!(!finds(&second).await && !finds(&third).await);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_primary_that_is_killed_and_a_slot_that_moves_change_no_answer() {
    let Some(cluster) = cluster() else { return };
    let store = connect(&cluster).await;
    let mut source = store.invalidations().await.expect("it listens");
    receive_until(&mut source, Invalidation::All).await;
    let kept = inserted(&store).await;
    let mut history = History::start(&store, 8);
    history.progress().await;
    let moved = slot(&cluster, &kept);
    let from = cluster.owner_of(moved);
    let to = (0..3).find(|node| *node != from).expect("another");
    let cluster = tokio::task::spawn_blocking(move || {
        cluster.move_slot(moved, to);
        cluster
    });
    let cluster = cluster.await.expect("moved");
    history.progress().await;
    let killing = tokio::task::spawn_blocking(move || {
        let mut cluster = cluster;
        cluster.kill_replicated_primary();
        cluster
    });
    // The source says that it hears nothing, and hears again when another node has taken over.
    let lost = async {
        while !matches!(source.recv().await, Some(SourceEvent::Disconnected)) {}
        while !matches!(
            source.recv().await,
            Some(SourceEvent::Invalidate(Invalidation::All))
        ) {}
    };
    timeout(DEADLINE, lost).await.expect("it resumes");
    let cluster = killing.await.expect("killed");
    history.progress().await;
    let (_, failed) = history.end().await;
    assert!(failed > 0, "the clients have felt the failover");
    let found = store.find(&kept.token).await.expect("an answer");
    assert_eq!(found.as_ref(), Some(&kept));
    drop(cluster);
}
