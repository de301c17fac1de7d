//! Handlers tested without tokens, and routes tested for being protected.

use std::{
    fmt::Debug,
    future::poll_fn,
    task::{Context, Poll},
};

use chrono::{TimeDelta, Utc};
use http::{
    HeaderValue, Method, Request, Response, StatusCode, Uri,
    header::{
        ACCESS_CONTROL_ALLOW_HEADERS, ACCESS_CONTROL_ALLOW_METHODS, ACCESS_CONTROL_ALLOW_ORIGIN,
        ACCESS_CONTROL_MAX_AGE, ACCESS_CONTROL_REQUEST_METHOD, AUTHORIZATION, ORIGIN, VARY,
    },
};
use http_body::Body;
use tower_layer::Layer;
use tower_service::Service;

use crate::{
    customer::Customer,
    middleware::{
        Rejection, RejectionKind,
        identity::{self, AnonymityProbe},
    },
    session::CustomerSession,
    sessions::CurrentSession,
    token::TokenFormat,
};

/// A layer that signs every request in as one customer, for tests of handlers: in place of
/// [`CustomerSessionLayer`](crate::CustomerSessionLayer), with no store and no token.
///
/// ```
/// use axum::{Router, body::Body, http::Request, routing::get};
/// use customer_session::{Customer, CustomerData, testing::SignedIn};
/// use tower::ServiceExt;
///
/// # #[tokio::main(flavor = "current_thread")]
/// # async fn main() -> Result<(), Box<dyn std::error::Error>> {
/// let routes = Router::new().route("/me", get(async |me: Customer| me.id.to_string()));
/// let app = routes.layer(SignedIn::new(CustomerData::new("cus_1", "org_1")));
/// let response = app.oneshot(Request::get("/me").body(Body::empty())?).await?;
/// assert_eq!(response.status(), 200);
/// # Ok(())
/// # }
/// ```
#[derive(Clone, Debug)]
#[must_use = "a layer does nothing until it is put on a service"]
pub struct SignedIn {
    session: CurrentSession,
}

impl SignedIn {
    /// Signs in `customer`, with a session that was made a moment ago and lasts for an hour.
    pub fn new(customer: impl Into<Customer>) -> Self {
        Self::with_session(CustomerSession::new(
            "ses_signed_in",
            TokenFormat::any().generate(),
            customer,
            Utc::now() + TimeDelta::hours(1),
        ))
    }

    /// Signs in with this session, whatever its state.
    pub fn with_session(session: CustomerSession) -> Self {
        Self {
            session: CurrentSession::until_expiry(session),
        }
    }
}

impl<S> Layer<S> for SignedIn {
    type Service = SignedInService<S>;

    fn layer(&self, inner: S) -> SignedInService<S> {
        SignedInService {
            inner,
            layer: self.clone(),
        }
    }
}

/// The service that [`SignedIn`] makes.
#[derive(Clone, Debug)]
pub struct SignedInService<S> {
    inner: S,
    layer: SignedIn,
}

impl<S: Service<Request<B>>, B> Service<Request<B>> for SignedInService<S> {
    type Response = S::Response;
    type Error = S::Error;
    type Future = S::Future;

    fn poll_ready(&mut self, context: &mut Context<'_>) -> Poll<Result<(), S::Error>> {
        self.inner.poll_ready(context)
    }

    fn call(&mut self, mut request: Request<B>) -> S::Future {
        identity::remove(request.extensions_mut());
        identity::insert(request.extensions_mut(), self.layer.session.clone());
        self.inner.call(request)
    }
}

