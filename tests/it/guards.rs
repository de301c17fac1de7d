//! The guards of a layer: their answers, and that none lets in what the layer alone refuses.

use std::{
    convert::Infallible,
    panic::{AssertUnwindSafe, catch_unwind},
    sync::{
        Arc, Mutex,
        atomic::{AtomicUsize, Ordering::SeqCst},
    },
    task::{Context, Poll},
    time::Duration,
};

use axum::{Router, body::Body, response::IntoResponse as _, routing::get};
use bytes::Bytes;
use chrono::DateTime;
use customer_session::{
    Actor, Clock as _, CurrentSession, CustomerSession, CustomerSessionLayer, CustomerSessions,
    InsufficientScope, Member, MemberRole, NewSession, OrganizationId, Rejection, RejectionKind,
    Scopes, SessionDetails, SessionStore, SessionToken, SharedCaches, StoreError, TokenFormat,
    async_trait, testing::ManualClock,
};
use http::{Request, Response, StatusCode};
use http_body_util::BodyExt as _;
use tokio::sync::Semaphore;
use tower::{Layer as _, Service, ServiceExt as _, limit::ConcurrencyLimit, service_fn};

use test_support::{Fault, HOUR, ProbeStore, RegistryExt as _, Sessions, clock, customer};

const TTL: Duration = Duration::from_secs(60);
const MINUTES: Duration = Duration::from_secs(60);

/// A session of `org_1` with the scope `orders:read`, whose customer signed in ten minutes ago.
struct Fixture {
    store: Arc<ProbeStore>,
    clock: ManualClock,
    sessions: Sessions,
    session: CustomerSession,
}

impl Fixture {
    async fn new() -> Self {
        let (store, clock) = (Arc::new(ProbeStore::default()), clock());
        let sessions = CustomerSessions::builder(Arc::clone(&store))
            .clock(clock.clone())
            .cache_ttl(TTL)
            .cache_capacity(16)
            .stale_if_error(HOUR)
            .build();
        let new = NewSession::new(HOUR).scopes(["orders:read"]);
        let session = sessions.issue_with(customer("cus_1"), new).await;
        clock.advance(10 * MINUTES);
        Self {
            store,
            clock,
            sessions,
            session: session.expect("issued"),
        }
    }

    /// Creates a fixture whose session is cached.
    async fn cached() -> Self {
        let fixture = Self::new().await;
        fixture.authenticate().await;
        fixture
    }

    async fn authenticate(&self) {
        let session = self.sessions.authenticate(&self.session.token).await;
        session.expect("live");
    }

    fn layer(&self) -> CustomerSessionLayer {
        self.sessions.layer()
    }

    /// Sends a request with the session's token through `layer`.
    async fn send(&self, layer: CustomerSessionLayer) -> Response<Body> {
        send(layer, self.request()).await
    }

    async fn status(&self, layer: CustomerSessionLayer) -> u16 {
        self.send(layer).await.status().as_u16()
    }

    fn request(&self) -> Request<Body> {
        with_token(self.session.token.expose())
    }
}

fn with_token(token: &str) -> Request<Body> {
    let request = Request::get("/orders").header("authorization", format!("Bearer {token}"));
    request.body(Body::empty()).expect("a request")
}

fn without_token() -> Request<Body> {
    Request::new(Body::empty())
}

async fn send(layer: CustomerSessionLayer, request: Request<Body>) -> Response<Body> {
    let inner =
        service_fn(async |_: Request<Body>| Ok::<_, Infallible>(Response::new(Body::empty())));
    let response = layer.layer(inner).oneshot(request).await;
    response.expect("infallible").map(Body::new)
}

fn kind(response: &Response<Body>) -> Option<RejectionKind> {
    response.extensions().get().map(Rejection::kind)
}

