//! Streams and sockets end with the session that opened them.

use std::{pin::pin, sync::Arc, time::Duration};

use customer_session::{
    CurrentSession, CustomerSession, CustomerSessions, Invalidation, SessionEnd, SessionLifetime,
};
use futures_util::{FutureExt as _, StreamExt as _, stream};
use tokio::time::timeout;

use crate::fixture::{Fixture, TTL, settle};
use test_support::{Fault, HOUR, ProbeStore, customer, receive};

const TIMEOUT: Duration = Duration::from_millis(100);

/// A generous limit: a lifetime that ends at all ends at once.
const DEADLINE: Duration = Duration::from_secs(5);

impl Fixture {
    async fn with_timeout() -> Self {
        Self::new(|builder| builder.store_timeout(TIMEOUT)).await
    }

    async fn lifetime(&self) -> SessionLifetime {
        let session = self.authenticate().await;
        session.expect("live").lifetime()
    }

    /// Waits for the lifetime's end in a task, which has looked once when this returns.
    async fn ended(&self) -> tokio::task::JoinHandle<SessionEnd> {
        let ended = tokio::spawn(self.lifetime().await.ended());
        settle().await;
        assert!(!ended.is_finished(), "it is live");
        ended
    }

    async fn receive(&self, message: Invalidation) {
        receive(&self.sessions, [message]).await;
    }
}

async fn end(ended: tokio::task::JoinHandle<SessionEnd>) -> SessionEnd {
    let end = timeout(DEADLINE, ended).await;
    end.expect("it ends").expect("no panic")
}

#[tokio::test]
async fn a_revocation_on_this_node_ends_the_lifetime() {
    let fixture = Fixture::with_timeout().await;
    let ended = fixture.ended().await;
    fixture
        .sessions
        .revoke(&fixture.session.id)
        .await
        .expect("revoked");
    assert_eq!(end(ended).await, SessionEnd::Revoked);

    let fixture = Fixture::with_timeout().await;
    let ended = fixture.ended().await;
    let customer = &fixture.session.customer_id;
    fixture
        .sessions
        .revoke_customer(customer)
        .await
        .expect("revoked");
    assert_eq!(end(ended).await, SessionEnd::Revoked);

    let fixture = Fixture::with_timeout().await;
    let ended = fixture.ended().await;
    let new = fixture.sessions.rotate(&fixture.session.token, HOUR).await;
    new.expect("rotated");
    assert_eq!(end(ended).await, SessionEnd::Revoked);
}

#[tokio::test]
async fn a_message_from_another_node_ends_the_lifetime_if_the_session_is_gone() {
    let messages: [fn(&CustomerSession) -> Invalidation; 3] = [
        |session| Invalidation::Session(session.id.clone()),
        |session| Invalidation::Customer(session.customer_id.clone()),
        |_| Invalidation::All,
    ];
    for message in messages {
        let fixture = Fixture::with_timeout().await;
        let ended = fixture.ended().await;
        fixture.receive(message(&fixture.session)).await;
        tokio::task::yield_now().await;
        assert!(!ended.is_finished(), "it was only changed");
        fixture.revoke_behind_its_back().await;
        fixture.receive(message(&fixture.session)).await;
        assert_eq!(end(ended).await, SessionEnd::Revoked);
    }
}

#[tokio::test]
async fn a_lifetime_expires_by_the_wall_clock() {
    let fixture = Fixture::with_timeout().await;
    let ended = fixture.ended().await;
    fixture.clock.advance(HOUR);
    assert_eq!(end(ended).await, SessionEnd::Expired);

    let fixture = Fixture::with_timeout().await;
    let ended = fixture.ended().await;
    fixture.clock.set(fixture.session.expires_at);
    assert_eq!(end(ended).await, SessionEnd::Expired);
}

#[tokio::test(start_paused = true)]
async fn without_a_message_a_revocation_is_noticed_when_the_answer_is_too_old() {
    let fixture = Fixture::with_timeout().await;
    let ended = fixture.ended().await;
    fixture.revoke_behind_its_back().await;
    tokio::time::sleep(Duration::from_millis(60)).await;
    assert!(!ended.is_finished(), "no message came");
    fixture.clock.advance(TTL);
    assert_eq!(end(ended).await, SessionEnd::Revoked);
}

