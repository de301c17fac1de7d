//! The value that each extractor gives to a handler, in each case.

use std::time::Duration;

use axum::{Extension, Router, body::Body, extract::Path, routing::get};
use customer_session::{
    AuthenticateError, CurrentSession, Customer, CustomerRejection, CustomerSessions, SessionEnd,
    SessionLifetime, StoreError, store::MemoryStore,
};
use http::{Request, Response, StatusCode};
use http_body_util::BodyExt as _;
use tower::ServiceExt as _;

use crate::log::Log;
use test_support::{HOUR, customer};

fn routes() -> Router {
    Router::new()
        .route(
            "/extension",
            get(async |Extension(customer): Extension<Customer>| customer.id.to_string()),
        )
        .route(
            "/customer",
            get(async |customer: Customer| customer.id.to_string()),
        )
        .route(
            "/optional",
            get(async |customer: Option<Customer>| {
                customer.map_or("anonymous".into(), |customer| customer.id.to_string())
            }),
        )
        .route(
            "/session",
            get(async |session: CurrentSession| session.customer_id.to_string()),
        )
        .route(
            "/optional-session",
            get(async |session: Option<CurrentSession>| {
                session.map_or("anonymous".into(), |session| {
                    session.customer_id.to_string()
                })
            }),
        )
}

#[tokio::test]
async fn each_extractor_has_its_answer_in_each_case() {
    let sessions = CustomerSessions::builder(MemoryStore::new()).build();
    let session = sessions
        .issue(customer("cus_1"), HOUR)
        .await
        .expect("issued");
    let layered = routes().layer(sessions.layer().optional().realm("shop").expect("a realm"));
    let bare = routes();
    let signed_in = Some(session.token.expose());

    let ok = (StatusCode::OK, false);
    let challenged = (StatusCode::UNAUTHORIZED, true);
    let mistake = (StatusCode::INTERNAL_SERVER_ERROR, false);
    for (path, authenticated, anonymous, layer_missing) in [
        ("/extension", ok, mistake, mistake),
        ("/customer", ok, challenged, mistake),
        ("/optional", ok, ok, mistake),
        ("/session", ok, challenged, mistake),
        ("/optional-session", ok, ok, mistake),
    ] {
        for (case, app, token, expected) in [
            ("authenticated", &layered, signed_in, authenticated),
            ("anonymous", &layered, None, anonymous),
            ("layer missing", &bare, None, layer_missing),
            ("layer missing, token", &bare, signed_in, layer_missing),
        ] {
            let mut request = Request::get(path);
            if let Some(token) = token {
                request = request.header("authorization", format!("Bearer {token}"));
            }
            let request = request.body(Body::empty()).expect("a request");
            let response = app.clone().oneshot(request).await.expect("infallible");
            let challenge = response.headers().get("www-authenticate").cloned();
            assert_eq!(
                (response.status(), challenge.is_some()),
                expected,
                "{path}, {case}"
            );
            if let Some(challenge) = challenge {
                assert_eq!(challenge, "Bearer realm=\"shop\"");
                assert_eq!(response.headers()["cache-control"], "no-store");
            }
            let body = response
                .into_body()
                .collect()
                .await
                .expect("a body")
                .to_bytes();
            let body = String::from_utf8(body.to_vec()).expect("UTF-8");
            match (case, expected) {
                ("authenticated", _) => assert_eq!(body, "cus_1", "{path}"),
                ("anonymous", (StatusCode::OK, _)) => assert_eq!(body, "anonymous", "{path}"),
                _ if path == "/extension" => {}
                _ => assert!(
                    !body.contains("Layer") && !body.contains("cus_"),
                    "{path}: {body}"
                ),
            }
        }
    }
}

#[tokio::test]
async fn a_preflight_that_passes_is_anonymous_to_extractors() {
    let sessions = CustomerSessions::builder(MemoryStore::new()).build();
    let app = Router::new()
        .route(
            "/customer",
            axum::routing::options(async |_: Customer| "in"),
        )
        .route(
            "/optional",
            axum::routing::options(async |customer: Option<Customer>| {
                customer.is_some().to_string()
            }),
        )
        .layer(sessions.layer().pass_preflights());
    for (path, status) in [("/customer", 401), ("/optional", 200)] {
        let request = Request::options(path)
            .header("origin", "https://app.example")
            .header("access-control-request-method", "GET")
            .body(Body::empty())
            .expect("a request");
        let response = app.clone().oneshot(request).await.expect("infallible");
        assert_eq!(response.status(), status, "{path}");
    }
}

