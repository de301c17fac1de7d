//! Polar's webhooks: which deliveries are accepted, and their effects.

use std::time::Duration;

use axum::{Router, body::Body, routing::get};
use chrono::{TimeDelta, Utc};
use customer_session::{
    Clock as _, Customer, CustomerSessions, CustomerSessionsBuilder, Invalidation,
    InvalidationSource as _, SessionToken,
    polar::{EventKind, PolarStore, WebhookError, WebhookService, Webhooks},
    testing::ManualClock,
};
use futures_util::FutureExt as _;
use http::{HeaderMap, HeaderValue, Request, Response, StatusCode};
use http_body_util::BodyExt as _;
use serde_json::json;
use tower::ServiceExt as _;

use super::fake_polar::{FakePolar, JANE, PLAIN, sign};
use crate::log::Log;
use test_support::clock;

pub(super) const SECRET: &str = "whsec_c2VjcmV0IG9mIGEgdGVzdA";

/// A delivery, with signatures from another implementation whose key is the whole `SECRET`.
const NEW_SECRET: &str = "whsec_a_new_secret_of_polar";
pub(super) const BODY: &str = concat!(
    r#"{"type":"customer.updated","timestamp":"2030-01-01T00:00:00.000001Z","data":{"id":"cus_1","#,
    r#""created_at":"2029-01-01T00:00:00Z","organization_id":"org_1","name":"Jane Roe"}}"#
);
const SIGNATURE: &str = "v1,MQ6YP6iiSknHOYnkF9r2bnQ1V022Sud/94RseS7W6To=";
const SIGNATURE_OF_NEWER: &str = "v1,MfHIhKZpFOs5BDJDJRr2shDQwxruVtJFq1DtVnlJXUQ=";
/// A signature whose key is the decoded secret.
const SIGNATURE_OF_OTHERS: &str = "v1,207RpH8z0RoZafZryTx0cX7peO+Lkr53MFGY+rvwQto=";

fn headers(id: &str, timestamp: &str, signature: &str) -> HeaderMap {
    let mut headers = HeaderMap::new();
    for (name, value) in [
        ("webhook-id", id),
        ("webhook-timestamp", timestamp),
        ("webhook-signature", signature),
    ] {
        headers.insert(name, value.parse().expect("a value"));
    }
    headers
}

pub(super) fn genuine() -> HeaderMap {
    headers("msg_1", "1893456000", SIGNATURE)
}

pub(super) fn webhooks() -> (Webhooks, ManualClock) {
    let clock = clock();
    let webhooks = Webhooks::new(SECRET).expect("a secret");
    (webhooks.clock(clock.clone()), clock)
}

#[test]
fn a_genuine_delivery_is_read() {
    let event = webhooks().0.verify(&genuine(), BODY.as_bytes());
    let event = event.expect("genuine");
    assert_eq!(event.id, "msg_1");
    assert_eq!(event.kind, EventKind::CustomerUpdated);
    assert_eq!(event.timestamp.timestamp_subsec_micros(), 1);
    let customer = event.customer.as_ref().expect("a customer");
    assert_eq!(customer.name.as_deref(), Some("Jane Roe"));
    let expected = Invalidation::Customer("cus_1".into());
    assert_eq!(event.invalidation(), Some(expected));
}

/// The secret is base64 without padding. Polar's own libraries decode it, padded or not.
#[test]
fn the_decoded_secret_is_a_key_too_padded_or_not() {
    for secret in [SECRET.to_owned(), format!("{SECRET}==")] {
        let webhooks = Webhooks::new(secret).expect("a secret").clock(clock());
        let others = headers("msg_1", "1893456000", SIGNATURE_OF_OTHERS);
        let event = webhooks.verify(&others, BODY.as_bytes());
        assert_eq!(event.expect("genuine").id, "msg_1");
    }
}

