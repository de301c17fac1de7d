//! While the store fails, while a source is disconnected, and shortly before a cached answer is
//! too old. Time is held by hand.

use std::{
    sync::{
        Arc, Mutex,
        atomic::{AtomicBool, Ordering::SeqCst},
    },
    time::Duration,
};

use axum::body::Body;
use customer_session::{
    AuthenticateError, CacheStatus, CustomerSession, CustomerSessions, Invalidation, Rejection,
    RejectionKind, SessionStore, SessionToken, SourceEvent, StoreError, async_trait,
    store::MemoryStore,
};
use http::{Request, Response, StatusCode, header::RETRY_AFTER};
use tokio::sync::oneshot;
use tower::{Layer as _, ServiceExt as _, service_fn};

use crate::fixture::{Builder, Fixture, MILLISECOND, TTL, settle};
use test_support::{ChannelSource, Fault, HOUR, RegistryExt as _, clock, customer};

const STALE_IF_ERROR: Duration = Duration::from_secs(300);
const COOLDOWN: Duration = Duration::from_millis(500);

impl Fixture {
    /// Creates a fixture whose session was verified a moment ago.
    async fn verified(configure: impl FnOnce(Builder) -> Builder) -> Self {
        let fixture = Self::new(|builder| configure(builder.breaker_cooldown(COOLDOWN))).await;
        fixture.authenticate().await.expect("live");
        fixture
    }

    async fn with_defaults() -> Self {
        Self::verified(|builder| builder).await
    }

    async fn with_stale_if_error() -> Self {
        Self::verified(|builder| builder.stale_if_error(STALE_IF_ERROR)).await
    }

    async fn is_unavailable(&self) -> bool {
        matches!(self.authenticate().await, Err(AuthenticateError::Store(_)))
    }

    async fn is_invalid(&self) -> bool {
        matches!(
            self.authenticate().await,
            Err(AuthenticateError::InvalidToken)
        )
    }
}

#[tokio::test]
async fn a_session_in_use_is_looked_up_before_its_answer_is_too_old() {
    let fixture = Fixture::with_defaults().await;
    fixture.clock.advance(TTL * 79 / 100);
    fixture.authenticate().await.expect("cached");
    settle().await;
    assert_eq!(fixture.store.lookups(), 1, "too early to ask again");

    fixture.store.shut();
    fixture.clock.advance(TTL * 11 / 100);
    for _ in 0..10 {
        // The store holds its answer back: no request waits for it.
        fixture.authenticate().await.expect("cached");
    }
    settle().await;
    assert_eq!(fixture.store.lookups(), 2, "one lookup for all of them");
    fixture.store.open();
    settle().await;
    fixture.clock.advance(TTL * 50 / 100);
    fixture.authenticate().await.expect("cached again");
    settle().await;
    assert_eq!(fixture.store.lookups(), 2);
    assert_eq!(fixture.statistics().refreshes, 1);
}

#[tokio::test]
async fn a_refresh_that_finds_nothing_ends_the_session_at_once() {
    let fixture = Fixture::with_defaults().await;
    fixture.revoke_behind_its_back().await;
    fixture.clock.advance(TTL * 91 / 100);
    fixture.authenticate().await.expect("cached");
    settle().await;
    assert!(fixture.is_invalid().await);
    assert_eq!(fixture.store.lookups(), 2);
}

#[tokio::test]
async fn a_failed_refresh_is_retried_later_and_keeps_the_session() {
    let fixture = Fixture::with_defaults().await;
    fixture.store.fault(Fault::Fail);
    fixture.clock.advance(TTL * 91 / 100);
    for _ in 0..10 {
        fixture.authenticate().await.expect("still fresh");
        settle().await;
    }
    assert_eq!(fixture.store.lookups(), 2, "not on every hit");
    fixture.store.fault(None);
    fixture.clock.advance(TTL * 6 / 100);
    fixture.authenticate().await.expect("still fresh");
    settle().await;
    assert_eq!(fixture.store.lookups(), 3);
    fixture.clock.advance(TTL * 50 / 100);
    fixture.authenticate().await.expect("refreshed");
}

