//! People in front of a browser: the way to the sign-in page, and the sign-in from another site.

use std::convert::Infallible;

use axum::{Router, body::Body, routing::get};
use customer_session::{Customer, CustomerSessionLayer, Rejection, RejectionKind, TokenFormat};
use http::{Method, Request, Response};
use http_body_util::BodyExt as _;
use test_support::{Fault, one_session};
use tower::{Layer as _, ServiceExt as _};

use super::{add, answer, kind, request, session_cookie, status};

const HTML: &str = "text/html,application/xhtml+xml,application/xml;q=0.9,*/*;q=0.8";

fn page(headers: &[(&'static str, &str)]) -> Request<Body> {
    let mut sent = request("/");
    for (name, value) in headers {
        add(&mut sent, name, value);
    }
    sent
}

fn redirecting(layer: CustomerSessionLayer) -> CustomerSessionLayer {
    let layer = layer.token_from_cookie(&session_cookie());
    layer.redirect_to("/sign-in?from=shop").expect("a path")
}

fn assert_redirects(response: &Response<()>) {
    assert_eq!(response.status(), 303);
    let headers = response.headers();
    assert_eq!(headers["location"], "/sign-in?from=shop");
    assert_eq!(headers["cache-control"], "no-store");
    for absent in ["www-authenticate", "set-cookie", "content-type"] {
        assert!(!headers.contains_key(absent), "{absent}");
    }
}

#[tokio::test]
async fn a_person_without_a_session_is_sent_to_the_sign_in_page() {
    let (_, sessions, _) = one_session().await;
    let layer = redirecting(sessions.layer());
    let unknown = TokenFormat::new("cst_").generate();
    let unknown = format!("session={}", unknown.expose());
    for (cookie, reason) in [
        ("theme=dark", RejectionKind::MissingToken),
        (&*unknown, RejectionKind::InvalidToken),
        ("session=malformed", RejectionKind::InvalidToken),
    ] {
        for accept in [
            HTML,
            "TEXT/HTML",
            "*/*, text/html;q=0.5",
            "application/xhtml+xml",
        ] {
            for method in [Method::GET, Method::HEAD] {
                for mode in [None, Some("navigate")] {
                    let mut sent = page(&[("cookie", cookie), ("accept", accept)]);
                    if let Some(mode) = mode {
                        add(&mut sent, "sec-fetch-mode", mode);
                    }
                    *sent.method_mut() = method.clone();
                    // A proxy's own scheme is not a bearer token.
                    add(&mut sent, "authorization", "Basic dTpw");
                    let response = answer(&layer, sent).await;
                    assert_redirects(&response);
                    assert_eq!(kind(&response), Some(reason));
                }
            }
        }
    }
    let recent = layer.clone().require_recent(std::time::Duration::ZERO);
    assert_redirects(&answer(&recent, page(&[("accept", HTML)])).await);
}

#[tokio::test]
async fn programs_scripts_and_forms_are_refused_not_redirected() {
    let (_, sessions, session) = one_session().await;
    let layer = redirecting(sessions.layer());
    for headers in [
        &[][..],
        &[("accept", "*/*")],
        &[("accept", "application/json")],
        &[("accept", "text/html;q=0, */*")],
        &[("accept", "text/html; q=0.0")],
        &[("accept", HTML), ("sec-fetch-mode", "cors")],
        &[("accept", HTML), ("sec-fetch-mode", "no-cors")],
        &[("accept", HTML), ("upgrade", "websocket")],
        &[("accept", HTML), ("authorization", "Bearer bad")],
        &[("accept", HTML), ("authorization", "Bearer")],
    ] {
        let response = answer(&layer, page(headers)).await;
        assert_eq!(response.status(), 401, "{headers:?}");
        assert!(response.headers().contains_key("www-authenticate"));
    }
    let mut form = page(&[("accept", HTML)]);
    *form.method_mut() = Method::POST;
    assert_eq!(status(&layer, form).await, 401);
    // Only a 401 has a sign-in as its cure.
    let token = format!("session={}", session.token.expose());
    let forbidden = layer.clone().require(|_, _| false);
    let sent = page(&[("accept", HTML), ("cookie", &token)]);
    assert_eq!(status(&forbidden, sent).await, 403);
    let sent = page(&[("accept", HTML), ("cookie", &token), ("cookie", &token)]);
    assert_eq!(status(&layer, sent).await, 400);
    // Without `redirect_to` a page gets the 401 too.
    assert_eq!(
        status(&sessions.layer(), page(&[("accept", HTML)])).await,
        401
    );
}

#[tokio::test]
async fn an_outage_sends_no_one_to_the_sign_in_page() {
    let (store, sessions, session) = one_session().await;
    store.fault(Fault::Fail);
    let token = format!("session={}", session.token.expose());
    let sent = page(&[("accept", HTML), ("cookie", &token)]);
    let response = answer(&redirecting(sessions.layer()), sent).await;
    assert_eq!(response.status(), 503);
    assert!(!response.headers().contains_key("location"));
}

#[tokio::test]
async fn an_extractor_that_refuses_an_anonymous_page_redirects_too() {
    let (_, sessions, _) = one_session().await;
    let app = Router::new()
        .route("/", get(async |_: Customer| ()))
        .layer(redirecting(sessions.layer()).optional());
    let response = app.clone().oneshot(page(&[("accept", HTML)])).await;
    let response = response.expect("infallible").map(drop);
    assert_eq!(response.status(), 303);
    let response = app.oneshot(page(&[])).await.expect("infallible");
    assert_eq!(response.status(), 401);
}

#[tokio::test]
async fn a_redirect_leads_to_this_host_or_to_an_address() {
    let (_, sessions, _) = one_session().await;
    for location in [
        "/",
        "/sign-in",
        "/a?b=c#d",
        "https://id.example/in",
        "http://localhost:1",
    ] {
        let layer = sessions.layer().redirect_to(location).expect(location);
        let response = answer(&layer, page(&[("accept", HTML)])).await;
        assert_eq!(response.headers()["location"], location);
    }
    for location in [
        "",
        "sign-in",
        "//evil.example",
        "/\\evil.example",
        "javascript:alert(1)",
        "/a b",
        "/a\r\nset-cookie: x",
        "/\u{e4}",
        "https://",
        "ftp://a.example",
        "?a",
    ] {
        let error = sessions.layer().redirect_to(location).expect_err(location);
        assert!(
            error.to_string().contains("begins with one slash"),
            "{error}"
        );
    }
}

#[tokio::test]
async fn a_refusal_does_not_speak_of_tokens_to_people() {
    let (_, sessions, _) = one_session().await;
    let layer = sessions.layer().token_from_cookie(&session_cookie());
    let service = layer.layer(tower::service_fn(async |_: Request<Body>| {
        Ok::<_, Infallible>(Response::new(Body::empty()))
    }));
    for cookie in ["theme=dark", "session=malformed", "session=a; session=b"] {
        let response = service.clone().oneshot(page(&[("cookie", cookie)])).await;
        let body = response.expect("infallible").into_body().collect().await;
        let body = body.expect("a body").to_bytes();
        let text = String::from_utf8_lossy(&body).to_lowercase();
        assert!(text.contains("detail"), "{text}");
        assert!(
            !text.contains("token") && !text.contains("bearer"),
            "{text}"
        );
    }
}

#[tokio::test]
async fn a_sign_in_from_another_site_is_refused() {
    let (store, sessions, _) = one_session().await;
    let layer = sessions.layer().trusted_origin("https://app.example");
    let same_origin = layer.expect("an origin").same_origin();
    let service = same_origin.layer(tower::service_fn(async |_: Request<Body>| {
        Ok::<_, Infallible>(Response::new(Body::from("signed in")))
    }));
    for (method, headers, allowed) in [
        ("POST", &[("origin", "https://shop.example")][..], true),
        ("POST", &[("origin", "https://app.example")], true),
        ("POST", &[("origin", "https://evil.example")], false),
        ("POST", &[("origin", "null")], false),
        ("POST", &[], false),
        ("POST", &[("sec-fetch-site", "same-origin")], true),
        ("POST", &[("sec-fetch-site", "cross-site")], false),
        ("POST", &[("sec-fetch-site", "same-site")], false),
        (
            "POST",
            &[
                ("sec-fetch-site", "same-site"),
                ("origin", "https://app.example"),
            ],
            true,
        ),
        ("PUT", &[("origin", "https://evil.example")], false),
        ("GET", &[("sec-fetch-site", "cross-site")], true),
    ] {
        let mut sent = page(headers);
        *sent.method_mut() = method.parse().expect("a method");
        add(&mut sent, "host", "shop.example");
        let checked = same_origin.check(sent.method(), sent.uri(), sent.headers());
        assert_eq!(checked.is_ok(), allowed, "{method} {headers:?}");
        let response = service.clone().oneshot(sent).await.expect("infallible");
        assert_eq!(response.status() == 200, allowed, "{method} {headers:?}");
        if let Err(rejection) = checked {
            assert_eq!(rejection.kind(), RejectionKind::CrossSite);
            assert_eq!(response.status(), 403);
            assert_eq!(response.headers()["cache-control"], "no-store");
            assert!(!response.headers().contains_key("set-cookie"));
            assert!(response.extensions().get::<Rejection>().is_some());
        }
    }
    assert_eq!(store.lookups(), 0);
}
