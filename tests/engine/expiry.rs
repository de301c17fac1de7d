//! Nothing is used past its time, by either clock.

use std::time::Duration;

use chrono::TimeDelta;
use customer_session::{
    AuthenticateError, Clock as _, CustomerSession, CustomerSessions, SessionRegistry as _,
    TokenFormat,
};

use crate::fixture::{Fixture, MILLISECOND, TTL};
use test_support::{Fault, HOUR, ProbeStore, RegistryExt as _, customer};

const NEGATIVE_TTL: Duration = Duration::from_secs(5);

impl Fixture {
    async fn with_negative_ttl() -> Self {
        Self::new(|builder| builder.negative_ttl(NEGATIVE_TTL)).await
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

#[tokio::test]
async fn a_session_is_refused_from_the_millisecond_it_expires() {
    let fixture = Fixture::with_negative_ttl().await;
    let session = fixture.issue(Duration::from_secs(10)).await;
    assert!(fixture.lets_in(&session).await);
    fixture.clock.advance(Duration::from_secs(10) - MILLISECOND);
    assert!(fixture.lets_in(&session).await, "a millisecond before");
    fixture.clock.advance(MILLISECOND);
    assert!(!fixture.lets_in(&session).await, "at expires_at");
    assert!(!fixture.lets_in(&session).await, "nor from memory");
}

#[tokio::test]
async fn a_cached_session_is_looked_up_again_when_its_time_is_over() {
    let fixture = Fixture::with_negative_ttl().await;
    let session = fixture.issue(HOUR).await;
    assert!(fixture.lets_in(&session).await);
    fixture.clock.advance(TTL - MILLISECOND);
    assert!(fixture.lets_in(&session).await);
    assert_eq!(fixture.store.lookups(), 1);
    fixture.clock.advance(MILLISECOND);
    assert!(fixture.lets_in(&session).await);
    assert_eq!(fixture.store.lookups(), 2);
}

#[tokio::test]
async fn freshness_is_counted_from_before_the_store_was_asked() {
    let fixture = Fixture::with_negative_ttl().await;
    let session = fixture.issue(HOUR).await;
    fixture.store.shut();
    let request = tokio::spawn({
        let (sessions, token) = (fixture.sessions.clone(), session.token.clone());
        async move { sessions.authenticate(&token).await }
    });
    fixture.store.has_read(1).await;
    // What was read is this old by the time it lands.
    fixture.clock.advance(TTL);
    fixture.store.open();
    request.await.expect("no panic").expect("live");
    assert!(fixture.lets_in(&session).await);
    assert_eq!(fixture.store.lookups(), 2, "it was too old to be cached");
}

#[tokio::test]
async fn when_the_wall_clock_jumps_forward_expired_sessions_are_refused_at_once() {
    let fixture = Fixture::with_negative_ttl().await;
    let session = fixture.issue(HOUR).await;
    assert!(fixture.lets_in(&session).await);
    fixture.clock.set(session.expires_at);
    assert!(!fixture.lets_in(&session).await);
}

#[tokio::test]
async fn when_the_wall_clock_jumps_back_nothing_outlives_its_monotonic_deadline() {
    let fixture = Fixture::with_negative_ttl().await;
    let session = fixture.issue(Duration::from_secs(10)).await;
    assert!(fixture.lets_in(&session).await);
    fixture
        .store
        .inner
        .end(&session.id)
        .await
        .expect("behind the engine's back");
    fixture.clock.set(session.created_at - TimeDelta::hours(1));
    assert!(
        fixture.lets_in(&session).await,
        "cached, and by both clocks in time"
    );
    fixture.clock.advance(Duration::from_secs(10));
    assert!(!fixture.lets_in(&session).await, "ten seconds have passed");
}

#[tokio::test]
async fn an_unknown_token_is_remembered_for_negative_ttl_and_no_longer() {
    let fixture = Fixture::with_negative_ttl().await;
    let mut session = fixture.issue(HOUR).await;
    session.id = "ses_behind".into();
    session.token = TokenFormat::new("cst_").generate();
    assert!(!fixture.lets_in(&session).await);
    assert!(!fixture.lets_in(&session).await);
    assert_eq!(fixture.store.lookups(), 1);
    fixture
        .store
        .inner
        .insert(&session, None)
        .await
        .expect("behind the engine's back");
    fixture.clock.advance(NEGATIVE_TTL - MILLISECOND);
    assert!(!fixture.lets_in(&session).await);
    fixture.clock.advance(MILLISECOND);
    assert!(fixture.lets_in(&session).await);
    assert_eq!(fixture.store.lookups(), 2);
}

#[tokio::test]
async fn a_session_issued_here_is_found_at_once() {
    let fixture = Fixture::with_negative_ttl().await;
    let session = fixture.issue(HOUR).await;
    assert!(fixture.lets_in(&session).await);
    let rotated = fixture.sessions.rotate(&session.token, HOUR).await;
    assert!(
        fixture
            .lets_in(&rotated.expect("rotated").expect("live"))
            .await
    );
}

#[tokio::test]
async fn a_reload_with_an_earlier_end_wins() {
    let fixture = Fixture::with_negative_ttl().await;
    let session = fixture.issue(HOUR).await;
    assert!(fixture.lets_in(&session).await);
    // Shortened behind the engine's back, to 70 seconds.
    let mut shorter = session.clone();
    shorter.id = "ses_shorter".into();
    shorter.expires_at = session.created_at + TimeDelta::seconds(70);
    fixture
        .store
        .inner
        .swap(&session.id, &shorter)
        .await
        .expect_err("the token is taken");
    fixture.store.inner.end(&session.id).await.expect("revoked");
    fixture
        .store
        .inner
        .insert(&shorter, None)
        .await
        .expect("inserted");
    fixture.clock.advance(TTL);
    assert!(fixture.lets_in(&session).await, "reloaded");
    fixture.clock.advance(Duration::from_secs(10));
    assert!(
        !fixture.lets_in(&session).await,
        "the old entry would have lasted an hour"
    );
}

#[tokio::test]
async fn a_session_of_a_deleted_customer_is_refused() {
    let fixture = Fixture::with_negative_ttl().await;
    let session = fixture.issue(HOUR).await;
    let mut data = customer_session::CustomerData::clone(&session.customer);
    data.deleted_at = Some(fixture.clock.now());
    let deleted = customer_session::Customer::from(data);
    let store = &fixture.store.inner;
    assert!(store.update_customer(&deleted).await.expect("updated"));
    assert!(!fixture.lets_in(&session).await);
    let another = fixture.sessions.issue(deleted, HOUR).await;
    let refused = another.expect_err("a sign-in does not bring the customer back");
    assert_eq!(refused.kind(), customer_session::StoreErrorKind::Conflict);
}

#[tokio::test]
async fn an_answer_that_is_too_old_is_not_served_while_the_store_is_down() {
    let fixture = Fixture::with_negative_ttl().await;
    let session = fixture.issue(HOUR).await;
    assert!(fixture.lets_in(&session).await);
    fixture.store.fault(Fault::Fail);
    assert!(fixture.lets_in(&session).await, "a hit needs no store");
    fixture.clock.advance(TTL);
    let answer = fixture.sessions.authenticate(&session.token).await;
    assert!(
        matches!(answer, Err(AuthenticateError::Store(_))),
        "{answer:?}"
    );
}

#[tokio::test]
async fn a_ttl_beyond_the_end_of_time_is_the_end_of_time() {
    let fixture = Fixture::with_negative_ttl().await;
    let session = fixture.issue(Duration::MAX).await;
    assert!(fixture.lets_in(&session).await);
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
    for _ in 0..100 {
        let session = sessions
            .issue(customer("cus_1"), HOUR)
            .await
            .expect("issued");
        sessions.authenticate(&session.token).await.expect("live");
        let unknown = TokenFormat::new("cst_").generate();
        sessions.authenticate(&unknown).await.expect_err("unknown");
    }
    let empty = async {
        loop {
            sessions.run_pending_tasks();
            let statistics = sessions.statistics();
            let cached = (statistics.cached_sessions, statistics.negative_entries);
            if cached == (0, 0) {
                return;
            }
            tokio::task::yield_now().await;
        }
    };
    let in_time = tokio::time::timeout(Duration::from_secs(10), empty).await;
    in_time.expect("the cache is empty");
}
