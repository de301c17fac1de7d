//! A flood of unknown tokens does not drive live sessions out of the cache.

use std::time::Duration;

use customer_session::{
    CustomerSession, CustomerSessions, SessionRegistry as _, SessionStore, SessionToken,
    StoreError, TokenFormat, async_trait,
};

use test_support::{HOUR, clock, customer};

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
