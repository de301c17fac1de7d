//! Nothing is used past its time, by either clock.

use std::{sync::Arc, time::Duration};

use chrono::TimeDelta;
use customer_session::{
    AuthenticateError, Clock as _, CustomerSession, CustomerSessions, SessionRegistry as _,
    TokenFormat, testing::ManualClock,
};

use test_support::{Fault, HOUR, ProbeStore, clock, customer};

const TTL: Duration = Duration::from_secs(60);
const NEGATIVE_TTL: Duration = Duration::from_secs(5);

struct Bench {
    store: Arc<ProbeStore>,
    clock: ManualClock,
    sessions: CustomerSessions<Arc<ProbeStore>>,
}

impl Bench {
    fn new() -> Self {
        let (store, clock) = (Arc::new(ProbeStore::default()), clock());
        let sessions = CustomerSessions::builder(Arc::clone(&store))
            .clock(clock.clone())
            .cache_ttl(TTL)
            .negative_ttl(NEGATIVE_TTL)
            .build();
        Self {
            store,
            clock,
            sessions,
        }
    }

    async fn issue(&self, ttl: Duration) -> CustomerSession {
        let session = self.sessions.issue(customer("cus_1"), ttl).await;
        session.expect("issued")
    }

    async fn lets_in(&self, session: &CustomerSession) -> bool {
        match self.sessions.authenticate(&session.token).await {
            Ok(_) => true,
            Err(AuthenticateError::InvalidToken) => false,
            Err(error) => panic!("{error}"),
        }
    }
}

const MILLISECOND: Duration = Duration::from_millis(1);

#[tokio::test]
async fn a_session_is_refused_from_the_millisecond_it_expires() {
    let bench = Bench::new();
    let session = bench.issue(Duration::from_secs(10)).await;
    assert!(bench.lets_in(&session).await);
    bench.clock.advance(Duration::from_secs(10) - MILLISECOND);
    assert!(bench.lets_in(&session).await, "a millisecond before");
    bench.clock.advance(MILLISECOND);
    assert!(!bench.lets_in(&session).await, "at expires_at");
    assert!(!bench.lets_in(&session).await, "nor from memory");
}

#[tokio::test]
async fn a_cached_session_is_looked_up_again_when_its_time_is_over() {
    let bench = Bench::new();
    let session = bench.issue(HOUR).await;
    assert!(bench.lets_in(&session).await);
    bench.clock.advance(TTL - MILLISECOND);
    assert!(bench.lets_in(&session).await);
    assert_eq!(bench.store.lookups(), 1);
    bench.clock.advance(MILLISECOND);
    assert!(bench.lets_in(&session).await);
    assert_eq!(bench.store.lookups(), 2);
}

#[tokio::test]
async fn freshness_is_counted_from_before_the_store_was_asked() {
    let bench = Bench::new();
    let session = bench.issue(HOUR).await;
    bench.store.shut();
    let request = tokio::spawn({
        let (sessions, token) = (bench.sessions.clone(), session.token.clone());
        async move { sessions.authenticate(&token).await }
    });
    bench.store.has_read(1).await;
    // What was read is this old by the time it lands.
    bench.clock.advance(TTL);
    bench.store.open();
    request.await.expect("no panic").expect("live");
    assert!(bench.lets_in(&session).await);
    assert_eq!(bench.store.lookups(), 2, "it was too old to be cached");
}

#[tokio::test]
async fn when_the_wall_clock_jumps_forward_expired_sessions_are_refused_at_once() {
    let bench = Bench::new();
    let session = bench.issue(HOUR).await;
    assert!(bench.lets_in(&session).await);
    bench.clock.set(session.expires_at);
    assert!(!bench.lets_in(&session).await);
}

#[tokio::test]
async fn when_the_wall_clock_jumps_back_nothing_outlives_its_monotonic_deadline() {
    let bench = Bench::new();
    let session = bench.issue(Duration::from_secs(10)).await;
    assert!(bench.lets_in(&session).await);
    bench
        .store
        .inner
        .revoke(&session.id)
        .await
        .expect("behind the engine's back");
    bench.clock.set(session.created_at - TimeDelta::hours(1));
    assert!(
        bench.lets_in(&session).await,
        "cached, and by both clocks in time"
    );
    bench.clock.advance(Duration::from_secs(10));
    assert!(!bench.lets_in(&session).await, "ten seconds have passed");
}

#[tokio::test]
async fn an_unknown_token_is_remembered_for_negative_ttl_and_no_longer() {
    let bench = Bench::new();
    let mut session = bench.issue(HOUR).await;
    session.id = "ses_behind".into();
    session.token = TokenFormat::new("cst_").generate();
    assert!(!bench.lets_in(&session).await);
    assert!(!bench.lets_in(&session).await);
    assert_eq!(bench.store.lookups(), 1);
    bench
        .store
        .inner
        .insert(&session)
        .await
        .expect("behind the engine's back");
    bench.clock.advance(NEGATIVE_TTL - MILLISECOND);
    assert!(!bench.lets_in(&session).await);
    bench.clock.advance(MILLISECOND);
    assert!(bench.lets_in(&session).await);
    assert_eq!(bench.store.lookups(), 2);
}