/// Asserts that these paths refuse requests without a session.
///
/// Each path is asked with `GET`, `HEAD`, `OPTIONS`, `POST`, `PUT`, `PATCH`, `DELETE` and as a CORS
/// preflight, without a credential and with one that was never issued. These answers pass, and at
/// least one of a path must be a refusal:
///
/// - a refusal of the layer, with whatever status
///   [`rejection_response`](crate::CustomerSessionLayer::rejection_response) gives it, or 401;
/// - 405, by a router for a method that it does not know;
/// - to `OPTIONS` only, what a CORS layer answers: 200 or 204 without a body, with headers of CORS; if
///   the layer has passed the request on, with one that is about preflights, such as
///   `Access-Control-Allow-Methods`.
///
/// ```
/// use axum::{Router, routing::get};
/// use customer_session::{CustomerSessionLayer, store::MemoryStore, testing::assert_protected};
///
/// # #[tokio::main(flavor = "current_thread")]
/// # async fn main() {
/// let app: Router = Router::new()
///     .route("/orders", get(async || "the orders"))
///     .layer(CustomerSessionLayer::new(MemoryStore::new()));
/// assert_protected(app, ["/orders"]).await;
/// # }
/// ```
///
/// # Panics
///
/// If a path answers anything else, with a list of all that do; or if a path is not a valid path.
pub async fn assert_protected<S, B>(service: S, paths: impl IntoIterator<Item = impl AsRef<str>>)
where
    S: Service<Request<String>, Response = Response<B>> + Clone,
    S::Error: Debug,
    B: Body,
{
    let never_issued = TokenFormat::any().generate();
    let never_issued = HeaderValue::try_from(format!("Bearer {}", never_issued.expose())).ok();
    let credentials = [
        ("no credential", None),
        ("a token that was never issued", never_issued),
    ];
    let mut open = Vec::new();
    for path in paths {
        let path = path.as_ref();
        let mut refused = false;
        for (name, probe) in probes(path) {
            for (credential, value) in &credentials {
                let mut request = probe.clone();
                let value = value.iter().map(|value| (AUTHORIZATION, value.clone()));
                request.headers_mut().extend(value);
                let anonymity = AnonymityProbe::default();
                request.extensions_mut().insert(anonymity.clone());
                let is_options = *request.method() == Method::OPTIONS;
                let answer = call(service.clone(), request).await;
                match &answer {
                    Ok(response) if is_refusal(response) => refused = true,
                    Ok(response) if response.status() == StatusCode::METHOD_NOT_ALLOWED => {}
                    Ok(response) if is_options && is_of_cors_layer(response, &anonymity) => {}
                    _ => {
                        let status = answer.map(|response| response.status());
                        open.push(format!("{name} {path} with {credential}: {status:?}"));
                    }
                }
            }
        }
        if !refused {
            open.push(format!("{path} never answered 401"));
        }
    }
    assert!(open.is_empty(), "not protected:\n{}", open.join("\n"));
}

/// Returns the requests for `path`, each with a name.
fn probes(path: &str) -> Vec<(String, Request<String>)> {
    let uri: Uri = match path.parse() {
        Ok(uri) => uri,
        Err(error) => panic!("{path:?} is not a valid path: {error}"),
    };
    let probe = |method: Method| {
        let mut request = Request::new(String::new());
        *request.method_mut() = method;
        *request.uri_mut() = uri.clone();
        request
    };
    let methods = [
        Method::GET,
        Method::HEAD,
        Method::OPTIONS,
        Method::POST,
        Method::PUT,
        Method::PATCH,
        Method::DELETE,
    ];
    let mut probes: Vec<_> = methods
        .into_iter()
        .map(|method| (method.to_string(), probe(method)))
        .collect();
    for asked in ["GET", "POST"] {
        let mut preflight = probe(Method::OPTIONS);
        preflight.headers_mut().extend([
            (ORIGIN, HeaderValue::from_static("https://other.example")),
            (
                ACCESS_CONTROL_REQUEST_METHOD,
                HeaderValue::from_static(asked),
            ),
        ]);
        probes.push((format!("preflight for {asked}"), preflight));
    }
    probes
}

fn is_refusal<B>(response: &Response<B>) -> bool {
    let kind = response.extensions().get().map(Rejection::kind);
    matches!(
        kind,
        Some(RejectionKind::MissingToken | RejectionKind::InvalidToken)
    ) || response.status() == StatusCode::UNAUTHORIZED
}

/// Returns `true` for a response as a CORS layer makes it for `OPTIONS` without asking a handler.
///
/// A layer that only adds headers to what a handler answers does not look like that if the handler's
/// answer has a body, or if this crate's layer stands outside and has let the request through.
fn is_of_cors_layer<B: Body>(response: &Response<B>, anonymity: &AnonymityProbe) -> bool {
    let headers = response.headers();
    let is_about_preflights = [
        ACCESS_CONTROL_ALLOW_METHODS,
        ACCESS_CONTROL_ALLOW_HEADERS,
        ACCESS_CONTROL_MAX_AGE,
    ]
    .iter()
    .any(|name| headers.contains_key(name));
    let varies_on = |prefix: &[u8]| {
        headers.get_all(VARY).iter().any(|line| {
            let line = line.as_bytes().to_ascii_lowercase();
            let mut names = line.split(|byte| *byte == b',').map(<[u8]>::trim_ascii);
            names.any(|name| name.starts_with(prefix))
        })
    };
    let is_about_origins =
        headers.contains_key(ACCESS_CONTROL_ALLOW_ORIGIN) || varies_on(b"origin");
    matches!(response.status(), StatusCode::OK | StatusCode::NO_CONTENT)
        && response.body().size_hint().exact() == Some(0)
        && (is_about_preflights
            || varies_on(b"access-control-request-")
            || (is_about_origins && !anonymity.was_anonymous()))
}

async fn call<S, B>(mut service: S, request: Request<String>) -> Result<Response<B>, S::Error>
where
    S: Service<Request<String>, Response = Response<B>>,
{
    poll_fn(|context| service.poll_ready(context)).await?;
    service.call(request).await
}