#[tokio::test]
async fn without_stale_if_error_an_outage_refuses_what_is_not_fresh() {
    let fixture = Fixture::with_defaults().await;
    fixture.store.fault(Fault::Fail);
    fixture.clock.advance(TTL);
    assert!(fixture.is_unavailable().await);
    assert_eq!(fixture.statistics().stale, 0);
}

#[tokio::test]
async fn a_verified_session_is_served_stale_while_the_store_fails_and_only_then() {
    for fault in [Fault::Fail, Fault::Panic] {
        let fixture = Fixture::with_stale_if_error().await;
        fixture.clock.advance(TTL + STALE_IF_ERROR - MILLISECOND);
        fixture.store.fault(fault);
        fixture.authenticate().await.expect("stale");
        assert_eq!(fixture.statistics().stale, 1);
        fixture.clock.advance(MILLISECOND);
        assert!(
            fixture.is_unavailable().await,
            "cache_ttl and stale_if_error are over"
        );

        let never_seen = customer_session::TokenFormat::new("cst_").generate();
        let answer = fixture.sessions.authenticate(&never_seen).await;
        assert!(
            matches!(answer, Err(AuthenticateError::Store(_))),
            "no fail-open"
        );
    }
}

#[tokio::test]
async fn a_store_that_answers_is_believed_whatever_stale_if_error_is() {
    let fixture = Fixture::with_stale_if_error().await;
    fixture.revoke_behind_its_back().await;
    fixture.clock.advance(TTL);
    assert!(fixture.is_invalid().await);
    fixture.store.fault(Fault::Fail);
    fixture.clock.advance(TTL);
    assert!(
        fixture.is_unavailable().await,
        "what is known to be gone is not served"
    );
}

#[tokio::test]
async fn no_expired_or_revoked_session_is_served_stale() {
    let fixture = Fixture::verified(|builder| builder.stale_if_error(2 * HOUR)).await;
    fixture.store.fault(Fault::Fail);
    fixture.clock.advance(HOUR - MILLISECOND);
    fixture.authenticate().await.expect("stale");
    fixture.clock.advance(MILLISECOND);
    assert!(fixture.is_unavailable().await, "expired");

    let ids: [fn(&CustomerSession) -> Invalidation; 3] = [
        |session| Invalidation::Session(session.id.clone()),
        |session| Invalidation::Customer(session.customer_id.clone()),
        |_| Invalidation::All,
    ];
    for message in ids {
        let fixture = Fixture::with_stale_if_error().await;
        let connection = fixture.listen();
        fixture.store.fault(Fault::Fail);
        fixture.clock.advance(TTL);
        fixture.authenticate().await.expect("stale");
        connection.send(message(&fixture.session)).await;
        assert!(
            fixture.is_unavailable().await,
            "{:?}",
            message(&fixture.session)
        );
    }
}

#[tokio::test]
async fn an_open_breaker_spares_the_store_and_probes_it_with_one_lookup() {
    let fixture = Fixture::with_defaults().await;
    fixture.clock.advance(TTL);
    fixture.store.fault(Fault::Fail);
    for _ in 0..10 {
        assert!(fixture.is_unavailable().await);
    }
    assert_eq!(fixture.store.lookups(), 11);
    assert!(fixture.is_unavailable().await);
    assert_eq!(fixture.store.lookups(), 11, "it is open");
    assert!(fixture.statistics().breaker_open);
    assert!(
        fixture
            .sessions
            .rotate(&fixture.session.token, HOUR)
            .await
            .is_err()
    );

    fixture.clock.advance(COOLDOWN);
    assert!(fixture.is_unavailable().await);
    assert!(fixture.is_unavailable().await);
    assert_eq!(fixture.store.lookups(), 12, "one probe");

    fixture.store.fault(None);
    assert!(fixture.is_unavailable().await, "the cooldown is not over");
    fixture.clock.advance(COOLDOWN);
    fixture.authenticate().await.expect("it is back");
    assert!(!fixture.statistics().breaker_open);
    assert_eq!(fixture.statistics().breaker_opened, 1);
}