/// Secrets created since September 2026 are base64, and the key is the decoded secret. Signed by
/// another implementation, as `BODY` with `SECRET`.
#[test]
fn a_newer_secret_is_used_as_the_standard_has_it() {
    let (_, clock) = webhooks();
    let secret = "whsec_MDEyMzQ1Njc4OWFiY2RlZjAxMjM0NTY3ODlhYmNkZWY=";
    let webhooks = Webhooks::new(secret).expect("a secret").clock(clock);
    let standard = headers("msg_1", "1893456000", SIGNATURE_OF_NEWER);
    let event = webhooks.verify(&standard, BODY.as_bytes());
    assert_eq!(event.expect("genuine").kind, EventKind::CustomerUpdated);
    assert!(Webhooks::new("whsec_").is_err(), "any client has its key");
}

/// Found by the fuzz target `webhook`: spaces alone were counted as signatures.
#[test]
fn what_is_no_signature_of_version_1_leaves_room_for_those_that_are() {
    let (webhooks, _) = webhooks();
    for others in [" ".repeat(20), "v2,a ".repeat(20), "v1,a ".repeat(15)] {
        let signatures = format!("{others}{SIGNATURE}");
        let delivery = headers("msg_1", "1893456000", &signatures);
        let event = webhooks
            .verify(&delivery, BODY.as_bytes())
            .expect("genuine");
        webhooks.forget(&event);
    }
    let too_many = format!("{}{SIGNATURE}", "v1,a ".repeat(16));
    let refused = webhooks.verify(&headers("msg_1", "1893456000", &too_many), BODY.as_bytes());
    assert_eq!(refused, Err(WebhookError::WrongSignature));
}

#[test]
fn any_change_to_a_delivery_is_noticed() {
    let (webhooks, _) = webhooks();
    let refused = |headers: &HeaderMap, body: &str| {
        let verified = webhooks.verify(headers, body.as_bytes());
        verified.expect_err("it is not genuine")
    };
    for place in 0..BODY.len() {
        let mut changed = BODY.as_bytes().to_vec();
        changed[place] ^= 1;
        let error = webhooks.verify(&genuine(), &changed);
        assert_eq!(error, Err(WebhookError::WrongSignature), "at {place}");
    }
    for place in 0..SIGNATURE.len() - 1 {
        let mut changed = SIGNATURE.as_bytes().to_vec();
        changed[place] = if changed[place] == b'x' { b'y' } else { b'x' };
        let changed = String::from_utf8(changed).expect("ASCII");
        let error = refused(&headers("msg_1", "1893456000", &changed), BODY);
        assert_eq!(error, WebhookError::WrongSignature, "at {place}");
    }
    for headers in [
        headers("msg_2", "1893456000", SIGNATURE),
        headers("msg_1", "1893456001", SIGNATURE),
        headers("msg_1", "01893456000", SIGNATURE),
        headers("msg_1", "1893456000", ""),
        headers("msg_1", "1893456000", "v1,"),
        headers("msg_1", "1893456000", &SIGNATURE.replace("v1,", "v2,")),
        headers("msg_1", "1893456000", &SIGNATURE.replace("v1,", "v1a,")),
    ] {
        assert_eq!(refused(&headers, BODY), WebhookError::WrongSignature);
    }
    assert_eq!(refused(&genuine(), ""), WebhookError::WrongSignature);
    for timestamp in [
        "",
        "now",
        "-1893456000",
        "+1893456000",
        "1893456000.5",
        "1e9",
        "9".repeat(30).as_str(),
    ] {
        let error = refused(&headers("msg_1", timestamp, SIGNATURE), BODY);
        assert_eq!(
            error,
            WebhookError::UnusableHeader("webhook-timestamp"),
            "{timestamp}"
        );
    }
    for name in ["webhook-id", "webhook-timestamp", "webhook-signature"] {
        let mut without = genuine();
        let value = without.remove(name).expect("it was there");
        assert_eq!(refused(&without, BODY), WebhookError::MissingHeader(name));
        let mut twice = genuine();
        twice.append(name, value);
        assert_eq!(refused(&twice, BODY), WebhookError::UnusableHeader(name));
        let mut odd = genuine();
        odd.insert(name, HeaderValue::from_bytes(b"\xff").expect("a value"));
        assert_eq!(refused(&odd, BODY), WebhookError::UnusableHeader(name));
    }
    // After all that the genuine delivery is still new.
    webhooks
        .verify(&genuine(), BODY.as_bytes())
        .expect("genuine");
}

