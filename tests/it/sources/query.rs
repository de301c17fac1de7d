//! Tokens in the query of a URI.

use axum::{Router, extract::OriginalUri, response::IntoResponse as _, routing::get};
use customer_session::Customer;
use http::{Method, StatusCode, Uri};
use http_body_util::BodyExt as _;
use tower::{Layer as _, ServiceExt as _};

use super::{Seen, add, request};
use test_support::one_session;

#[tokio::test]
async fn the_query_token_is_gone_from_the_uri_on_every_path() {
    let (_, sessions, session) = one_session().await;
    let token = session.token.expose();
    let layer = sessions.layer().token_from_query();
    let seen = Seen::default();
    // By a lookup, then as a hit.
    for _ in 0..2 {
        let uri = format!("/a?c=%20+%2b&access%5Ftoken={token}&b");
        let response = seen.behind(&layer).oneshot(request(&uri)).await;
        assert_eq!(response.expect("infallible").status(), 200);
        assert_eq!(seen.last().0, "/a?c=%20+%2b&b");
    }
    // A preflight that passes goes through, but not with the token.
    let mut preflight = request(&format!("/a?access_token={token}"));
    *preflight.method_mut() = Method::OPTIONS;
    add(&mut preflight, "origin", "https://a.example");
    add(&mut preflight, "access-control-request-method", "GET");
    let passing = layer.clone().pass_preflights();
    let response = seen.behind(&passing).oneshot(preflight).await;
    assert_eq!(response.expect("infallible").status(), 200);
    let (uri, _, customer) = seen.last();
    assert_eq!((uri, customer), ("/a".parse().expect("a URI"), None));
    // A refused request does not reach the service.
    let before = seen.count();
    let uri = format!("/a?access_token={token}&access_token={token}");
    let response = seen.behind(&layer).oneshot(request(&uri)).await;
    assert_eq!(response.expect("infallible").status(), 400);
    assert_eq!(seen.count(), before);
}

#[tokio::test]
async fn answers_to_a_query_token_are_private() {
    let (_, sessions, session) = one_session().await;
    let token = session.token.expose();
    for (said, now) in [
        (None, "private"),
        (Some("public, max-age=60"), "private, max-age=60"),
        (Some("private, max-age=60"), "private, max-age=60"),
        (Some("no-store"), "no-store"),
    ] {
        let app = Router::new()
            .route(
                "/",
                get(async move || match said {
                    Some(said) => [("cache-control", said)].into_response(),
                    None => StatusCode::NOT_FOUND.into_response(),
                }),
            )
            .layer(sessions.layer().token_from_query());
        for (uri, expected) in [
            (format!("/?access_token={token}"), now),
            ("/?access_token=bad".to_owned(), "no-store"),
        ] {
            let response = app
                .clone()
                .oneshot(request(&uri))
                .await
                .expect("infallible");
            let lines: Vec<_> = response.headers().get_all("cache-control").iter().collect();
            assert_eq!(lines, [expected]);
        }
        let mut plain = request("/");
        add(&mut plain, "authorization", &format!("Bearer {token}"));
        let response = app.oneshot(plain).await.expect("infallible");
        let untouched = response.headers().get("cache-control");
        assert_eq!(untouched.map(|value| value.to_str().expect("ASCII")), said);
    }
}

#[tokio::test]
async fn a_layer_around_the_router_hides_the_query_token_from_all_of_it() {
    let (_, sessions, session) = one_session().await;
    let routes = || {
        Router::new().route(
            "/me",
            get(
                async |OriginalUri(original): OriginalUri, uri: Uri, customer: Customer| {
                    format!("{original} {uri} {}", customer.id)
                },
            ),
        )
    };
    let layer = sessions.layer().token_from_query();
    let uri = format!("/me?access_token={}&b=2", session.token.expose());

    let around = layer.layer(routes());
    let response = around.oneshot(request(&uri)).await.expect("infallible");
    let body = response.into_body().collect().await.expect("a body");
    assert_eq!(body.to_bytes(), "/me?b=2 /me?b=2 cus_1");

    // What the documentation says of a layer inside.
    let inside = routes().layer(layer);
    let response = inside.oneshot(request(&uri)).await.expect("infallible");
    let body = response.into_body().collect().await.expect("a body");
    assert_eq!(body.to_bytes(), format!("{uri} /me?b=2 cus_1").as_str());
}
