//! A cookie whose session has ended, which a browser goes on sending.

use axum::body::Body;
use customer_session::{CustomerSessionLayer, CustomerSessions, RejectionKind, TokenFormat};
use http::{Method, Request};
use test_support::{Fault, HOUR, ProbeStore, clock, customer, one_session};
use tower::ServiceExt as _;

use super::{Seen, add, answer, kind, request, session_cookie, status};

fn with_cookie(token: &str) -> Request<Body> {
    let mut sent = request("/");
    add(&mut sent, "cookie", &format!("theme=dark; session={token}"));
    sent
}

/// Asserts that the layer lets the request in, without a customer.
async fn assert_anonymous(layer: &CustomerSessionLayer, request: Request<Body>) {
    let seen = Seen::default();
    let response = seen.behind(layer).oneshot(request).await;
    let response = response.expect("infallible");
    assert_eq!(response.status(), 200);
    assert_eq!(response.headers()["cache-control"], "private");
    assert!(!response.headers().contains_key("set-cookie"));
    assert_eq!((seen.count(), seen.last().2), (1, None));
}

#[tokio::test]
async fn a_cookie_that_opens_nothing_is_anonymous_where_a_customer_is_optional() {
    let clock = clock();
    let store = std::sync::Arc::new(ProbeStore::default());
    let sessions = CustomerSessions::builder(std::sync::Arc::clone(&store));
    let sessions = sessions.clock(clock.clone()).build();
    let revoked = sessions
        .issue(customer("cus_1"), 9 * HOUR)
        .await
        .expect("issued");
    let expired = sessions
        .issue(customer("cus_1"), HOUR)
        .await
        .expect("issued");
    let required = sessions.layer().token_from_cookie(&session_cookie());
    let optional = required.clone().optional();
    for session in [&revoked, &expired] {
        // While the session lives, the customer is there.
        let seen = Seen::default();
        let sent = with_cookie(session.token.expose());
        let response = seen.behind(&optional).oneshot(sent).await;
        assert_eq!(response.expect("infallible").status(), 200);
        assert_eq!(seen.last().2.as_deref(), Some("cus_1"));
    }
    sessions.revoke(&revoked.id).await.expect("revoked");
    clock.advance(2 * HOUR);
    let unknown = TokenFormat::new("cst_").generate();
    let tokens = [&revoked.token, &expired.token, &unknown].map(|token| token.expose());
    for token in tokens.into_iter().chain(["malformed", "", "\"\""]) {
        // By a lookup, then by what is remembered.
        for _ in 0..2 {
            assert_anonymous(&optional, with_cookie(token)).await;
        }
        let response = answer(&required, with_cookie(token)).await;
        assert_eq!(kind(&response), Some(RejectionKind::InvalidToken));
        assert_eq!(response.status(), 401);
        assert!(
            !response.headers().contains_key("set-cookie"),
            "on a refusal"
        );
        // A guard needs a session.
        let guarded = optional.clone().require(|_, _| true);
        let response = answer(&guarded, with_cookie(token)).await;
        assert_eq!(kind(&response), Some(RejectionKind::InvalidToken));
        // `Authorization` is not sent unasked.
        let mut sent = request("/");
        add(&mut sent, "authorization", &format!("Bearer {token}"));
        add(&mut sent, "cookie", "theme=dark");
        assert_eq!(status(&optional, sent).await, 401, "{token}");
    }
}

#[tokio::test]
async fn a_stale_cookie_beside_another_credential_or_from_another_site_is_refused_as_before() {
    let (store, sessions, session) = one_session().await;
    let optional = sessions
        .layer()
        .token_from_cookie(&session_cookie())
        .optional();
    let optional = optional.token_from_query();
    let unknown = TokenFormat::new("cst_").generate();
    for token in [unknown.expose(), "malformed", ""] {
        let mut both = with_cookie(token);
        let bearer = format!("Bearer {}", session.token.expose());
        add(&mut both, "authorization", &bearer);
        assert_eq!(status(&optional, both).await, 400, "{token}");
        let mut twice = with_cookie(token);
        add(
            &mut twice,
            "cookie",
            &format!("session={}", session.token.expose()),
        );
        assert_eq!(status(&optional, twice).await, 400, "{token}");
        let mut both = with_cookie(token);
        *both.uri_mut() = "/?access_token=x".parse().expect("a URI");
        assert_eq!(status(&optional, both).await, 400, "{token}");
        let mut forged = with_cookie(token);
        *forged.method_mut() = Method::POST;
        add(&mut forged, "origin", "https://evil.example");
        assert_eq!(status(&optional, forged).await, 403, "{token}");
    }
    assert_eq!(store.lookups(), 0);
    // A bad token in the query stays one.
    assert_eq!(status(&optional, request("/?access_token=x")).await, 401);
}

#[tokio::test]
async fn an_outage_makes_no_cookie_anonymous() {
    let (store, sessions, session) = one_session().await;
    let optional = sessions
        .layer()
        .token_from_cookie(&session_cookie())
        .optional();
    store.fault(Fault::Fail);
    let response = answer(&optional, with_cookie(session.token.expose())).await;
    assert_eq!(response.status(), 503);
    assert_eq!(kind(&response), Some(RejectionKind::StoreUnavailable));
    assert!(response.headers().contains_key("retry-after"));
    assert!(!response.headers().contains_key("set-cookie"));
}

#[tokio::test]
async fn a_session_that_is_revoked_while_its_cookie_is_looked_up_is_anonymous() {
    let (store, sessions, session) = one_session().await;
    let optional = sessions
        .layer()
        .token_from_cookie(&session_cookie())
        .optional();
    store.shut();
    let sent = with_cookie(session.token.expose());
    let waiting = tokio::spawn(async move { assert_anonymous(&optional, sent).await });
    store.has_read(1).await;
    sessions.revoke(&session.id).await.expect("revoked");
    store.open();
    waiting.await.expect("let in without a customer");
}