#[test]
fn a_delivery_is_accepted_once_within_five_minutes_of_its_time() {
    let minutes = |minutes: i64, seconds: i64| TimeDelta::seconds(60 * minutes + seconds);
    for (off, is_in_time) in [
        (minutes(5, 0), true),
        (minutes(5, 1), false),
        (minutes(-5, 0), true),
        (minutes(-5, -1), false),
    ] {
        let (webhooks, clock) = webhooks();
        clock.set(clock.now() + off);
        let verified = webhooks.verify(&genuine(), BODY.as_bytes());
        assert_eq!(verified.is_ok(), is_in_time, "{off}");
        if !is_in_time {
            assert_eq!(verified, Err(WebhookError::OutOfTime));
        }
    }
    // There is no time at which it is accepted again, whenever it first came.
    let (webhooks, clock) = webhooks();
    let sent = clock.now();
    clock.set(sent + minutes(-5, 0));
    webhooks
        .verify(&genuine(), BODY.as_bytes())
        .expect("the first");
    for second in -300..=301 {
        clock.set(sent + minutes(0, second));
        // Other deliveries come, and expired ones are forgotten.
        let other = second.to_string();
        let timestamp = clock.now().timestamp().to_string();
        let signature = sign(SECRET, &other, &timestamp, BODY);
        let other = webhooks.verify(&headers(&other, &timestamp, &signature), BODY.as_bytes());
        other.expect("another");
        let again = webhooks.verify(&genuine(), BODY.as_bytes());
        let expected = match second {
            301 => WebhookError::OutOfTime,
            _ => WebhookError::Replayed,
        };
        assert_eq!(again, Err(expected), "after {second} s");
    }
}

#[test]
fn clones_share_what_they_remember_and_can_forget_it() {
    let (webhooks, _) = webhooks();
    let event = webhooks.clone().verify(&genuine(), BODY.as_bytes());
    let event = event.expect("the first");
    let again = webhooks.verify(&genuine(), BODY.as_bytes());
    assert_eq!(again, Err(WebhookError::Replayed));
    webhooks.forget(&event);
    webhooks
        .verify(&genuine(), BODY.as_bytes())
        .expect("forgotten");
}

#[test]
fn during_a_change_of_secrets_both_are_accepted() {
    let (_, clock) = webhooks();
    let verify = |webhooks: Webhooks, signature: &str| {
        let headers = headers("msg_1", "1893456000", signature);
        webhooks
            .clock(clock.clone())
            .verify(&headers, BODY.as_bytes())
    };
    let [old, new] = [
        SIGNATURE.to_owned(),
        sign(NEW_SECRET, "msg_1", "1893456000", BODY),
    ];
    for signature in [
        &old,
        &new,
        &format!("{old} {new}"),
        &format!("v1,AAAA v2,x {new}"),
    ] {
        let both = Webhooks::new(NEW_SECRET).and_then(|new| new.or(SECRET));
        verify(both.expect("two secrets"), signature).expect("one of both");
    }
    let refused = verify(Webhooks::new(NEW_SECRET).expect("a secret"), &old);
    assert_eq!(refused, Err(WebhookError::WrongSignature));
    let many = format!("{} {new}", "v1,AAAA ".repeat(20).trim_end());
    let refused = verify(Webhooks::new(NEW_SECRET).expect("a secret"), &many);
    assert_eq!(
        refused,
        Err(WebhookError::WrongSignature),
        "so many are not Polar's"
    );
}

