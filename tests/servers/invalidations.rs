//! Invalidations between nodes through a real PostgreSQL and a real Redis.

use std::time::{Duration, Instant};

use customer_session::{
    CustomerData, Invalidation, InvalidationSource, SessionRegistry, SourceEvent, StoreErrorKind,
    store::{PostgresInvalidations, PostgresStore, RedisInvalidations, RedisStore},
};
use sqlx::{Executor as _, PgPool};
use tokio::time::timeout;

use crate::persistent_store::{assert_error, inserted, peppers, session, unique};
use test_support::{
    RegistryExt as _,
    proxy::Proxy,
    servers::{self, Server},
};

/// The time in which a message or a gap is noticed: a second of silence, a second for an answer,
/// and slack for a busy machine.
const DEADLINE: Duration = Duration::from_secs(4);

/// Receives the next event that is not a sign of life.
pub(crate) async fn next(source: &mut impl InvalidationSource) -> SourceEvent {
    let next = timeout(DEADLINE, recv(source)).await;
    next.expect("a message")
}

async fn recv(source: &mut impl InvalidationSource) -> SourceEvent {
    loop {
        match source.recv().await.expect("the source goes on") {
            SourceEvent::Alive { .. } => {}
            event => return event,
        }
    }
}

/// Receives events until `expected` comes.
pub(crate) async fn receive_until(
    source: &mut impl InvalidationSource,
    expected: impl Into<SourceEvent>,
) {
    let expected = expected.into();
    let begun = Instant::now();
    while next(source).await != expected {
        assert!(begun.elapsed() < DEADLINE, "{expected:?} does not come");
    }
}

pub(crate) async fn postgres() -> Option<(Server, PostgresStore)> {
    let Some(server) = Server::postgres() else {
        servers::missing("PostgreSQL");
        return None;
    };
    let store = PostgresStore::connect(&server.url(), peppers()).await;
    let store = store.expect("connected");
    store.migrate().await.expect("migrated");
    Some((server, store))
}

pub(crate) async fn redis() -> Option<(Server, RedisStore)> {
    let Some(server) = Server::redis() else {
        servers::missing("Redis");
        return None;
    };
    let store = RedisStore::connect(&server.url(), peppers()).await;
    Some((server, store.expect("connected")))
}

pub(crate) async fn from_postgres(port: u16) -> PostgresInvalidations {
    let url = format!("postgres://tests@127.0.0.1:{port}/postgres");
    PostgresInvalidations::connect(&url)
        .await
        .expect("it listens")
}

pub(crate) async fn from_redis(port: u16) -> RedisInvalidations {
    let url = format!("redis://127.0.0.1:{port}");
    RedisInvalidations::connect(&url).await.expect("it listens")
}

/// Every change through the store is announced to the listeners.
async fn changes_are_announced(store: impl SessionRegistry, mut source: impl InvalidationSource) {
    assert_eq!(
        next(&mut source).await,
        Invalidation::All.into(),
        "before anything else"
    );

    let one = inserted(&store).await;
    assert!(store.end(&one.id).await.expect("revoked"));
    receive_until(&mut source, Invalidation::Session(one.id)).await;

    let one = inserted(&store).await;
    let next = session(&store, one.customer_id.as_str());
    let rotated = store.swap(&one.id, &next).await;
    assert!(rotated.expect("rotated").is_some());
    receive_until(&mut source, Invalidation::Session(one.id)).await;

    let mut data = CustomerData::clone(&next.customer);
    data.name = Some("John".to_owned());
    store.update_customer(&data.into()).await.expect("updated");
    receive_until(
        &mut source,
        Invalidation::Customer(next.customer_id.clone()),
    )
    .await;

    // A new session changes no customer, so that there is nothing to announce.
    let mut other = session(&store, next.customer_id.as_str());
    let mut data = CustomerData::clone(&next.customer);
    data.name = Some("Joan".to_owned());
    other.customer = data.into();
    store.add(&other).await.expect("inserted");
    let customer = Invalidation::Customer(next.customer_id.clone());

    store
        .end_customer(&next.customer_id)
        .await
        .expect("revoked");
    let session = Invalidation::Session(other.id).into();
    let begun = Instant::now();
    loop {
        let event = self::next(&mut source).await;
        if event == session || event == customer.clone().into() {
            return;
        }
        assert!(begun.elapsed() < DEADLINE, "nothing names the session");
    }
}

