//! When a source of invalidations says that it is alive, on a real PostgreSQL and a real Redis.

use std::{
    collections::HashSet,
    sync::{
        Arc, Mutex,
        atomic::{AtomicBool, Ordering::SeqCst},
    },
    time::{Duration, Instant},
};

use customer_session::{
    AuthenticateError, CustomerSessions, Invalidation, InvalidationSource, SessionId,
    SessionRegistry, SourceEvent,
    store::{PostgresStore, RedisStore},
};
use tokio::time::{sleep, timeout};

use crate::{
    invalidations::{from_postgres, from_redis, postgres, redis},
    persistent_store::{inserted, peppers},
};
use test_support::{RegistryExt as _, proxy::Proxy};

/// The longest time from one question to the next, with slack for a busy machine.
const INTERVAL: Duration = Duration::from_millis(1500);

/// The longest time for which a node trusts its cache after a question.
const LEASE: Duration = Duration::from_secs(2);

async fn event(source: &mut impl InvalidationSource) -> SourceEvent {
    let event = timeout(2 * LEASE, source.recv()).await;
    event.expect("an event").expect("the source goes on")
}

/// The first events of a source. Returns the time of its first question.
async fn begin(source: &mut impl InvalidationSource) -> Instant {
    assert_eq!(event(source).await, Invalidation::All.into());
    match event(source).await {
        SourceEvent::Alive { asked_at } => asked_at,
        other => panic!("{other:?} comes before a sign of life"),
    }
}

/// Sessions that were revoked, and when `revoke` had returned.
type Revoked = Arc<Mutex<Vec<(SessionId, Instant)>>>;

/// Revokes one session after the other until `is_over`.
async fn revoke_steadily(store: impl SessionRegistry, revoked: Revoked, is_over: Arc<AtomicBool>) {
    while !is_over.load(SeqCst) {
        let one = inserted(&store).await;
        store.end(&one.id).await.expect("revoked");
        revoked
            .lock()
            .expect("no panic")
            .push((one.id, Instant::now()));
    }
}

/// While messages never cease, and the way is slow at times, questions are asked all the same; and
/// an answer comes after every message that was sent before its question.
async fn answers_come_in_time_and_in_order(
    store: impl SessionRegistry,
    mut source: impl InvalidationSource,
    way: &Proxy,
) {
    let begun = Instant::now();
    let mut last_asked = begin(&mut source).await;
    let (revoked, is_over) = (Revoked::default(), Arc::new(AtomicBool::new(false)));
    let writer = revoke_steadily(store, Arc::clone(&revoked), Arc::clone(&is_over));
    let writer = tokio::spawn(writer);
    let mut heard = HashSet::new();
    let (mut answers, mut is_paused) = (0, false);
    while begun.elapsed() < Duration::from_secs(5) {
        let is_slow = begun.elapsed().as_millis() % 400 < 200;
        if is_slow != is_paused {
            is_paused = is_slow;
            way.pause(is_paused);
        }
        let Ok(event) = timeout(Duration::from_millis(50), source.recv()).await else {
            continue;
        };
        match event.expect("the source goes on") {
            SourceEvent::Invalidate(Invalidation::Session(id)) => {
                heard.insert(id);
            }
            SourceEvent::Invalidate(Invalidation::Customer(_)) => {}
            SourceEvent::Alive { asked_at } => {
                answers += 1;
                assert!(last_asked < asked_at && asked_at <= Instant::now());
                assert!(
                    asked_at - last_asked < INTERVAL,
                    "{:?}",
                    asked_at - last_asked
                );
                assert!(asked_at.elapsed() < LEASE, "{:?}", asked_at.elapsed());
                last_asked = asked_at;
                let revoked = revoked.lock().expect("no panic");
                let before = revoked.iter().filter(|(_, time)| *time < asked_at);
                let mut missing = before.filter(|(id, _)| !heard.contains(id));
                assert_eq!(missing.next(), None, "it comes before its messages");
            }
            other => panic!("{other:?}"),
        }
    }
    is_over.store(true, SeqCst);
    writer.await.expect("it wrote");
    assert!(answers >= 3, "{answers} signs of life");
    println!("{answers} signs of life among {} messages", heard.len());
    assert!(heard.len() > 50, "{} messages", heard.len());
}