#[test]
fn a_secret_that_cannot_be_right_is_an_error() {
    for secret in ["", "whsec_", "polar_whs_", "whsec_new"] {
        let error = Webhooks::new(secret).expect_err(secret).to_string();
        assert!(error.contains("webhook secret"), "{error}");
        assert!(webhooks().0.or(secret).is_err(), "{secret:?}");
    }
    let padded = format!("{SECRET}\n");
    let error = Webhooks::new(padded).expect_err("a line end").to_string();
    assert!(
        error.contains("line end") && !error.contains(SECRET),
        "{error}"
    );
    let shown = format!("{:?}", Webhooks::new(SECRET).expect("a secret"));
    assert!(!shown.contains("c2VjcmV0"));
}

/// An application, a server, and a customer who has just been let in.
pub(super) struct Scene {
    pub(super) polar: FakePolar,
    pub(super) sessions: CustomerSessions<PolarStore>,
    pub(super) app: Router,
    token: SessionToken,
}

impl Scene {
    async fn new() -> Self {
        Self::with(|builder| builder).await
    }

    pub(super) async fn with(
        configure: impl FnOnce(
            CustomerSessionsBuilder<PolarStore>,
        ) -> CustomerSessionsBuilder<PolarStore>,
    ) -> Self {
        let polar = FakePolar::start().await;
        let sessions = configure(CustomerSessions::builder(polar.store())).build();
        let (webhooks, invalidations) = Webhooks::new(SECRET).expect("a secret").service();
        tokio::spawn(sessions.listen(invalidations));
        let app = app(&sessions, webhooks);
        let token = polar.customer_token(JANE);
        let scene = Self {
            polar,
            sessions,
            app,
            token,
        };
        assert_eq!(scene.name().await, Some("Jane Roe".to_owned()));
        scene
    }

    /// Returns the customer's name, or the status if the token is refused.
    pub(super) async fn name(&self) -> Option<String> {
        let bearer = format!("Bearer {}", self.token.expose());
        let request = Request::get("/").header("authorization", bearer);
        let request = request.body(Body::empty()).expect("a request");
        let response = self.app.clone().oneshot(request).await.expect("infallible");
        match response.status() {
            StatusCode::OK => Some(text(response).await),
            status => {
                assert_eq!(status, StatusCode::UNAUTHORIZED);
                None
            }
        }
    }

    async fn deliver(&self, kind: &str) -> Response<Body> {
        let data = json!({
            "id": JANE, "created_at": "2029-01-01T00:00:00Z", "organization_id": "o",
            "external_id": null,
        });
        deliver(&self.app, kind, data).await
    }
}

pub(super) fn app(sessions: &CustomerSessions<PolarStore>, webhooks: WebhookService) -> Router {
    Router::new()
        .route(
            "/",
            get(async |customer: Customer| customer.name.clone().unwrap_or_default()),
        )
        .layer(sessions.layer())
        .route_service("/webhooks/polar", webhooks)
}

async fn text(response: Response<Body>) -> String {
    let body = response.into_body().collect().await.expect("a body");
    String::from_utf8(body.to_bytes().to_vec()).expect("text")
}

pub(super) fn delivery(kind: &str, data: serde_json::Value) -> Request<Body> {
    let body = json!({ "type": kind, "timestamp": Utc::now(), "data": data }).to_string();
    signed(body)
}

fn signed(body: String) -> Request<Body> {
    static NUMBER: std::sync::atomic::AtomicUsize = std::sync::atomic::AtomicUsize::new(0);
    let number = NUMBER.fetch_add(1, std::sync::atomic::Ordering::Relaxed);
    let (id, timestamp) = (format!("msg_{number}"), Utc::now().timestamp().to_string());
    let signature = sign(SECRET, &id, &timestamp, &body);
    let mut request = Request::post("/webhooks/polar")
        .body(Body::from(body))
        .expect("a request");
    *request.headers_mut() = headers(&id, &timestamp, &signature);
    request
}

