//! The answer to each form of request: its status, its challenge, and the lookups it takes.
//!
//! Further cases can be read from a file of JSON lines named by `BEARER_CASES`, with the
//! tokens they use in the file named by `BEARER_TOKENS`.

use std::{convert::Infallible, sync::Arc};

use base64::{Engine as _, prelude::BASE64_STANDARD};
use bytes::Bytes;
use chrono::TimeDelta;
use customer_session::{
    Clock as _, CustomerData, CustomerSession, CustomerSessionLayer, CustomerSessions, Rejection,
    RejectionKind, ResponseBody, SessionRegistry as _, SessionToken, TokenFormat,
};
use http::{HeaderName, HeaderValue, Request, Response, StatusCode};
use http_body_util::{BodyExt as _, Empty, Full};
use serde_json::Value;
use tower::{Layer as _, ServiceExt as _};

use test_support::{Fault, HOUR, ProbeStore, RegistryExt as _, clock, customer};

type Reply = Response<ResponseBody<Full<Bytes>>>;
type Headers<'a> = &'a [(&'a str, &'a [u8])];

/// Sends a request through the layer to a service that names the customer it sees.
async fn send(layer: &CustomerSessionLayer, request: Request<Empty<Bytes>>) -> Reply {
    let service = layer.layer(tower::service_fn(async |request: Request<Empty<Bytes>>| {
        let status = if request.method() == http::Method::OPTIONS
            && request
                .headers()
                .contains_key("access-control-request-method")
            && request.headers().contains_key("origin")
        {
            StatusCode::NO_CONTENT
        } else {
            StatusCode::OK
        };
        let customer = request.extensions().get::<customer_session::Customer>();
        let body = customer.map_or(String::new(), |customer| customer.id.to_string());
        let mut response = Response::new(Full::new(Bytes::from(body)));
        *response.status_mut() = status;
        Ok::<_, Infallible>(response)
    }));
    service.oneshot(request).await.expect("infallible")
}

fn challenge(reply: &Reply) -> Option<&str> {
    let mut challenges = reply.headers().get_all("www-authenticate").iter();
    let challenge = challenges
        .next()
        .map(|value| value.to_str().expect("ASCII"));
    assert!(challenges.next().is_none(), "one challenge at most");
    challenge
}

async fn text(reply: Reply) -> String {
    let body = reply
        .into_body()
        .collect()
        .await
        .expect("a body")
        .to_bytes();
    String::from_utf8(body.to_vec()).expect("UTF-8")
}

/// What is expected of a request, in a required route.
#[derive(Clone, Copy, Debug, PartialEq)]
enum Expect {
    SignedIn,
    /// Refused where a customer is required, let through where one is optional.
    Anonymous,
    InvalidToken,
    InvalidRequest,
    Unavailable,
    /// As `Anonymous`, but the service behind the layer answers 204 in place of 200.
    Preflight,
}
use Expect::*;

impl Expect {
    async fn check(self, name: &str, optional: bool, reply: Reply, lookups: usize) {
        let name = format!("{name}, {}", if optional { "optional" } else { "required" });
        let kind = reply.extensions().get::<Rejection>().map(Rejection::kind);
        let status = reply.status().as_u16();
        let challenge = challenge(&reply).map(str::to_owned);
        let vary = reply
            .headers()
            .get("vary")
            .is_some_and(|value| value == "authorization");
        assert_eq!(vary, optional, "{name}: {:?}", reply.headers());
        let refused = kind.is_some();
        if refused {
            assert_eq!(reply.headers()["cache-control"], "no-store", "{name}");
            assert_eq!(
                reply.headers()["content-type"],
                "application/problem+json",
                "{name}"
            );
            let retry = reply.headers().get("retry-after");
            assert_eq!(retry.is_some(), status == 503, "{name}");
            let problem: Value = serde_json::from_str(&text(reply).await).expect("JSON");
            assert_eq!(problem["status"], status, "{name}");
        } else {
            let customer = text(reply).await;
            assert_eq!(customer.is_empty(), self != SignedIn, "{name}: {customer}");
        }
        let expected = match self {
            SignedIn => (200, None, None),
            Anonymous if optional => (200, None, None),
            Preflight if optional => (204, None, None),
            Anonymous | Preflight => (
                401,
                Some(RejectionKind::MissingToken),
                Some("Bearer realm=\"customer\""),
            ),
            InvalidToken => (
                401,
                Some(RejectionKind::InvalidToken),
                Some(
                    "Bearer realm=\"customer\", error=\"invalid_token\", \
                     error_description=\"The token is invalid\"",
                ),
            ),
            InvalidRequest => (
                400,
                Some(RejectionKind::MultipleTokens),
                Some(
                    "Bearer realm=\"customer\", error=\"invalid_request\", \
                     error_description=\"More than one credential was sent\"",
                ),
            ),
            Unavailable => (503, Some(RejectionKind::StoreUnavailable), None),
        };
        assert_eq!((status, kind, challenge.as_deref()), expected, "{name}");
        if matches!(self, Anonymous | InvalidRequest | Preflight) {
            assert_eq!(lookups, 0, "{name}");
        }
    }
}