/// Returns the whole response as text: status, headers in the order of their names, body.
async fn text(response: Response<Body>) -> String {
    let mut headers: Vec<_> = response
        .headers()
        .iter()
        .map(|(name, value)| format!("{name}: {}\n", value.to_str().expect("ASCII")))
        .collect();
    headers.sort();
    let status = response.status().as_u16();
    let body = response.into_body().collect().await.expect("a body");
    let body = String::from_utf8(body.to_bytes().to_vec()).expect("UTF-8");
    format!("{status}\n{}\n{body}", headers.concat())
}

#[tokio::test]
async fn a_session_without_the_scope_is_told_which_scopes_are_required() {
    let fixture = Fixture::cached().await;
    let layer = fixture.layer().require_scope("orders:write").realm("shop");
    let layer = layer.expect("a realm").require_scope("orders:read");
    assert_eq!(
        text(fixture.send(layer).await).await,
        "403\n\
         cache-control: no-store\n\
         content-type: application/problem+json\n\
         www-authenticate: Bearer realm=\"shop\", error=\"insufficient_scope\", \
         error_description=\"The session does not have the required scope\", \
         scope=\"orders:read orders:write\"\n\
         \n\
         {\"type\":\"about:blank\",\"title\":\"Forbidden\",\"status\":403,\
         \"detail\":\"The session does not have the required scope.\"}"
    );
    assert_eq!(
        fixture
            .status(fixture.layer().require_scope("orders:read"))
            .await,
        200
    );
}

#[tokio::test]
async fn a_sign_in_too_long_ago_is_told_the_greatest_age() {
    let fixture = Fixture::cached().await;
    let layer = fixture.layer().optional().require_recent(HOUR);
    assert_eq!(fixture.status(layer.clone()).await, 200);
    let layer = layer.require_recent(Duration::from_millis(299_999));
    assert_eq!(
        text(fixture.send(layer.require_recent(HOUR)).await).await,
        "401\n\
         cache-control: no-store\n\
         content-type: application/problem+json\n\
         vary: authorization\n\
         www-authenticate: Bearer realm=\"customer\", \
         error=\"insufficient_user_authentication\", \
         error_description=\"A more recent sign-in is required\", max_age=\"299\"\n\
         \n\
         {\"type\":\"about:blank\",\"title\":\"Unauthorized\",\"status\":401,\
         \"detail\":\"A more recent sign-in is required.\"}"
    );
}

#[tokio::test]
async fn a_sign_in_ahead_of_the_clock_is_recent_for_a_minute_alone() {
    for (seconds, status) in [(60, 200), (61, 401)] {
        let fixture = Fixture::new().await;
        let mut session = fixture.session.clone();
        let ahead = chrono::TimeDelta::seconds(seconds);
        session.details.authenticated_at = Some(fixture.clock.now() + ahead);
        let store = Arc::new(Changing {
            session: Mutex::new(session),
            caches: SharedCaches::new(),
        });
        let sessions = CustomerSessions::builder(store).clock(fixture.clock.clone());
        let layer = sessions.build().layer().require_recent(HOUR);
        assert_eq!(fixture.status(layer).await, status, "{seconds}");
    }
}

#[tokio::test]
async fn a_request_that_a_function_does_not_allow_gets_no_challenge() {
    let fixture = Fixture::cached().await;
    let layer = fixture.layer().require(|session, head| {
        assert_eq!(session.customer.id.as_str(), "cus_1");
        head.uri.path() != "/orders"
    });
    assert_eq!(
        text(fixture.send(layer.clone().require(|_, _| true)).await).await,
        "403\n\
         cache-control: no-store\n\
         content-type: application/problem+json\n\
         \n\
         {\"type\":\"about:blank\",\"title\":\"Forbidden\",\"status\":403,\
         \"detail\":\"The request is not allowed.\"}"
    );
    let mut request = fixture.request();
    *request.uri_mut() = "/other".parse().expect("a URI");
    assert_eq!(send(layer, request).await.status(), 200);
}