/// Messages have gathered when a question is due, and its answer arrives before they are read.
async fn a_backlog_comes_first(store: impl SessionRegistry, mut source: impl InvalidationSource) {
    begin(&mut source).await;
    let mut missing = HashSet::new();
    for _ in 0..20 {
        let one = inserted(&store).await;
        store.end(&one.id).await.expect("revoked");
        missing.insert(one.id);
    }
    let revoked_at = Instant::now();
    sleep(Duration::from_secs(1)).await;
    loop {
        match event(&mut source).await {
            SourceEvent::Invalidate(Invalidation::Session(id)) => {
                missing.remove(&id);
            }
            SourceEvent::Alive { asked_at } if asked_at > revoked_at => break,
            _ => {}
        }
        sleep(Duration::from_millis(10)).await;
    }
    assert!(missing.is_empty(), "{} are behind it", missing.len());
}

/// Receives until the source says that it is disconnected. Returns the sessions it named before.
/// It must not say that it is alive after `lost_at`.
async fn receive_until_lost(
    source: &mut impl InvalidationSource,
    lost_at: Instant,
) -> HashSet<SessionId> {
    let mut heard = HashSet::new();
    loop {
        match event(source).await {
            SourceEvent::Disconnected => return heard,
            SourceEvent::Alive { asked_at } => assert!(asked_at < lost_at, "it is not alive"),
            SourceEvent::Invalidate(Invalidation::Session(id)) => {
                heard.insert(id);
            }
            _ => {}
        }
    }
}

/// A connection that is lost without a word, first while the node runs, then while it stands still.
async fn a_dead_link_is_noticed<S: InvalidationSource>(
    store: impl SessionRegistry,
    server: u16,
    connect: impl AsyncFn(u16) -> S,
) {
    let way = Proxy::new(server).await;
    let mut source = connect(way.port).await;
    begin(&mut source).await;
    way.freeze();
    let lost_at = Instant::now();
    receive_until_lost(&mut source, lost_at).await;
    let noticed = lost_at.elapsed();
    assert!(noticed < LEASE + Duration::from_millis(500), "{noticed:?}");

    // A message has arrived, or can be read, when the node stops.
    receive_until_alive(&mut source).await;
    let one = inserted(&store).await;
    store.end(&one.id).await.expect("revoked");
    sleep(Duration::from_millis(200)).await;
    way.freeze();
    let lost_at = Instant::now();
    sleep(LEASE).await;
    let woken = Instant::now();
    let mut heard = receive_until_lost(&mut source, lost_at).await;
    let noticed = woken.elapsed();
    assert!(noticed < INTERVAL, "{noticed:?}");
    heard.extend(receive_until_alive(&mut source).await);
    assert!(
        heard.contains(&one.id),
        "a message that had arrived is lost"
    );
}

/// Receives until the source says that it is alive. Returns the sessions it named before.
async fn receive_until_alive(source: &mut impl InvalidationSource) -> HashSet<SessionId> {
    let mut heard = HashSet::new();
    loop {
        match event(source).await {
            SourceEvent::Alive { .. } => return heard,
            SourceEvent::Invalidate(Invalidation::Session(id)) => {
                heard.insert(id);
            }
            _ => {}
        }
    }
}