#[tokio::test]
async fn a_record_that_cannot_be_read_is_not_an_outage() {
    let fixture = Fixture::with_stale_if_error().await;
    fixture.store.fault(Fault::Corrupt);
    fixture.clock.advance(TTL);
    for lookups in 2..=40 {
        // The store has answered: it does not vouch for the session any more.
        assert!(fixture.is_unavailable().await);
        assert_eq!(fixture.store.lookups(), lookups, "it is asked again");
    }
    assert!(!fixture.statistics().breaker_open);
}

#[tokio::test]
async fn a_cooldown_of_zero_turns_the_breaker_off() {
    let fixture = Fixture::verified(|builder| builder.breaker_cooldown(Duration::ZERO)).await;
    fixture.clock.advance(TTL);
    fixture.store.fault(Fault::Fail);
    for lookups in 2..=40 {
        assert!(fixture.is_unavailable().await);
        assert_eq!(
            fixture.store.lookups(),
            lookups,
            "without a cooldown it never opens"
        );
    }
}

#[tokio::test]
async fn while_a_source_is_disconnected_every_request_is_a_lookup() {
    let fixture = Fixture::with_defaults().await;
    let connection = fixture.listen();
    connection.send(Invalidation::All).await;
    fixture.authenticate().await.expect("live");
    fixture.authenticate().await.expect("live");
    assert_eq!(fixture.store.lookups(), 2, "cached");

    connection.send(SourceEvent::Disconnected).await;
    connection.send(SourceEvent::Disconnected).await;
    assert_eq!(fixture.statistics().sources_disconnected, 1);
    fixture.authenticate().await.expect("live");
    fixture.authenticate().await.expect("live");
    assert_eq!(fixture.store.lookups(), 4, "asked each time");
    fixture.revoke_behind_its_back().await;
    assert!(
        fixture.is_invalid().await,
        "at once, though no message came"
    );

    let fixture = Fixture::with_defaults().await;
    let connection = fixture.listen();
    connection.send(SourceEvent::Disconnected).await;
    fixture.authenticate().await.expect("live");
    connection.send(Invalidation::All).await;
    assert_eq!(fixture.statistics().sources_disconnected, 0);
    fixture.authenticate().await.expect("live");
    fixture.authenticate().await.expect("live");
    assert_eq!(
        fixture.store.lookups(),
        3,
        "looked up once more, then cached again"
    );
}

#[tokio::test]
async fn a_lookup_from_before_the_gap_is_not_used_after_it() {
    let fixture = Fixture::with_defaults().await;
    let connection = fixture.listen();
    connection.send(SourceEvent::Disconnected).await;
    fixture.store.shut();
    let waiting = tokio::spawn({
        let (sessions, token) = (fixture.sessions.clone(), fixture.session.token.clone());
        async move { sessions.authenticate(&token).await }
    });
    fixture.store.has_read(2).await;
    // Revoked elsewhere, and the message went into the gap.
    fixture.revoke_behind_its_back().await;
    connection.send(Invalidation::All).await;
    fixture.store.open();
    let answer = waiting.await.expect("no panic");
    assert!(matches!(answer, Err(AuthenticateError::InvalidToken)));
    assert!(fixture.is_invalid().await);
}

/// A store that holds its next answer back until it is released, or fails.
#[derive(Default)]
struct Held {
    inner: MemoryStore,
    next: Mutex<Option<oneshot::Receiver<()>>>,
    fails: AtomicBool,
}