#[tokio::test]
async fn a_session_of_another_organization_is_answered_like_an_unknown_token() {
    let fixture = Fixture::new().await;
    let other = |layer: CustomerSessionLayer| {
        layer
            .organization(|_| Some("org_2"))
            // What stands behind it is not reached, and tells nothing.
            .require_scope("no:session:has:this")
            .require(|_, _| panic!("not reached"))
    };
    let unknown = with_token(TokenFormat::new("cst_").generate().expose());
    let unknown = text(send(fixture.layer(), unknown).await).await;
    assert!(unknown.starts_with("401") && unknown.contains("invalid_token"));
    for layer in [
        other(fixture.layer()),
        fixture.layer().organization(|_| None),
    ] {
        let bare = fixture.layer();
        for case in ["miss", "hit"] {
            let response = fixture.send(layer.clone()).await;
            assert_eq!(kind(&response), Some(RejectionKind::InvalidToken), "{case}");
            assert_eq!(text(response).await, unknown, "{case}");
            assert_eq!(fixture.status(bare.clone()).await, 200);
        }
    }
    // While the store fails, neither is told from the other.
    fixture.clock.advance(2 * TTL);
    fixture.store.fault(Fault::Fail);
    assert_eq!(fixture.status(fixture.layer()).await, 200, "stale");
    assert_eq!(fixture.status(other(fixture.layer())).await, 503);
}

#[tokio::test]
async fn the_organization_comes_from_the_request() {
    let fixture = Fixture::cached().await;
    let layer = fixture.layer().organization(|head| {
        let organization = head.extensions.get::<OrganizationId>();
        organization.map(OrganizationId::as_str)
    });
    let layer = layer.organization(|head| head.headers.get("x-org")?.to_str().ok());
    for (one, other, status) in [
        ("org_1", "org_1", 200),
        ("org_1", "org_2", 401),
        ("org_2", "org_1", 401),
        ("org_2", "org_2", 401),
        ("ORG_1", "org_1", 401),
        ("", "", 401),
    ] {
        let mut request = fixture.request();
        request.extensions_mut().insert(OrganizationId::from(one));
        let header = other.parse().expect("a value");
        request.headers_mut().insert("x-org", header);
        let response = send(layer.clone(), request).await;
        assert_eq!(response.status(), status, "{one}, {other}");
    }
}

/// A guard, and its answers to the session of [`Fixture`].
struct Case {
    name: &'static str,
    add: fn(CustomerSessionLayer) -> CustomerSessionLayer,
    /// To a session that is fresh.
    fresh: Answer,
    /// To a session that is stale.
    stale: Answer,
    needs_session: bool,
}

/// The kind of refusal, or `None` for a request that is let in.
type Answer = Option<RejectionKind>;

const UNAVAILABLE: Answer = Some(RejectionKind::StoreUnavailable);

/// All guards in the order in which they decide.
fn cases() -> Vec<Case> {
    let case = |name, add, fresh, stale, needs_session| Case {
        name,
        add,
        fresh,
        stale,
        needs_session,
    };
    let same = |name, add, answer| case(name, add, answer, answer, true);
    vec![
        case(
            "without_stale",
            |layer| layer.without_stale(),
            None,
            UNAVAILABLE,
            false,
        ),
        case(
            "verified",
            |layer| layer.verified(),
            None,
            UNAVAILABLE,
            false,
        ),
        case(
            "another organization",
            |layer| layer.organization(|_| Some("org_2")),
            Some(RejectionKind::InvalidToken),
            UNAVAILABLE,
            true,
        ),
        same(
            "organization",
            |layer| layer.organization(|_| Some("org_1")),
            None,
        ),
        same("recent", |layer| layer.require_recent(HOUR), None),
        same(
            "not recent",
            |layer| layer.require_recent(5 * MINUTES),
            Some(RejectionKind::NotRecent),
        ),
        same("scope", |layer| layer.require_scope("orders:read"), None),
        same(
            "missing scope",
            |layer| layer.require_scope("orders:write"),
            Some(RejectionKind::InsufficientScope),
        ),
        same("allowed", |layer| layer.require(|_, _| true), None),
        same(
            "not allowed",
            |layer| layer.require(|_, _| false),
            Some(RejectionKind::Forbidden),
        ),
    ]
}