/// A rotated session that ends by an earlier id is announced by the id that it has now.
async fn successors_are_announced(
    store: impl SessionRegistry,
    mut source: impl InvalidationSource,
) {
    let first = inserted(&store).await;
    let second = session(&store, first.customer_id.as_str());
    let rotated = store.swap(&first.id, &second).await;
    assert!(rotated.expect("rotated").is_some());
    assert!(store.end(&first.id).await.expect("revoked"));
    receive_until(&mut source, Invalidation::Session(first.id)).await;
    receive_until(&mut source, Invalidation::Session(second.id)).await;
}

/// A derivation changes nothing that is cached, and what ends with its parent is announced.
async fn derived_sessions_are_announced(
    store: impl SessionRegistry,
    mut source: impl InvalidationSource,
) {
    assert_eq!(next(&mut source).await, Invalidation::All.into());
    let parent = inserted(&store).await;
    let mut children = Vec::new();
    for _ in 0..2 {
        let mut child = session(&store, parent.customer_id.as_str());
        child.expires_at = parent.expires_at;
        child.details.parent = Some(parent.id.clone());
        let derived = store.derive(&parent.id, &child).await;
        assert!(derived.expect("an answer").is_some());
        children.push(child.id);
    }
    assert!(store.end(&children[0]).await.expect("revoked"));
    let ended = Invalidation::Session(children[0].clone());
    assert_eq!(next(&mut source).await, ended.into());
    assert!(store.end(&parent.id).await.expect("revoked"));
    let mut events = [next(&mut source).await, next(&mut source).await];
    events.sort_by_key(|event| *event != Invalidation::Session(parent.id.clone()).into());
    let expected = [&parent.id, &children[1]].map(|id| Invalidation::Session(id.clone()).into());
    assert_eq!(events, expected);
}

/// A server that is killed and started again, and connections that are closed or silently lost.
async fn gaps_are_noticed<S: InvalidationSource>(
    server: &mut Server,
    connect: impl AsyncFn(u16) -> S,
    after_short_gap: SourceEvent,
) {
    let mut source = connect(server.port).await;
    assert_eq!(next(&mut source).await, Invalidation::All.into());
    server.kill();
    assert_eq!(next(&mut source).await, SourceEvent::Disconnected);
    let silence = timeout(Duration::from_millis(300), recv(&mut source)).await;
    assert!(
        silence.is_err(),
        "no event while the server is down: {silence:?}"
    );
    server.start();
    let back = Instant::now();
    assert_eq!(next(&mut source).await, Invalidation::All.into());
    assert!(
        back.elapsed() < Duration::from_secs(1),
        "{:?}",
        back.elapsed()
    );

    let proxy = Proxy::new(server.port).await;
    let mut source = connect(proxy.port).await;
    assert_eq!(next(&mut source).await, Invalidation::All.into());
    proxy.cut();
    assert_eq!(next(&mut source).await, SourceEvent::Disconnected);
    assert_eq!(next(&mut source).await, after_short_gap);
    proxy.freeze();
    assert_eq!(
        next(&mut source).await,
        SourceEvent::Disconnected,
        "silently lost"
    );
    assert_eq!(next(&mut source).await, after_short_gap);
}