/// Asks `path` of `routes` and returns the response with its body as text.
async fn get_response(routes: Router, path: &str) -> (Response<()>, String) {
    let request = Request::get(path).body(Body::empty()).expect("a request");
    let response = routes.oneshot(request).await.expect("infallible");
    let (parts, body) = response.into_parts();
    let body = body.collect().await.expect("a body").to_bytes();
    let body = String::from_utf8(body.to_vec()).expect("UTF-8");
    (Response::from_parts(parts, ()), body)
}

#[tokio::test]
async fn a_handler_can_decide_what_becomes_of_a_rejection() {
    let handler = async |customer: Result<Customer, CustomerRejection>| match customer {
        Ok(customer) => Ok(customer.id.to_string()),
        Err(rejection) if rejection.status() == StatusCode::UNAUTHORIZED => {
            Ok(format!("sign in: {rejection}"))
        }
        Err(rejection) => Err(rejection),
    };
    let sessions = CustomerSessions::builder(MemoryStore::new()).build();
    let routes = Router::new().route("/", get(handler));

    let (response, body) =
        get_response(routes.clone().layer(sessions.layer().optional()), "/").await;
    assert_eq!(response.status(), 200);
    assert_eq!(body, "sign in: the request is anonymous");

    let log = Log::default();
    let _guard = log.listen();
    let (response, body) = get_response(routes, "/").await;
    assert_eq!(response.status(), 500);
    assert!(!body.to_lowercase().contains("layer"), "{body}");
    let said = log.text();
    assert!(said.contains("ERROR"), "{said}");
    let first = said.find("`.layer(sessions.layer())`").expect(&said);
    let second = said
        .find("`.layer(CustomerSessionLayer::new(store))`")
        .expect(&said);
    assert!(first < second, "{said}");
}

#[tokio::test]
async fn an_error_of_the_store_in_a_handler_is_answered_as_the_layer_answers() {
    async fn fails(Path(kind): Path<String>) -> Result<(), StoreError> {
        let secret = "cause-7";
        Err(match kind.as_str() {
            "conflict" => StoreError::conflict(secret),
            "corrupt" => StoreError::corrupt(secret),
            "timeout" => StoreError::timeout(secret),
            "limited" => {
                StoreError::unavailable(secret).with_retry_after(Duration::from_millis(6500))
            }
            _ => StoreError::unavailable(secret),
        })
    }
    async fn is_refused(Path(kind): Path<String>) -> Result<(), AuthenticateError> {
        Err(match kind.as_str() {
            "invalid" => AuthenticateError::InvalidToken,
            "overloaded" => AuthenticateError::Overloaded,
            _ => AuthenticateError::Store(
                StoreError::unavailable("cause-7").with_retry_after(Duration::from_secs(7)),
            ),
        })
    }
    let routes = Router::new()
        .route("/store/{kind}", get(fails))
        .route("/authenticate/{kind}", get(is_refused));
    let log = Log::default();
    let _guard = log.listen();
    for (path, status, retry_after) in [
        ("/store/conflict", 409, None),
        ("/store/corrupt", 503, Some(1..=3)),
        ("/store/timeout", 503, Some(1..=3)),
        ("/store/unavailable", 503, Some(1..=3)),
        ("/store/limited", 503, Some(7..=14)),
        ("/authenticate/invalid", 401, None),
        ("/authenticate/overloaded", 503, Some(1..=3)),
        ("/authenticate/store", 503, Some(7..=14)),
    ] {
        let (response, body) = get_response(routes.clone(), path).await;
        let header = |name| {
            let value = response.headers().get(name);
            value.map(|value| value.to_str().expect("ASCII"))
        };
        assert_eq!(response.status(), status, "{path}");
        let seconds = header("retry-after").map(|value| value.parse::<u64>().expect("seconds"));
        assert_eq!(seconds.is_some(), retry_after.is_some(), "{path}");
        let is_in_range = retry_after
            .zip(seconds)
            .is_none_or(|(range, seconds)| range.contains(&seconds));
        assert!(is_in_range, "{path}: {seconds:?}");
        assert_eq!(header("cache-control"), Some("no-store"), "{path}");
        assert_eq!(header("content-type"), Some("application/problem+json"));
        let challenge = header("www-authenticate");
        if status == 401 {
            let expected = "Bearer realm=\"customer\", error=\"invalid_token\"";
            assert!(challenge.is_some_and(|challenge| challenge.starts_with(expected)));
        } else {
            assert_eq!(challenge, None, "{path}");
        }
        let problem: serde_json::Value = serde_json::from_str(&body).expect("JSON");
        assert_eq!(problem["status"], status, "{path}");
        assert!(!body.contains("cause-7"), "{path}: {body}");
    }
    // What the client is not told, the log is.
    assert_eq!(log.text().matches("cause-7").count(), 5, "{}", log.text());
}

