//! Tokens of members: which member of the customer's team it is.

use axum::{Router, body::Body, http::Request, routing::get};
use chrono::TimeDelta;
use customer_session::{
    Clock as _, CustomerSessions, MemberRole, SessionStore as _, SessionToken, StoreErrorKind,
};
use http::StatusCode;
use serde_json::json;
use tower::ServiceExt as _;

use super::{
    fake_polar::{CUSTOMERS, FOREIGN, FakePolar, Fault, INTROSPECT, JANE, ME, MEMBER, TEAM, USER},
    found,
};
use test_support::clock;

fn role(role: &str) -> Fault {
    let user = json!({
        "type": "member", "customer_id": TEAM, "member_id": "m", "role": role,
    });
    Fault::body(user.to_string())
}

#[tokio::test]
async fn a_member_s_session_names_the_member_at_no_further_call() {
    let polar = FakePolar::start().await;
    let store = polar.store();
    let session = found(&store, &polar.member_token(TEAM)).await;
    assert_eq!(session.customer_id.as_str(), TEAM);
    let member = session.details.member.expect("a member");
    assert_eq!(member.id, MEMBER);
    assert_eq!(member.role, MemberRole::Owner);
    assert_eq!(member.name.as_deref(), Some("Boss"));
    assert_eq!(member.email.as_deref(), Some("boss@example.org"));
    let mut calls = polar.calls();
    calls.sort();
    let expected = [INTROSPECT, USER, &format!("{CUSTOMERS}{TEAM}")];
    assert_eq!(calls, expected.map(|path| format!("GET {path}")));

    let session = found(&store, &polar.customer_token(JANE)).await;
    assert_eq!(session.details.member, None);
}

#[tokio::test]
async fn a_guard_asks_for_a_role() {
    let polar = FakePolar::start().await;
    let sessions = CustomerSessions::builder(polar.store()).build();
    let owners = sessions.layer().require(|session, _| {
        let member = session.details.member.as_ref();
        member.is_some_and(|member| member.role == MemberRole::Owner)
    });
    let app: Router = Router::new().route("/", get(async || "")).layer(owners);
    let ask = async |token: SessionToken| {
        let bearer = format!("Bearer {}", token.expose());
        let request = Request::get("/").header("authorization", bearer);
        let request = request.body(Body::empty()).expect("a request");
        let response = app.clone().oneshot(request).await;
        response.expect("infallible").status()
    };
    assert_eq!(ask(polar.member_token(TEAM)).await, StatusCode::OK);
    assert_eq!(ask(polar.customer_token(JANE)).await, StatusCode::FORBIDDEN);
    for other in ["member", "billing_manager", "auditor"] {
        polar.fault(USER, role(other));
        let status = ask(polar.member_token(TEAM)).await;
        assert_eq!(status, StatusCode::FORBIDDEN, "{other}");
    }
}

#[tokio::test]
async fn a_session_whose_member_polar_does_not_name_has_none() {
    let polar = FakePolar::start().await;
    let store = polar.store();
    let token = polar.member_token(TEAM);
    let customer = json!({
        "type": "customer", "customer_id": TEAM, "member_id": null, "role": null,
    });
    for fault in [Fault::status(422), Fault::body(customer.to_string())] {
        polar.fault(USER, fault);
        let session = found(&store, &token).await;
        assert_eq!(session.customer_id.as_str(), TEAM);
        assert_eq!(session.details.member, None);
    }
    polar.fault(USER, role("auditor"));
    let member = found(&store, &token).await.details.member;
    assert_eq!(member.expect("a member").role.as_str(), "auditor");

    // The session ends between the calls.
    polar.fault(USER, Fault::status(422));
    polar.fault(ME, Fault::invalid_token());
    assert_eq!(store.find(&token).await.expect("Polar answers"), None);
    polar.fault(USER, Fault::invalid_token());
    polar.fault(INTROSPECT, Fault::down());
    assert_eq!(store.find(&token).await.expect("Polar answers"), None);
}

#[tokio::test]
async fn a_failure_to_name_the_member_is_an_outage() {
    let polar = FakePolar::start().await;
    let store = polar.store();
    let token = polar.member_token(TEAM);
    for status in [400, 401, 403, 404, 500] {
        polar.fault(USER, Fault::status(status));
        let error = store.find(&token).await.expect_err("a failure");
        assert_eq!(error.kind(), StoreErrorKind::Unavailable, "{status}");
    }
    polar.fault(USER, Fault::body("{}"));
    let error = store.find(&token).await.expect_err("a failure");
    assert_eq!(error.kind(), StoreErrorKind::Corrupt);
}

/// Polar tells a member's token when the customer was created by one call more, which is made only
/// if the customer is not found.
#[tokio::test]
async fn the_customer_of_a_member_may_be_new_or_foreign() {
    let (polar, clock) = (FakePolar::start().await, clock());
    let store = polar.builder().clock(clock.clone()).build().expect("built");
    polar.update(
        TEAM,
        json!({ "created_at": clock.now() - TimeDelta::seconds(1) }),
    );
    polar.lag(TEAM, 1);
    found(&store, &polar.member_token(TEAM)).await;
    assert_eq!(polar.calls().len(), 5);

    let foreign = polar.member_token(FOREIGN);
    for calls in [4, 2] {
        assert_eq!(store.find(&foreign).await.expect("Polar answers"), None);
        assert_eq!(polar.calls().len(), calls);
    }
    // If that call fails, Polar has not said whose customer it is.
    let store = polar.builder().clock(clock.clone()).build().expect("built");
    polar.fault(ME, Fault::down());
    let error = store.find(&foreign).await.expect_err("it cannot tell");
    assert_eq!(error.kind(), StoreErrorKind::Unavailable);
}