/// The state in which a request comes.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Situation {
    Hit,
    Miss,
    Stale,
    Unknown,
    StoreFails,
    Anonymous,
    AnonymousOptional,
    TokenOptional,
    Preflight,
}

use Situation::{
    Anonymous, AnonymousOptional, Hit, Miss, Preflight, Stale, StoreFails, TokenOptional, Unknown,
};

/// Sends one request, in this situation, through a layer with these guards.
async fn answer(situation: Situation, guards: &[&Case]) -> Answer {
    let fixture = Fixture::new().await;
    let mut layer = fixture.layer();
    let mut request = fixture.request();
    match situation {
        Hit => fixture.authenticate().await,
        Miss => {}
        Stale => {
            fixture.authenticate().await;
            fixture.clock.advance(2 * TTL);
            fixture.store.fault(Fault::Fail);
        }
        Unknown => request = with_token(TokenFormat::new("cst_").generate().expose()),
        StoreFails => fixture.store.fault(Fault::Fail),
        Anonymous => request = without_token(),
        AnonymousOptional => {
            layer = layer.optional();
            request = without_token();
        }
        TokenOptional => layer = layer.optional(),
        Preflight => {
            layer = layer.pass_preflights();
            let preflight = Request::options("/orders")
                .header("origin", "https://app.example")
                .header("access-control-request-method", "GET");
            request = preflight.body(Body::empty()).expect("a request");
        }
    }
    for guard in guards {
        layer = (guard.add)(layer);
    }
    let response = send(layer, request).await;
    let kind = kind(&response);
    assert_eq!(kind.is_none(), response.status() == StatusCode::OK);
    kind
}

/// Returns the answer of the bare layer, of a guard alone, or of many.
fn expected(situation: Situation, guards: &[&Case]) -> Answer {
    let first = |answer: fn(&Case) -> Answer| guards.iter().find_map(|guard| answer(guard));
    match situation {
        Hit | Miss | TokenOptional => first(|guard| guard.fresh),
        Stale => first(|guard| guard.stale),
        Unknown => Some(RejectionKind::InvalidToken),
        StoreFails => UNAVAILABLE,
        Anonymous => Some(RejectionKind::MissingToken),
        AnonymousOptional => {
            first(|guard| guard.needs_session.then_some(RejectionKind::MissingToken))
        }
        Preflight => None,
    }
}

const SITUATIONS: [Situation; 9] = [
    Hit,
    Miss,
    Stale,
    Unknown,
    StoreFails,
    Anonymous,
    AnonymousOptional,
    TokenOptional,
    Preflight,
];

#[tokio::test]
async fn each_guard_has_its_answer_in_each_situation() {
    for situation in SITUATIONS {
        let bare = answer(situation, &[]).await;
        assert_eq!(bare, expected(situation, &[]), "{situation:?}");
        for guard in &cases() {
            let answer = answer(situation, &[guard]).await;
            let context = format!("{situation:?}, {}", guard.name);
            assert_eq!(answer, expected(situation, &[guard]), "{context}");
        }
    }
}

