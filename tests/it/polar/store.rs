//! `PolarStore` against a server that answers as Polar does, over real connections.
use std::{
    error::Error as _,
    sync::Arc,
    time::{Duration, Instant},
};

use axum::{Router, body::Body, routing::get};
use chrono::TimeDelta;
use customer_session::{
    Customer, CustomerId, CustomerKind, CustomerSession, CustomerSessions, MetadataValue,
    SessionStore as _, SessionToken, StoreError, StoreErrorKind, TokenFormat,
    polar::{ConfigError, CreateError, CustomerRef, PolarStore, SessionOptions},
};
use http::{Request, StatusCode, header::RETRY_AFTER};
use serde_json::json;
use tower::ServiceExt as _;

use super::fake_polar::{
    CREATE, CUSTOMERS, FakePolar, Fault, INTROSPECT, JANE, ME, OUR_ORGANIZATION, OUR_TOKEN, PLAIN,
    STRANGER, TEAM, trap,
};
use crate::log::Log;
use test_support::clock;

async fn found(store: &PolarStore, token: &SessionToken) -> CustomerSession {
    let found = store.find(token).await.expect("Polar answers");
    found.expect("a session")
}

/// All that an error says, in all ways.
fn told(error: &StoreError) -> String {
    let mut told = format!("{error:?} {error}");
    let mut cause = error.source();
    while let Some(error) = cause {
        told = format!("{told}: {error:?} {error}");
        cause = error.source();
    }
    told
}

#[tokio::test]
async fn a_session_has_every_field_of_its_customer() {
    let polar = FakePolar::start().await;
    let (store, token) = (polar.store(), polar.customer_token(JANE));
    let session = found(&store, &token).await;
    assert_eq!(session.token, token);
    assert_eq!(session.customer_id.as_str(), JANE);

    let customer = &session.customer;
    assert_eq!(customer.id.as_str(), JANE);
    assert_eq!(customer.organization_id.as_str(), OUR_ORGANIZATION);
    assert_eq!(customer.external_id.as_deref(), Some("usr_1"));
    assert_eq!(customer.email.as_deref(), Some("jane@example.org"));
    let metadata = &customer.metadata;
    let exact = MetadataValue::Integer(9_007_199_254_740_993);
    assert_eq!(metadata["beyond_f64"], exact);
    assert_eq!(metadata["whole"], MetadataValue::Float(2.0));
    assert_eq!(metadata["plan"], "gold".into());
    let address = customer.billing_address.as_ref().expect("an address");
    assert_eq!(address.country, "FR");
    let tax_id = customer.tax_id.as_ref().expect("a tax id");
    assert_eq!(tax_id.format, "eu_vat");
}

#[tokio::test]
async fn a_lookup_is_two_calls_at_once_and_one_more() {
    let polar = FakePolar::start().await;
    found(&polar.store(), &polar.customer_token(JANE)).await;
    let mut calls = polar.calls();
    calls[..2].sort();
    let expected = [
        "GET /v1/customer-portal/customer-session/introspect".to_owned(),
        "GET /v1/customer-portal/customers/me".to_owned(),
        format!("GET /v1/customers/{JANE}"),
    ];
    assert_eq!(calls, expected);
}

#[tokio::test]
async fn fields_that_polar_omits_are_derived_and_stable() {
    let polar = FakePolar::start().await;
    let token = polar.customer_token(JANE);
    let one = found(&polar.store(), &token).await;
    let other = found(&polar.store(), &token).await;
    assert_eq!(one, other);
    assert!(one.id.as_str().starts_with("polar-"), "{}", one.id);
    assert_eq!(one.created_at, one.expires_at - TimeDelta::hours(1));
    assert_eq!(one.modified_at, None);

    let half = polar.builder().session_ttl(Duration::from_secs(1800));
    let session = found(&half.build().expect("built"), &token).await;
    assert_eq!(
        session.created_at,
        session.expires_at - TimeDelta::minutes(30)
    );
    let endless = polar.builder().session_ttl(Duration::MAX);
    found(&endless.build().expect("built"), &token).await;

    let again = polar.customer_token(JANE);
    assert_ne!(found(&polar.store(), &again).await.id, one.id);
}