struct World {
    store: Arc<ProbeStore>,
    clock: customer_session::testing::ManualClock,
    format: TokenFormat,
}

impl World {
    fn new(format: TokenFormat) -> Self {
        Self {
            store: Arc::new(ProbeStore::with_format(format.clone())),
            clock: clock(),
            format,
        }
    }

    /// A layer with a cold cache.
    fn layer(&self, optional: bool) -> CustomerSessionLayer {
        let sessions = CustomerSessions::builder(Arc::clone(&self.store))
            .clock(self.clock.clone())
            .build();
        if optional {
            sessions.layer().optional()
        } else {
            sessions.layer()
        }
    }

    async fn session(
        &self,
        id: &str,
        token: SessionToken,
        change: impl FnOnce(&mut CustomerSession),
    ) {
        let now = self.clock.now();
        let customer = customer(&format!("cus_{id}"));
        let mut session = CustomerSession::new(id, token, customer, now + HOUR);
        session.created_at = now - HOUR;
        // As it was when it was issued; what has changed since is changed afterwards.
        let issued = session.customer.clone();
        change(&mut session);
        let changed = std::mem::replace(&mut session.customer, issued);
        let store = &self.store.inner;
        store.insert(&session, None).await.expect("inserted");
        store.update_customer(&changed).await.expect("updated");
    }

    async fn live(&self, id: &str) -> String {
        let token = self.format.generate();
        self.session(id, token.clone(), |_| {}).await;
        token.expose().to_owned()
    }
}

fn get(headers: Headers<'_>) -> Request<Empty<Bytes>> {
    let mut request = Request::new(Empty::new());
    for (name, value) in headers {
        let name: HeaderName = name.parse().expect("a header name");
        let value = HeaderValue::from_bytes(value).expect("a header value");
        request.headers_mut().append(name, value);
    }
    request
}

/// `Authorization` values, with `LIVE` for a live token.
const VALUES: &[(&str, Expect)] = &[
    ("Bearer LIVE", SignedIn),
    ("bearer LIVE", SignedIn),
    ("BEARER LIVE", SignedIn),
    ("bEaReR LIVE", SignedIn),
    ("Bearer   LIVE", SignedIn),
    ("  Bearer LIVE", SignedIn),
    ("\tBearer LIVE \t", SignedIn),
    ("", Anonymous),
    ("   ", Anonymous),
    ("Basic dTpw", Anonymous),
    ("DPoP LIVE", Anonymous),
    ("Token LIVE", Anonymous),
    ("LIVE", Anonymous),
    ("BearerLIVE", Anonymous),
    ("Bearers LIVE", Anonymous),
    ("Bearer:LIVE", Anonymous),
    ("Bearer: LIVE", Anonymous),
    ("Digest realm=\"x, bearer y\"", Anonymous),
    ("undefined", Anonymous),
    ("Bearer", InvalidToken),
    ("Bearer ", InvalidToken),
    ("Bearer\tLIVE", InvalidToken),
    ("Bearer \tLIVE", InvalidToken),
    ("Bearer LIVE LIVE", InvalidToken),
    ("Bearer LIVE realm=\"x\"", InvalidToken),
    ("Bearer LIVE,", InvalidToken),
    ("Bearer LIVE; x", InvalidToken),
    ("Bearer \"LIVE\"", InvalidToken),
    ("Bearer token=\"LIVE\"", InvalidToken),
    ("Bearer Bearer", InvalidToken),
    ("Bearer LIVE=", InvalidToken),
    ("Bearer =", InvalidToken),
    ("Bearer undefined", InvalidToken),
    ("Bearer null", InvalidToken),
    ("Bearer LIVELIVE", InvalidToken),
    ("Bearer xLIVE", InvalidToken),
    ("Bearer LIVE/", InvalidToken),
    ("Bearer <LIVE>", InvalidToken),
    ("Bearer ' OR '1'='1", InvalidToken),
    ("Bearer \u{202e}LIVE", InvalidToken),
    ("Bearer\u{a0}LIVE", InvalidToken),
    ("Bearer LIVE\u{a0}", InvalidToken),
    ("\u{feff}Bearer LIVE", Anonymous),
    ("Basic dTpw, Bearer LIVE", InvalidRequest),
    ("Basic dTpw,bearer LIVE", InvalidRequest),
    ("Bearer LIVE, Bearer LIVE", InvalidRequest),
    ("Bearer LIVE, Basic dTpw", InvalidRequest),
    ("Bearer LIVE,basic  dTpw", InvalidRequest),
    ("Bearer LIVE, Digest realm=\"x\"", InvalidRequest),
    ("Bearer LIVE, Basic", InvalidToken),
    ("Bearer LIVE, Basic\tdTpw", InvalidToken),
    ("Bearer LIVE, realm=\"x\"", InvalidToken),
    ("Bearer LIVE, realm = \"x\"", InvalidToken),
    ("Bearer LIVE, LIVE", InvalidToken),
];