/// A node stands still, and the way to the server is lost meanwhile. When the node goes on, it must
/// not let a session in that was revoked elsewhere: neither from its cache, nor without the server.
///
/// The node has one thread, which this test runs on. So the node stands still when the test blocks.
async fn a_node_that_stood_still_trusts_nothing(
    elsewhere: impl SessionRegistry,
    near: impl SessionRegistry,
    source: impl InvalidationSource + 'static,
    way: Proxy,
) {
    let builder = CustomerSessions::builder(near).store_timeout(Duration::from_millis(300));
    let sessions = builder.cache_ttl(Duration::from_secs(3600)).build();
    tokio::spawn(sessions.listen(source));
    let session = inserted(&elsewhere).await;
    let is_a_hit = async || {
        let before = sessions.statistics().hits;
        let session = sessions.authenticate(&session.token).await;
        session.map(|_| sessions.statistics().hits > before)
    };
    // Until the source has been heard, what is looked up may be invalidated by its first `All`.
    let begun = Instant::now();
    while !matches!(is_a_hit().await, Ok(true)) {
        assert!(begun.elapsed() < LEASE, "it is cached");
        sleep(Duration::from_millis(20)).await;
    }

    way.freeze();
    way.refuse(true);
    sleep(Duration::from_millis(50)).await;
    assert_eq!(is_a_hit().await.ok(), Some(true), "the lease goes on");
    elsewhere.end(&session.id).await.expect("revoked");
    std::thread::sleep(LEASE + Duration::from_millis(200));
    for _ in 0..5 {
        let outcome = sessions.authenticate(&session.token).await;
        let error = outcome.expect_err("it is let in");
        assert!(matches!(error, AuthenticateError::Store(_)), "{error:?}");
    }
}

/// Connects by a proxy that has a thread and a runtime of its own.
fn proxy_apart(server: u16) -> (Proxy, tokio::runtime::Runtime) {
    let runtime = tokio::runtime::Builder::new_multi_thread()
        .worker_threads(1)
        .enable_all()
        .build()
        .expect("a runtime");
    let (sender, receiver) = std::sync::mpsc::channel();
    runtime.spawn(async move { sender.send(Proxy::new(server).await) });
    (receiver.recv().expect("a proxy"), runtime)
}

#[tokio::test]
async fn a_node_that_stood_still_asks_postgres_again() {
    let Some((server, store)) = postgres().await else {
        return;
    };
    let (way, runtime) = proxy_apart(server.port);
    let url = format!("postgres://tests@127.0.0.1:{}/postgres", way.port);
    let near = PostgresStore::connect(&url, peppers()).await;
    let near = near.expect("connected");
    let source = from_postgres(way.port).await;
    a_node_that_stood_still_trusts_nothing(store, near, source, way).await;
    runtime.shutdown_background();
}

#[tokio::test]
async fn a_node_that_stood_still_asks_redis_again() {
    let Some((server, store)) = redis().await else {
        return;
    };
    let (way, runtime) = proxy_apart(server.port);
    let url = format!("redis://127.0.0.1:{}", way.port);
    let near = RedisStore::connect(&url, peppers()).await;
    let near = near.expect("connected");
    let source = from_redis(way.port).await;
    a_node_that_stood_still_trusts_nothing(store, near, source, way).await;
    runtime.shutdown_background();
}

#[tokio::test(flavor = "multi_thread")]
async fn postgres_answers_in_time_and_in_order_while_messages_never_cease() {
    let Some((server, store)) = postgres().await else {
        return;
    };
    let way = Proxy::new(server.port).await;
    let source = from_postgres(way.port).await;
    answers_come_in_time_and_in_order(store, source, &way).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn redis_answers_in_time_and_in_order_while_messages_never_cease() {
    let Some((server, store)) = redis().await else {
        return;
    };
    let way = Proxy::new(server.port).await;
    let source = from_redis(way.port).await;
    answers_come_in_time_and_in_order(store, source, &way).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn an_answer_of_postgres_counts_behind_the_backlog() {
    let Some((server, store)) = postgres().await else {
        return;
    };
    a_backlog_comes_first(store, from_postgres(server.port).await).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn an_answer_of_redis_counts_behind_the_backlog() {
    let Some((server, store)) = redis().await else {
        return;
    };
    a_backlog_comes_first(store, from_redis(server.port).await).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_dead_link_to_postgres_gives_no_sign_of_life() {
    let Some((server, store)) = postgres().await else {
        return;
    };
    a_dead_link_is_noticed(store, server.port, from_postgres).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_dead_link_to_redis_gives_no_sign_of_life() {
    let Some((server, store)) = redis().await else {
        return;
    };
    a_dead_link_is_noticed(store, server.port, from_redis).await;
}