#[tokio::test]
async fn customers_with_few_fields_and_teams_are_let_in() {
    let polar = FakePolar::start().await;
    let store = polar.store();
    let plain = found(&store, &polar.customer_token(PLAIN)).await;
    assert_eq!(plain.customer.name, None);
    assert!(plain.customer.metadata.is_empty());

    // A member stands for the customer; a team has no e-mail address, whatever its token.
    let member = found(&store, &polar.member_token(JANE)).await;
    assert_eq!(member.customer_id.as_str(), JANE);
    for token in [polar.member_token(TEAM), polar.customer_token(TEAM)] {
        let team = found(&store, &token).await;
        assert_eq!(team.customer.kind, CustomerKind::Team);
        assert_eq!(team.customer.email, None);
    }
}

#[tokio::test]
async fn a_live_token_of_another_organization_is_refused() {
    let polar = FakePolar::start().await;
    let store = polar.store();
    let asked = format!("GET /v1/customers/{STRANGER}");
    let theirs = [polar.customer_token(STRANGER), polar.member_token(STRANGER)];
    for (number, token) in theirs.iter().enumerate() {
        assert_eq!(store.find(token).await.expect("Polar answers"), None);
        // Once is enough, whatever tokens the customer comes with.
        assert_eq!(polar.calls().contains(&asked), number == 0);
    }
}

#[tokio::test]
async fn expired_and_unknown_sessions_are_not_found() {
    let polar = FakePolar::start().await;
    let store = polar.store();
    let expired = polar.sign_in(JANE, "polar_cst_", TimeDelta::seconds(-1));
    let deleted = polar.customer_token(PLAIN);
    polar.delete(PLAIN);
    for token in [expired, deleted, TokenFormat::polar().generate()] {
        assert_eq!(store.find(&token).await.expect("Polar answers"), None);
        assert_eq!(polar.calls().len(), 2, "nobody asks for the customer");
    }
    // The customer is deleted between the calls; one verdict is enough.
    let token = polar.customer_token(JANE);
    for (path, status) in [
        (CUSTOMERS, 404),
        (CUSTOMERS, 410),
        (ME, 401),
        (INTROSPECT, 401),
    ] {
        polar.fault(path, Fault::status(status));
        assert_eq!(store.find(&token).await.expect("Polar answers"), None);
        polar.mend();
    }
    // Also when the other call fails.
    polar.fault(INTROSPECT, Fault::down());
    polar.fault(ME, Fault::status(401));
    assert_eq!(store.find(&token).await.expect("a verdict"), None);
}

/// What stands between may say 404, too: that is not kept. Nor is what has turned out wrong.
#[tokio::test]
async fn a_customer_who_was_not_found_is_asked_for_again() {
    let polar = FakePolar::start().await;
    let (store, token) = (polar.store(), polar.customer_token(JANE));
    polar.fault(CUSTOMERS, Fault::status(404));
    assert_eq!(store.find(&token).await.expect("a verdict"), None);
    polar.mend();
    found(&store, &token).await;

    let not_found = json!({ "error": "ResourceNotFound", "detail": "Not found" }).to_string();
    polar.fault(
        CUSTOMERS,
        Fault::Answer(404, Vec::new(), not_found.into_bytes()),
    );
    assert_eq!(store.find(&token).await.expect("a verdict"), None);
    polar.mend();
    polar.calls();
    assert_eq!(store.find(&token).await.expect("a verdict"), None);
    assert_eq!(polar.calls().len(), 2, "it is kept in mind");
    let created = store
        .create(CustomerId::from(JANE), SessionOptions::new())
        .await;
    found(&store, &created.expect("ours").session.token).await;
}

#[tokio::test]
async fn a_refusal_does_not_wait_for_the_other_call() {
    let polar = FakePolar::start().await;
    let store = polar
        .builder()
        .timeout(Duration::ZERO)
        .build()
        .expect("built");
    for (refuses, hangs) in [(ME, INTROSPECT), (INTROSPECT, ME)] {
        polar.fault(refuses, Fault::status(401));
        polar.fault(hangs, Fault::Hang);
        let token = polar.customer_token(JANE);
        let found = tokio::time::timeout(Duration::from_secs(5), store.find(&token)).await;
        assert_eq!(found.expect("at once").expect("a verdict"), None);
    }
}

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
        polar.mend();
        polar.calls();
        clock.advance(Duration::from_secs(59));
        store.find(&token).await.expect_err("not yet");
        assert!(polar.calls().is_empty());
    }
}

#[tokio::test]
async fn a_token_that_polar_cannot_have_issued_is_not_looked_up() {
    let polar = FakePolar::start().await;
    let store = polar.store();
    let token = polar.customer_token(JANE);
    let (rest, last) = token.expose().split_at(52);
    let changed = format!("{rest}{}", if last == "0" { "1" } else { "0" });
    for garbage in [changed.as_str(), OUR_TOKEN, "", "undefined"] {
        let found = store.find(&SessionToken::new(garbage)).await;
        assert_eq!(found.expect("no outage"), None, "{garbage}");
    }
    assert_eq!(store.token_format(), TokenFormat::polar());
    assert!(polar.calls().is_empty());
}

