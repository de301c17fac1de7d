//! The layer among other layers and services.

use std::{
    convert::Infallible,
    pin::Pin,
    sync::{
        Arc,
        atomic::{AtomicBool, AtomicUsize, Ordering::SeqCst},
    },
    task::{Context, Poll},
};

use axum::{Router, routing::get};
use bytes::Bytes;
use customer_session::{
    CurrentSession, Customer, CustomerSessionLayer, Rejection, RejectionKind, TokenFormat,
};
use http::{HeaderMap, HeaderValue, Request, Response};
use http_body_util::{BodyExt as _, Empty, Full};
use tower::{Layer, Service, ServiceBuilder, ServiceExt as _};
use tower_http::{compression::CompressionLayer, cors::CorsLayer, trace::TraceLayer};

use test_support::{HOUR, customer, one_session};

fn request<B: Default>(token: Option<&str>) -> Request<B> {
    let mut request = Request::new(B::default());
    if let Some(token) = token {
        let value = HeaderValue::try_from(format!("Bearer {token}")).expect("a value");
        request.headers_mut().insert("authorization", value);
    }
    request
}

fn header<'a>(headers: &'a HeaderMap, name: &str) -> Option<&'a str> {
    headers
        .get(name)
        .map(|value| value.to_str().expect("ASCII"))
}

async fn echo(request: Request<Empty<Bytes>>) -> Result<Response<Full<Bytes>>, Infallible> {
    let customer = request.extensions().get::<Customer>();
    let session = CurrentSession::from_extensions(request.extensions());
    assert_eq!(
        customer.map(|customer| &customer.id),
        session.as_ref().map(|session| &session.customer_id),
        "both or neither"
    );
    let id = customer.map_or(String::new(), |customer| customer.id.to_string());
    Ok(Response::new(Full::new(Bytes::from(id))))
}

#[tokio::test]
async fn a_customer_set_before_the_layer_is_removed_on_every_path() {
    let (_, sessions, session) = one_session().await;
    let forged = sessions
        .issue(customer("cus_forged"), HOUR)
        .await
        .expect("issued");
    let required = sessions.layer();
    let optional = sessions.layer().optional();
    let passing = sessions.layer().pass_preflights();
    let preflight = |request: &mut Request<Empty<Bytes>>| {
        *request.method_mut() = http::Method::OPTIONS;
        for name in ["origin", "access-control-request-method"] {
            request
                .headers_mut()
                .insert(name, HeaderValue::from_static("x"));
        }
    };
    // Twice, so that the second is a hit where the first was a lookup.
    for _ in 0..2 {
        for (layer, token, is_preflight, sees) in [
            (&optional, None, false, ""),
            (&passing, None, true, ""),
            (&required, Some(session.token.expose()), false, "cus_1"),
        ] {
            let mut request = request(token);
            request.extensions_mut().insert(forged.customer.clone());
            request.extensions_mut().insert(Arc::new(forged.clone()));
            if is_preflight {
                preflight(&mut request);
            }
            let response = layer.layer(tower::service_fn(echo)).oneshot(request).await;
            let body = response.expect("infallible").into_body().collect().await;
            assert_eq!(body.expect("a body").to_bytes(), sees);
        }
    }
}

/// A service that must be made ready before each call, as one behind a rate limit.
struct Permits {
    ready: bool,
    calls: Arc<AtomicUsize>,
}

impl Clone for Permits {
    fn clone(&self) -> Self {
        Self {
            ready: false,
            calls: Arc::clone(&self.calls),
        }
    }
}

impl Service<Request<Empty<Bytes>>> for Permits {
    type Response = Response<Empty<Bytes>>;
    type Error = Infallible;
    type Future = std::future::Ready<Result<Self::Response, Infallible>>;

    fn poll_ready(&mut self, _: &mut Context<'_>) -> Poll<Result<(), Infallible>> {
        self.ready = true;
        Poll::Ready(Ok(()))
    }

    fn call(&mut self, _: Request<Empty<Bytes>>) -> Self::Future {
        assert!(
            std::mem::take(&mut self.ready),
            "called without being ready"
        );
        self.calls.fetch_add(1, SeqCst);
        std::future::ready(Ok(Response::new(Empty::new())))
    }
}

#[tokio::test]
async fn the_service_that_was_made_ready_is_the_one_that_is_called() {
    let (_, sessions, session) = one_session().await;
    let calls = Arc::new(AtomicUsize::new(0));
    let mut service = sessions.layer().layer(Permits {
        ready: false,
        calls: Arc::clone(&calls),
    });
    for _ in 0..3 {
        let request = request(Some(session.token.expose()));
        let service = service.ready().await.expect("infallible");
        service.call(request).await.expect("infallible");
    }
    assert_eq!(calls.load(SeqCst), 3);
}