#[tokio::test]
async fn no_combination_lets_in_what_the_layer_or_one_of_its_guards_refuses() {
    let cases = cases();
    for situation in SITUATIONS {
        let bare = answer(situation, &[]).await;
        // All combinations where guards have a say, elsewhere those of two.
        let has_all = matches!(situation, Hit | Stale | AnonymousOptional);
        let subsets = 0..1_u32 << cases.len();
        for subset in subsets.filter(|subset| has_all || subset.count_ones() <= 2) {
            let chosen = |(index, case)| (subset >> index & 1 == 1).then_some(case);
            let mut guards: Vec<&Case> = cases.iter().enumerate().filter_map(chosen).collect();
            let expected = expected(situation, &guards);
            // The order in which they are added does not matter.
            if subset % 2 == 1 {
                guards.reverse();
            }
            let answer = answer(situation, &guards).await;
            let names: Vec<_> = guards.iter().map(|guard| guard.name).collect();
            let context = format!("{situation:?}, {names:?}");
            assert_eq!(answer, expected, "{context}");
            assert!(bare.is_none() || answer == bare, "{context}");
        }
    }
}

#[tokio::test]
async fn an_anonymous_request_is_refused_as_without_optional() {
    let fixture = Fixture::new().await;
    let guarded = fixture.layer().optional().require_scope("orders:read");
    assert_eq!(
        text(send(guarded, without_token()).await).await,
        "401\n\
         cache-control: no-store\n\
         content-type: application/problem+json\n\
         vary: authorization\n\
         www-authenticate: Bearer realm=\"customer\"\n\
         \n\
         {\"type\":\"about:blank\",\"title\":\"Unauthorized\",\"status\":401,\
         \"detail\":\"Sign-in is required.\"}"
    );
    // The order of the calls does not matter.
    let guarded = fixture.layer().require(|_, _| true).optional();
    assert_eq!(send(guarded, without_token()).await.status(), 401);
}

#[tokio::test]
async fn the_age_of_a_sign_in_is_exact() {
    let fixture = Fixture::cached().await;
    let layer = fixture.layer().require_recent(10 * MINUTES);
    assert_eq!(fixture.status(layer.clone()).await, 200);
    fixture.clock.advance(Duration::from_millis(1));
    assert_eq!(fixture.status(layer).await, 401);
    let layer = fixture.layer().require_recent(Duration::MAX);
    assert_eq!(fixture.status(layer).await, 200);
}

#[tokio::test]
async fn a_session_that_was_authenticated_again_is_recent() {
    let fixture = Fixture::cached().await;
    let layer = fixture.layer().require_recent(5 * MINUTES);
    assert_eq!(fixture.status(layer.clone()).await, 401);
    let again = fixture
        .sessions
        .reauthenticated(&fixture.session.token, HOUR);
    let again = again.await.expect("an answer").expect("live");
    let response = send(layer, with_token(again.token.expose())).await;
    assert_eq!(response.status(), 200);
}

#[tokio::test]
async fn a_session_without_the_time_of_its_sign_in_is_not_recent() {
    let fixture = Fixture::new().await;
    let mut session = fixture.session.clone();
    session.id = "ses_bare".into();
    session.token = TokenFormat::new("cst_").generate();
    session.details = SessionDetails::default();
    fixture.store.inner.add(&session).await.expect("inserted");
    let request = with_token(session.token.expose());
    let layer = fixture.layer().require_recent(Duration::MAX);
    let response = send(layer, request).await;
    assert_eq!(kind(&response), Some(RejectionKind::NotRecent));
}

#[tokio::test]
async fn a_verified_request_asks_the_store_whatever_is_cached() {
    let fixture = Fixture::cached().await;
    for _ in 0..3 {
        let before = fixture.store.lookups();
        assert_eq!(fixture.status(fixture.layer().verified()).await, 200);
        assert_eq!(fixture.store.lookups(), before + 1);
        assert_eq!(fixture.status(fixture.layer()).await, 200);
        assert_eq!(fixture.store.lookups(), before + 1);
    }
    // One that is under way may have begun before a change, and is not joined.
    let before = fixture.store.lookups();
    fixture.store.shut();
    let verified = || tokio::spawn(send(fixture.layer().verified(), fixture.request()));
    let requests = [verified(), verified(), verified()];
    fixture.store.was_asked(before + 3).await;
    fixture.store.open();
    for request in requests {
        assert_eq!(request.await.expect("no panic").status(), 200);
    }
    assert_eq!(fixture.store.lookups(), before + 3);
}