/// Whatever goes wrong, at whichever call: an error of the right kind, never "no session".
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
            // Says nothing of the end, and another's name is a name.
            let is_readable = matches!(&fault, Fault::Answer(200, _, body)
                if path == ME && *body == other.to_string().into_bytes());
            if is_readable {
                continue;
            }
            polar.fault(path, fault.clone());
            let error = store.find(&token).await.expect_err("no verdict");
            let told = told(&error);
            assert_eq!(error.kind(), kind, "{path} {fault:?}: {told}");
            assert!(told.contains("Polar"), "it says what was tried: {told}");
            assert!(
                !told.contains(token.expose()) && !told.contains(OUR_TOKEN),
                "{told}"
            );
            assert_eq!(error.retry_after(), None);
            polar.mend();
        }
    }
    // What only one of the credentials can hear.
    for (path, status) in [(INTROSPECT, 404), (ME, 404), (ME, 410), (CUSTOMERS, 401)] {
        polar.fault(path, Fault::status(status));
        let error = store.find(&token).await.expect_err("no verdict");
        assert_eq!(error.kind(), Unavailable, "{path} {status}");
        polar.mend();
    }
    assert_eq!(
        *visits.lock().expect("no panic"),
        [""; 0],
        "nobody followed"
    );
    found(&store, &token).await;
    let text = log.text();
    assert!(!text.is_empty(), "the client logs, too");
    assert!(!text.contains(token.expose()) && !text.contains(OUR_TOKEN));
}

#[tokio::test]
async fn a_customer_id_cannot_change_the_path() {
    let polar = FakePolar::start().await;
    let (store, token) = (polar.store(), polar.customer_token(JANE));
    for name in [
        "..",
        "../organizations",
        "a?b=c",
        "",
        "%2e%2e",
        &format!("{JANE}/"),
        "é",
    ] {
        polar.fault(ME, Fault::body(json!({ "id": name }).to_string()));
        let error = store.find(&token).await.expect_err("no name");
        assert_eq!(error.kind(), StoreErrorKind::Corrupt, "{name}");
        assert_eq!(polar.calls().len(), 2, "{name}");
    }
}

#[tokio::test]
async fn an_unreachable_server_is_an_outage() {
    let polar = FakePolar::start().await;
    let token = polar.customer_token(JANE);
    // A port that nobody listens on any more.
    let listener = std::net::TcpListener::bind("127.0.0.1:0").expect("a port");
    let address = listener.local_addr().expect("an address");
    drop(listener);
    let store = PolarStore::builder(OUR_TOKEN).base_url(format!("http://{address}"));
    let error = store.build().expect("built").find(&token).await;
    let error = error.expect_err("nobody is there");
    assert_eq!(error.kind(), StoreErrorKind::Unavailable);
    assert!(!told(&error).contains(token.expose()));
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
    assert!(told(&error).contains("Policy::none"), "{error:?}");
}

#[tokio::test]
async fn a_base_url_may_have_a_path_of_its_own() {
    let polar = FakePolar::start().await;
    for (suffix, prefix) in [
        ("", ""),
        ("/", ""),
        ("/proxy", "/proxy"),
        ("/proxy/", "/proxy"),
    ] {
        let store = polar.builder().base_url(format!("{}{suffix}", polar.url()));
        let _ = store
            .build()
            .expect("built")
            .find(&polar.customer_token(JANE))
            .await;
        let calls = polar.calls();
        assert!(
            calls.contains(&format!("GET {prefix}{ME}")),
            "{suffix}: {calls:?}"
        );
    }
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
        polar.mend();
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
    // The organization's limit is everybody's.
    polar.fault(CUSTOMERS, Fault::Answer(429, Vec::new(), Vec::new()));
    let error = store.find(&one).await.expect_err("too often");
    assert_eq!(
        error.retry_after(),
        Some(Duration::from_secs(60)),
        "a default"
    );
    polar.mend();
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
    // Often enough for a circuit breaker, which it is none of the business of.
    for _ in 0..20 {
        let refused = ask(&cold).await;
        assert_eq!(refused.status(), StatusCode::SERVICE_UNAVAILABLE);
        assert_eq!(refused.headers()[RETRY_AFTER], "37");
        assert_eq!(ask(&cached).await.status(), StatusCode::OK);
    }
    assert_eq!(sessions.statistics().breaker_opened, 0);
    let customers = |call: &String| call.starts_with("GET /v1/customers/");
    assert_eq!(polar.calls().iter().filter(|it| customers(it)).count(), 2);
}

