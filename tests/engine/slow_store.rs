//! With `stale_if_error`, a request does not wait long for a slow store if its session is cached. The
//! clock of the sessions is held by hand, that of the waits is paused.

use std::time::Duration;

use customer_session::{
    AuthenticateError, CurrentSession, CustomerSession, Invalidation, SourceEvent,
};
use tokio::{task::JoinHandle, time::Instant};

use crate::fixture::{Builder, Fixture, TTL, settle};
use test_support::HOUR;

const STALE_AFTER: Duration = Duration::from_millis(250);
const STORE_TIMEOUT: Duration = Duration::from_secs(2);
const SLACK: Duration = Duration::from_millis(51);

type Answer = Result<CurrentSession, AuthenticateError>;

impl Fixture {
    /// Returns a fixture whose session was cached until a moment ago, and whose store holds its answers
    /// back.
    async fn with_slow_store(configure: impl FnOnce(Builder) -> Builder) -> Self {
        let fixture = Self::new(|builder| configure(builder.stale_if_error(2 * HOUR))).await;
        fixture.authenticate().await.expect("live");
        fixture.clock.advance(TTL);
        fixture.store.shut();
        fixture
    }

    /// Returns the answer to a request, and how long that took.
    async fn timed(&self) -> (Answer, Duration) {
        let begun = Instant::now();
        let answer = self.authenticate().await;
        (answer, begun.elapsed())
    }

    /// Begins a request, which has asked the store when this returns.
    async fn begin(&self) -> JoinHandle<Answer> {
        let (sessions, token) = (self.sessions.clone(), self.session.token.clone());
        let waiting = tokio::spawn(async move { sessions.authenticate(&token).await });
        settle().await;
        waiting
    }
}

fn assert_about(elapsed: Duration, expected: Duration) {
    assert!(
        (expected..=expected + SLACK).contains(&elapsed),
        "{elapsed:?}"
    );
}

#[tokio::test(start_paused = true)]
async fn a_cached_session_waits_a_quarter_of_a_second_for_a_slow_store() {
    let fixture = Fixture::with_slow_store(|builder| builder).await;
    for number in 1..=3 {
        let (answer, elapsed) = fixture.timed().await;
        answer.expect("stale");
        assert_about(elapsed, STALE_AFTER);
        assert_eq!(fixture.statistics().stale, number);
    }
    assert_eq!(fixture.store.lookups(), 2, "one for all of them");
    // The lookup has gone on, and its answer is used.
    fixture.store.open();
    settle().await;
    let (answer, elapsed) = fixture.timed().await;
    answer.expect("fresh");
    assert_eq!(elapsed, Duration::ZERO);
    assert_eq!(fixture.store.lookups(), 2);
    assert_eq!(fixture.statistics().stale, 3);
}

#[tokio::test(start_paused = true)]
async fn a_store_that_answers_in_time_is_waited_for() {
    let fixture = Fixture::with_slow_store(|builder| builder).await;
    fixture.revoke_behind_its_back().await;
    let waiting = fixture.begin().await;
    tokio::time::sleep(STALE_AFTER - SLACK).await;
    fixture.store.open();
    let answer = waiting.await.expect("no panic");
    assert!(matches!(answer, Err(AuthenticateError::InvalidToken)));
}

#[tokio::test(start_paused = true)]
async fn the_lookup_that_goes_on_ends_a_session_that_is_gone() {
    let fixture = Fixture::with_slow_store(|builder| builder).await;
    fixture.revoke_behind_its_back().await;
    fixture.authenticate().await.expect("stale");
    fixture.store.open();
    settle().await;
    fixture.store.shut();
    let (answer, elapsed) = fixture.timed().await;
    assert!(matches!(answer, Err(AuthenticateError::InvalidToken)));
    assert_eq!(elapsed, Duration::ZERO, "it is known to be gone");
}

#[tokio::test(start_paused = true)]
async fn a_session_that_is_revoked_during_the_wait_is_not_let_in() {
    let ids: [fn(&CustomerSession) -> Invalidation; 4] = [
        |session| Invalidation::Session(session.id.clone()),
        |session| Invalidation::Customer(session.customer_id.clone()),
        |session| Invalidation::CustomerChanged {
            id: session.customer_id.clone(),
            modified_at: session.created_at,
        },
        |_| Invalidation::All,
    ];
    for message in ids {
        let fixture = Fixture::with_slow_store(|builder| builder).await;
        let connection = fixture.listen();
        let waiting = fixture.begin().await;
        fixture.revoke_behind_its_back().await;
        connection.send(message(&fixture.session)).await;
        tokio::time::sleep(2 * STALE_AFTER).await;
        assert!(!waiting.is_finished(), "{:?}", message(&fixture.session));
        fixture.store.open();
        let answer = waiting.await.expect("no panic");
        assert!(matches!(answer, Err(AuthenticateError::InvalidToken)));
        assert_eq!(fixture.statistics().stale, 0);
    }
}

#[tokio::test(start_paused = true)]
async fn a_session_that_expires_during_the_wait_is_not_let_in() {
    let fixture = Fixture::with_slow_store(|builder| builder).await;
    let waiting = fixture.begin().await;
    fixture.clock.advance(HOUR - TTL);
    fixture.store.open();
    let answer = waiting.await.expect("no panic");
    assert!(matches!(answer, Err(AuthenticateError::InvalidToken)));
    fixture.store.shut();
    let (answer, _) = fixture.timed().await;
    assert!(answer.is_err());
    assert_eq!(fixture.statistics().stale, 0);
}

#[tokio::test(start_paused = true)]
async fn while_a_source_is_disconnected_only_the_store_s_answer_counts() {
    let fixture = Fixture::with_slow_store(|builder| builder).await;
    let connection = fixture.listen();
    connection.send(SourceEvent::Disconnected).await;
    let waiting = fixture.begin().await;
    fixture.revoke_behind_its_back().await;
    tokio::time::sleep(2 * STALE_AFTER).await;
    assert!(!waiting.is_finished());
    assert_eq!(fixture.statistics().stale, 0);
    // A store that does not answer at all is an outage, as before.
    waiting.await.expect("no panic").expect("stale");
    assert_eq!(fixture.statistics().stale, 1);
}

#[tokio::test(start_paused = true)]
async fn the_wait_is_a_setting() {
    for (wait, expected) in [
        (Duration::ZERO, Duration::ZERO),
        (Duration::from_millis(10), Duration::from_millis(10)),
        (Duration::from_secs(1), Duration::from_secs(1)),
        (Duration::MAX, STORE_TIMEOUT),
    ] {
        let fixture = Fixture::with_slow_store(|builder| builder.stale_after(wait)).await;
        let (answer, elapsed) = fixture.timed().await;
        answer.expect("stale");
        assert_about(elapsed, expected);
        settle().await;
        assert_eq!(fixture.store.lookups(), 2, "the store is asked");
    }
    let without = |builder: Builder| builder.stale_if_error(Duration::ZERO);
    let fixture = Fixture::with_slow_store(without).await;
    let (answer, elapsed) = fixture.timed().await;
    assert!(matches!(answer, Err(AuthenticateError::Store(_))));
    assert_about(elapsed, STORE_TIMEOUT);
}

#[tokio::test(start_paused = true)]
async fn a_token_that_was_never_seen_waits_for_the_store() {
    let fixture = Fixture::new(|builder| builder.stale_if_error(HOUR)).await;
    fixture.store.shut();
    let (answer, elapsed) = fixture.timed().await;
    assert!(matches!(answer, Err(AuthenticateError::Store(_))));
    assert_about(elapsed, STORE_TIMEOUT);
}
