//! Tokens in a cookie, which a browser sends from other sites too.

use std::convert::Infallible;

use axum::body::Body;
use customer_session::{CustomerSessionLayer, RejectionKind, SessionCookie, TokenFormat};
use http::{HeaderValue, Method, Request, Response};
use tower::{Layer as _, ServiceExt as _};

use super::{SOURCES, add, all, answer, kind, request, session_cookie, status};
use test_support::{Sessions, one_session};

/// A way in which a request with a good cookie says where it comes from, and whether it is
/// let in when that matters.
type From = (&'static [(&'static str, &'static str)], bool);

const ORIGINS: &[From] = &[
    (&[], false),
    (&[("origin", "https://shop.example")], true),
    (&[("origin", "HTTPS://Shop.Example")], true),
    (&[("origin", "https://shop.example:443")], true),
    (&[("origin", "http://shop.example")], true),
    (&[("origin", "https://app.example")], true),
    (&[("origin", "https://app.example:443")], true),
    (&[("origin", "http://localhost:5173")], true),
    (&[("origin", "capacitor://localhost")], true),
    (&[("origin", "http://app.example")], false),
    (&[("origin", "https://shop.example:8443")], false),
    (&[("origin", "https://evil.example")], false),
    (&[("origin", "https://shop.example.evil")], false),
    (&[("origin", "https://evil.shop.example")], false),
    (&[("origin", "http://localhost")], false),
    (&[("origin", "null")], false),
    (&[("origin", "")], false),
    (&[("origin", "shop.example")], false),
    (&[("origin", "https://shop.example/")], false),
    (
        &[("origin", "https://shop.example https://evil.example")],
        false,
    ),
    (
        &[
            ("origin", "https://shop.example"),
            ("origin", "https://shop.example"),
        ],
        false,
    ),
    // `Sec-Fetch-Site` decides where there is one.
    (&[("sec-fetch-site", "same-origin")], true),
    (&[("sec-fetch-site", "none")], true),
    (
        &[("origin", "null"), ("sec-fetch-site", "same-origin")],
        true,
    ),
    (
        &[
            ("origin", "https://shop.example"),
            ("sec-fetch-site", "same-origin"),
        ],
        true,
    ),
    // Another scheme, whose page the host and the default port do not tell apart.
    (
        &[
            ("origin", "http://shop.example"),
            ("sec-fetch-site", "cross-site"),
        ],
        false,
    ),
    (
        &[
            ("origin", "http://shop.example"),
            ("sec-fetch-site", "same-site"),
        ],
        false,
    ),
    (
        &[
            ("origin", "https://app.example"),
            ("sec-fetch-site", "same-site"),
        ],
        true,
    ),
    (
        &[
            ("origin", "capacitor://localhost"),
            ("sec-fetch-site", "cross-site"),
        ],
        true,
    ),
    (
        &[
            ("origin", "https://evil.example"),
            ("sec-fetch-site", "cross-site"),
        ],
        false,
    ),
    (&[("sec-fetch-site", "same-site")], false),
    (&[("sec-fetch-site", "cross-site")], false),
    // No browser sends these.
    (&[("sec-fetch-site", "")], false),
    (
        &[
            ("origin", "https://shop.example"),
            ("sec-fetch-site", "Same-Origin"),
        ],
        false,
    ),
    (
        &[
            ("origin", "https://shop.example"),
            ("sec-fetch-site", "same-origin, none"),
        ],
        false,
    ),
    (
        &[
            ("sec-fetch-site", "same-origin"),
            ("sec-fetch-site", "cross-site"),
        ],
        false,
    ),
    (
        &[
            ("origin", "https://app.example"),
            ("sec-fetch-site", "same-origin"),
            ("sec-fetch-site", "same-origin"),
        ],
        false,
    ),
    // A referrer is not trusted.
    (&[("referer", "https://shop.example/")], false),
];

fn of_cookie(sessions: &Sessions) -> CustomerSessionLayer {
    sessions
        .layer()
        .trusted_origin("https://app.example")
        .expect("an origin")
        .token_from_cookie(&session_cookie())
        .trusted_origin("http://localhost:5173")
        .expect("an origin")
        .trusted_origin("capacitor://localhost")
        .expect("an origin")
}

#[tokio::test]
async fn a_cookie_from_another_site_changes_nothing() {
    let (store, sessions, session) = one_session().await;
    let layer = of_cookie(&sessions);
    let unknown = TokenFormat::new("cst_").generate();
    let methods = [
        "POST", "PUT", "PATCH", "DELETE", "CONNECT", "PURGE", "GET", "HEAD",
    ];
    for method in methods
        .iter()
        .chain(&["OPTIONS", "TRACE", "upgrade", "connection"])
    {
        let guarded = !["GET", "HEAD", "OPTIONS", "TRACE"].contains(method);
        for (headers, same_site) in ORIGINS {
            let send = |token: &str| {
                let mut request = request("/");
                match *method {
                    "upgrade" => add(&mut request, "upgrade", "websocket"),
                    "connection" => add(&mut request, "connection", "keep-alive, Upgrade"),
                    method => *request.method_mut() = method.parse().expect("a method"),
                }
                add(&mut request, "host", "shop.example");
                add(&mut request, "cookie", &format!("session={token}"));
                for (name, value) in *headers {
                    add(&mut request, name, value);
                }
                request
            };
            let context = format!("{method} {headers:?}");
            let response = answer(&layer, send(session.token.expose())).await;
            if !guarded || *same_site {
                assert_eq!(response.status(), 200, "{context}");
                continue;
            }
            assert_eq!(response.status(), 403, "{context}");
            assert_eq!(kind(&response), Some(RejectionKind::CrossSite), "{context}");
            let headers = response.headers();
            assert_eq!(headers["content-type"], "application/problem+json");
            assert_eq!(headers["cache-control"], "no-store");
            assert!(!headers.contains_key("www-authenticate"));

            // A valid token makes no difference.
            let lookups = store.lookups();
            for token in [unknown.expose(), "malformed", ""] {
                let other = answer(&layer, send(token)).await;
                assert_eq!(other.status(), 403, "{context}");
                assert_eq!(other.headers(), headers, "{context}");
            }
            assert_eq!(store.lookups(), lookups, "{context}");
        }
    }
}

#[tokio::test]
async fn this_site_is_the_host_that_was_asked() {
    let (_, sessions, session) = one_session().await;
    let layer = of_cookie(&sessions);
    for (uri, hosts, origin, status) in [
        ("/", &["shop.example:443"][..], "https://shop.example", 200),
        ("/", &["shop.example:80"], "http://shop.example", 200),
        ("/", &["shop.example:80"], "https://shop.example", 403),
        (
            "/",
            &["shop.example:8443"],
            "https://shop.example:8443",
            200,
        ),
        ("/", &["[::1]:8080"], "http://[::1]:8080", 200),
        (
            "/",
            &["shop.example", "evil.example"],
            "https://shop.example",
            403,
        ),
        (
            "/",
            &["shop.example", "evil.example"],
            "https://evil.example",
            403,
        ),
        ("/", &[], "https://shop.example", 403),
        ("/", &[], "https://app.example", 200),
        ("/", &[""], "https://", 403),
        // HTTP/2 has the host in the URI; it counts before a header (RFC 9112, 3.2.2).
        ("https://shop.example/", &[], "https://shop.example", 200),
        (
            "https://shop.example/",
            &["evil.example"],
            "https://evil.example",
            403,
        ),
    ] {
        let mut request = request(uri);
        *request.method_mut() = Method::POST;
        for host in hosts {
            add(&mut request, "host", host);
        }
        add(&mut request, "origin", origin);
        add(
            &mut request,
            "cookie",
            &format!("session={}", session.token.expose()),
        );
        let response = answer(&layer, request).await;
        assert_eq!(response.status(), status, "{uri} {hosts:?} {origin}");
    }
}

#[tokio::test]
async fn only_cookies_depend_on_the_site_of_the_request() {
    let (_, sessions, session) = one_session().await;
    let layer = all(sessions.layer());
    for (name, carry) in SOURCES {
        let mut request = request("/");
        *request.method_mut() = Method::POST;
        add(&mut request, "origin", "https://evil.example");
        add(&mut request, "cookie", "theme=dark");
        carry(&mut request, session.token.expose());
        let expected = if name == "cookie" { 403 } else { 200 };
        assert_eq!(status(&layer, request).await, expected, "{name}");
    }
    // Without a cookie an anonymous request is an anonymous request.
    let optional = of_cookie(&sessions).optional();
    for (cookie, expected) in [("theme=dark", 200), ("session=x", 403)] {
        let mut request = request("/");
        *request.method_mut() = Method::POST;
        add(&mut request, "cookie", cookie);
        assert_eq!(status(&optional, request).await, expected);
    }
}

#[tokio::test]
async fn a_bad_name_or_origin_is_an_error() {
    let (_, sessions, session) = one_session().await;
    for name in ["my session", "", "session=", "session;"] {
        let error = SessionCookie::new(name).expect_err(name).to_string();
        assert!(error.contains("a cookie's name must be a token"), "{error}");
    }

    let layer = sessions.layer().token_from_cookie(&session_cookie());
    for origin in [
        "null",
        "*",
        "https://*",
        "evil.example",
        "https://evil.example/",
        "",
    ] {
        let error = layer.clone().trusted_origin(origin).expect_err(origin);
        let error = error.to_string();
        assert!(error.contains("must be a scheme, a host"), "{error}");
        assert!(
            !error.contains("evil"),
            "the value is not repeated: {error}"
        );
    }
    for origin in ["null", "*", "https://evil.example", ""] {
        let mut sent = request("/");
        *sent.method_mut() = Method::POST;
        add(&mut sent, "origin", origin);
        add(
            &mut sent,
            "cookie",
            &format!("session={}", session.token.expose()),
        );
        assert_eq!(status(&layer, sent).await, 403, "{origin}");
    }
}

#[tokio::test]
async fn an_answer_to_a_cookie_is_private() {
    let (_, sessions, session) = one_session().await;
    let token = session.token.expose();
    let theirs = |value: Option<&'static str>| {
        tower::service_fn(move |_: Request<Body>| {
            let mut response = Response::new(Body::empty());
            let value = value.map(HeaderValue::from_static);
            let value = value.map(|value| (http::header::CACHE_CONTROL, value));
            response.headers_mut().extend(value);
            std::future::ready(Ok::<_, Infallible>(response))
        })
    };
    for (of_handler, kept) in [
        (None, "private"),
        (Some("max-age=60"), "private, max-age=60"),
        (Some("public, max-age=60"), "private, max-age=60"),
        (Some("private"), "private"),
        (Some("no-store"), "no-store"),
    ] {
        for layer in [of_cookie(&sessions), of_cookie(&sessions).optional()] {
            // By a lookup, then as a hit.
            for _ in 0..2 {
                let mut sent = request("/");
                add(&mut sent, "cookie", &format!("session={token}"));
                let response = layer.layer(theirs(of_handler)).oneshot(sent).await;
                let response = response.expect("infallible");
                assert_eq!(response.headers()["cache-control"], kept);
            }
        }
    }
    // A program's request, and one without a credential, say nothing new.
    let layer = of_cookie(&sessions).optional();
    for header in [
        ("authorization", format!("Bearer {token}")),
        ("cookie", "theme=dark".into()),
    ] {
        let mut sent = request("/");
        add(&mut sent, header.0, &header.1);
        let response = answer(&layer, sent).await;
        assert_eq!(response.status(), 200);
        assert!(!response.headers().contains_key("cache-control"));
    }
}