pub(super) async fn deliver(app: &Router, kind: &str, data: serde_json::Value) -> Response<Body> {
    let request = delivery(kind, data);
    app.clone().oneshot(request).await.expect("infallible")
}

#[tokio::test]
async fn a_changed_customer_is_seen_once_the_delivery_is_answered() {
    let scene = Scene::new().await;
    for (kind, name) in [
        ("customer.updated", "Jane Doe"),
        ("customer.state_changed", "J. Doe"),
    ] {
        let known = scene.name().await;
        scene.polar.update(JANE, json!({ "name": name }));
        assert_eq!(scene.name().await, known, "it is cached");
        assert_eq!(scene.deliver(kind).await.status(), StatusCode::OK);
        assert_eq!(scene.name().await.as_deref(), Some(name), "{kind}");
    }
}

#[tokio::test]
async fn a_deleted_customer_is_refused_once_the_delivery_is_answered() {
    let scene = Scene::new().await;
    scene.polar.delete(JANE);
    assert!(scene.name().await.is_some(), "it is cached");
    assert_eq!(
        scene.deliver("customer.deleted").await.status(),
        StatusCode::OK
    );
    assert_eq!(scene.name().await, None);
}

#[tokio::test]
async fn a_member_who_leaves_is_looked_up_again() {
    let scene = Scene::new().await;
    scene.polar.calls();
    let data = json!({ "id": "mem_1", "customer_id": JANE });
    let answer = deliver(&scene.app, "member.deleted", data).await;
    assert_eq!(answer.status(), StatusCode::OK);
    assert!(scene.name().await.is_some());
    assert_eq!(scene.polar.calls().len(), 3);
}

#[tokio::test]
async fn an_event_that_concerns_no_session_changes_nothing() {
    let scene = Scene::new().await;
    scene.polar.calls();
    let invalidations = scene.sessions.statistics().invalidations;
    for (kind, data) in [
        ("customer.created", json!({ "id": JANE })),
        ("order.paid", json!({ "id": "o", "customer_id": JANE })),
        ("organization.updated", json!({ "id": "o" })),
        ("something.new", json!(null)),
        ("something.else", json!([1])),
    ] {
        let answer = deliver(&scene.app, kind, data).await;
        assert_eq!(answer.status(), StatusCode::OK, "{kind}");
    }
    assert!(scene.name().await.is_some());
    assert_eq!(scene.sessions.statistics().invalidations, invalidations);
    assert!(scene.polar.calls().is_empty());
}

#[tokio::test]
async fn a_delivery_that_was_applied_has_no_second_effect() {
    let log = Log::default();
    let _listening = log.listen();
    let scene = Scene::new().await;
    let request = delivery("customer.updated", json!({ "id": JANE }));
    let again = || {
        let mut again = Request::post("/webhooks/polar")
            .body(Body::empty())
            .expect("a request");
        *again.headers_mut() = request.headers().clone();
        again
    };
    let (again, third) = (again(), again());
    let body = request
        .into_body()
        .collect()
        .await
        .expect("a body")
        .to_bytes();
    let send = async |mut request: Request<Body>| {
        *request.body_mut() = Body::from(body.clone());
        let answer = scene
            .app
            .clone()
            .oneshot(request)
            .await
            .expect("infallible");
        (answer.status(), text(answer).await)
    };
    assert_eq!(send(again).await.0, StatusCode::OK);
    let invalidations = scene.sessions.statistics().invalidations;
    // Polar did not get the answer. It must not retry for hours.
    let (status, said) = send(third).await;
    assert_eq!(status, StatusCode::OK);
    assert_eq!(said, "the delivery was accepted before");
    assert!(log.text().contains("webhook repeated"));
    assert!(!log.text().contains("WARN"), "{}", log.text());
    assert_eq!(scene.sessions.statistics().invalidations, invalidations);
}