#[tokio::test]
async fn a_refused_request_does_not_reach_the_service() {
    let (_, sessions, _) = one_session().await;
    let reached = Arc::new(AtomicBool::new(false));
    let service = sessions.layer().layer(tower::service_fn({
        let reached = Arc::clone(&reached);
        move |_: Request<Empty<Bytes>>| {
            reached.store(true, SeqCst);
            std::future::ready(Ok::<_, Infallible>(Response::new(Empty::<Bytes>::new())))
        }
    }));
    let unknown = TokenFormat::new("cst_").generate();
    for token in [None, Some("screened"), Some(unknown.expose())] {
        let response = service.clone().oneshot(request(token)).await;
        assert_eq!(response.expect("infallible").status(), 401);
    }
    assert!(!reached.load(SeqCst));
}

#[tokio::test]
async fn the_service_s_error_passes_through() {
    let (_, sessions, session) = one_session().await;
    let service = sessions
        .layer()
        .layer(tower::service_fn(async |_: Request<Empty<Bytes>>| {
            Err::<Response<Empty<Bytes>>, _>("broken")
        }));
    for _ in 0..2 {
        let response = service
            .clone()
            .oneshot(request(Some(session.token.expose())))
            .await;
        assert_eq!(response.expect_err("broken"), "broken");
    }
}

/// A body type of the application's own.
#[derive(Default)]
struct Homemade(Option<Bytes>);

impl http_body::Body for Homemade {
    type Data = Bytes;
    type Error = Infallible;

    fn poll_frame(
        mut self: Pin<&mut Self>,
        _: &mut Context<'_>,
    ) -> Poll<Option<Result<http_body::Frame<Bytes>, Infallible>>> {
        Poll::Ready(self.0.take().map(|bytes| Ok(http_body::Frame::data(bytes))))
    }
}

#[tokio::test]
async fn the_layer_composes_with_other_layers_and_any_body() {
    let (_, sessions, session) = one_session().await;
    let service = ServiceBuilder::new()
        .layer(TraceLayer::new_for_http())
        .layer(CorsLayer::permissive())
        .layer(CompressionLayer::new())
        .layer(sessions.layer())
        .layer(CompressionLayer::new())
        .service_fn(async |request: Request<Homemade>| {
            let customer = request.extensions().get::<Customer>().expect("signed in");
            let page = Bytes::from(customer.id.to_string().repeat(100));
            Ok::<_, Infallible>(Response::new(Homemade(Some(page))))
        });
    let mut asked = request::<Homemade>(Some(session.token.expose()));
    asked
        .headers_mut()
        .insert("accept-encoding", HeaderValue::from_static("gzip"));
    let response = service.clone().oneshot(asked).await.expect("infallible");
    assert_eq!(response.status(), 200);
    assert_eq!(header(response.headers(), "content-encoding"), Some("gzip"));

    let response = service.oneshot(request(None)).await.expect("infallible");
    assert_eq!(response.status(), 401);
    assert!(response.headers().contains_key("www-authenticate"));
}

#[tokio::test]
async fn the_body_of_a_refusal_has_an_exact_length() {
    let (_, sessions, _) = one_session().await;
    let service = sessions.layer().layer(tower::service_fn(echo));
    let response = service.oneshot(request(None)).await.expect("infallible");
    let hint = http_body::Body::size_hint(response.body()).exact();
    let body = response
        .into_body()
        .collect()
        .await
        .expect("a body")
        .to_bytes();
    assert_eq!(hint, Some(body.len() as u64));
}

#[tokio::test]
async fn the_service_s_own_challenges_stay() {
    let (_, sessions, session) = one_session().await;
    let service = sessions
        .layer()
        .layer(tower::service_fn(async |_: Request<Empty<Bytes>>| {
            let response = Response::builder()
                .status(401)
                .header("www-authenticate", "DPoP")
                .header("vary", "accept")
                .body(Empty::<Bytes>::new());
            Ok::<_, Infallible>(response.expect("a response"))
        }));
    let response = service.oneshot(request(Some(session.token.expose()))).await;
    let headers = response.expect("infallible").headers().clone();
    assert_eq!(header(&headers, "www-authenticate"), Some("DPoP"));
    assert_eq!(header(&headers, "vary"), Some("accept"));
}