#[tokio::test]
async fn a_thousand_requests_for_one_cold_token_are_three_calls() {
    let polar = FakePolar::start().await;
    polar.delay(Duration::from_millis(20));
    let sessions = Arc::new(CustomerSessions::builder(polar.store()).build());
    let token = polar.customer_token(JANE);
    let tasks: Vec<_> = (0..1000)
        .map(|_| {
            let (sessions, token) = (Arc::clone(&sessions), token.clone());
            tokio::spawn(async move { sessions.authenticate(&token).await })
        })
        .collect();
    for task in tasks {
        let session = task.await.expect("no panic").expect("let in");
        assert_eq!(session.customer_id.as_str(), JANE);
    }
    assert_eq!(polar.calls().len(), 3);
    sessions.authenticate(&token).await.expect("let in");
    assert_eq!(polar.calls().len(), 0, "a hit asks nobody");
}

/// Medians, since a machine may be busy.
#[tokio::test]
async fn a_cold_token_takes_two_calls_time() {
    let polar = FakePolar::start().await;
    polar.delay(Duration::from_millis(20));
    let store = polar.store();
    let client = reqwest::Client::builder()
        .no_proxy()
        .build()
        .expect("a client");
    let (mut calls, mut lookups) = (Vec::new(), Vec::new());
    // The first ones open connections.
    for round in 0..27 {
        let token = polar.customer_token(JANE);
        let start = Instant::now();
        let call = client
            .get(format!("{}{ME}", polar.url()))
            .bearer_auth(token.expose());
        let answer = call.send().await.expect("an answer");
        answer.bytes().await.expect("a body");
        let call = start.elapsed();
        let start = Instant::now();
        found(&store, &token).await;
        if round >= 2 {
            calls.push(call);
            lookups.push(start.elapsed());
        }
    }
    let median = |times: &mut Vec<Duration>| {
        times.sort();
        times[times.len() / 2].as_secs_f64() * 1000.0
    };
    let (call, lookup) = (median(&mut calls), median(&mut lookups));
    let ratio = lookup / call;
    println!("one call {call:.1} ms, a cold token {lookup:.1} ms: {ratio:.2} x");
    assert!(ratio <= 2.2, "{ratio}");
}

#[tokio::test]
async fn a_created_session_has_every_field() {
    let polar = FakePolar::start().await;
    let store = polar.store();
    let options = SessionOptions::new().return_url("https://example.org/account");
    let created = store.create(CustomerRef::external("usr_1"), options).await;
    let created = created.expect("created");
    assert_eq!(
        polar.posted(),
        [json!({ "external_customer_id": "usr_1", "return_url": "https://example.org/account" })]
    );
    assert_eq!(polar.calls(), [format!("POST {CREATE}")]);
    let session = &created.session;
    assert_eq!(session.id.as_str(), "1d0c6a52-7b1e-4c9d-8a2f-4e5d6c7b8a90");
    assert_eq!(session.customer.external_id.as_deref(), Some("usr_1"));
    let whole = MetadataValue::Float(2.0);
    assert_eq!(session.customer.metadata["whole"], whole);
    assert_eq!(
        created.return_url.as_deref(),
        Some("https://example.org/account")
    );
    let portal = created.customer_portal_url.as_ref().expect("a URL");
    assert!(portal.expose().ends_with(session.token.expose()));
    let shown = format!("{created:?}");
    assert!(!shown.contains(session.token.expose()), "{shown}");

    let same = found(&store, &session.token).await;
    assert_eq!(same.expires_at, session.expires_at);
    assert_eq!(same.customer, session.customer);

    let options = SessionOptions::new().member_id("m").external_member_id("e");
    let by_id = store.create(CustomerId::from(JANE), options).await;
    by_id.expect("created");
    let expected = json!({ "customer_id": JANE, "member_id": "m", "external_member_id": "e" });
    assert_eq!(polar.posted(), [expected]);
}