#[tokio::test]
async fn a_verified_request_finds_what_was_not_announced_and_the_cache_learns_of_it() {
    let fixture = Fixture::cached().await;
    let ended = fixture.store.inner.end(&fixture.session.id).await;
    assert!(ended.expect("an answer"), "it was live");
    assert_eq!(fixture.status(fixture.layer()).await, 200, "cached");
    assert_eq!(fixture.status(fixture.layer().verified()).await, 401);
    let lookups = fixture.store.lookups();
    assert_eq!(fixture.status(fixture.layer()).await, 401);
    // It is remembered now.
    assert_eq!(fixture.status(fixture.layer().verified()).await, 401);
    assert_eq!(fixture.store.lookups(), lookups);
}

#[tokio::test]
async fn what_a_verified_request_has_found_is_cached() {
    let fixture = Fixture::new().await;
    assert_eq!(fixture.status(fixture.layer().verified()).await, 200);
    let lookups = fixture.store.lookups();
    assert_eq!(fixture.status(fixture.layer()).await, 200);
    assert_eq!(fixture.store.lookups(), lookups);
}

#[tokio::test]
async fn a_session_revoked_during_the_lookup_of_a_verified_request_is_refused() {
    let fixture = Fixture::cached().await;
    let before = fixture.store.lookups();
    let read = fixture.store.lookups();
    fixture.store.shut();
    let request = tokio::spawn(send(fixture.layer().verified(), fixture.request()));
    fixture.store.has_read(read + 1).await;
    let revoked = fixture.sessions.revoke(&fixture.session.id).await;
    assert!(revoked.expect("revoked"));
    fixture.store.open();
    assert_eq!(request.await.expect("no panic").status(), 401);
    assert_eq!(fixture.store.lookups(), before + 2);
}

#[tokio::test(start_paused = true)]
async fn a_store_that_hangs_is_503_behind_every_guard() {
    for guard in &cases() {
        let fixture = Fixture::new().await;
        fixture.store.fault(Fault::Hang);
        let response = fixture.send((guard.add)(fixture.layer())).await;
        assert_eq!(response.status(), 503, "{}", guard.name);
        assert!(response.headers().contains_key("retry-after"));
    }
}

#[tokio::test]
async fn a_panic_of_a_function_reaches_the_caller_and_not_the_handler() {
    let reached = Arc::new(AtomicUsize::new(0));
    let inner = {
        let reached = Arc::clone(&reached);
        service_fn(move |_: Request<Body>| {
            reached.fetch_add(1, SeqCst);
            std::future::ready(Ok::<_, Infallible>(Response::new(Body::empty())))
        })
    };
    let guards: [fn(CustomerSessionLayer) -> CustomerSessionLayer; 2] = [
        |layer| layer.require(|_, _| panic!("the function panics")),
        |layer| layer.organization(|_| panic!("the function panics")),
    ];
    for add in guards {
        let fixture = Fixture::new().await;
        let service = add(fixture.layer()).layer(inner.clone());
        let miss = tokio::spawn(service.clone().oneshot(fixture.request())).await;
        assert!(miss.expect_err("a panic").is_panic());
        fixture.authenticate().await;
        let mut service = service;
        let hit = catch_unwind(AssertUnwindSafe(|| service.call(fixture.request())));
        assert!(hit.is_err(), "a panic");
    }
    assert_eq!(reached.load(SeqCst), 0);
}

/// A store with one session, which changes without an announcement.
struct Changing {
    session: Mutex<CustomerSession>,
    caches: SharedCaches,
}

