//! The places where a request may carry its token in place of `Authorization`.

mod cookie;
mod pages;
mod query;
mod set_cookie;
mod stale_cookie;
mod websocket;

use std::{
    convert::Infallible,
    sync::{
        Arc, Mutex,
        atomic::{AtomicUsize, Ordering::SeqCst},
    },
};

use axum::{Router, body::Body, routing::any};
use customer_session::{
    Customer, CustomerSession, CustomerSessionLayer, Rejection, RejectionKind, SessionCookie,
    SessionToken, TokenFormat, testing::assert_protected,
};
use http::{HeaderMap, Method, Request, Response, StatusCode, Uri};
use http_body_util::BodyExt as _;
use tower::{Layer as _, Service, ServiceExt as _};
use tower_http::trace::TraceLayer;

use crate::log::Log;
use test_support::{HOUR, ProbeStore, customer, one_session};

/// The name of a source, and a function that adds a token there.
type Source = (&'static str, fn(&mut Request<Body>, &str));

const SOURCES: [Source; 5] = [
    ("authorization", |request, token| {
        add(request, "authorization", &format!("Bearer {token}"));
    }),
    ("cookie", |request, token| {
        add(request, "cookie", &format!("session={token}"));
    }),
    ("query", |request, token| {
        let uri = request.uri();
        let sign = if uri.query().is_some() { '&' } else { '?' };
        let uri = format!("{uri}{sign}access_token={token}");
        *request.uri_mut() = uri.parse().expect("a URI");
    }),
    ("websocket", |request, token| {
        add(
            request,
            "sec-websocket-protocol",
            &format!("bearer.{token}"),
        );
    }),
    ("own", |request, token| {
        add(request, "x-token", token);
    }),
];

fn add(request: &mut Request<Body>, name: &'static str, value: &str) {
    let value = value.parse().expect("a value");
    request.headers_mut().append(name, value);
}

fn session_cookie() -> SessionCookie {
    SessionCookie::new("session").expect("a name")
}

fn all(layer: CustomerSessionLayer) -> CustomerSessionLayer {
    layer
        .token_from_cookie(&session_cookie())
        .token_from_query()
        .token_from_websocket_protocol()
        .token_from_fn(|request| {
            let token = request.headers.get("x-token")?;
            Some(SessionToken::new(token.to_str().unwrap_or_default()))
        })
}

fn with_only(layer: CustomerSessionLayer, source: &str) -> CustomerSessionLayer {
    match source {
        "cookie" => layer.token_from_cookie(&session_cookie()),
        "query" => layer.token_from_query(),
        "websocket" => layer.token_from_websocket_protocol(),
        "own" => layer.token_from_fn(|request| {
            let token = request.headers.get("x-token")?;
            Some(SessionToken::new(token.to_str().unwrap_or_default()))
        }),
        _ => layer,
    }
}

fn request(uri: &str) -> Request<Body> {
    Request::get(uri).body(Body::empty()).expect("a request")
}

/// The URI and headers of a request, and the id of its customer.
type Received = (Uri, HeaderMap, Option<String>);

/// The requests that the service behind the layer received.
#[derive(Clone, Default)]
struct Seen(Arc<Mutex<Vec<Received>>>);

impl Seen {
    fn last(&self) -> Received {
        let seen = self.0.lock().expect("no panic");
        seen.last().expect("the service was called").clone()
    }

    fn count(&self) -> usize {
        self.0.lock().expect("no panic").len()
    }

    fn behind(
        &self,
        layer: &CustomerSessionLayer,
    ) -> impl Service<
        Request<Body>,
        Response = Response<customer_session::ResponseBody<Body>>,
        Error = Infallible,
        Future: Send,
    > + Clone
    + use<> {
        let seen = self.clone();
        layer.layer(tower::service_fn(move |request: Request<Body>| {
            let customer = request.extensions().get::<Customer>();
            let customer = customer.map(|customer| customer.id.to_string());
            seen.0.lock().expect("no panic").push((
                request.uri().clone(),
                request.headers().clone(),
                customer,
            ));
            std::future::ready(Ok::<_, Infallible>(Response::new(Body::empty())))
        }))
    }
}

async fn answer(layer: &CustomerSessionLayer, request: Request<Body>) -> Response<()> {
    let response = Seen::default().behind(layer).oneshot(request).await;
    response.expect("infallible").map(drop)
}

async fn status(layer: &CustomerSessionLayer, request: Request<Body>) -> StatusCode {
    answer(layer, request).await.status()
}

fn kind(response: &Response<()>) -> Option<RejectionKind> {
    response
        .extensions()
        .get::<Rejection>()
        .map(Rejection::kind)
}

#[tokio::test]
async fn each_source_lets_in_only_when_it_is_on() {
    let (store, sessions, session) = one_session().await;
    for (name, carry) in SOURCES {
        let mut sent = request("/a?b=2");
        carry(&mut sent, session.token.expose());
        let sent = || {
            let mut again = request(&sent.uri().to_string());
            *again.headers_mut() = sent.headers().clone();
            again
        };
        // Alone, and among the others; by a lookup, then as a hit.
        for layer in [with_only(sessions.layer(), name), all(sessions.layer())] {
            let seen = Seen::default();
            for _ in 0..2 {
                let response = seen.behind(&layer).oneshot(sent()).await;
                assert_eq!(response.expect("infallible").status(), 200, "{name}");
                assert_eq!(seen.last().2.as_deref(), Some("cus_1"), "{name}");
            }
        }
        if name == "authorization" {
            continue;
        }
        let lookups = store.lookups();
        let seen = Seen::default();
        // Off, with no other source on and with each other.
        for (other, _) in SOURCES.iter().filter(|(other, _)| *other != name) {
            let layer = with_only(sessions.layer(), other);
            let response = answer(&layer, sent()).await;
            assert_eq!(
                kind(&response),
                Some(RejectionKind::MissingToken),
                "{name}, {other}"
            );
            let layer = with_only(sessions.layer().optional(), other);
            let response = seen.behind(&layer).oneshot(sent()).await;
            assert_eq!(
                response.expect("infallible").status(),
                200,
                "{name}, {other}"
            );
            assert_eq!(seen.last().0, *sent().uri(), "{name}, {other}");
            assert_eq!(seen.last().1, *sent().headers(), "{name}, {other}");
        }
        let off = seen.behind(&sessions.layer().optional());
        let response = off.oneshot(sent()).await.expect("infallible").map(drop);
        assert_eq!(response.status(), 200, "{name}");
        assert!(!response.headers().contains_key("cache-control"), "{name}");
        let (uri, headers, customer) = seen.last();
        assert_eq!(customer, None, "{name}");
        assert_eq!(
            (uri, headers),
            (sent().uri().clone(), sent().headers().clone())
        );
        assert_eq!(store.lookups(), lookups, "{name}");
    }
}

#[tokio::test]
async fn two_credentials_are_refused_whatever_their_sources() {
    let (store, sessions, session) = one_session().await;
    let other = sessions.issue(customer("cus_2"), HOUR).await;
    let other = other.expect("issued").token;
    let layers = [all(sessions.layer()), all(sessions.layer().optional())];
    for (one, carry_one) in SOURCES {
        for (two, carry_two) in SOURCES {
            if one == "own" && two == "own" {
                // A function answers with one token.
                continue;
            }
            // The same token twice, two tokens, and a malformed one beside a token.
            for second in [session.token.expose(), other.expose(), "%%"] {
                for layer in &layers {
                    let mut request = request("/");
                    carry_one(&mut request, session.token.expose());
                    carry_two(&mut request, second);
                    let response = answer(layer, request).await;
                    assert_eq!(response.status(), 400, "{one}, {two}");
                    assert_eq!(kind(&response), Some(RejectionKind::MultipleTokens));
                    let challenge = response.headers()["www-authenticate"].to_str();
                    assert!(challenge.expect("ASCII").contains("invalid_request"));
                }
            }
        }
    }
    assert_eq!(store.lookups(), 0);
}

#[tokio::test]
async fn a_malformed_credential_is_refused_like_any_bad_token() {
    let (store, sessions, _) = one_session().await;
    let mut first = None;
    for (name, carry) in SOURCES {
        for bad in ["", "undefined", "cst_%20", "\"", "a,b", "a b"] {
            if bad.contains([' ', '"']) && name == "query" {
                continue;
            }
            for optional in [false, true] {
                if optional && name == "cookie" {
                    // A browser sends it unasked: `stale_cookie.rs`.
                    continue;
                }
                let layer = match optional {
                    true => all(sessions.layer().optional()),
                    false => all(sessions.layer()),
                };
                let mut request = request("/");
                carry(&mut request, bad);
                let response = answer(&layer, request).await;
                assert_eq!(response.status(), 401, "{name} {bad:?}");
                assert_eq!(kind(&response), Some(RejectionKind::InvalidToken));
                let headers = response.headers().clone();
                assert_eq!(*first.get_or_insert(headers.clone()), headers);
            }
        }
    }
    assert_eq!(store.lookups(), 0);
    // A name without a value.
    let layer = sessions.layer().token_from_query();
    assert_eq!(status(&layer, request("/?access_token")).await, 401);
}

#[tokio::test]
async fn a_credential_of_another_scheme_is_ignored() {
    let (_, sessions, session) = one_session().await;
    let layer = all(sessions.layer());
    for (_, carry) in &SOURCES[1..] {
        let mut request = request("/");
        add(&mut request, "authorization", "Basic dTpw");
        carry(&mut request, session.token.expose());
        assert_eq!(status(&layer, request).await, 200);
    }
}

#[tokio::test]
async fn answers_vary_on_what_they_depend_on() {
    let (_, sessions, session) = one_session().await;
    for (name, optional, required) in [
        ("authorization", Some("authorization"), None),
        (
            "cookie",
            Some("authorization, cookie"),
            Some("authorization, cookie"),
        ),
        ("query", Some("authorization"), None),
        (
            "websocket",
            Some("authorization, sec-websocket-protocol"),
            Some("authorization, sec-websocket-protocol"),
        ),
        ("own", Some("*"), Some("*")),
    ] {
        for (layer, expected) in [
            (with_only(sessions.layer().optional(), name), optional),
            (with_only(sessions.layer(), name).optional(), optional),
            (with_only(sessions.layer(), name), required),
        ] {
            for token in [None, Some(session.token.expose()), Some("bad")] {
                let mut request = request("/");
                if let Some(token) = token {
                    SOURCES[0].1(&mut request, token);
                }
                let response = answer(&layer, request).await;
                let lines: Vec<_> = response.headers().get_all("vary").iter().collect();
                let expected: Vec<_> = expected.into_iter().collect();
                assert_eq!(lines, expected, "{name} {token:?}");
            }
        }
    }
}

#[tokio::test]
async fn a_function_sees_what_the_service_sees_and_no_preflight_that_passes() {
    let (_, sessions, session) = one_session().await;
    let asked = Arc::new(AtomicUsize::new(0));
    let layer = sessions
        .layer()
        .pass_preflights()
        .token_from_query()
        .token_from_websocket_protocol();
    let layer = layer.token_from_fn({
        let asked = Arc::clone(&asked);
        move |request| {
            asked.fetch_add(1, SeqCst);
            assert_eq!(*request.method, Method::GET);
            assert_eq!(request.uri, "/a");
            assert!(!request.headers.contains_key("sec-websocket-protocol"));
            // A customer set before the layer is removed before the function is called.
            assert!(request.extensions.get::<Customer>().is_none());
            let shown = format!("{request:?}");
            assert!(
                shown.contains("GET") && !shown.contains("secret"),
                "{shown}"
            );
            request.extensions.get::<SessionToken>().cloned()
        }
    });
    let mut sent = request("/a");
    sent.extensions_mut().insert(session.token.clone());
    sent.extensions_mut().insert(customer("cus_forged"));
    add(&mut sent, "x-secret", "secret");
    assert_eq!(status(&layer, sent).await, 200);
    let mut sent = request("/a?access_token=secret");
    add(&mut sent, "sec-websocket-protocol", "bearer.secret");
    assert_eq!(status(&layer, sent).await, 400);
    assert_eq!(asked.load(SeqCst), 2);
    let mut preflight = request("/a");
    *preflight.method_mut() = Method::OPTIONS;
    add(&mut preflight, "origin", "https://a.example");
    add(&mut preflight, "access-control-request-method", "GET");
    assert_eq!(status(&layer, preflight).await, 200);
    assert_eq!(asked.load(SeqCst), 2);
}

#[tokio::test]
async fn giant_headers_are_refused_in_little_time() {
    let (store, sessions, session) = one_session().await;
    let layer = all(sessions.layer());
    let token = session.token.expose();
    let mut requests = Vec::new();
    for filler in [";", "session=a;", "session=;", "s", "\"", "session"] {
        let cookie = format!("{}; session={token}", filler.repeat(65_536 / filler.len()));
        let mut request = request("/");
        add(&mut request, "cookie", &cookie);
        requests.push(request);
    }
    for filler in [",", "bearer.a,", "bearer.,", "b"] {
        let line = format!("{},bearer.{token}", filler.repeat(65_536 / filler.len()));
        let mut request = request("/");
        add(&mut request, "sec-websocket-protocol", &line);
        requests.push(request);
    }
    for filler in ["&", "access_token=a&", "access%5Ftoken&", "%61", "a"] {
        let filler = filler.repeat(65_000 / filler.len());
        for query in [filler.clone(), format!("access_token={filler}")] {
            requests.push(request(&format!("/?{query}&access_token={}x", &token[..9])));
        }
    }
    let count = u32::try_from(requests.len()).expect("few");
    let start = std::time::Instant::now();
    for request in requests {
        let answer = status(&layer, request).await;
        assert!([400, 401].contains(&answer.as_u16()), "{answer}");
    }
    let each = start.elapsed() / count;
    println!("{each:?} for a giant header");
    // A step for each pair of its bytes would take seconds.
    assert!(each.as_millis() < 100, "{each:?}");
    assert_eq!(store.lookups(), 0);
}

#[tokio::test]
async fn routes_stay_protected() {
    let (_, sessions, _) = one_session().await;
    let app = Router::new()
        .route("/a", any(async || ()))
        .layer(all(sessions.layer()));
    assert_protected(app, ["/a", "/a?b=2"]).await;
}

#[tokio::test]
async fn no_source_leaks_its_token() {
    let log = Log::default();
    let _guard = log.listen();
    let store = Arc::new(ProbeStore::default());
    let sessions = customer_session::CustomerSessions::builder(store).build();
    let session: CustomerSession = sessions
        .issue(customer("cus_1"), HOUR)
        .await
        .expect("issued");
    let unknown = TokenFormat::new("cst_").generate();
    let tokens = [session.token.expose(), unknown.expose()];
    let mut shown = String::new();
    // The trace stands behind the layer, where the query and the subprotocols are clean.
    let service = all(sessions.layer()).layer(
        tower::ServiceBuilder::new()
            .layer(TraceLayer::new_for_http())
            .service_fn(async |request: Request<Body>| {
                let mut headers = request.headers().clone();
                // The layer does not know what the application's function reads.
                headers.remove("x-token");
                tracing::info!(
                    uri = %request.uri(),
                    ?headers,
                    extensions = ?request.extensions(),
                    "handled"
                );
                Ok::<_, Infallible>(Response::new(Body::empty()))
            }),
    );
    shown += &format!("{:?}", all(sessions.layer()));
    for method in [Method::GET, Method::POST] {
        for (_, carry) in SOURCES {
            for token in tokens {
                for times in 1..3 {
                    let mut request = request("/?b=2");
                    *request.method_mut() = method.clone();
                    for _ in 0..times {
                        carry(&mut request, token);
                    }
                    let response = service.clone().oneshot(request).await;
                    let (parts, body) = response.expect("infallible").into_parts();
                    let body = body.collect().await.expect("a body").to_bytes();
                    let rejection = parts.extensions.get::<Rejection>();
                    shown += &format!("{parts:?} {body:?} {rejection:?}");
                }
            }
        }
    }
    let text = log.text();
    for event in [
        "handled",
        "uri=/?b=2",
        "CrossSite",
        "MultipleTokens",
        "InvalidToken",
    ] {
        assert!(text.contains(event), "no log of: {event}\n{text}");
    }
    for token in tokens {
        assert!(!text.contains(&token[..20]), "{text}");
        assert!(!shown.contains(&token[..20]), "{shown}");
    }
    // The search finds what it looks for.
    tracing::trace!(planted = tokens[0], "a leak");
    assert!(log.text().contains(&tokens[0][..20]));
}

#[tokio::test]
async fn headers_that_were_read_are_marked_as_sensitive() {
    let (_, sessions, session) = one_session().await;
    let token = session.token.expose();
    let cookies = sessions.layer().token_from_cookie(&session_cookie());
    // Two lines of one name take another way through the headers than one.
    for repeated in [false, true] {
        for (layer, authorization, reads_cookies) in [
            (sessions.layer(), format!("Bearer {token}"), false),
            (sessions.layer().optional(), "Basic dTpw".to_owned(), false),
            (
                sessions.layer().token_from_query(),
                format!("Bearer {token}"),
                false,
            ),
            (cookies.clone().optional(), "Basic dTpw".to_owned(), true),
        ] {
            // By a lookup, then as a hit.
            for _ in 0..2 {
                let seen = Seen::default();
                let mut sent = request("/");
                add(&mut sent, "authorization", &authorization);
                add(&mut sent, "cookie", "theme=dark");
                if repeated {
                    add(&mut sent, "cookie", "size=9");
                }
                add(&mut sent, "accept", "text/html");
                let response = seen.behind(&layer).oneshot(sent).await;
                assert_eq!(response.expect("infallible").status(), 200);
                for (name, value) in &seen.last().1 {
                    let is_credential = name == "authorization";
                    let is_cookie = name == "cookie" && reads_cookies;
                    assert_eq!(value.is_sensitive(), is_credential || is_cookie, "{name}");
                }
            }
        }
    }
}