#[tokio::test]
async fn each_form_of_the_header_has_its_answer() {
    let world = World::new(TokenFormat::new("cst_"));
    let live = world.live("live").await;
    for (value, expect) in VALUES {
        for optional in [false, true] {
            let value = value.replace("LIVE", &live);
            let before = world.store.lookups();
            let reply = send(
                &world.layer(optional),
                get(&[("authorization", value.as_bytes())]),
            )
            .await;
            let lookups = world.store.lookups() - before;
            assert_eq!(lookups, usize::from(*expect == SignedIn), "{value}");
            expect.check(&value, optional, reply, lookups).await;
        }
    }
}

#[tokio::test]
async fn a_long_header_is_refused_without_a_lookup() {
    let world = World::new(TokenFormat::any());
    let long = "a".repeat(64 * 1024);
    for (value, expect) in [
        (format!("Bearer {long}"), InvalidToken),
        (
            format!("Bearer {}", &long[..TokenFormat::MAX_LEN + 1]),
            InvalidToken,
        ),
        (format!("Basic {long}"), Anonymous),
        (long.clone(), Anonymous),
    ] {
        let reply = send(
            &world.layer(false),
            get(&[("authorization", value.as_bytes())]),
        )
        .await;
        expect
            .check(&value[..9], false, reply, world.store.lookups())
            .await;
    }
    assert_eq!(world.store.lookups(), 0);
}

#[tokio::test]
async fn identity_is_never_taken_from_elsewhere() {
    let world = World::new(TokenFormat::new("cst_"));
    let (live, other) = (world.live("live").await, world.live("other").await);
    let bearer = format!("Bearer {live}");
    let bearer_other = format!("Bearer {other}");
    let cases: [(Headers, Expect); 9] = [
        (&[], Anonymous),
        (&[("x-authorization", bearer.as_bytes())], Anonymous),
        (&[("proxy-authorization", bearer.as_bytes())], Anonymous),
        (&[("x-customer-id", b"cus_1")], Anonymous),
        (&[("cookie", bearer.as_bytes())], Anonymous),
        (&[("sec-websocket-protocol", bearer.as_bytes())], Anonymous),
        (
            &[
                ("authorization", bearer.as_bytes()),
                ("x-customer-id", b"cus_other"),
            ],
            SignedIn,
        ),
        (
            &[
                ("authorization", bearer.as_bytes()),
                ("authorization", bearer.as_bytes()),
            ],
            InvalidRequest,
        ),
        (
            &[
                ("authorization", b""),
                ("authorization", bearer_other.as_bytes()),
            ],
            InvalidRequest,
        ),
    ];
    for (headers, expect) in cases {
        for optional in [false, true] {
            let reply = send(&world.layer(optional), get(headers)).await;
            expect
                .check(&format!("{headers:?}"), optional, reply, 0)
                .await;
        }
    }
    let mut request = get(&[]);
    *request.uri_mut() = format!("/me?access_token={live}").parse().expect("a URI");
    Anonymous
        .check("query", false, send(&world.layer(false), request).await, 0)
        .await;
}