#[tokio::test]
async fn a_custom_refusal_keeps_the_challenge_and_is_not_cached() {
    let (_, sessions, _) = one_session().await;
    let layer = sessions
        .layer()
        .optional()
        .realm("app")
        .expect("a realm")
        .rejection_response(|rejection| {
            let mut response = Response::new(Bytes::from(format!("{:?}", rejection.kind())));
            *response.status_mut() = http::StatusCode::IM_A_TEAPOT;
            let cache = HeaderValue::from_static("public, max-age=60");
            response.headers_mut().insert("cache-control", cache);
            response
        });
    let service = layer.layer(tower::service_fn(echo));
    let response = service
        .oneshot(request(Some("x")))
        .await
        .expect("infallible");
    assert_eq!(response.status(), 418);
    assert_eq!(
        header(response.headers(), "cache-control"),
        Some("no-store")
    );
    assert_eq!(header(response.headers(), "vary"), Some("authorization"));
    let challenge = header(response.headers(), "www-authenticate").expect("a challenge");
    assert!(challenge.starts_with("Bearer realm=\"app\", error=\"invalid_token\""));
    let reason = response
        .extensions()
        .get::<Rejection>()
        .map(Rejection::kind);
    assert_eq!(reason, Some(RejectionKind::InvalidToken));
    let body = response
        .into_body()
        .collect()
        .await
        .expect("a body")
        .to_bytes();
    assert_eq!(body, "InvalidToken");
}

#[tokio::test]
async fn a_realm_is_quoted_and_one_that_could_break_out_is_refused() {
    let (_, sessions, _) = one_session().await;
    for (realm, shown) in [
        ("shop", r#"Bearer realm="shop""#),
        ("", r#"Bearer realm="""#),
        (r#"a "b" \c"#, r#"Bearer realm="a \"b\" \\c""#),
    ] {
        let layer = sessions.layer().realm(realm).expect("a realm");
        let service = layer.layer(tower::service_fn(echo));
        let response = service.oneshot(request(None)).await.expect("infallible");
        assert_eq!(
            header(response.headers(), "www-authenticate"),
            Some(shown),
            "{realm:?}"
        );
    }
    for realm in ["a\r\nset-cookie: x", "a\nb", "a\0b", "a\tb", "a\u{7f}b"] {
        let error = sessions.layer().realm(realm).expect_err("refused");
        let said = error.to_string();
        assert!(said.contains("control characters"), "{realm:?}: {said}");
        assert!(!said.contains(realm), "the value is not repeated: {said}");
    }
}

#[tokio::test]
async fn the_inner_service_can_be_reached_and_had_back() {
    let (_, sessions, _) = one_session().await;
    let mut service = sessions.layer().layer(7_u32);
    assert_eq!(*service.get_ref(), 7);
    *service.get_mut() += 1;
    assert_eq!(service.into_inner(), 8);
}

#[tokio::test]
async fn the_inner_of_two_layers_decides() {
    let (_, sessions, session) = one_session().await;
    let app = Router::new()
        .route(
            "/open",
            get(async |customer: Option<Customer>| customer.is_some().to_string()),
        )
        .merge(
            Router::new()
                .route(
                    "/closed",
                    get(async |customer: Customer| customer.id.to_string()),
                )
                .layer(sessions.layer()),
        )
        .layer(sessions.layer().optional());
    for (path, token, status) in [
        ("/open", None, 200),
        ("/open", Some(session.token.expose()), 200),
        ("/closed", None, 401),
        ("/closed", Some(session.token.expose()), 200),
    ] {
        let mut request = request::<axum::body::Body>(token);
        *request.uri_mut() = path.parse().expect("a path");
        let response = app.clone().oneshot(request).await.expect("infallible");
        assert_eq!(response.status(), status, "{path}, {token:?}");
    }
}

#[tokio::test]
async fn vary_names_authorization_once() {
    let (_, sessions, _) = one_session().await;
    let app = Router::new()
        .route("/customer", get(async |_: Customer| ()))
        .route("/anyone", get(async || [("vary", "accept, Authorization")]))
        .layer(sessions.layer().optional())
        .layer(sessions.layer().optional());
    for (path, vary) in [
        ("/customer", "authorization"),
        ("/anyone", "accept, Authorization"),
    ] {
        let mut request = request::<axum::body::Body>(None);
        *request.uri_mut() = path.parse().expect("a path");
        let response = app.clone().oneshot(request).await.expect("infallible");
        let all: Vec<_> = response.headers().get_all("vary").iter().collect();
        assert_eq!(all, [vary], "{path}");
    }
}

#[tokio::test]
async fn a_layer_can_be_named_and_shared() {
    struct App {
        layer: CustomerSessionLayer,
    }
    let (store, sessions, session) = one_session().await;
    let app = App {
        layer: sessions.layer(),
    };
    for layer in [app.layer.clone(), app.layer] {
        let service = layer.layer(tower::service_fn(echo));
        let response = service.oneshot(request(Some(session.token.expose()))).await;
        assert_eq!(response.expect("infallible").status(), 200);
    }
    assert_eq!(store.lookups(), 1, "one cache");
    let boxed: Box<dyn customer_session::SessionStore> = Box::new(Arc::clone(&store));
    let _ = CustomerSessionLayer::new(boxed);
}
