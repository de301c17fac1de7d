//! The time until other nodes know of a revocation, through a real server that does nothing else.

use std::{
    collections::HashMap,
    time::{Duration, Instant},
};

use chrono::{TimeDelta, Utc};
use customer_session::{
    CustomerData, CustomerSession, Invalidation, InvalidationSource, SessionId, SessionRegistry,
    SourceEvent, TokenFormat,
    store::{Peppers, PostgresInvalidations, PostgresStore, RedisInvalidations, RedisStore},
};
use test_support::{
    RegistryExt as _,
    servers::{self, Server},
};
use tokio::time::timeout;

const DEADLINE: Duration = Duration::from_secs(4);

fn peppers() -> Peppers {
    Peppers::new("a pepper of the tests, 32 bytes.")
}

async fn next(source: &mut impl InvalidationSource) -> SourceEvent {
    let next = timeout(DEADLINE, source.recv()).await;
    next.expect("a message").expect("the source goes on")
}

/// Inserts the session `number`, of a customer of its own.
async fn inserted(store: &impl SessionRegistry, number: usize) -> CustomerSession {
    let customer = CustomerData::new(format!("cus_{number}"), "org_1");
    let token = TokenFormat::new("cst_").generate();
    let expires_at = Utc::now() + TimeDelta::hours(1);
    let session = CustomerSession::new(format!("ses_{number}"), token, customer, expires_at);
    store
        .insert(&session, None)
        .await
        .expect("inserted")
        .session
}

/// Measures the time from the return of a revocation until other nodes receive its message.
async fn delays<S: InvalidationSource + 'static>(
    name: &str,
    store: impl SessionRegistry,
    connect: impl AsyncFn() -> S,
) {
    const REVOCATIONS: usize = 600;
    let (revoked, _) = tokio::sync::watch::channel(HashMap::<SessionId, Instant>::new());
    let mut doomed: Vec<CustomerSession> = Vec::new();
    for number in 0..REVOCATIONS {
        doomed.push(inserted(&store, number).await);
    }
    let mut nodes = tokio::task::JoinSet::new();
    for _ in 0..3 {
        let (mut source, revoked) = (connect().await, revoked.subscribe());
        nodes.spawn(async move {
            let mut received = HashMap::new();
            while received.len() < REVOCATIONS {
                if let SourceEvent::Invalidate(Invalidation::Session(id)) = next(&mut source).await
                {
                    received.insert(id, Instant::now());
                }
            }
            let revoked = revoked.borrow();
            // A message that arrived before the revocation returned has no delay.
            let delay = |(id, received): (&SessionId, &Instant)| {
                let revoked = revoked.get(id).unwrap_or(received);
                received.saturating_duration_since(*revoked)
            };
            received.iter().map(delay).collect::<Vec<_>>()
        });
    }
    let mut turn = tokio::time::interval(Duration::from_millis(5));
    for session in doomed {
        turn.tick().await;
        assert!(store.end(&session.id).await.expect("revoked"));
        revoked.send_modify(|all| {
            all.insert(session.id, Instant::now());
        });
    }
    let mut delays = nodes.join_all().await.concat();
    delays.sort();
    let at = |percent: usize| delays[(delays.len() - 1) * percent / 100];
    println!(
        "{name}: received by three other nodes after {:?} (median), {:?} (p99)",
        at(50),
        at(99)
    );
    assert!(at(99) <= Duration::from_millis(100), "{:?}", at(99));
}

#[tokio::test(flavor = "multi_thread")]
async fn other_nodes_know_of_a_revocation_in_postgres_within_100_ms() {
    let _alone = crate::ALONE.lock().await;
    let Some(server) = Server::postgres() else {
        return servers::missing("PostgreSQL");
    };
    let url = server.url();
    let store = PostgresStore::connect(&url, peppers()).await;
    let store = store.expect("connected");
    store.migrate().await.expect("migrated");
    delays("PostgreSQL", store, async || {
        let source = PostgresInvalidations::connect(&url).await;
        source.expect("it listens")
    })
    .await;
}

#[tokio::test(flavor = "multi_thread")]
async fn other_nodes_know_of_a_revocation_in_redis_within_100_ms() {
    let _alone = crate::ALONE.lock().await;
    let Some(server) = Server::redis() else {
        return servers::missing("Redis");
    };
    let url = server.url();
    let store = RedisStore::connect(&url, peppers()).await;
    delays("Redis", store.expect("connected"), async || {
        let source = RedisInvalidations::connect(&url).await;
        source.expect("it listens")
    })
    .await;
}