#[tokio::test]
async fn fields_that_polar_rejects_are_named() {
    let polar = FakePolar::start().await;
    let store = polar.store();
    let refused = |customer: CustomerRef| {
        let store = store.clone();
        async move {
            match store.create(customer, SessionOptions::new()).await {
                Err(CreateError::Invalid(errors)) => errors,
                other => panic!("{other:?}"),
            }
        }
    };
    // Another organization's customer is nobody.
    for (customer, field) in [
        (
            CustomerRef::from(&CustomerId::from(STRANGER)),
            "customer_id",
        ),
        (CustomerRef::external("usr_0"), "external_customer_id"),
    ] {
        let errors = refused(customer).await;
        assert_eq!(errors[0].field, field);
        assert_eq!(errors[0].message, "Customer does not exist.");
        let text = CreateError::Invalid(errors).to_string();
        assert!(text.contains(field), "{text}");
    }
    // What does not fit its schema it takes for each kind of request in turn.
    let (by_id, by_external) = ("SessionCustomerIDCreate", "SessionCustomerExternalIDCreate");
    let detail = json!([
        { "type": "x", "loc": ["body", by_id, "return_url"], "msg": "No URL." },
        { "type": "x", "loc": ["body", by_id, "customer_id"], "msg": "Field required" },
        { "type": "x", "loc": ["body", by_external, "return_url"], "msg": "No URL." },
        { "type": "x", "loc": ["body", by_external, "return_url"], "msg": "No URL." },
        { "type": "x", "loc": ["body", "items", 3, "id"], "msg": "No." },
    ]);
    let body = json!({ "detail": detail }).to_string();
    polar.fault(CREATE, Fault::Answer(422, Vec::new(), body.into_bytes()));
    let errors = refused(CustomerRef::external("usr_1")).await;
    let fields: Vec<_> = errors.iter().map(|it| it.field.as_str()).collect();
    assert_eq!(fields, ["return_url", "items.3.id"]);

    // Anything else is an outage, and tells nothing of what the answer holds.
    let secret = TokenFormat::polar().generate();
    let odd = json!({ "token": secret.expose(), "id": [secret.expose()] }).to_string();
    for (kind, fault) in [
        (StoreErrorKind::Unavailable, Fault::down()),
        (StoreErrorKind::Unavailable, Fault::status(401)),
        (StoreErrorKind::Unavailable, Fault::status(403)),
        (StoreErrorKind::Unavailable, Fault::status(422)),
        (StoreErrorKind::Unavailable, Fault::redirect(CREATE)),
        (StoreErrorKind::Corrupt, Fault::body("")),
        (StoreErrorKind::Corrupt, Fault::body(odd)),
    ] {
        polar.fault(CREATE, fault.clone());
        let customer = CustomerRef::external("usr_1");
        let created = store.create(customer, SessionOptions::new()).await;
        let Err(CreateError::Store(error)) = created else {
            panic!("{fault:?}: {created:?}");
        };
        let told = told(&error);
        assert_eq!(error.kind(), kind, "{fault:?}: {told}");
        assert!(!told.contains(secret.expose()), "{told}");
    }
}

#[test]
fn a_bad_configuration_is_an_error() {
    let built = |token: &str, url: &str| {
        let built = PolarStore::builder(token).base_url(url).build();
        built.map(|store| format!("{store:?}"))
    };
    for token in ["", " ", "polar_oat_x\n", "polar oat", "é"] {
        let error = built(token, PolarStore::PRODUCTION).expect_err(token);
        let is_empty = matches!(error, ConfigError::EmptyAccessToken);
        assert_eq!(is_empty, token.is_empty());
        assert!(error.to_string().contains("access token"), "{error}");
    }
    for url in [
        "http://api.polar.sh",
        "http://127.0.0.1.example.org",
        "http://localhost.example.org",
        "http://10.0.0.1",
        "http://[::2]:80",
    ] {
        let error = built("t", url).expect_err(url);
        assert!(
            matches!(error, ConfigError::InsecureBaseUrl),
            "{url}: {error}"
        );
    }
    for url in [
        "",
        "api.polar.sh",
        "ftp://api.polar.sh",
        "file:///etc/passwd",
        "https://user@api.polar.sh",
        "https://:word@api.polar.sh",
        "https://api.polar.sh?a=b",
        "https://api.polar.sh#a",
    ] {
        let error = built("t", url).expect_err(url);
        assert!(
            matches!(error, ConfigError::UnusableBaseUrl),
            "{url}: {error}"
        );
    }
    for url in [
        PolarStore::PRODUCTION,
        PolarStore::SANDBOX,
        "http://localhost:8000",
        "http://127.8.0.1",
        "http://[::1]:8000/",
        "https://proxy.example.org/polar",
    ] {
        let shown = built("polar_oat_secret", url).expect(url);
        assert!(!shown.contains("secret"), "{shown}");
    }
    let builder = PolarStore::builder("polar_oat_secret").base_url("https://u:secret@polar.sh");
    assert!(!format!("{builder:?}").contains("secret"));
}
