//! The check that a request without a session comes from this site.

use std::{
    pin::Pin,
    sync::Arc,
    task::{Context, Poll, ready},
};

use http::{HeaderMap, Method, Request, Response, Uri};
use pin_project_lite::pin_project;
use tower_layer::Layer;
use tower_service::Service;

use super::{
    body::ResponseBody,
    config::LayerConfig,
    rejection::{Rejection, RejectionKind},
};

/// A layer that refuses what another site made a browser send, for routes without a session.
///
/// A sign-in route is one: a page elsewhere could sign its visitor in as the attacker, who then reads
/// what the visitor enters ("login CSRF"). [`CustomerSessionLayer::same_origin`] makes this layer, with
/// the same rule and the same trusted origins as for requests with the
/// [cookie](crate::CustomerSessionLayer::token_from_cookie).
///
/// ```
/// use axum::{Router, body::Body, http::Request, routing::post};
/// use customer_session::{CustomerSessions, store::MemoryStore};
/// use tower::ServiceExt;
///
/// # #[tokio::main(flavor = "current_thread")]
/// # async fn main() -> Result<(), Box<dyn std::error::Error>> {
/// let layer = CustomerSessions::builder(MemoryStore::new()).build().layer();
/// let layer = layer.trusted_origin("https://app.example.com")?;
/// let app: Router = Router::new()
///     .route("/sign-in", post(async || "signed in"))
///     .layer(layer.same_origin());
///
/// let forged = Request::post("/sign-in")
///     .header("origin", "https://evil.example")
///     .header("sec-fetch-site", "cross-site")
///     .body(Body::empty())?;
/// assert_eq!(app.clone().oneshot(forged).await?.status(), 403);
/// let own = Request::post("/sign-in")
///     .header("origin", "https://app.example.com")
///     .header("sec-fetch-site", "same-site")
///     .body(Body::empty())?;
/// assert_eq!(app.oneshot(own).await?.status(), 200);
/// # Ok(())
/// # }
/// ```
///
/// [`CustomerSessionLayer::same_origin`]: crate::CustomerSessionLayer::same_origin
#[derive(Clone, Debug)]
#[must_use = "a layer does nothing until it is put on a service"]
pub struct SameOriginLayer {
    config: Arc<LayerConfig>,
}

impl SameOriginLayer {
    pub(super) fn new(config: Arc<LayerConfig>) -> Self {
        Self { config }
    }

    /// Checks one request, in a handler that cannot have the layer.
    ///
    /// ```
    /// use axum::{Extension, http::{HeaderMap, Method, StatusCode, Uri}};
    /// use customer_session::SameOriginLayer;
    ///
    /// async fn sign_in(
    ///     Extension(same_origin): Extension<SameOriginLayer>,
    ///     method: Method,
    ///     uri: Uri,
    ///     headers: HeaderMap,
    /// ) -> Result<(), StatusCode> {
    ///     let checked = same_origin.check(&method, &uri, &headers);
    ///     checked.map_err(|rejection| rejection.status())
    /// }
    /// # axum::Router::<()>::new().route("/sign-in", axum::routing::post(sign_in));
    /// ```
    ///
    /// # Errors
    ///
    /// Returns a [`RejectionKind::CrossSite`](crate::RejectionKind::CrossSite) if another site may have
    /// made a browser send the request.
    pub fn check(&self, method: &Method, uri: &Uri, headers: &HeaderMap) -> Result<(), Rejection> {
        match self.config.is_cross_site(method, uri, headers) {
            true => Err(RejectionKind::CrossSite.into()),
            false => Ok(()),
        }
    }
}

impl<S> Layer<S> for SameOriginLayer {
    type Service = SameOriginService<S>;

    fn layer(&self, inner: S) -> SameOriginService<S> {
        SameOriginService {
            inner,
            layer: self.clone(),
        }
    }
}

/// The service that [`SameOriginLayer`] puts in front of another.
#[derive(Clone, Debug)]
pub struct SameOriginService<S> {
    inner: S,
    layer: SameOriginLayer,
}

impl<S, ReqBody, ResBody> Service<Request<ReqBody>> for SameOriginService<S>
where
    S: Service<Request<ReqBody>, Response = Response<ResBody>> + Clone,
{
    type Response = Response<ResponseBody<ResBody>>;
    type Error = S::Error;
    type Future = SameOriginFuture<S::Future>;

    fn poll_ready(&mut self, context: &mut Context<'_>) -> Poll<Result<(), S::Error>> {
        self.inner.poll_ready(context)
    }

    fn call(&mut self, request: Request<ReqBody>) -> Self::Future {
        let SameOriginLayer { config } = &self.layer;
        let state = match self
            .layer
            .check(request.method(), request.uri(), request.headers())
        {
            Ok(()) => State::Inner {
                future: self.inner.call(request),
            },
            Err(_) => {
                // A clone is not ready, and holds no permit that others may wait for.
                self.inner = self.inner.clone();
                State::Rejected {
                    config: Arc::clone(config),
                }
            }
        };
        SameOriginFuture { state }
    }
}

pin_project! {
    /// The response future of a [`SameOriginService`].
    #[derive(Debug)]
    #[must_use = "futures do nothing unless polled"]
    pub struct SameOriginFuture<F> {
        #[pin]
        state: State<F>,
    }
}

pin_project! {
    #[derive(Debug)]
    #[project = StateProjection]
    enum State<F> {
        Inner { #[pin] future: F },
        Rejected { config: Arc<LayerConfig> },
    }
}

impl<F, ResBody, E> Future for SameOriginFuture<F>
where
    F: Future<Output = Result<Response<ResBody>, E>>,
{
    type Output = Result<Response<ResponseBody<ResBody>>, E>;

    fn poll(self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<Self::Output> {
        Poll::Ready(match self.project().state.project() {
            StateProjection::Inner { future } => {
                ready!(future.poll(context)).map(|response| response.map(ResponseBody::inner))
            }
            StateProjection::Rejected { config } => {
                let response = config.responses.respond(RejectionKind::CrossSite.into());
                Ok(response.map(ResponseBody::rejection))
            }
        })
    }
}
