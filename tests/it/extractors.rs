//! What a handler gets, by what it asks for and who is there.

use axum::{Extension, Router, body::Body, routing::get};
use customer_session::{CurrentSession, Customer, CustomerSessions, store::MemoryStore};
use http::{Request, StatusCode};
use http_body_util::BodyExt as _;
use tower::ServiceExt as _;

use test_support::{HOUR, customer};

fn routes() -> Router {
    Router::new()
        .route(
            "/extension",
            get(async |Extension(it): Extension<Customer>| it.id.to_string()),
        )
        .route("/customer", get(async |it: Customer| it.id.to_string()))
        .route(
            "/optional",
            get(async |it: Option<Customer>| it.map_or("nobody".into(), |it| it.id.to_string())),
        )
        .route(
            "/session",
            get(async |it: CurrentSession| it.customer_id.to_string()),
        )
        .route(
            "/optional-session",
            get(async |it: Option<CurrentSession>| {
                it.map_or("nobody".into(), |it| it.customer_id.to_string())
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
    let layered = routes().layer(sessions.layer().optional().realm("shop"));
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
                ("anonymous", (StatusCode::OK, _)) => assert_eq!(body, "nobody", "{path}"),
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
async fn a_preflight_is_anonymous_to_extractors() {
    let sessions = CustomerSessions::builder(MemoryStore::new()).build();
    let app = Router::new()
        .route(
            "/customer",
            axum::routing::options(async |_: Customer| "in"),
        )
        .route(
            "/optional",
            axum::routing::options(async |it: Option<Customer>| it.is_some().to_string()),
        )
        .layer(sessions.layer());
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
