//! Refusals that the application words itself.

use axum::{
    Router,
    body::Body,
    response::{IntoResponse as _, Redirect},
    routing::get,
};
use bytes::Bytes;
use customer_session::{
    Customer, CustomerSessionLayer, Rejection, RejectionKind, testing::assert_protected,
};
use http::{Request, Response, StatusCode};
use tower::ServiceExt as _;

use test_support::{Fault, one_session};

/// A layer whose refusals have the status `chosen`, or that of `Response::new`.
fn with_status(layer: CustomerSessionLayer, chosen: Option<u16>) -> CustomerSessionLayer {
    layer.rejection_response(move |_| {
        let mut response = Response::new(Bytes::from_static(b"no"));
        if let Some(chosen) = chosen {
            *response.status_mut() = StatusCode::from_u16(chosen).expect("a status");
        }
        response
    })
}

async fn send(layer: CustomerSessionLayer, headers: &[(&str, &str)]) -> Response<Body> {
    let mut request = Request::post("/me");
    for (name, value) in headers {
        request = request.header(*name, *value);
    }
    let app: Router = Router::new()
        .route("/me", get(async |_: Customer| ()).post(async || ()))
        .layer(layer);
    let request = request.body(Body::empty()).expect("a request");
    app.oneshot(request).await.expect("infallible")
}

#[tokio::test]
async fn a_refusal_stays_in_the_class_of_its_status() {
    let (store, sessions, session) = one_session().await;
    let layer = sessions
        .layer()
        .token_from_cookie(&customer_session::SessionCookie::new("session").expect("a name"));
    let live = format!("Bearer {}", session.token.expose());
    let two = format!("{live}, Basic dTpw");
    let cookie = format!("session={}", session.token.expose());
    for (kind, header, by_default) in [
        (RejectionKind::MissingToken, None, 401),
        (
            RejectionKind::InvalidToken,
            Some(("authorization", "Bearer x")),
            401,
        ),
        (
            RejectionKind::MultipleTokens,
            Some(("authorization", &*two)),
            400,
        ),
        (RejectionKind::CrossSite, Some(("cookie", &*cookie)), 403),
        (
            RejectionKind::StoreUnavailable,
            Some(("authorization", &*live)),
            503,
        ),
    ] {
        let is_outage = by_default == 503;
        store.fault(is_outage.then_some(Fault::Fail));
        for chosen in [
            None,
            Some(200),
            Some(204),
            Some(303),
            Some(401),
            Some(403),
            Some(404),
            Some(500),
            Some(503),
        ] {
            let context = format!("{kind:?}, {chosen:?}");
            let headers: Vec<_> = header.into_iter().collect();
            let response = send(with_status(layer.clone(), chosen), &headers).await;
            let status = response.status().as_u16();
            let expected = match chosen {
                Some(chosen @ 400..500) if !is_outage => chosen,
                Some(chosen @ 500..600) if is_outage => chosen,
                _ => by_default,
            };
            assert_eq!(status, expected, "{context}");
            let reason = response.extensions().get().map(Rejection::kind);
            assert_eq!(reason, Some(kind), "{context}");
            let headers = response.headers();
            assert_eq!(headers["cache-control"], "no-store", "{context}");
            assert_eq!(headers.contains_key("retry-after"), is_outage, "{context}");
            let challenges = headers.get_all("www-authenticate").iter().count();
            let is_challenged = status == 401 || matches!(by_default, 400 | 401);
            assert_eq!(challenges, usize::from(is_challenged), "{context}");
        }
    }
}

#[tokio::test]
async fn a_protected_route_may_hide_itself() {
    let (_, sessions, _) = one_session().await;
    let app: Router = Router::new()
        .route("/me", get(async |_: Customer| ()))
        .layer(with_status(sessions.layer(), Some(404)));
    assert_protected(app, ["/me"]).await;
}

#[tokio::test]
async fn a_layer_outside_redirects_what_was_refused() {
    let (store, sessions, session) = one_session().await;
    let app: Router = Router::new()
        .route("/me", get(async |me: Customer| me.id.to_string()))
        .layer(sessions.layer())
        .layer(axum::middleware::map_response(
            async |response: axum::response::Response| match response
                .extensions()
                .get()
                .map(Rejection::kind)
            {
                Some(RejectionKind::MissingToken | RejectionKind::InvalidToken) => {
                    Redirect::to("/sign-in").into_response()
                }
                _ => response,
            },
        ));
    let ask = async |token: Option<&str>| {
        let mut request = Request::get("/me");
        if let Some(token) = token {
            request = request.header("authorization", format!("Bearer {token}"));
        }
        let request = request.body(Body::empty()).expect("a request");
        app.clone().oneshot(request).await.expect("infallible")
    };
    for token in [None, Some("x")] {
        let response = ask(token).await;
        assert_eq!(response.status(), 303);
        assert_eq!(response.headers()["location"], "/sign-in");
    }
    store.fault(Fault::Fail);
    assert_eq!(ask(Some(session.token.expose())).await.status(), 503);
    store.fault(None);
    assert_eq!(ask(Some(session.token.expose())).await.status(), 200);
}