/// A receiver that is cancelled again and again misses no message.
async fn cancelled_receives_lose_nothing(
    store: impl SessionRegistry,
    mut source: impl InvalidationSource,
) {
    assert_eq!(next(&mut source).await, Invalidation::All.into());
    let mut missing = std::collections::HashSet::new();
    for _ in 0..100 {
        let one = inserted(&store).await;
        store.end(&one.id).await.expect("revoked");
        missing.insert(one.id);
    }
    let begun = Instant::now();
    while !missing.is_empty() {
        assert!(begun.elapsed() < DEADLINE, "{} are missing", missing.len());
        let event = timeout(Duration::from_micros(50), source.recv()).await;
        if let Ok(Some(SourceEvent::Invalidate(Invalidation::Session(id)))) = event {
            missing.remove(&id);
        }
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn postgres_announces_every_change() {
    let Some((server, store)) = postgres().await else {
        return;
    };
    changes_are_announced(store.clone(), from_postgres(server.port).await).await;
    successors_are_announced(store.clone(), from_postgres(server.port).await).await;
    derived_sessions_are_announced(store.clone(), from_postgres(server.port).await).await;
    cancelled_receives_lose_nothing(store, from_postgres(server.port).await).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn redis_announces_every_change() {
    let Some((server, store)) = redis().await else {
        return;
    };
    changes_are_announced(store.clone(), from_redis(server.port).await).await;
    successors_are_announced(store.clone(), from_redis(server.port).await).await;
    derived_sessions_are_announced(store.clone(), from_redis(server.port).await).await;
    cancelled_receives_lose_nothing(store, from_redis(server.port).await).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_gap_on_the_way_to_postgres_is_noticed() {
    let Some((mut server, _store)) = postgres().await else {
        return;
    };
    gaps_are_noticed(&mut server, from_postgres, SourceEvent::Resumed).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_gap_on_the_way_to_redis_is_noticed() {
    let Some((mut server, _store)) = redis().await else {
        return;
    };
    gaps_are_noticed(&mut server, from_redis, Invalidation::All.into()).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn changes_by_hand_in_postgres_are_announced() {
    let Some((server, store)) = postgres().await else {
        return;
    };
    let by_hand = PgPool::connect(&server.url()).await.expect("connected");
    let run = async |statement: String| {
        let statement = sqlx::AssertSqlSafe(statement);
        by_hand
            .execute(sqlx::raw_sql(statement))
            .await
            .expect("done");
    };
    let mut source = from_postgres(server.port).await;
    assert_eq!(next(&mut source).await, Invalidation::All.into());

    let one = inserted(&store).await;
    run(format!(
        "BEGIN; DELETE FROM customer_sessions WHERE id = '{}'; ROLLBACK",
        one.id
    ))
    .await;
    run(format!(
        "UPDATE customer_sessions SET expires_at = now() WHERE id = '{}'",
        one.id
    ))
    .await;
    let event = next(&mut source).await;
    assert_eq!(
        event,
        Invalidation::Session(one.id.clone()).into(),
        "a rolled back change is not announced"
    );
    run(format!(
        "DELETE FROM customer_sessions WHERE id = '{}'",
        one.id
    ))
    .await;
    assert_eq!(
        next(&mut source).await,
        Invalidation::Session(one.id).into()
    );

    let one = inserted(&store).await;
    run(format!(
        "DELETE FROM customer_session_customers WHERE id = '{}'",
        one.customer_id
    ))
    .await;
    receive_until(&mut source, Invalidation::Session(one.id)).await;
    run("TRUNCATE customer_sessions CASCADE".to_owned()).await;
    receive_until(&mut source, Invalidation::All).await;

    // The table of the changes itself, whatever was not read of it.
    run("TRUNCATE customer_session_changes".to_owned()).await;
    receive_until(&mut source, Invalidation::All).await;

    // A session that expired long ago is let in nowhere, so purging it is not announced.
    let mut old = session(&store, &unique("cus"));
    old.expires_at -= chrono::TimeDelta::days(2);
    store.add(&old).await.expect("inserted");
    assert_eq!(
        store
            .purge_expired(chrono::Utc::now(), 10)
            .await
            .expect("purged"),
        1
    );
    let one = inserted(&store).await;
    store.end(&one.id).await.expect("revoked");
    assert_eq!(
        next(&mut source).await,
        Invalidation::Session(one.id).into()
    );
}

#[tokio::test(flavor = "multi_thread")]
async fn floods_and_malformed_messages_in_postgres_do_no_harm() {
    let Some((server, store)) = postgres().await else {
        return;
    };
    let by_hand = PgPool::connect(&server.url()).await.expect("connected");
    let mut source = from_postgres(server.port).await;
    assert_eq!(next(&mut source).await, Invalidation::All.into());
    let write = async |message: &str| {
        let write = sqlx::query("INSERT INTO customer_session_changes (message) VALUES ($1)");
        write
            .bind(message)
            .execute(&by_hand)
            .await
            .expect("written");
    };
    for malformed in ["", "session", "sessions:x", "ALL", "{\"session\":1}"] {
        write(malformed).await;
        assert_eq!(
            next(&mut source).await,
            SourceEvent::Malformed,
            "{malformed}"
        );
    }
    let burst = async |rows: u32| {
        let burst = "INSERT INTO customer_session_changes (message) \
             SELECT 'session:' || n FROM generate_series(1, $1) AS n";
        let burst = sqlx::query(burst).bind(i32::try_from(rows).expect("small"));
        burst.execute(&by_hand).await.expect("written");
    };
    let begun = Instant::now();
    burst(10_000).await;
    receive_until(&mut source, Invalidation::Session("10000".into())).await;
    println!(
        "10,000 changes of PostgreSQL were received in {:?}",
        begun.elapsed()
    );
    burst(100_000).await;
    assert_eq!(
        next(&mut source).await,
        Invalidation::All.into(),
        "too many to tell"
    );
    write("session:after").await;
    assert_eq!(
        next(&mut source).await,
        Invalidation::Session("after".into()).into()
    );

    // One statement that concerns many sessions is a few messages.
    let mut first = None;
    for _ in 0..150 {
        first.get_or_insert(inserted(&store).await);
    }
    by_hand
        .execute("DELETE FROM customer_sessions")
        .await
        .expect("done");
    receive_until(&mut source, Invalidation::All).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn postgres_without_triggers_is_refused_and_schemas_are_apart() {
    let Some((server, _store)) = postgres().await else {
        return;
    };
    let by_hand = PgPool::connect(&server.url()).await.expect("connected");
    by_hand
        .execute("CREATE SCHEMA other; CREATE SCHEMA bare")
        .await
        .expect("created");
    let url = |schema: &str| format!("{}?options=-csearch_path%3D{schema}", server.url());
    let refused = PostgresInvalidations::connect(&url("bare")).await;
    assert_error(refused, StoreErrorKind::Unavailable, &["migrate"]);

    let other = PostgresStore::connect(&url("other"), peppers())
        .await
        .expect("connected");
    other.migrate().await.expect("migrated");
    let mut source = PostgresInvalidations::connect(&url("other"))
        .await
        .expect("it listens");
    let mut neighbour = from_postgres(server.port).await;
    assert_eq!(next(&mut source).await, Invalidation::All.into());
    assert_eq!(next(&mut neighbour).await, Invalidation::All.into());
    let one = inserted(&other).await;
    other.end(&one.id).await.expect("revoked");
    assert_eq!(
        next(&mut source).await,
        Invalidation::Session(one.id).into()
    );
    let silence = timeout(Duration::from_secs(1), recv(&mut neighbour)).await;
    assert!(silence.is_err(), "{silence:?}");
    by_hand
        .execute("ALTER TABLE other.customer_session_customers DISABLE TRIGGER ALL")
        .await
        .expect("done");
    let refused = PostgresInvalidations::connect(&url("other")).await;
    assert_error(refused, StoreErrorKind::Unavailable, &["migrate"]);
}

#[tokio::test(flavor = "multi_thread")]
async fn what_redis_announces_reaches_other_nodes_and_floods_do_no_harm() {
    let Some((server, store)) = redis().await else {
        return;
    };
    let mut source = from_redis(server.port).await;
    assert_eq!(next(&mut source).await, Invalidation::All.into());

    // Neither a new session nor one that has expired is worth a word.
    inserted(&store).await;
    let mut expired = session(&store, "cus_expired");
    expired.expires_at = chrono::DateTime::UNIX_EPOCH;
    store.add(&expired).await.expect("inserted");
    let purged = store.purge_expired(chrono::Utc::now(), 10).await;
    assert_eq!(purged.expect("purged"), 1);
    for invalidation in [
        Invalidation::Session("ses:1".into()),
        Invalidation::Customer("".into()),
        Invalidation::All,
    ] {
        store.announce(&invalidation).await.expect("announced");
        assert_eq!(next_change(&mut source).await, invalidation);
    }

    // More messages than fit the buffer while nothing is read: a gap.
    let client = redis::Client::open(server.url()).expect("a URL");
    let by_hand = client.get_multiplexed_async_connection().await;
    let mut by_hand = by_hand.expect("connected");
    for _ in 0..10 {
        let mut many = redis::pipe();
        for number in 0..1000 {
            let message = format!("session:{number}");
            many.publish("cs:changes", message).ignore();
        }
        many.exec_async(&mut by_hand).await.expect("published");
    }
    // A busy machine may deliver them as slowly as they are read. Then none is lost.
    let mut received = 0;
    while received < 10_000 && next_change(&mut source).await != Invalidation::All {
        received += 1;
    }
    // Another gap may cover this one while the flood goes on.
    loop {
        let one = inserted(&store).await;
        assert!(store.end(&one.id).await.expect("revoked"));
        let ended = Invalidation::Session(one.id);
        let mut received = next_change(&mut source).await;
        while received != ended && received != Invalidation::All {
            received = next_change(&mut source).await;
        }
        if received == ended {
            break;
        }
    }
    redis::cmd("PUBLISH")
        .arg(&["cs:changes", "nonsense"])
        .exec_async(&mut by_hand)
        .await
        .expect("published");
    receive_until(&mut source, SourceEvent::Malformed).await;
}

/// Returns the next event that is a change.
async fn next_change(source: &mut impl InvalidationSource) -> Invalidation {
    loop {
        match next(source).await {
            SourceEvent::Invalidate(invalidation) => return invalidation,
            SourceEvent::Alive { .. } => {}
            other => panic!("{other:?}"),
        }
    }
}

/// The source must notice that it reads another table.
#[tokio::test]
async fn tables_that_are_created_again_are_announced() {
    let Some((server, store)) = postgres().await else {
        return;
    };
    let mut source = from_postgres(server.port).await;
    receive_until(&mut source, Invalidation::All).await;
    let pool = PgPool::connect(&server.url()).await.expect("connected");
    let all = "DROP SCHEMA public CASCADE; CREATE SCHEMA public";
    pool.execute(all).await.expect("dropped");
    receive_until(&mut source, SourceEvent::Disconnected).await;
    store.migrate().await.expect("migrated");
    receive_until(&mut source, Invalidation::All).await;
    let one = inserted(&store).await;
    assert!(store.end(&one.id).await.expect("revoked"));
    receive_until(&mut source, Invalidation::Session(one.id)).await;

    // Also triggers that are switched off.
    let off = "ALTER TABLE customer_sessions DISABLE TRIGGER USER";
    pool.execute(off).await.expect("switched off");
    receive_until(&mut source, SourceEvent::Disconnected).await;
    let on = "ALTER TABLE customer_sessions ENABLE TRIGGER USER";
    pool.execute(on).await.expect("switched on");
    receive_until(&mut source, Invalidation::All).await;
}

#[tokio::test]
async fn a_redis_that_becomes_a_replica_is_not_relied_on() {
    let Some((server, _store)) = redis().await else {
        return;
    };
    let mut source = from_redis(server.port).await;
    receive_until(&mut source, Invalidation::All).await;
    let client = redis::Client::open(server.url()).expect("a URL");
    let connection = client.get_multiplexed_async_connection().await;
    let mut connection = connection.expect("connected");
    let mut follow = async |master: [&str; 2]| {
        let mut follow = redis::cmd("REPLICAOF");
        let follow = follow.arg(&master);
        let followed: Result<(), _> = follow.query_async(&mut connection).await;
        followed.expect("set");
    };
    follow(["127.0.0.1", "1"]).await;
    receive_until(&mut source, SourceEvent::Disconnected).await;
    let refused = RedisInvalidations::connect(&server.url()).await;
    assert_error(refused, StoreErrorKind::Unavailable, &["replica"]);
    follow(["NO", "ONE"]).await;
    receive_until(&mut source, Invalidation::All).await;
}

#[test]
fn a_source_may_be_dropped_outside_of_a_runtime() {
    let runtime = tokio::runtime::Runtime::new().expect("a runtime");
    let sources = runtime.block_on(async {
        let ((postgres, _), (redis, _)) = (postgres().await?, redis().await?);
        let sources = (
            from_postgres(postgres.port).await,
            from_redis(redis.port).await,
        );
        Some((sources, postgres, redis))
    });
    drop(runtime);
    drop(sources);
}

/// Messages are made of identifiers; neither a token nor its hash is in any of them.
#[tokio::test(flavor = "multi_thread")]
async fn no_message_holds_anything_of_a_token() {
    let Some((server, store)) = redis().await else {
        return;
    };
    let mut source = from_redis(server.port).await;
    let one = inserted(&store).await;
    store.end(&one.id).await.expect("revoked");
    loop {
        let said = next(&mut source).await;
        match &said {
            SourceEvent::Invalidate(Invalidation::All) => {}
            SourceEvent::Invalidate(Invalidation::Session(id)) => assert_eq!(*id, one.id),
            SourceEvent::Invalidate(Invalidation::Customer(id)) => {
                assert_eq!(*id, one.customer_id)
            }
            other => panic!("{other:?}"),
        }
        assert!(!format!("{said:?}").contains(one.token.expose()));
        if said == Invalidation::Session(one.id.clone()).into() {
            break;
        }
    }
}