#[async_trait]
impl SessionStore for Held {
    async fn find(&self, token: &SessionToken) -> Result<Option<CustomerSession>, StoreError> {
        if self.fails.load(SeqCst) {
            return Err(StoreError::unavailable("it fails"));
        }
        let found = self.inner.find(token).await;
        let held = self.next.lock().expect("no panic").take();
        if let Some(held) = held {
            held.await.expect("it is released");
        }
        found
    }
}

#[tokio::test]
async fn an_answer_read_before_a_gap_is_not_cached_after_it() {
    let (store, clock) = (Arc::new(Held::default()), clock());
    let sessions = CustomerSessions::builder(Arc::clone(&store))
        .clock(clock.clone())
        .stale_if_error(STALE_IF_ERROR)
        .build();
    let elsewhere = CustomerSessions::builder(store.inner.clone());
    let elsewhere = elsewhere.clock(clock.clone()).build();
    let session = elsewhere.issue(customer("cus_1"), HOUR).await;
    let session = session.expect("issued");
    let (sender, source) = ChannelSource::new();
    tokio::spawn(sessions.listen(source));
    let send = async |event| {
        sender.send(event).expect("a listener");
        settle().await;
    };
    send(SourceEvent::Disconnected).await;

    // Read, and still on its way.
    let (go_on, held) = oneshot::channel();
    *store.next.lock().expect("no panic") = Some(held);
    let slow = tokio::spawn({
        let (sessions, token) = (sessions.clone(), session.token.clone());
        async move { sessions.authenticate(&token).await }
    });
    tokio::task::yield_now().await;
    tokio::task::yield_now().await;
    assert!(
        store.next.lock().expect("no panic").is_none(),
        "it has read"
    );
    store.inner.end(&session.id).await.expect("revoked");
    send(SourceEvent::from(Invalidation::All)).await;
    let ask = || sessions.authenticate(&session.token);
    assert!(matches!(ask().await, Err(AuthenticateError::InvalidToken)));

    // It arrives, and the store fails.
    go_on.send(()).expect("it waits");
    store.fails.store(true, SeqCst);
    slow.await.expect("no panic").expect_err("revoked");
    clock.advance(Duration::from_secs(6));
    let answer = ask().await;
    assert!(answer.is_err(), "the store has said that it is gone");
}

#[tokio::test]
async fn stale_sessions_are_served_across_a_gap_while_the_store_fails() {
    let fixture = Fixture::with_stale_if_error().await;
    let connection = fixture.listen();
    fixture.store.fault(Fault::Fail);
    connection.send(SourceEvent::Disconnected).await;
    fixture.authenticate().await.expect("stale");
    connection.send(Invalidation::All).await;
    fixture
        .authenticate()
        .await
        .expect("in doubt, but the store still fails");
    fixture.store.fault(None);
    fixture.revoke_behind_its_back().await;
    assert!(
        fixture.is_invalid().await,
        "the store answers, and is asked"
    );
}

#[tokio::test]
async fn a_listener_that_stops_while_disconnected_leaves_the_cache_in_use() {
    let fixture = Fixture::with_defaults().await;
    let connection = fixture.listen();
    connection.send(SourceEvent::Disconnected).await;
    connection.listening.abort();
    settle().await;
    assert_eq!(fixture.statistics().sources_disconnected, 0);
    fixture.authenticate().await.expect("live");
    fixture.authenticate().await.expect("live");
    assert_eq!(
        fixture.store.lookups(),
        2,
        "looked up once more, then cached"
    );
}

#[tokio::test]
async fn malformed_messages_are_counted_and_change_nothing() {
    let fixture = Fixture::with_defaults().await;
    let connection = fixture.listen();
    for _ in 0..3 {
        connection.send(SourceEvent::Malformed).await;
    }
    assert_eq!(fixture.statistics().malformed_messages, 3);
    fixture.authenticate().await.expect("cached");
    assert_eq!(fixture.store.lookups(), 1);
}

