//! The layer beside tower-http's `CorsLayer`, in both orders, and without one.

use std::sync::{
    Arc,
    atomic::{AtomicUsize, Ordering::SeqCst},
};

use axum::{
    Router,
    body::Body,
    routing::{any, get},
};
use customer_session::{Customer, CustomerSessionLayer, testing::assert_protected};
use http::{HeaderValue, Method, Request, Response, header::AUTHORIZATION};
use tower::ServiceExt as _;
use tower_http::cors::CorsLayer;

use test_support::one_session;

const PAGE: &str = "https://app.example";

fn cors() -> CorsLayer {
    CorsLayer::new()
        .allow_origin(HeaderValue::from_static(PAGE))
        .allow_methods([Method::GET])
        .allow_headers([AUTHORIZATION])
}

/// A router that counts the requests which reach its handlers, whatever their path and method.
fn catch_all(layer: CustomerSessionLayer) -> (Router, Arc<AtomicUsize>) {
    let reached = Arc::new(AtomicUsize::new(0));
    let handler = {
        let reached = Arc::clone(&reached);
        async move || {
            reached.fetch_add(1, SeqCst);
            "the secret"
        }
    };
    let app = Router::new()
        .route("/secret", any(handler.clone()))
        .fallback(any(handler))
        .layer(layer);
    (app, reached)
}

/// Sends a request as a browser does for a page of another origin.
async fn send(app: &Router, method: Method, headers: &[(&str, &str)]) -> Response<Body> {
    let mut request = Request::builder()
        .method(method)
        .uri("/secret")
        .header("origin", PAGE);
    for (name, value) in headers {
        request = request.header(*name, *value);
    }
    let request = request.body(Body::empty()).expect("a request");
    app.clone().oneshot(request).await.expect("infallible")
}

async fn preflight(app: &Router) -> Response<Body> {
    let asks = [
        ("access-control-request-method", "GET"),
        ("access-control-request-headers", "authorization"),
    ];
    send(app, Method::OPTIONS, &asks).await
}

fn allowed_origin(response: &Response<Body>) -> Option<&str> {
    let value = response.headers().get("access-control-allow-origin")?;
    value.to_str().ok()
}

#[tokio::test]
async fn a_request_shaped_like_a_preflight_reaches_no_handler() {
    let (_, sessions, _) = one_session().await;
    let (app, reached) = catch_all(sessions.layer());
    for path in ["/secret", "/nowhere"] {
        let request = Request::options(path)
            .header("origin", PAGE)
            .header("access-control-request-method", "GET")
            .body(Body::empty())
            .expect("a request");
        let response = app.clone().oneshot(request).await.expect("infallible");
        assert_eq!(response.status(), 401, "{path}");
        assert!(response.headers().contains_key("www-authenticate"));
    }
    assert_eq!(reached.load(SeqCst), 0);
    assert_protected(app, ["/secret", "/nowhere"]).await;
}

#[tokio::test]
async fn a_cors_layer_outside_answers_preflights_and_lets_the_page_read_refusals() {
    let (_, sessions, session) = one_session().await;
    let (app, reached) = catch_all(sessions.layer());
    let app = app.layer(cors());

    let response = preflight(&app).await;
    assert_eq!(response.status(), 200);
    assert_eq!(allowed_origin(&response), Some(PAGE));
    assert_eq!(
        response.headers()["access-control-allow-headers"],
        "authorization"
    );

    let response = send(&app, Method::GET, &[]).await;
    assert_eq!(response.status(), 401);
    assert_eq!(allowed_origin(&response), Some(PAGE), "readable");
    assert_eq!(reached.load(SeqCst), 0);
    assert_protected(app.clone(), ["/secret", "/nowhere"]).await;

    let bearer = format!("Bearer {}", session.token.expose());
    let response = send(&app, Method::GET, &[("authorization", &bearer)]).await;
    assert_eq!(response.status(), 200);
    assert_eq!(allowed_origin(&response), Some(PAGE));
    assert_eq!(reached.load(SeqCst), 1);
}