#[tokio::test]
async fn the_answer_does_not_tell_why_a_token_is_invalid() {
    let world = World::new(TokenFormat::new("cst_"));
    let token = |_: &str| world.format.generate();
    let (expired, now, deleted) = (token("expired"), token("now"), token("deleted"));
    let time = world.clock.now();
    world
        .session("expired", expired.clone(), |session| {
            session.expires_at = time - TimeDelta::seconds(1)
        })
        .await;
    world
        .session("now", now.clone(), |session| session.expires_at = time)
        .await;
    world
        .session("deleted", deleted.clone(), |session| {
            let mut data = CustomerData::new("cus_deleted", "org_1");
            data.deleted_at = Some(time);
            session.customer = data.into();
        })
        .await;
    let revoked = world.live("revoked").await;
    world
        .store
        .inner
        .end(&"revoked".into())
        .await
        .expect("revoked");
    let unknown = token("unknown");

    let mut answers = Vec::new();
    for token in [
        expired.expose(),
        now.expose(),
        deleted.expose(),
        &revoked,
        unknown.expose(),
        "malformed token",
        "screened",
    ] {
        let value = format!("Bearer {token}");
        let reply = send(
            &world.layer(false),
            get(&[("authorization", value.as_bytes())]),
        )
        .await;
        answers.push((reply.status(), reply.headers().clone(), text(reply).await));
    }
    assert_eq!(answers[0].0, 401);
    assert!(
        answers.iter().all(|answer| *answer == answers[0]),
        "{answers:#?}"
    );
}

#[tokio::test]
async fn an_outage_is_503_and_says_nothing_of_the_token() {
    let world = World::new(TokenFormat::new("cst_"));
    let bearer = format!("Bearer {}", world.live("live").await);
    world.store.fault(Fault::Fail);
    for optional in [false, true] {
        let layer = world.layer(optional);
        let reply = send(&layer, get(&[("authorization", bearer.as_bytes())])).await;
        let rejection = reply.extensions().get::<Rejection>().expect("refused");
        assert!(rejection.store_error().is_some());
        Unavailable.check("outage", optional, reply, 1).await;
        world.store.fault(None);
        let reply = send(&layer, get(&[("authorization", bearer.as_bytes())])).await;
        SignedIn.check("afterwards", optional, reply, 1).await;
        world.store.fault(Fault::Fail);
    }
}

#[tokio::test]
async fn the_method_and_the_shape_of_a_preflight_make_no_difference() {
    let world = World::new(TokenFormat::new("cst_"));
    let bearer = format!("Bearer {}", world.live("live").await);
    let origin = ("origin", &b"https://app.example"[..]);
    let asks = ("access-control-request-method", &b"GET"[..]);
    let signed = ("authorization", bearer.as_bytes());
    let bad = ("authorization", &b"Bearer x"[..]);
    let cases: [(&str, Headers, Expect); 12] = [
        ("HEAD", &[], Anonymous),
        ("POST", &[], Anonymous),
        ("DELETE", &[], Anonymous),
        ("HEAD", &[signed], SignedIn),
        ("PUT", &[signed], SignedIn),
        ("OPTIONS", &[signed], SignedIn),
        ("OPTIONS", &[], Anonymous),
        ("OPTIONS", &[origin], Anonymous),
        ("OPTIONS", &[asks], Anonymous),
        ("POST", &[origin, asks], Anonymous),
        ("OPTIONS", &[origin, asks], Preflight),
        ("OPTIONS", &[origin, asks, bad], InvalidToken),
    ];
    for (method, headers, expect) in cases {
        for optional in [false, true] {
            let mut request = get(headers);
            *request.method_mut() = method.parse().expect("a method");
            let reply = send(&world.layer(optional), request).await;
            expect
                .check(&format!("{method} {headers:?}"), optional, reply, 0)
                .await;
        }
    }
}