#[tokio::test]
async fn responses_carry_their_cache_status_or_their_rejection() {
    let fixture = Fixture::with_stale_if_error().await;
    let inner = service_fn(async |_: Request<Body>| {
        Ok::<_, std::convert::Infallible>(Response::new(Body::empty()))
    });
    let ask = async |layer: customer_session::CustomerSessionLayer, token: Option<&str>| {
        let mut request = Request::new(Body::empty());
        if let Some(token) = token {
            let value = format!("Bearer {token}").parse().expect("a header");
            request.headers_mut().insert("authorization", value);
        }
        let response = layer
            .layer(inner)
            .oneshot(request)
            .await
            .expect("infallible");
        let extensions = response.extensions();
        let status = extensions.get::<CacheStatus>().copied();
        let rejection = extensions.get::<Rejection>().map(Rejection::kind);
        (
            (response.status(), status, rejection),
            response.headers().get(RETRY_AFTER).cloned(),
        )
    };
    let token = fixture.session.token.expose();
    let layer = || fixture.sessions.layer();
    let reporting = || layer().cache_status_on_hits();
    let other = customer_session::TokenFormat::new("cst_").generate();
    let let_in = |status| (StatusCode::OK, status, None);
    let refused = |status, kind| (status, None, Some(kind));
    let unauthorized = |kind| refused(StatusCode::UNAUTHORIZED, kind);

    assert_eq!(
        ask(layer(), Some(token)).await.0,
        let_in(None),
        "a hit carries none unless told to"
    );
    assert_eq!(
        ask(reporting(), Some(token)).await.0,
        let_in(Some(CacheStatus::Hit))
    );
    assert_eq!(
        ask(reporting(), None).await.0,
        unauthorized(RejectionKind::MissingToken)
    );
    assert_eq!(
        ask(reporting().optional(), None).await.0,
        let_in(None),
        "an anonymous request has no session"
    );
    for invalid in ["garbage", other.expose()] {
        assert_eq!(
            ask(reporting(), Some(invalid)).await.0,
            unauthorized(RejectionKind::InvalidToken)
        );
    }
    fixture.clock.advance(TTL);
    assert_eq!(
        ask(layer(), Some(token)).await.0,
        let_in(Some(CacheStatus::Miss))
    );
    fixture.clock.advance(TTL);
    fixture.store.fault(Fault::Fail);
    assert_eq!(
        ask(layer(), Some(token)).await.0,
        let_in(Some(CacheStatus::Stale))
    );
    let (answer, retry) = ask(layer(), Some(other.expose())).await;
    assert_eq!(
        answer,
        refused(
            StatusCode::SERVICE_UNAVAILABLE,
            RejectionKind::StoreUnavailable
        )
    );
    let seconds = retry_after(&retry.expect("Retry-After"));
    assert!((1..=3).contains(&seconds), "{seconds}");
}

fn retry_after(value: &http::HeaderValue) -> u64 {
    value.to_str().expect("ASCII").parse().expect("seconds")
}

#[tokio::test]
async fn retry_after_is_at_least_the_rest_of_the_breaker_s_cooldown() {
    let fixture =
        Fixture::verified(|builder| builder.breaker_cooldown(Duration::from_secs(20))).await;
    fixture.clock.advance(TTL);
    fixture.store.fault(Fault::Fail);
    for _ in 0..10 {
        assert!(fixture.is_unavailable().await);
    }
    fixture.clock.advance(Duration::from_millis(4500));
    let inner = service_fn(async |_: Request<Body>| {
        Ok::<_, std::convert::Infallible>(Response::new(Body::empty()))
    });
    let bearer = format!("Bearer {}", fixture.session.token.expose());
    let request = Request::builder().header("authorization", bearer);
    let request = request.body(Body::empty()).expect("a request");
    let response = fixture.sessions.layer().layer(inner).oneshot(request).await;
    let response = response.expect("infallible");
    let seconds = retry_after(&response.headers()[RETRY_AFTER]);
    assert!((16..=32).contains(&seconds), "15.5 are left: {seconds}");
}
