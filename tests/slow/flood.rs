//! A flood of unknown tokens does not drive live sessions out of the cache, nor their lookups out
//! of the store.

use std::{
    sync::{
        Arc,
        atomic::{AtomicBool, AtomicUsize, Ordering::SeqCst},
    },
    time::{Duration, Instant},
};

use customer_session::{
    AuthenticateError, CustomerSession, CustomerSessions, Invalidation, SessionRegistry as _,
    SessionStore, SessionToken, StoreError, TokenFormat, async_trait,
};
use tokio::task::JoinSet;

use test_support::{HOUR, clock, customer, receive};

const CAPACITY: u64 = 50_000;
const LIVE: usize = 45_000;
const UNKNOWN: usize = 2_000_000;

/// A store that accepts any token, so that two million can be made from numbers.
#[derive(Clone, Default)]
struct AnyToken(customer_session::store::MemoryStore);

#[async_trait]
impl SessionStore for AnyToken {
    async fn find(&self, token: &SessionToken) -> Result<Option<CustomerSession>, StoreError> {
        self.0.find(token).await
    }

    fn token_format(&self) -> TokenFormat {
        TokenFormat::any()
    }
}

#[tokio::test]
async fn live_sessions_stay_cached_in_a_flood_of_unknown_tokens() {
    let _alone = crate::ALONE.lock().await;
    let store = AnyToken::default();
    let sessions = CustomerSessions::builder(store.clone())
        .cache_capacity(CAPACITY)
        .cache_ttl(Duration::from_secs(100_000))
        .build();
    let customer = customer("cus_1");
    let now = customer_session::Clock::now(&clock());
    let live: Vec<SessionToken> = (0..LIVE)
        .map(|n| SessionToken::new(format!("live-{n}")))
        .collect();
    for (n, token) in live.iter().enumerate() {
        let (id, end) = (format!("ses_{n}"), now + HOUR * 24 * 365);
        let mut session = CustomerSession::new(id, token.clone(), customer.clone(), end);
        session.created_at = now;
        store.0.insert(&session, None).await.expect("inserted");
        sessions.authenticate(token).await.expect("live");
    }

    let before = sessions.statistics();
    let mut asked = 0;
    for n in 0..UNKNOWN {
        let token = SessionToken::new(format!("unknown-{n}"));
        sessions.authenticate(&token).await.expect_err("unknown");
        if n % 100 == 0 {
            let token = &live[asked * 7919 % LIVE];
            sessions.authenticate(token).await.expect("live");
            asked += 1;
        }
    }
    let after = sessions.statistics();
    let hit_rate = (after.hits - before.hits) as f64 / asked as f64;
    println!(
        "{asked} requests of live sessions, {:.2} % hits, {after:?}",
        hit_rate * 100.0
    );
    assert!(hit_rate >= 0.95, "{hit_rate}");

    sessions.run_pending_tasks();
    let held = sessions.statistics();
    assert!(held.cached_sessions <= CAPACITY, "{held:?}");
    assert!(held.negative_entries <= CAPACITY / 4, "{held:?}");
}

/// A store that takes its time, and serves a limited number of lookups at once.
#[derive(Clone)]
struct Slow {
    inner: AnyToken,
    connections: Arc<tokio::sync::Semaphore>,
    most_at_once: Arc<AtomicUsize>,
    at_once: Arc<AtomicUsize>,
}

const CONNECTIONS: usize = 16;
const LATENCY: Duration = Duration::from_millis(5);

#[async_trait]
impl SessionStore for Slow {
    async fn find(&self, token: &SessionToken) -> Result<Option<CustomerSession>, StoreError> {
        let at_once = self.at_once.fetch_add(1, SeqCst) + 1;
        self.most_at_once.fetch_max(at_once, SeqCst);
        let connection = self.connections.acquire().await.expect("open");
        tokio::time::sleep(LATENCY).await;
        let found = self.inner.find(token).await;
        drop(connection);
        self.at_once.fetch_sub(1, SeqCst);
        found
    }

    fn token_format(&self) -> TokenFormat {
        self.inner.token_format()
    }
}

/// Strangers send as fast as they are answered, and the store is slow, so that all permits are in
/// use. Everything that is cached is dropped again and again.
#[tokio::test]
async fn live_customers_are_served_in_a_flood_though_the_store_is_slow() {
    let _alone = crate::ALONE.lock().await;
    const CUSTOMERS: usize = 200;
    let store = Slow {
        inner: AnyToken::default(),
        connections: Arc::new(tokio::sync::Semaphore::new(CONNECTIONS)),
        most_at_once: Arc::default(),
        at_once: Arc::default(),
    };
    let sessions = CustomerSessions::builder(store.clone())
        .max_concurrent_lookups(CONNECTIONS)
        .build();
    let mut live = Vec::new();
    for number in 0..CUSTOMERS {
        let token = SessionToken::new(format!("live-{number}"));
        let (id, end) = (format!("ses_{number}"), chrono::Utc::now() + HOUR);
        let session = CustomerSession::new(id, token.clone(), customer("cus_1"), end);
        store
            .inner
            .0
            .insert(&session, None)
            .await
            .expect("inserted");
        sessions.authenticate(&token).await.expect("live");
        live.push(token);
    }

    let over = Arc::new(AtomicBool::new(false));
    let mut strangers = JoinSet::new();
    for number in 0..64 {
        let (sessions, over) = (sessions.clone(), Arc::clone(&over));
        strangers.spawn(async move {
            let mut sent = 0_u64;
            while !over.load(SeqCst) {
                let token = SessionToken::new(format!("unknown-{number}-{sent}"));
                let answer = sessions.authenticate(&token).await;
                if matches!(answer, Err(AuthenticateError::Overloaded)) {
                    tokio::task::yield_now().await;
                }
                sent += 1;
            }
            sent
        });
    }
    let mut slowest = Duration::ZERO;
    for _ in 0..5 {
        receive(&sessions, [Invalidation::All]).await;
        let mut requests = JoinSet::new();
        for token in &live {
            let (sessions, token) = (sessions.clone(), token.clone());
            requests.spawn(async move {
                let begun = Instant::now();
                sessions.authenticate(&token).await.expect("let in");
                begun.elapsed()
            });
        }
        while let Some(took) = requests.join_next().await {
            slowest = slowest.max(took.expect("every live customer is let in"));
        }
    }
    over.store(true, SeqCst);
    let sent: u64 = strangers.join_all().await.into_iter().sum();
    let statistics = sessions.statistics();
    println!(
        "{sent} requests of strangers; the slowest of a customer took {slowest:?}, {statistics:?}"
    );
    assert!(statistics.overloaded > 100, "permits did not matter");
    assert_eq!(store.most_at_once.load(SeqCst), CONNECTIONS);
}