#[tokio::test]
async fn without_a_listener_polar_is_told_to_retry() {
    let polar = FakePolar::start().await;
    let sessions = CustomerSessions::builder(polar.store()).build();
    let (webhooks, invalidations) = Webhooks::new(SECRET).expect("a secret").service();
    let app = app(&sessions, webhooks.clone());
    drop(invalidations);
    for _ in 0..2 {
        let answer = deliver(&app, "customer.deleted", json!({ "id": PLAIN })).await;
        assert_eq!(answer.status(), StatusCode::SERVICE_UNAVAILABLE);
    }
    let quiet = deliver(&app, "order.paid", json!({ "id": "o" })).await;
    assert_eq!(
        quiet.status(),
        StatusCode::OK,
        "no event concerns a session"
    );
}

/// A delivery that finds no listener is refused at once, and what to do is logged once.
#[tokio::test(start_paused = true)]
async fn without_a_listener_no_delivery_is_held() {
    let log = Log::default();
    let _listening = log.listen();
    let body = BODY.as_bytes();
    let receive = async |service: &WebhookService| {
        let begun = tokio::time::Instant::now();
        let refused = service.receive(&genuine(), body).await;
        assert_eq!(refused, Err(WebhookError::NotApplied));
        begun.elapsed()
    };
    // It was dropped, before it was received from or after.
    for begins in [false, true] {
        let (service, mut source) = webhooks().0.service();
        if begins {
            source.recv().await.expect("the beginning");
        }
        drop(source);
        assert_eq!(receive(&service).await, Duration::ZERO);
    }
    // It was never received from: a service that starts has two seconds for that.
    let (service, mut source) = webhooks().0.service();
    assert_eq!(receive(&service).await, Duration::from_secs(2));
    for _ in 0..3 {
        assert_eq!(receive(&service).await, Duration::ZERO);
    }
    let text = log.text();
    let advice = text.matches("CustomerSessions::listen").count();
    assert_eq!(advice, 3, "once for each service: {text}");
    // A listener that begins late is none the worse for it.
    source.recv().await.expect("the beginning");
    let headers = genuine();
    let (received, ()) = tokio::join!(service.receive(&headers, body), async {
        // The delivery that was held is received, too.
        for _ in 0..2 {
            source.recv().await.expect("a delivery");
        }
        source.recv().now_or_never();
    });
    received.expect("applied");
}

#[tokio::test]
async fn the_time_of_the_last_genuine_delivery_is_known() {
    let (webhooks, clock) = webhooks();
    let (service, source) = webhooks.service();
    let body = BODY.as_bytes();
    assert_eq!(service.last_delivery_at(), None);
    let forged = headers("msg_1", "1893456000", "v1,AAAA");
    service.receive(&forged, body).await.expect_err("forged");
    assert_eq!(service.last_delivery_at(), None);
    // It came, though nothing applies it.
    drop(source);
    service
        .receive(&genuine(), body)
        .await
        .expect_err("nothing");
    assert_eq!(service.clone().last_delivery_at(), Some(clock.now()));
}

/// A delivery fails to be applied in three ways; each time the same delivery may come again.
#[tokio::test(start_paused = true)]
async fn a_delivery_that_was_not_applied_may_come_again() {
    let (webhooks, clock) = webhooks();
    let (service, mut source) = webhooks.service();
    assert_eq!(
        source.recv().await,
        Some(Invalidation::All.into()),
        "it begins with what it missed"
    );
    let body = BODY.as_bytes();
    let headers = genuine();
    // No listener takes it within the time that Polar waits.
    let refused = service.receive(&headers, body).await;
    assert_eq!(refused, Err(WebhookError::NotApplied));
    // The caller gives up.
    let given_up = tokio::time::timeout(Duration::from_secs(1), service.receive(&headers, body));
    given_up.await.expect_err("no listener");
    // The listener that took it is dropped before it was applied. Two are left by callers that
    // gave up.
    let customer = || Some(Invalidation::Customer("cus_1".into()).into());
    let (received, ()) = tokio::join!(service.receive(&headers, body), async {
        for _ in 0..3 {
            assert_eq!(source.recv().await, customer());
        }
        drop(source);
    });
    assert_eq!(received, Err(WebhookError::NotApplied));
    drop(clock);
}