#[tokio::test(start_paused = true)]
async fn a_lifetime_trusts_an_answer_no_longer_than_a_request_would() {
    let fixture = Fixture::with_timeout().await;
    let ended = fixture.ended().await;
    fixture.store.fault(Fault::Fail);
    fixture.clock.advance(TTL);
    let end = timeout(2 * TTL, ended).await.expect("it ends");
    assert_eq!(end.expect("no panic"), SessionEnd::Unconfirmed);
}

#[tokio::test(start_paused = true)]
async fn a_short_outage_does_not_end_the_lifetime() {
    let fixture = Fixture::with_timeout().await;
    let ended = fixture.ended().await;
    fixture.store.fault(Fault::Fail);
    // Without a message the answer stays in use until it is too old.
    tokio::time::sleep(Duration::from_secs(5)).await;
    assert!(!ended.is_finished());
    fixture
        .receive(Invalidation::Session(fixture.session.id.clone()))
        .await;
    tokio::time::sleep(TIMEOUT / 2).await;
    assert!(!ended.is_finished(), "a request would get 503");
    fixture.store.fault(None);
    tokio::time::sleep(Duration::from_secs(5)).await;
    assert!(!ended.is_finished(), "it was confirmed");
    fixture
        .sessions
        .revoke(&fixture.session.id)
        .await
        .expect("revoked");
    assert_eq!(ended.await.expect("no panic"), SessionEnd::Revoked);
}

/// The store fails right after the revocation.
#[tokio::test(start_paused = true)]
async fn a_revocation_that_cannot_be_confirmed_ends_the_lifetime_soon() {
    for is_local in [true, false] {
        let fixture = Fixture::with_timeout().await;
        let ended = fixture.ended().await;
        fixture.store.fault(Fault::Fail);
        let id = fixture.session.id.clone();
        if is_local {
            fixture.sessions.revoke(&id).await.expect("revoked");
        } else {
            fixture.receive(Invalidation::Session(id)).await;
        }
        let end = timeout(2 * TIMEOUT, ended).await.expect("it ends soon");
        assert_eq!(end.expect("no panic"), SessionEnd::Unconfirmed);
    }
}

#[tokio::test(start_paused = true)]
async fn the_longest_settings_do_not_overflow() {
    let store = Arc::new(ProbeStore::default());
    let sessions = CustomerSessions::builder(Arc::clone(&store))
        .store_timeout(Duration::MAX)
        .cache_ttl(Duration::MAX)
        .stale_if_error(Duration::MAX)
        .build();
    let session = sessions.issue(customer("cus_1"), HOUR).await;
    let session = session.expect("issued");
    let known = sessions.authenticate(&session.token).await.expect("live");
    let ended = tokio::spawn(known.lifetime().ended());
    tokio::task::yield_now().await;
    store.fault(Fault::Fail);
    sessions.revoke(&session.id).await.expect("revoked");
    tokio::time::sleep(Duration::from_secs(1)).await;
    store.fault(None);
    assert_eq!(end(ended).await, SessionEnd::Revoked);
}

#[tokio::test]
async fn streams_leave_half_of_the_lookups_to_requests() {
    let store = Arc::new(ProbeStore::default());
    let sessions = CustomerSessions::builder(Arc::clone(&store))
        .max_concurrent_lookups(8)
        .build();
    let mut streams = Vec::new();
    for number in 0..20 {
        let issued = sessions
            .issue(customer(&format!("cus_{number}")), HOUR)
            .await;
        let known = sessions.authenticate(&issued.expect("issued").token).await;
        streams.push(tokio::spawn(known.expect("live").lifetime().ended()));
    }
    let other = sessions
        .issue(customer("cus_other"), HOUR)
        .await
        .expect("issued");
    tokio::task::yield_now().await;
    let before = store.lookups();
    store.shut();
    receive(&sessions, [Invalidation::All]).await;
    for _ in 0..100 {
        tokio::task::yield_now().await;
    }
    assert_eq!(store.lookups() - before, 4);
    let request = tokio::spawn(async move { sessions.authenticate(&other.token).await });
    store.was_asked(before + 5).await;
    store.open();
    request.await.expect("no panic").expect("let in");
    assert!(streams.iter().all(|stream| !stream.is_finished()));
}

