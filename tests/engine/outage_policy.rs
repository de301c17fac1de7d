//! What happens while the store fails, while nothing is heard of other nodes, and just before
//! a cached answer is too old. Time is held by hand.

use std::{
    sync::{
        Arc, Mutex,
        atomic::{AtomicBool, Ordering::SeqCst},
    },
    time::Duration,
};

use axum::body::Body;
use customer_session::{
    AuthenticateError, CustomerSession, CustomerSessions, CustomerSessionsBuilder, Invalidation,
    InvalidationSource, SessionRegistry as _, SessionStore, SessionToken, SourceEvent, Statistics,
    StoreError, Verdict, async_trait, store::MemoryStore, testing::ManualClock,
};
use http::{Request, Response, StatusCode, header::RETRY_AFTER};
use tokio::sync::{mpsc, oneshot};
use tower::{Layer as _, ServiceExt as _, service_fn};

use test_support::{Fault, HOUR, ProbeStore, clock, customer};

const TTL: Duration = Duration::from_secs(60);
const STALE_IF_ERROR: Duration = Duration::from_secs(300);
const PAUSE: Duration = Duration::from_millis(500);
const MILLISECOND: Duration = Duration::from_millis(1);

struct Bench {
    store: Arc<ProbeStore>,
    clock: ManualClock,
    sessions: CustomerSessions<Arc<ProbeStore>>,
    session: CustomerSession,
}

type Builder = CustomerSessionsBuilder<Arc<ProbeStore>>;

impl Bench {
    /// One session, which was verified a moment ago.
    async fn new(set: impl FnOnce(Builder) -> Builder) -> Self {
        let (store, clock) = (Arc::new(ProbeStore::default()), clock());
        let builder = CustomerSessions::builder(Arc::clone(&store))
            .clock(clock.clone())
            .cache_ttl(TTL)
            .breaker_cooldown(PAUSE);
        let sessions = set(builder).build();
        let session = sessions.issue(customer("cus_1"), HOUR).await;
        let bench = Self {
            store,
            clock,
            sessions,
            session: session.expect("issued"),
        };
        bench.ask().await.expect("live");
        bench
    }

    async fn with_grace() -> Self {
        Self::new(|builder| builder.stale_if_error(STALE_IF_ERROR)).await
    }

    async fn ask(&self) -> Result<Arc<CustomerSession>, AuthenticateError> {
        self.sessions.authenticate(&self.session.token).await
    }

    async fn is_unknown(&self) -> bool {
        matches!(self.ask().await, Err(AuthenticateError::Store(_)))
    }

    async fn is_invalid(&self) -> bool {
        matches!(self.ask().await, Err(AuthenticateError::InvalidToken))
    }

    fn statistics(&self) -> Statistics {
        self.sessions.statistics()
    }

    /// Sends the messages through a source, which is still there afterwards.
    async fn listen(&self) -> Messenger {
        let (sender, receiver) = mpsc::unbounded_channel();
        let listening = tokio::spawn(self.sessions.listen(Messages(receiver)));
        Messenger { sender, listening }
    }

    /// Lets what runs in the background come to its end.
    async fn settle(&self) {
        for _ in 0..20 {
            tokio::task::yield_now().await;
        }
    }
}

struct Messages(mpsc::UnboundedReceiver<SourceEvent>);

#[async_trait]
impl InvalidationSource for Messages {
    async fn recv(&mut self) -> Option<SourceEvent> {
        self.0.recv().await
    }
}

struct Messenger {
    sender: mpsc::UnboundedSender<SourceEvent>,
    listening: tokio::task::JoinHandle<()>,
}

impl Messenger {
    async fn says(&self, bench: &Bench, message: impl Into<SourceEvent>) {
        self.sender.send(message.into()).expect("somebody listens");
        bench.settle().await;
    }
}

#[tokio::test]
async fn a_session_in_use_is_looked_up_before_its_answer_is_too_old() {
    let bench = Bench::new(|it| it).await;
    bench.clock.advance(TTL * 79 / 100);
    bench.ask().await.expect("cached");
    bench.settle().await;
    assert_eq!(bench.store.lookups(), 1, "too early to ask again");

    bench.store.shut();
    bench.clock.advance(TTL * 11 / 100);
    for _ in 0..10 {
        // The store holds its answer back: nobody waits for it.
        bench.ask().await.expect("cached");
    }
    bench.settle().await;
    assert_eq!(bench.store.lookups(), 2, "one lookup for all of them");
    bench.store.open();
    bench.settle().await;
    bench.clock.advance(TTL * 50 / 100);
    bench.ask().await.expect("cached anew");
    bench.settle().await;
    assert_eq!(bench.store.lookups(), 2);
    assert_eq!(bench.statistics().refreshes, 1);
}