#[async_trait]
impl SessionStore for Changing {
    async fn find(&self, _: &SessionToken) -> Result<Option<CustomerSession>, StoreError> {
        Ok(Some(self.session.lock().expect("no panic").clone()))
    }

    fn shared_caches(&self) -> Option<&SharedCaches> {
        Some(&self.caches)
    }
}

#[tokio::test]
async fn no_copy_of_a_session_is_used_that_allows_more_than_the_store_says() {
    let narrow: [fn(&mut SessionDetails); 5] = [
        |details| details.actor = Some(Actor::new("staff:ann")),
        |details| details.member = Some(Member::new("mem_1", MemberRole::Member)),
        |details| details.scopes = Scopes::default(),
        |details| details.authenticated_at = None,
        |details| details.authenticated_at = Some(DateTime::UNIX_EPOCH),
    ];
    for narrow in narrow {
        let fixture = Fixture::new().await;
        let store = Arc::new(Changing {
            session: Mutex::new(fixture.session.clone()),
            caches: SharedCaches::new(),
        });
        let sessions = || {
            let builder = CustomerSessions::builder(Arc::clone(&store));
            builder.clock(fixture.clock.clone()).build()
        };
        let guarded = |sessions: &CustomerSessions<Arc<Changing>>| {
            let layer = sessions.layer().require_scope("orders:read");
            layer
                .require(|session, _| session.details.actor.is_none())
                .require(|session, _| session.details.member.is_none())
                .require_recent(HOUR)
        };
        let (one, other) = (sessions(), sessions());
        assert_eq!(fixture.status(guarded(&one)).await, 200);
        assert_eq!(fixture.status(guarded(&other)).await, 200);
        narrow(&mut store.session.lock().expect("no panic").details);
        assert_eq!(fixture.status(guarded(&one)).await, 200, "cached");
        assert_ne!(fixture.status(guarded(&other).verified()).await, 200);
        assert_ne!(fixture.status(guarded(&one)).await, 200);
    }
}

/// A service that is never ready.
#[derive(Clone)]
struct NeverReady;

impl Service<Request<Body>> for NeverReady {
    type Response = Response<Body>;
    type Error = Infallible;
    type Future = std::future::Ready<Result<Response<Body>, Infallible>>;

    fn poll_ready(&mut self, _: &mut Context<'_>) -> Poll<Result<(), Infallible>> {
        Poll::Pending
    }

    fn call(&mut self, _: Request<Body>) -> Self::Future {
        panic!("it is never ready")
    }
}

#[tokio::test]
async fn a_refused_request_does_not_wait_for_the_service() {
    let fixture = Fixture::new().await;
    let mut service = fixture.layer().require(|_, _| false).layer(NeverReady);
    let refused = service.call(fixture.request());
    let refused = tokio::time::timeout(Duration::from_secs(10), refused).await;
    let response = refused.expect("it does not wait").expect("infallible");
    assert_eq!(response.status(), 403);
}

#[test]
fn a_text_that_is_not_a_scope_panics_at_start_up() {
    let store = || CustomerSessionLayer::new(ProbeStore::default());
    let long = "x".repeat(129);
    for scope in ["", " ", "a b", "a\"b", "a\\b", "é", "a\nb", &long] {
        let built = catch_unwind(AssertUnwindSafe(|| store().require_scope(scope)));
        assert!(built.is_err(), "{scope:?}");
    }
    let scopes = |count: usize| {
        (0..count).fold(store(), |layer, number| {
            layer.require_scope(format!("s{number}"))
        })
    };
    // A repeated one does not count.
    drop(scopes(64).require_scope("s1"));
    assert!(catch_unwind(AssertUnwindSafe(|| scopes(65))).is_err());
}

#[tokio::test]
async fn refusals_by_guards_are_counted_apart() {
    let fixture = Fixture::new().await;
    for case in cases() {
        let before = fixture.sessions.statistics();
        let refused = fixture.status((case.add)(fixture.layer())).await != 200;
        let after = fixture.sessions.statistics();
        let counted = after.refused_by_guards - before.refused_by_guards;
        assert_eq!(counted, u64::from(refused), "{}", case.name);
        assert_eq!(after.rejected, before.rejected, "{}", case.name);
    }
}