#[tokio::test(start_paused = true)]
async fn a_limit_of_lookups_beyond_all_bounds_ends_no_stream() {
    let fixture = Fixture::new(|builder| builder.max_concurrent_lookups(usize::MAX)).await;
    let ended = fixture.ended().await;
    fixture
        .receive(Invalidation::Customer(fixture.session.customer_id.clone()))
        .await;
    tokio::time::sleep(Duration::from_secs(30)).await;
    assert!(!ended.is_finished(), "it was confirmed");
    assert_eq!(fixture.store.lookups(), 2);
}

/// A clock that is neither the system's nor tells when it is moved, as a wrapper of NTP.
struct Wrapped(customer_session::testing::ManualClock);

impl customer_session::Clock for Wrapped {
    fn now(&self) -> chrono::DateTime<chrono::Utc> {
        self.0.now()
    }

    fn monotonic(&self) -> Duration {
        self.0.monotonic()
    }
}

#[tokio::test(start_paused = true)]
async fn an_idle_stream_is_not_a_request_and_looks_at_the_clock_now_and_then() {
    let fixture = Fixture::with_timeout().await;
    let ended = fixture.ended().await;
    let hits = fixture.sessions.statistics().hits;
    tokio::time::sleep(Duration::from_secs(60)).await;
    let statistics = fixture.sessions.statistics();
    assert_eq!(statistics.hits, hits);
    assert!(
        (2..=10).contains(&statistics.stream_checks),
        "{statistics:?}"
    );
    drop(ended);

    let store = Arc::new(ProbeStore::default());
    let sessions = CustomerSessions::builder(store);
    let sessions = sessions.clock(Wrapped(fixture.clock.clone())).build();
    let session = sessions.issue(customer("cus_1"), HOUR).await;
    let known = sessions.authenticate(&session.expect("issued").token).await;
    let ended = tokio::spawn(known.expect("live").lifetime().ended());
    tokio::time::sleep(Duration::from_millis(60_500)).await;
    let checks = sessions.statistics().stream_checks;
    assert!((55..=65).contains(&checks), "{checks}");
    fixture.clock.advance(HOUR);
    assert_eq!(end(ended).await, SessionEnd::Expired);
}

#[tokio::test]
async fn a_lifetime_that_has_ended_answers_at_once() {
    let fixture = Fixture::with_timeout().await;
    let lifetime = fixture.lifetime().await;
    fixture
        .sessions
        .revoke(&fixture.session.id)
        .await
        .expect("revoked");
    assert_eq!(lifetime.ended().await, SessionEnd::Revoked);
    assert_eq!(lifetime.clone().ended().await, SessionEnd::Revoked);

    drop(fixture);
    assert_eq!(
        lifetime.ended().await,
        SessionEnd::Unconfirmed,
        "there is no engine to ask"
    );
}

#[tokio::test]
async fn a_stream_ends_with_its_session_and_sends_nothing_after() {
    let fixture = Fixture::with_timeout().await;
    let lifetime = fixture.lifetime().await;
    let mut items = pin!(lifetime.limit(stream::iter(1_u64..)));
    assert_eq!(items.next().await, Some(1));
    assert_eq!(items.next().await, Some(2));
    fixture
        .sessions
        .revoke(&fixture.session.id)
        .await
        .expect("revoked");
    let rest = items.by_ref().count();
    let rest = timeout(DEADLINE, rest).await.expect("it ends");
    assert!(rest < 1000, "{rest} items after the end");
    assert_eq!(items.next().await, None);

    let mut short = pin!(
        CurrentSession::until_expiry(fixture.session.clone())
            .lifetime()
            .limit(stream::iter([1]))
    );
    assert_eq!(short.next().now_or_never(), Some(Some(1)));
    assert_eq!(
        short.next().now_or_never(),
        Some(None),
        "it ends with what it holds, too"
    );
}