#[tokio::test]
async fn a_refresh_that_finds_nothing_ends_the_session_at_once() {
    let bench = Bench::new(|it| it).await;
    bench
        .store
        .inner
        .revoke(&bench.session.id)
        .await
        .expect("gone behind its back");
    bench.clock.advance(TTL * 91 / 100);
    bench.ask().await.expect("as far as anybody here knows");
    bench.settle().await;
    assert!(bench.is_invalid().await);
    assert_eq!(bench.store.lookups(), 2);
}

#[tokio::test]
async fn a_failed_refresh_is_retried_later_and_keeps_the_session() {
    let bench = Bench::new(|it| it).await;
    bench.store.fault(Fault::Fail);
    bench.clock.advance(TTL * 91 / 100);
    for _ in 0..10 {
        bench.ask().await.expect("still fresh");
        bench.settle().await;
    }
    assert_eq!(bench.store.lookups(), 2, "not on every hit");
    bench.store.fault(None);
    bench.clock.advance(TTL * 6 / 100);
    bench.ask().await.expect("still fresh");
    bench.settle().await;
    assert_eq!(bench.store.lookups(), 3);
    bench.clock.advance(TTL * 50 / 100);
    bench.ask().await.expect("refreshed");
}

#[tokio::test]
async fn without_stale_if_error_an_outage_refuses_what_is_not_fresh() {
    let bench = Bench::new(|it| it).await;
    bench.store.fault(Fault::Fail);
    bench.clock.advance(TTL);
    assert!(bench.is_unknown().await);
    assert_eq!(bench.statistics().stale, 0);
}

#[tokio::test]
async fn a_verified_session_is_served_stale_while_the_store_fails_and_only_then() {
    for fault in [Fault::Fail, Fault::Panic] {
        let bench = Bench::with_grace().await;
        bench.clock.advance(TTL + STALE_IF_ERROR - MILLISECOND);
        bench.store.fault(fault);
        bench.ask().await.expect("stale");
        assert_eq!(bench.statistics().stale, 1);
        bench.clock.advance(MILLISECOND);
        assert!(
            bench.is_unknown().await,
            "cache_ttl and stale_if_error are over"
        );

        let never_seen = customer_session::TokenFormat::new("cst_").generate();
        let answer = bench.sessions.authenticate(&never_seen).await;
        assert!(
            matches!(answer, Err(AuthenticateError::Store(_))),
            "no fail-open"
        );
    }
}

#[tokio::test]
async fn a_store_that_answers_is_believed_whatever_stale_if_error_is() {
    let bench = Bench::with_grace().await;
    bench
        .store
        .inner
        .revoke(&bench.session.id)
        .await
        .expect("gone behind its back");
    bench.clock.advance(TTL);
    assert!(bench.is_invalid().await);
    bench.store.fault(Fault::Fail);
    bench.clock.advance(TTL);
    assert!(
        bench.is_unknown().await,
        "what is known to be gone is not served"
    );
}

#[tokio::test]
async fn no_expired_or_revoked_session_is_served_stale() {
    let bench = Bench::new(|it| it.stale_if_error(2 * HOUR)).await;
    bench.store.fault(Fault::Fail);
    bench.clock.advance(HOUR - MILLISECOND);
    bench.ask().await.expect("stale");
    bench.clock.advance(MILLISECOND);
    assert!(bench.is_unknown().await, "expired");

    let ids: [fn(&CustomerSession) -> Invalidation; 3] = [
        |session| Invalidation::Session(session.id.clone()),
        |session| Invalidation::Customer(session.customer_id.clone()),
        |_| Invalidation::All,
    ];
    for message in ids {
        let bench = Bench::with_grace().await;
        let messenger = bench.listen().await;
        bench.store.fault(Fault::Fail);
        bench.clock.advance(TTL);
        bench.ask().await.expect("stale");
        messenger.says(&bench, message(&bench.session)).await;
        assert!(bench.is_unknown().await, "{:?}", message(&bench.session));
    }
}

