//! The tools for the tests of a service.

use axum::{
    Extension, Router,
    body::Body,
    routing::{get, post},
};
use customer_session::{
    CurrentSession, Customer, CustomerData, CustomerSessionLayer,
    store::MemoryStore,
    testing::{SignedIn, assert_protected},
};
use http::Request;
use http_body_util::BodyExt as _;
use tower::ServiceExt as _;

async fn body(app: Router, path: &str) -> String {
    let request = Request::get(path).body(Body::empty()).expect("a request");
    let response = app.oneshot(request).await.expect("infallible");
    assert_eq!(response.status(), 200, "{path}");
    let body = response
        .into_body()
        .collect()
        .await
        .expect("a body")
        .to_bytes();
    String::from_utf8(body.to_vec()).expect("UTF-8")
}

#[tokio::test]
async fn every_extractor_sees_the_signed_in_customer() {
    let app = Router::new()
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
            get(async |customer: Option<Customer>| customer.expect("signed in").id.to_string()),
        )
        .route(
            "/session",
            get(async |session: CurrentSession| session.customer_id.to_string()),
        )
        .layer(SignedIn::new(CustomerData::new("cus_test", "org_1")))
        // What another layer has left does not count.
        .layer(SignedIn::new(CustomerData::new("cus_other", "org_1")));
    for path in ["/extension", "/customer", "/optional", "/session"] {
        assert_eq!(body(app.clone(), path).await, "cus_test", "{path}");
    }
}

fn app() -> Router {
    Router::new()
        .route(
            "/orders",
            get(async |_: Customer| ()).delete(async |_: Customer| ()),
        )
        .route("/invoices", post(async || "created"))
        .layer(CustomerSessionLayer::new(MemoryStore::new()))
        .route("/health", get(async || "ok"))
}

#[tokio::test]
async fn protected_routes_pass() {
    assert_protected(app(), ["/orders", "/invoices"]).await;
}

#[tokio::test]
#[should_panic(expected = "GET /health with no credential: Ok(200)")]
async fn a_route_that_was_added_after_the_layer_is_found() {
    assert_protected(app(), ["/orders", "/health"]).await;
}

#[tokio::test]
#[should_panic(expected = "POST /invoices with no credential: Ok(200)")]
async fn an_optional_layer_protects_only_handlers_that_ask() {
    let app = Router::new()
        .route("/invoices", post(async || "created"))
        .layer(CustomerSessionLayer::new(MemoryStore::new()).optional());
    assert_protected(app, ["/invoices"]).await;
}
