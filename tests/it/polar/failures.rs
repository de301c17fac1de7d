//! Failures and rate limits of Polar: each is an error, never "no session".

use std::time::Duration;

use axum::{Router, body::Body, routing::get};
use customer_session::{
    Customer, CustomerId, CustomerSessions, SessionStore as _, SessionToken, StoreErrorKind,
    polar::{CreateError, PolarStore, SessionOptions},
};
use http::{Request, StatusCode, header::RETRY_AFTER};
use serde_json::json;
use tower::ServiceExt as _;

use super::{
    error_text,
    fake_polar::{
        CREATE, CUSTOMERS, FakePolar, Fault, INTROSPECT, JANE, ME, OUR_TOKEN, PLAIN, trap,
    },
    found,
};
use crate::log::Log;
use test_support::clock;

#[tokio::test]
async fn the_longer_of_two_waits_counts() {
    let (polar, clock) = (FakePolar::start().await, clock());
    let store = polar.builder().clock(clock.clone()).build().expect("built");
    for (long, short) in [(ME, INTROSPECT), (INTROSPECT, ME)] {
        let token = polar.customer_token(JANE);
        polar.fault(long, Fault::too_many(60));
        polar.fault(short, Fault::too_many(1));
        let error = store.find(&token).await.expect_err("too often");
        assert_eq!(error.retry_after(), Some(Duration::from_secs(60)));
        polar.clear_faults();
        polar.calls();
        clock.advance(Duration::from_secs(59));
        store.find(&token).await.expect_err("not yet");
        assert!(polar.calls().is_empty());
    }
}

