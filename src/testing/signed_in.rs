//! Handlers tested without tokens, and routes tested for being protected.

use std::{
    fmt::Debug,
    future::poll_fn,
    sync::Arc,
    task::{Context, Poll},
};

use chrono::{TimeDelta, Utc};
use http::{HeaderValue, Method, Request, Response, StatusCode, header::AUTHORIZATION};
use tower_layer::Layer;
use tower_service::Service;

use crate::{
    customer::Customer, middleware::identity, session::CustomerSession, sessions::SessionLifetime,
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
    lifetime: SessionLifetime,
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
            lifetime: SessionLifetime::until_expiry(Arc::new(session)),
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
        identity::insert(request.extensions_mut(), self.layer.lifetime.clone());
        self.inner.call(request)
    }
}

/// Asserts that these paths refuse requests without a session. Each is asked with the usual methods,
/// without a credential and with one that was never issued. It must answer 401, or 405 to a method
/// that it does not know, but 401 to at least one method.
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
{
    let methods = [
        Method::GET,
        Method::POST,
        Method::PUT,
        Method::PATCH,
        Method::DELETE,
    ];
    let never_issued = TokenFormat::any().generate();
    let never_issued = HeaderValue::try_from(format!("Bearer {}", never_issued.expose())).ok();
    let mut open = Vec::new();
    for path in paths {
        let mut refused = false;
        for method in &methods {
            for credential in [None, never_issued.as_ref()] {
                let mut request = Request::new(String::new());
                *request.method_mut() = method.clone();
                match path.as_ref().parse() {
                    Ok(uri) => *request.uri_mut() = uri,
                    Err(error) => panic!("{:?} is not a valid path: {error}", path.as_ref()),
                }
                let with = match credential {
                    Some(token) => {
                        request.headers_mut().insert(AUTHORIZATION, token.clone());
                        "a token that was never issued"
                    }
                    None => "no credential",
                };
                let answer = status(service.clone(), request).await;
                refused |= matches!(answer, Ok(StatusCode::UNAUTHORIZED));
                if !matches!(
                    answer,
                    Ok(StatusCode::UNAUTHORIZED | StatusCode::METHOD_NOT_ALLOWED)
                ) {
                    open.push(format!(
                        "{method} {} with {with}: {answer:?}",
                        path.as_ref()
                    ));
                }
            }
        }
        if !refused {
            open.push(format!("{} never answered 401", path.as_ref()));
        }
    }
    assert!(open.is_empty(), "not protected:\n{}", open.join("\n"));
}

async fn status<S, B>(mut service: S, request: Request<String>) -> Result<StatusCode, S::Error>
where
    S: Service<Request<String>, Response = Response<B>>,
{
    poll_fn(|context| service.poll_ready(context)).await?;
    Ok(service.call(request).await?.status())
}