#[tokio::test]
async fn a_cors_layer_inside_needs_preflights_that_pass_and_hides_refusals() {
    let (_, sessions, session) = one_session().await;
    let routes = |layer: CustomerSessionLayer| {
        Router::new()
            .route("/secret", get(async |me: Customer| me.id.to_string()))
            .layer(cors())
            .layer(layer)
    };
    let refusing = routes(sessions.layer());
    assert_eq!(preflight(&refusing).await.status(), 401);

    let app = routes(sessions.layer().pass_preflights());
    let response = preflight(&app).await;
    assert_eq!(response.status(), 200);
    assert_eq!(allowed_origin(&response), Some(PAGE));
    let bearer = format!("Bearer {}", session.token.expose());
    let response = send(&app, Method::GET, &[("authorization", &bearer)]).await;
    assert_eq!(response.status(), 200);
    assert_eq!(allowed_origin(&response), Some(PAGE));
    // This is why the CORS layer belongs outside.
    let response = send(&app, Method::GET, &[]).await;
    assert_eq!(response.status(), 401);
    assert_eq!(allowed_origin(&response), None, "the page cannot read it");
    assert_protected(app, ["/secret"]).await;
}

#[tokio::test]
async fn other_settings_of_a_cors_layer_pass_the_check() {
    let (_, sessions, _) = one_session().await;
    let with_credentials = CorsLayer::new()
        .allow_origin(HeaderValue::from_static(PAGE))
        .allow_credentials(true);
    let listed = CorsLayer::new().allow_origin([HeaderValue::from_static(PAGE)]);
    let with_age = CorsLayer::new().max_age(std::time::Duration::from_secs(60));
    for cors in [
        CorsLayer::permissive(),
        CorsLayer::very_permissive(),
        with_credentials,
        listed,
        with_age,
    ] {
        let (app, reached) = catch_all(sessions.layer());
        assert_protected(app.layer(cors), ["/secret"]).await;
        assert_eq!(reached.load(SeqCst), 0);
    }
}

#[tokio::test]
#[should_panic(expected = "preflight for GET /secret with no credential: Ok(200)")]
async fn the_check_finds_preflights_that_pass_to_a_handler() {
    let (_, sessions, _) = one_session().await;
    let (app, _) = catch_all(sessions.layer().pass_preflights());
    assert_protected(app, ["/secret"]).await;
}

#[tokio::test]
#[should_panic(expected = "OPTIONS /secret with no credential: Ok(200)")]
async fn the_check_finds_a_handler_of_options_beside_the_layer() {
    let (_, sessions, _) = one_session().await;
    let app: Router = Router::new().route(
        "/secret",
        get(async || ())
            .layer(sessions.layer())
            .options(async || ()),
    );
    assert_protected(app, ["/secret"]).await;
}

#[tokio::test]
#[should_panic(expected = "HEAD /secret with no credential: Ok(200)")]
async fn the_check_finds_a_handler_of_head_beside_the_layer() {
    let (_, sessions, _) = one_session().await;
    let app: Router = Router::new().route(
        "/secret",
        get(async || ()).layer(sessions.layer()).head(async || ()),
    );
    assert_protected(app, ["/secret"]).await;
}

#[tokio::test]
#[should_panic(expected = "preflight for GET /secret with no credential: Ok(200)")]
async fn the_check_is_not_satisfied_by_a_header_that_every_answer_has() {
    let (_, sessions, _) = one_session().await;
    let app: Router = Router::new()
        .route("/secret", any(async || ()))
        .layer(sessions.layer().pass_preflights())
        .layer(axum::middleware::map_response(
            async |mut response: axum::response::Response| {
                let any = HeaderValue::from_static("*");
                response
                    .headers_mut()
                    .insert("access-control-allow-origin", any);
                response
            },
        ));
    assert_protected(app, ["/secret"]).await;
}