#[tokio::test]
async fn a_session_that_acts_for_another_customer_stays_as_it_is() {
    let sessions = CustomerSessions::builder(MemoryStore::new()).build();
    let session = sessions
        .issue(customer("cus_staff"), HOUR)
        .await
        .expect("issued");
    // A member of staff acts for a customer.
    let acting_for = axum::middleware::map_request(async |mut request: axum::extract::Request| {
        let staff = CurrentSession::from_extensions(request.extensions()).expect("authenticated");
        let customer = staff.acting_for(customer("cus_1"));
        request.extensions_mut().insert(customer);
        request
    });
    let lifetimes = std::sync::Arc::new(std::sync::Mutex::new(Vec::new()));
    let kept = std::sync::Arc::clone(&lifetimes);
    let app = Router::new()
        .route(
            "/",
            get(
                async move |customer: Customer,
                            extension: Extension<Customer>,
                            session: CurrentSession,
                            lifetime: SessionLifetime| {
                    assert_eq!(customer.id, extension.id);
                    kept.lock().expect("no panic").push(lifetime);
                    format!("{} by {}", customer.id, session.customer_id)
                },
            ),
        )
        .layer(acting_for)
        .layer(sessions.layer());
    let log = Log::default();
    let _guard = log.listen();
    // By a lookup, then as a hit.
    for _ in 0..2 {
        let request = Request::get("/")
            .header(
                "authorization",
                format!("Bearer {}", session.token.expose()),
            )
            .body(Body::empty())
            .expect("a request");
        let response = app.clone().oneshot(request).await.expect("infallible");
        assert_eq!(response.status(), 200);
        let body = response.into_body().collect().await.expect("a body");
        assert_eq!(body.to_bytes(), "cus_1 by cus_staff");
    }
    assert!(!log.text().contains("ERROR"), "{}", log.text());
    let lifetimes = std::mem::take(&mut *lifetimes.lock().expect("no panic"));
    let ends: Vec<_> = lifetimes.iter().map(SessionLifetime::ended).collect();
    assert!(sessions.revoke(&session.id).await.expect("revoked"));
    assert_eq!(ends.len(), 2);
    for end in ends {
        assert_eq!(end.await, SessionEnd::Revoked);
    }
}

#[tokio::test]
async fn a_customer_that_the_layer_did_not_put_there_has_no_session_and_the_log_says_so() {
    let sessions = CustomerSessions::builder(MemoryStore::new()).build();
    let session = sessions
        .issue(customer("cus_1"), HOUR)
        .await
        .expect("issued");
    let replaced = axum::middleware::map_request(async |mut request: axum::extract::Request| {
        request.extensions_mut().insert(customer("cus_2"));
        request
    });
    let app = Router::new()
        .route("/", get(async |customer: Customer| customer.id.to_string()))
        .route("/lifetime", get(async |_: SessionLifetime| ()))
        .route("/session", get(async |_: Option<CurrentSession>| ()))
        .layer(replaced)
        .layer(sessions.layer());
    let log = Log::default();
    let _guard = log.listen();
    for (path, status) in [("/", 200), ("/lifetime", 500), ("/session", 500)] {
        let request = Request::get(path)
            .header(
                "authorization",
                format!("Bearer {}", session.token.expose()),
            )
            .body(Body::empty())
            .expect("a request");
        let response = app.clone().oneshot(request).await.expect("infallible");
        assert_eq!(response.status(), status, "{path}");
    }
    let said = log.text();
    let named = said.matches("CurrentSession::acting_for");
    assert_eq!(named.count(), 2, "{said}");
    assert!(!said.contains("has no layer"), "{said}");
}