#[tokio::test]
async fn a_session_issued_here_is_found_at_once() {
    let bench = Bench::new();
    let session = bench.issue(HOUR).await;
    assert!(bench.lets_in(&session).await);
    let rotated = bench.sessions.rotate(&session.token, HOUR).await;
    assert!(
        bench
            .lets_in(&rotated.expect("rotated").expect("live"))
            .await
    );
}

#[tokio::test]
async fn a_reload_with_an_earlier_end_wins() {
    let bench = Bench::new();
    let session = bench.issue(HOUR).await;
    assert!(bench.lets_in(&session).await);
    // Shortened behind the engine's back, to 70 seconds.
    let mut shorter = session.clone();
    shorter.id = "ses_shorter".into();
    shorter.expires_at = session.created_at + TimeDelta::seconds(70);
    bench
        .store
        .inner
        .replace(&session.id, &shorter)
        .await
        .expect_err("the token is taken");
    bench
        .store
        .inner
        .revoke(&session.id)
        .await
        .expect("revoked");
    bench.store.inner.insert(&shorter).await.expect("inserted");
    bench.clock.advance(TTL);
    assert!(bench.lets_in(&session).await, "reloaded");
    bench.clock.advance(Duration::from_secs(10));
    assert!(
        !bench.lets_in(&session).await,
        "the old entry would have lasted an hour"
    );
}

#[tokio::test]
async fn a_session_of_a_deleted_customer_is_refused() {
    let bench = Bench::new();
    let mut data = customer_session::CustomerData::new("cus_1", "org_1");
    data.deleted_at = Some(bench.clock.now());
    let session = bench.sessions.issue(data, HOUR).await.expect("issued");
    assert!(!bench.lets_in(&session).await);
}

#[tokio::test]
async fn an_answer_that_is_too_old_is_not_served_while_the_store_is_down() {
    let bench = Bench::new();
    let session = bench.issue(HOUR).await;
    assert!(bench.lets_in(&session).await);
    bench.store.fault(Fault::Fail);
    assert!(bench.lets_in(&session).await, "a hit needs no store");
    bench.clock.advance(TTL);
    let answer = bench.sessions.authenticate(&session.token).await;
    assert!(
        matches!(answer, Err(AuthenticateError::Store(_))),
        "{answer:?}"
    );
}

#[tokio::test]
async fn a_ttl_beyond_the_end_of_time_is_the_end_of_time() {
    let bench = Bench::new();
    let session = bench.issue(Duration::MAX).await;
    assert!(bench.lets_in(&session).await);
    let json = serde_json::to_value(&session).expect("JSON");
    assert_eq!(json["expires_at"], "9999-12-31T23:59:59.999999Z");
    let sessions = CustomerSessions::builder(ProbeStore::default())
        .cache_ttl(Duration::MAX)
        .negative_ttl(Duration::MAX)
        .store_timeout(Duration::MAX)
        .cache_capacity(u64::MAX)
        .max_concurrent_lookups(usize::MAX)
        .build();
    let session = sessions
        .issue(customer("cus_1"), HOUR)
        .await
        .expect("issued");
    sessions.authenticate(&session.token).await.expect("live");
}

/// Moka frees memory by its own clock, which no test can hold: this one waits for it.
#[tokio::test]
async fn maintenance_frees_the_memory_of_idle_sessions() {
    let sessions = CustomerSessions::builder(ProbeStore::default())
        .cache_ttl(Duration::from_millis(20))
        .negative_ttl(Duration::from_millis(20))
        .build();
    let mut held = Vec::new();
    for _ in 0..100 {
        let session = sessions
            .issue(customer("cus_1"), HOUR)
            .await
            .expect("issued");
        // Often enough to have a copy in front of moka, too.
        for _ in 0..3 {
            let live = sessions.authenticate(&session.token).await.expect("live");
            held.push(Arc::downgrade(&live));
        }
        let unknown = TokenFormat::new("cst_").generate();
        sessions.authenticate(&unknown).await.expect_err("unknown");
    }
    let empty = async {
        loop {
            sessions.maintain();
            let statistics = sessions.statistics();
            let cached = (statistics.cached_sessions, statistics.cached_absent);
            if cached == (0, 0) && held.iter().all(|session| session.strong_count() == 0) {
                return;
            }
            tokio::task::yield_now().await;
        }
    };
    let in_time = tokio::time::timeout(Duration::from_secs(10), empty).await;
    in_time.expect("the cache is empty");
}