#[tokio::test]
async fn an_open_breaker_spares_the_store_and_probes_it_with_one_lookup() {
    let bench = Bench::new(|it| it).await;
    bench.clock.advance(TTL);
    bench.store.fault(Fault::Fail);
    for _ in 0..10 {
        assert!(bench.is_unknown().await);
    }
    assert_eq!(bench.store.lookups(), 11);
    assert!(bench.is_unknown().await);
    assert_eq!(bench.store.lookups(), 11, "it is open");
    assert!(bench.statistics().breaker_open);
    assert!(
        bench
            .sessions
            .rotate(&bench.session.token, HOUR)
            .await
            .is_err()
    );

    bench.clock.advance(PAUSE);
    assert!(bench.is_unknown().await);
    assert!(bench.is_unknown().await);
    assert_eq!(bench.store.lookups(), 12, "one tried");

    bench.store.fault(None);
    assert!(bench.is_unknown().await, "the pause is not over");
    bench.clock.advance(PAUSE);
    bench.ask().await.expect("it is back");
    assert!(!bench.statistics().breaker_open);
    assert_eq!(bench.statistics().breaker_opened, 1);
}

#[tokio::test]
async fn a_cooldown_of_zero_turns_the_breaker_off() {
    let bench = Bench::new(|it| it.breaker_cooldown(Duration::ZERO)).await;
    bench.clock.advance(TTL);
    bench.store.fault(Fault::Fail);
    for lookups in 2..=40 {
        assert!(bench.is_unknown().await);
        assert_eq!(
            bench.store.lookups(),
            lookups,
            "without a pause it never opens"
        );
    }
}

#[tokio::test]
async fn while_a_source_is_disconnected_every_request_is_a_lookup() {
    let bench = Bench::new(|it| it).await;
    let messenger = bench.listen().await;
    messenger.says(&bench, Invalidation::All).await;
    bench.ask().await.expect("live");
    bench.ask().await.expect("live");
    assert_eq!(bench.store.lookups(), 2, "cached");

    messenger.says(&bench, SourceEvent::Disconnected).await;
    messenger.says(&bench, SourceEvent::Disconnected).await;
    assert_eq!(bench.statistics().sources_lost, 1);
    bench.ask().await.expect("live");
    bench.ask().await.expect("live");
    assert_eq!(bench.store.lookups(), 4, "asked each time");
    bench
        .store
        .inner
        .revoke(&bench.session.id)
        .await
        .expect("revoked elsewhere");
    assert!(bench.is_invalid().await, "at once, though no message came");

    let bench = Bench::new(|it| it).await;
    let messenger = bench.listen().await;
    messenger.says(&bench, SourceEvent::Disconnected).await;
    bench.ask().await.expect("live");
    messenger.says(&bench, Invalidation::All).await;
    assert_eq!(bench.statistics().sources_lost, 0);
    bench.ask().await.expect("live");
    bench.ask().await.expect("live");
    assert_eq!(
        bench.store.lookups(),
        3,
        "looked up once more, then cached again"
    );
}

#[tokio::test]
async fn a_lookup_from_before_the_gap_is_not_used_after_it() {
    let bench = Bench::new(|it| it).await;
    let messenger = bench.listen().await;
    messenger.says(&bench, SourceEvent::Disconnected).await;
    bench.store.shut();
    let waiting = tokio::spawn({
        let (sessions, token) = (bench.sessions.clone(), bench.session.token.clone());
        async move { sessions.authenticate(&token).await }
    });
    bench.store.has_read(2).await;
    // Revoked elsewhere, and the message went into the gap.
    bench
        .store
        .inner
        .revoke(&bench.session.id)
        .await
        .expect("revoked");
    messenger.says(&bench, Invalidation::All).await;
    bench.store.open();
    let answer = waiting.await.expect("no panic");
    assert!(matches!(answer, Err(AuthenticateError::InvalidToken)));
    assert!(bench.is_invalid().await);
}