#[tokio::test]
async fn a_preflight_passes_without_a_customer_only_where_it_is_told_to() {
    let world = World::new(TokenFormat::new("cst_"));
    let bearer = format!("Bearer {}", world.live("live").await);
    let origin = ("origin", &b"https://app.example"[..]);
    let asks = ("access-control-request-method", &b"GET"[..]);
    let signed = ("authorization", bearer.as_bytes());
    let bad = ("authorization", &b"Bearer x"[..]);
    let cases: [(&str, Headers, u16); 6] = [
        ("OPTIONS", &[origin, asks], 204),
        ("OPTIONS", &[origin, asks, bad], 204),
        ("OPTIONS", &[origin, asks, signed], 204),
        ("OPTIONS", &[origin], 401),
        ("OPTIONS", &[asks], 401),
        ("POST", &[origin, asks], 401),
    ];
    let layer = world.layer(false).pass_preflights();
    for (method, headers, status) in cases {
        let mut request = get(headers);
        *request.method_mut() = method.parse().expect("a method");
        let reply = send(&layer, request).await;
        assert_eq!(reply.status(), status, "{method} {headers:?}");
        if status == 204 {
            assert_eq!(text(reply).await, "", "no customer");
        }
    }
    assert_eq!(world.store.lookups(), 0);
}

/// Runs cases from elsewhere, where they are given.
#[tokio::test]
async fn cases_from_a_file_get_their_answers() {
    let (Ok(cases), Ok(tokens)) = (
        std::env::var("BEARER_CASES"),
        std::env::var("BEARER_TOKENS"),
    ) else {
        println!("BEARER_CASES and BEARER_TOKENS are not set: no further cases");
        return;
    };
    let tokens: Value =
        serde_json::from_str(&std::fs::read_to_string(tokens).expect("a file")).expect("JSON");
    let world = World::new(TokenFormat::new("polar_cst_"));
    let now = world.clock.now();
    for (n, (token, state)) in tokens["tokens"]
        .as_object()
        .expect("tokens")
        .iter()
        .enumerate()
    {
        let state = state.as_str().expect("a text");
        let (id, token) = (format!("ses_{n}"), SessionToken::new(token.as_str()));
        match state {
            "never issued" | "revoked" => {}
            "expires_at = now-1s" => {
                world
                    .session(&id, token, |session| {
                        session.expires_at = now - TimeDelta::seconds(1)
                    })
                    .await;
            }
            "expires_at == now exactly" => {
                world
                    .session(&id, token, |session| session.expires_at = now)
                    .await
            }
            "customer deleted" => {
                world
                    .session(&id, token, |session| {
                        let mut data = CustomerData::new(session.customer_id.as_str(), "org_1");
                        data.deleted_at = Some(now);
                        session.customer = data.into();
                    })
                    .await;
            }
            _ if state.starts_with("rotated") => {}
            _ => world.session(&id, token, |_| {}).await,
        }
    }
    let mut run = 0;
    for line in std::fs::read_to_string(cases).expect("a file").lines() {
        let case: Value = serde_json::from_str(line).expect("JSON");
        let name = case["name"].as_str().expect("a name");
        world
            .store
            .fault((name == "state_store_down").then_some(Fault::Fail));
        for optional in [false, true] {
            let mut request = get(&[]);
            *request.method_mut() = case["method"]
                .as_str()
                .expect("text")
                .parse()
                .expect("a method");
            *request.uri_mut() = case["uri"].as_str().expect("text").parse().expect("a URI");
            for header in case["headers"].as_array().expect("headers") {
                let value = BASE64_STANDARD
                    .decode(header[1].as_str().expect("text"))
                    .expect("base64");
                request.headers_mut().append(
                    header[0]
                        .as_str()
                        .expect("text")
                        .parse::<HeaderName>()
                        .expect("a name"),
                    HeaderValue::from_bytes(&value).expect("a value"),
                );
            }
            let before = world.store.lookups();
            let reply = send(&world.layer(optional), request).await;
            let lookups = world.store.lookups() - before;
            let expect = &case["expect"];
            let status = if optional {
                "status_optional"
            } else {
                "status"
            };
            let challenge = challenge(&reply).unwrap_or_default().to_owned();
            let error = challenge
                .split_once("error=\"")
                .and_then(|(_, rest)| rest.split('"').next());
            assert_eq!(expect[status], reply.status().as_u16(), "{name}, {status}");
            assert_eq!(expect["store_lookups"], lookups, "{name}");
            assert_eq!(expect["error"].as_str(), error, "{name}");
            let challenged = matches!(reply.status().as_u16(), 400 | 401);
            assert_eq!(!challenge.is_empty(), challenged, "{name}");
            let signed_in = expect["outcome"] == "token";
            let refused = reply.extensions().get::<Rejection>().is_some();
            let customer = if refused {
                String::new()
            } else {
                text(reply).await
            };
            assert_eq!(!customer.is_empty(), signed_in, "{name}");
        }
        run += 1;
    }
    println!("{run} cases, required and optional");
}