/// Every fault of every call is an error of the right kind, never "no session".
#[tokio::test]
async fn an_upstream_failure_is_an_error_and_never_not_found() {
    let polar = FakePolar::start().await;
    let log = Log::default();
    let _listening = log.listen();
    let store = polar.builder().timeout(Duration::from_millis(200));
    let store = store.build().expect("built");
    let token = polar.customer_token(JANE);
    let (elsewhere, visits) = trap().await;
    let too_long = format!(r#"{{"id":"{}"}}"#, "x".repeat(1 << 20));
    let deep = "[".repeat(200_000);
    let other =
        json!({ "id": PLAIN, "created_at": "2030-01-01T00:00:00Z", "organization_id": "o" });
    let echo = json!({ "id": [token.expose()], "expires_at": token.expose() });
    use StoreErrorKind::{Corrupt, Timeout, Unavailable};
    let faults = [
        (Unavailable, Fault::down()),
        (Unavailable, Fault::status(502)),
        (Unavailable, Fault::status(503)),
        (Unavailable, Fault::status(504)),
        (Unavailable, Fault::status(400)),
        (Unavailable, Fault::status(403)),
        (Unavailable, Fault::status(422)),
        (Unavailable, Fault::redirect(format!("http://{elsewhere}/"))),
        (
            Unavailable,
            Fault::redirect("/v1/customer-portal/customers/me/"),
        ),
        (Unavailable, Fault::Cut),
        (Timeout, Fault::Hang),
        (Corrupt, Fault::body("")),
        (Corrupt, Fault::status(204)),
        (
            Corrupt,
            Fault::body("<html>Sign in to the hotel's network</html>"),
        ),
        (Corrupt, Fault::body(r#"{"id":"3f2c8f4e"#)),
        (Corrupt, Fault::body("null")),
        (Corrupt, Fault::body(r#"{"id":7,"expires_at":"soon"}"#)),
        (Corrupt, Fault::body(b"\xff\xfe\x00".to_vec())),
        (Corrupt, Fault::body(deep)),
        (Corrupt, Fault::body(too_long)),
        (Corrupt, Fault::body(other.to_string())),
        (Corrupt, Fault::body(echo.to_string())),
    ];
    for (kind, fault) in faults {
        for path in [INTROSPECT, ME, CUSTOMERS] {
            // Without an end; and another customer's id is an id.
            let is_readable = matches!(&fault, Fault::Answer(200, _, body)
                if path == ME && *body == other.to_string().into_bytes());
            if is_readable {
                continue;
            }
            polar.fault(path, fault.clone());
            let error = store.find(&token).await.expect_err("a failure");
            let text = error_text(&error);
            assert_eq!(error.kind(), kind, "{path} {fault:?}: {text}");
            assert!(text.contains("Polar"), "it names the operation: {text}");
            assert!(
                !text.contains(token.expose()) && !text.contains(OUR_TOKEN),
                "{text}"
            );
            assert_eq!(error.retry_after(), None);
            polar.clear_faults();
        }
    }
    // Answers that only one of the credentials can get.
    for (path, status) in [(INTROSPECT, 404), (ME, 404), (ME, 410), (CUSTOMERS, 401)] {
        polar.fault(path, Fault::status(status));
        let error = store.find(&token).await.expect_err("a failure");
        assert_eq!(error.kind(), Unavailable, "{path} {status}");
        polar.clear_faults();
    }
    assert_eq!(
        *visits.lock().expect("no panic"),
        [""; 0],
        "no redirect is followed"
    );
    found(&store, &token).await;
    let text = log.text();
    assert!(!text.is_empty(), "the client logs, too");
    assert!(!text.contains(token.expose()) && !text.contains(OUR_TOKEN));
}

/// Polar says so of requests without a token, and of those with one of an organization.
#[tokio::test]
async fn a_token_that_has_not_reached_polar_is_not_refused() {
    let polar = FakePolar::start().await;
    let (store, token) = (polar.store(), polar.customer_token(JANE));
    for path in [INTROSPECT, ME] {
        let body = r#"{"error":"Unauthorized","detail":"Unauthorized"}"#;
        polar.fault(path, Fault::Answer(401, Vec::new(), body.into()));
        let error = store.find(&token).await.expect_err("the proxy took it out");
        assert_eq!(error.kind(), StoreErrorKind::Unavailable, "{path}");
        polar.clear_faults();
    }
    found(&store, &token).await;
}

/// Only Polar knows whether a token opens a session, and whose customer it is.
#[tokio::test]
async fn the_refusal_of_a_gateway_is_an_outage() {
    let polar = FakePolar::start().await;
    let (store, token) = (polar.store(), polar.customer_token(JANE));
    let bodies = [
        "",
        "<html>default backend</html>",
        r#"{"detail":"Not Found"}"#,
        r#"{"message":"Unauthorized"}"#,
        r#"{"error":404}"#,
    ];
    for (path, status) in [(INTROSPECT, 401), (ME, 401), (ME, 404), (CUSTOMERS, 404)] {
        for body in bodies {
            polar.fault(path, Fault::Answer(status, Vec::new(), body.into()));
            let error = store.find(&token).await.expect_err(body);
            assert_eq!(error.kind(), StoreErrorKind::Unavailable, "{path} {body}");
            let text = error_text(&error);
            assert!(text.contains("check the base URL"), "{text}");
            polar.clear_faults();
        }
    }
    for status in [401, 403, 404] {
        polar.fault(CREATE, Fault::status(status));
        let customer = CustomerId::from(JANE);
        let created = store.create(customer, SessionOptions::new()).await;
        let Err(CreateError::Store(error)) = created else {
            panic!("{status}: {created:?}");
        };
        let text = error_text(&error);
        assert!(text.contains("check the base URL"), "{text}");
    }
    polar.fault(CUSTOMERS, Fault::invalid_token());
    let error = store.find(&token).await.expect_err("a wrong access token");
    let text = error_text(&error);
    assert!(
        text.contains("check the organization access token"),
        "{text}"
    );
}

#[tokio::test]
async fn an_unreachable_server_is_an_outage() {
    let polar = FakePolar::start().await;
    let token = polar.customer_token(JANE);
    // A port without a listener.
    let listener = std::net::TcpListener::bind("127.0.0.1:0").expect("a port");
    let address = listener.local_addr().expect("an address");
    drop(listener);
    let store = PolarStore::builder(OUR_TOKEN).base_url(format!("http://{address}"));
    let error = store.build().expect("built").find(&token).await;
    let error = error.expect_err("no server");
    assert_eq!(error.kind(), StoreErrorKind::Unavailable);
    assert!(!error_text(&error).contains(token.expose()));
}

#[tokio::test]
async fn a_client_that_follows_redirects_is_noticed() {
    let polar = FakePolar::start().await;
    let (elsewhere, _) = trap().await;
    let client = reqwest::Client::builder().no_proxy().build();
    let store = polar.builder().client(client.expect("a client"));
    let store = store.build().expect("built");
    let token = polar.customer_token(JANE);
    found(&store, &token).await;
    polar.fault(ME, Fault::redirect(format!("http://{elsewhere}/")));
    let error = store.find(&token).await.expect_err("not Polar's answer");
    assert_eq!(error.kind(), StoreErrorKind::Unavailable);
    assert!(error_text(&error).contains("Policy::none"), "{error:?}");
}

#[tokio::test]
async fn a_rate_limit_holds_only_for_the_token_it_names() {
    let (polar, clock) = (FakePolar::start().await, clock());
    let store = polar.builder().clock(clock.clone()).build().expect("built");
    let [one, other] = [JANE, PLAIN].map(|id| polar.customer_token(id));
    for path in [INTROSPECT, ME] {
        polar.fault(path, Fault::too_many(60));
        let error = store.find(&one).await.expect_err("too often");
        assert_eq!(error.kind(), StoreErrorKind::Unavailable);
        assert_eq!(error.retry_after(), Some(Duration::from_secs(60)));
        polar.clear_faults();
        polar.calls();

        clock.advance(Duration::from_secs(59));
        let error = store.find(&one).await.expect_err("not yet");
        assert_eq!(error.retry_after(), Some(Duration::from_secs(1)));
        assert!(polar.calls().is_empty(), "it is not asked before");
        found(&store, &other).await;
        polar.calls();
        clock.advance(Duration::from_secs(1));
        found(&store, &one).await;
    }
    // The organization's limit holds for every token.
    polar.fault(CUSTOMERS, Fault::Answer(429, Vec::new(), Vec::new()));
    let error = store.find(&one).await.expect_err("too often");
    assert_eq!(
        error.retry_after(),
        Some(Duration::from_secs(60)),
        "a default"
    );
    polar.clear_faults();
    polar.calls();
    store.find(&other).await.expect_err("not yet");
    let customer = CustomerId::from(JANE);
    let created = store.create(customer, SessionOptions::new()).await;
    let Err(CreateError::Store(error)) = created else {
        panic!("not yet: {created:?}");
    };
    assert!(error.retry_after().is_some());
    assert!(polar.calls().is_empty());
    clock.advance(Duration::from_secs(60));
    found(&store, &other).await;
}

#[tokio::test]
async fn clients_are_told_how_long_to_wait_and_cached_sessions_go_on() {
    let polar = FakePolar::start().await;
    let sessions = CustomerSessions::builder(polar.store()).build();
    let app: Router = Router::new()
        .route("/", get(async |customer: Customer| customer.id.to_string()))
        .layer(sessions.layer());
    let ask = async |token: &SessionToken| {
        let request =
            Request::get("/").header("authorization", format!("Bearer {}", token.expose()));
        let request = request.body(Body::empty()).expect("a request");
        app.clone().oneshot(request).await.expect("infallible")
    };
    let [cached, cold] = [JANE, PLAIN].map(|id| polar.customer_token(id));
    assert_eq!(ask(&cached).await.status(), StatusCode::OK);
    polar.fault(CUSTOMERS, Fault::too_many(37));
    // As often as opens a circuit breaker, which must not count this.
    for _ in 0..20 {
        let refused = ask(&cold).await;
        assert_eq!(refused.status(), StatusCode::SERVICE_UNAVAILABLE);
        let seconds = refused.headers()[RETRY_AFTER].to_str().expect("ASCII");
        let seconds: u64 = seconds.parse().expect("seconds");
        assert!((37..=67).contains(&seconds), "37 at least: {seconds}");
        assert_eq!(ask(&cached).await.status(), StatusCode::OK);
    }
    assert_eq!(sessions.statistics().breaker_opened, 0);
    let customers = |call: &String| call.starts_with("GET /v1/customers/");
    assert_eq!(
        polar.calls().iter().filter(|call| customers(call)).count(),
        2
    );
}