#[tokio::test]
async fn a_refusal_by_a_guard_can_be_worded_but_not_made_a_success() {
    let fixture = Fixture::cached().await;
    let worded = |layer: CustomerSessionLayer| {
        layer.rejection_response(|rejection| {
            Response::new(Bytes::from(format!("{:?}", rejection.kind())))
        })
    };
    for (layer, status, challenge) in [
        (
            fixture.layer().require_scope("orders:write"),
            403,
            "insufficient_scope",
        ),
        (
            fixture.layer().require_recent(MINUTES),
            401,
            "insufficient_user_authentication",
        ),
        (fixture.layer().require(|_, _| false), 403, ""),
    ] {
        let response = fixture.send(worded(layer)).await;
        let kind = kind(&response).expect("refused");
        let text = text(response).await;
        assert!(text.starts_with(&status.to_string()), "{text}");
        assert!(text.contains("cache-control: no-store"), "{text}");
        assert_eq!(text.contains("www-authenticate"), !challenge.is_empty());
        assert!(text.contains(challenge), "{text}");
        assert!(text.ends_with(&format!("{kind:?}")), "{text}");
    }
}

#[tokio::test]
async fn a_handler_that_requires_a_scope_answers_as_the_layer_does() {
    let fixture = Fixture::cached().await;
    let app: Router = Router::new()
        .route(
            "/orders",
            get(async |session: CurrentSession| {
                session.details.require("orders:read")?;
                session.details.require("orders:write")?;
                Ok::<_, InsufficientScope>(())
            }),
        )
        .layer(fixture.layer());
    let mut by_handler = app.oneshot(fixture.request()).await.expect("infallible");
    let by_layer = fixture.send(fixture.layer().require_scope("orders:write"));
    assert_eq!(kind(&by_handler), Some(RejectionKind::InsufficientScope));
    by_handler.headers_mut().remove("content-length");
    assert_eq!(text(by_handler).await, text(by_layer.await).await);
}

#[tokio::test]
async fn a_challenge_names_no_text_that_is_not_a_scope() {
    for scope in ["", "a\", error=\"x", "a\r\nset-cookie: x=y", "a b", "é"] {
        let error = SessionDetails::default().require(scope).expect_err(scope);
        assert_eq!(
            error.into_response().headers()["www-authenticate"],
            "Bearer realm=\"customer\", error=\"insufficient_scope\", \
             error_description=\"The session does not have the required scope\"",
        );
    }
}

#[tokio::test]
async fn a_sign_in_that_gets_too_old_while_its_request_waits_for_the_service_is_refused() {
    for (waits_for, status) in [(4 * MINUTES, 200), (6 * MINUTES, 401)] {
        let fixture = Fixture::new().await;
        let inner =
            service_fn(async |_: Request<Body>| Ok::<_, Infallible>(Response::new(Body::empty())));
        let permits = Arc::new(Semaphore::new(0));
        let full = ConcurrencyLimit::with_semaphore(inner, Arc::clone(&permits));
        let layer = fixture.layer().require_recent(15 * MINUTES);
        let request = tokio::spawn(layer.layer(full).call(fixture.request()));
        fixture.store.has_read(1).await;
        while fixture.sessions.statistics().verified == 0 {
            tokio::task::yield_now().await;
        }
        fixture.clock.advance(waits_for);
        permits.add_permits(1);
        let response = request.await.expect("no panic").expect("infallible");
        let response = response.map(Body::new);
        assert_eq!(response.status(), status, "{waits_for:?}");
        let refused = (status == 401).then_some(RejectionKind::NotRecent);
        assert_eq!(kind(&response), refused);
    }
}