#[tokio::test]
async fn a_delivery_is_answered_after_it_was_applied() {
    let (webhooks, _clock) = webhooks();
    let (service, mut source) = webhooks.service();
    source.recv().await.expect("the beginning");
    let headers = genuine();
    let mut receive = std::pin::pin!(service.receive(&headers, BODY.as_bytes()));
    let taken = tokio::select! {
        biased;
        _ = &mut receive => panic!("it was not applied"),
        taken = source.recv() => taken,
    };
    assert_eq!(taken, Some(Invalidation::Customer("cus_1".into()).into()));
    let meanwhile = service.receive(&headers, BODY.as_bytes()).await;
    assert_eq!(meanwhile, Err(WebhookError::NotApplied), "it is under way");
    tokio::select! {
        biased;
        _ = &mut receive => panic!("it was taken, not applied"),
        () = std::future::ready(()) => {}
    }
    // Asking for the next event confirms that the last was applied.
    let event = tokio::select! {
        biased;
        _ = source.recv() => panic!("there is no other"),
        event = &mut receive => event,
    };
    let event = event.expect("applied");
    assert_eq!(event.id, "msg_1");
    let again = service.receive(&headers, BODY.as_bytes()).await;
    assert_eq!(again, Err(WebhookError::Replayed));
    // A listener that could not apply it lets it come again.
    service.forget(&event);
    let again = service.receive(&headers, BODY.as_bytes());
    let (again, _) = tokio::join!(again, async {
        source.recv().await;
        source.recv().now_or_never()
    });
    again.expect("forgotten");
}

#[tokio::test]
async fn a_refusal_says_why_and_shows_no_secret() {
    let log = Log::default();
    let _listening = log.listen();
    let scene = Scene::new().await;
    let send = async |request: Request<Body>| {
        let answer = scene
            .app
            .clone()
            .oneshot(request)
            .await
            .expect("infallible");
        let status = answer.status();
        assert_eq!(answer.headers()["cache-control"], "no-store");
        (status.as_u16(), text(answer).await)
    };
    let mut forged = delivery("customer.deleted", json!({ "id": JANE }));
    let wrong = sign("whsec_wrong", "msg_1", "1", "");
    forged
        .headers_mut()
        .insert("webhook-signature", wrong.parse().expect("a value"));
    let get = Request::get("/webhooks/polar")
        .body(Body::empty())
        .expect("a request");
    let bare = Request::post("/webhooks/polar")
        .body(Body::empty())
        .expect("a request");
    let long = signed("x".repeat((1 << 20) + 1));
    let odd = signed("{}".to_owned());
    for (request, status, why) in [
        (forged, 403, "the signature is wrong"),
        (get, 405, ""),
        (bare, 400, "the header webhook-id is missing"),
        (long, 413, "the body is too long"),
        (odd, 400, "the body cannot be read"),
    ] {
        assert_eq!(send(request).await, (status, why.to_owned()));
    }
    assert!(scene.name().await.is_some());
    let text = log.text();
    let refused = text.lines().filter(|line| line.contains("webhook refused"));
    let warnings = refused.filter(|line| line.contains("WARN"));
    assert_eq!(warnings.count(), 3, "{text}");
    // Any client can send those, as often as it likes.
    let strays = text
        .lines()
        .filter(|line| line.contains("is not a webhook"));
    assert!(strays.clone().count() == 1 && strays.clone().all(|line| line.contains("DEBUG")));
    for secret in ["c2VjcmV0", "whsec_", "v1,", scene.token.expose()] {
        assert!(!text.contains(secret), "{secret}: {text}");
    }
}