/// A store whose next answer is held back, until it is told, or its failure.
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
            held.await.expect("it is told");
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
    let (sender, receiver) = mpsc::unbounded_channel();
    tokio::spawn(sessions.listen(Messages(receiver)));
    let says = async |message| {
        sender.send(message).expect("somebody listens");
        for _ in 0..20 {
            tokio::task::yield_now().await;
        }
    };
    says(SourceEvent::Disconnected).await;

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
    store.inner.revoke(&session.id).await.expect("revoked");
    says(SourceEvent::from(Invalidation::All)).await;
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
    let bench = Bench::with_grace().await;
    let messenger = bench.listen().await;
    bench.store.fault(Fault::Fail);
    messenger.says(&bench, SourceEvent::Disconnected).await;
    bench.ask().await.expect("stale");
    messenger.says(&bench, Invalidation::All).await;
    bench
        .ask()
        .await
        .expect("doubted, but the store still fails");
    bench.store.fault(None);
    bench
        .store
        .inner
        .revoke(&bench.session.id)
        .await
        .expect("revoked in the gap");
    assert!(bench.is_invalid().await, "the store answers, and is asked");
}

#[tokio::test]
async fn a_listener_that_stops_while_disconnected_leaves_the_cache_in_use() {
    let bench = Bench::new(|it| it).await;
    let messenger = bench.listen().await;
    messenger.says(&bench, SourceEvent::Disconnected).await;
    messenger.listening.abort();
    bench.settle().await;
    assert_eq!(bench.statistics().sources_lost, 0);
    bench.ask().await.expect("live");
    bench.ask().await.expect("live");
    assert_eq!(bench.store.lookups(), 2, "looked up once more, then cached");
}

#[tokio::test]
async fn malformed_messages_are_counted_and_change_nothing() {
    let bench = Bench::new(|it| it).await;
    let messenger = bench.listen().await;
    for _ in 0..3 {
        messenger.says(&bench, SourceEvent::Malformed).await;
    }
    assert_eq!(bench.statistics().unreadable, 3);
    bench.ask().await.expect("cached");
    assert_eq!(bench.store.lookups(), 1);
}

#[tokio::test]
async fn answers_carry_their_verdict() {
    let bench = Bench::with_grace().await;
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
        let verdict = response.extensions().get::<Verdict>().copied();
        (
            response.status(),
            verdict,
            response.headers().get(RETRY_AFTER).cloned(),
        )
    };
    let token = bench.session.token.expose();
    let layer = || bench.sessions.layer();
    let told = || layer().verdict_on_hits();
    let other = customer_session::TokenFormat::new("cst_").generate();

    assert_eq!(
        ask(layer(), Some(token)).await.1,
        None,
        "a hit says nothing unless told"
    );
    assert_eq!(ask(told(), Some(token)).await.1, Some(Verdict::Fresh));
    assert_eq!(ask(told(), None).await.1, Some(Verdict::Anonymous));
    assert_eq!(
        ask(told().optional(), None).await.1,
        Some(Verdict::Anonymous)
    );
    assert_eq!(ask(told(), Some("garbage")).await.1, Some(Verdict::Absent));
    assert_eq!(
        ask(told(), Some(other.expose())).await.1,
        Some(Verdict::Absent)
    );
    bench.clock.advance(TTL);
    assert_eq!(ask(layer(), Some(token)).await.1, Some(Verdict::Verified));
    bench.clock.advance(TTL);
    bench.store.fault(Fault::Fail);
    assert_eq!(ask(layer(), Some(token)).await.1, Some(Verdict::Stale));
    let (status, verdict, retry) = ask(layer(), Some(other.expose())).await;
    assert_eq!(status, StatusCode::SERVICE_UNAVAILABLE);
    assert_eq!(verdict, Some(Verdict::Unknown));
    assert_eq!(retry.expect("Retry-After"), "1", "at the least");
}

#[tokio::test]
async fn retry_after_is_the_rest_of_the_breaker_s_cooldown() {
    let bench = Bench::new(|it| it.breaker_cooldown(Duration::from_secs(20))).await;
    bench.clock.advance(TTL);
    bench.store.fault(Fault::Fail);
    for _ in 0..10 {
        assert!(bench.is_unknown().await);
    }
    bench.clock.advance(Duration::from_millis(4500));
    let inner = service_fn(async |_: Request<Body>| {
        Ok::<_, std::convert::Infallible>(Response::new(Body::empty()))
    });
    let bearer = format!("Bearer {}", bench.session.token.expose());
    let request = Request::builder().header("authorization", bearer);
    let request = request.body(Body::empty()).expect("a request");
    let response = bench.sessions.layer().layer(inner).oneshot(request).await;
    let response = response.expect("infallible");
    assert_eq!(
        response.headers()[RETRY_AFTER],
        "16",
        "15.5 seconds are left"
    );
}
