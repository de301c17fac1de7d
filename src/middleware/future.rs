//! The way of a request from the layer's decision to its response.

use std::{
    fmt,
    pin::Pin,
    sync::Arc,
    task::{Context, Poll, ready},
};

use http::{Request, Response};
use pin_project_lite::pin_project;
use tower_service::Service;

use super::{
    body::ResponseBody,
    cache_headers::CacheHeaders,
    config::LayerConfig,
    identity,
    rejection::{Rejection, RejectionKind},
};
use crate::{
    engine::{Authenticated, CacheStatus},
    sessions::SessionLifetime,
};

pin_project! {
    /// The response future of a [`CustomerSessionService`](crate::CustomerSessionService).
    ///
    /// It is at most two words larger than the future of the inner service. It allocates only if
    /// the store must be asked.
    #[must_use = "futures do nothing unless polled"]
    pub struct ResponseFuture<S, ReqBody>
    where
        S: Service<Request<ReqBody>>,
    {
        #[pin]
        state: State<S, ReqBody>,
    }
}

pin_project! {
    #[project = StateProjection]
    enum State<S, ReqBody>
    where
        S: Service<Request<ReqBody>>,
    {
        /// The inner service has the request.
        Inner {
            #[pin]
            future: S::Future,
            cache_headers: CacheHeaders,
            cache_status: Option<CacheStatus>,
        },
        /// The session is being looked up. `None` once the future is ready.
        Waiting { waiting: Option<Box<Waiting<S, ReqBody>>> },
        /// The layer refuses the request.
        Rejected { kind: RejectionKind, config: Arc<LayerConfig> },
    }
}

type Lookup = Pin<Box<dyn Future<Output = Result<Authenticated, Rejection>> + Send>>;

/// A request that waits for the lookup of its session.
struct Waiting<S, ReqBody> {
    lookup: Lookup,
    /// The service that was made ready for this request.
    ready: S,
    request: Request<ReqBody>,
    config: Arc<LayerConfig>,
    cache_headers: CacheHeaders,
}

impl<S, ReqBody> ResponseFuture<S, ReqBody>
where
    S: Service<Request<ReqBody>>,
{
    #[inline]
    pub(super) fn inner(
        future: S::Future,
        cache_headers: CacheHeaders,
        cache_status: Option<CacheStatus>,
    ) -> Self {
        Self {
            state: State::Inner {
                future,
                cache_headers,
                cache_status,
            },
        }
    }

    pub(super) fn rejected(kind: RejectionKind, config: Arc<LayerConfig>) -> Self {
        Self {
            state: State::Rejected { kind, config },
        }
    }

    pub(super) fn waiting(
        lookup: impl Future<Output = Result<Authenticated, Rejection>> + Send + 'static,
        ready: S,
        request: Request<ReqBody>,
        config: Arc<LayerConfig>,
        cache_headers: CacheHeaders,
    ) -> Self {
        Self {
            state: State::Waiting {
                waiting: Some(Box::new(Waiting {
                    lookup: Box::pin(lookup),
                    ready,
                    request,
                    config,
                    cache_headers,
                })),
            },
        }
    }
}

impl<S, ReqBody, ResBody> Future for ResponseFuture<S, ReqBody>
where
    S: Service<Request<ReqBody>, Response = Response<ResBody>>,
{
    type Output = Result<Response<ResponseBody<ResBody>>, S::Error>;

    fn poll(self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<Self::Output> {
        let mut state = self.project().state;
        loop {
            match state.as_mut().project() {
                StateProjection::Inner {
                    future,
                    cache_headers,
                    cache_status,
                } => {
                    let mut response = ready!(future.poll(context))?;
                    cache_headers.apply_to(response.headers_mut());
                    if let Some(cache_status) = *cache_status {
                        response.extensions_mut().insert(cache_status);
                    }
                    return Poll::Ready(Ok(response.map(ResponseBody::inner)));
                }
                StateProjection::Waiting { waiting } => {
                    let lookup = &mut unfinished(waiting.as_mut()).lookup;
                    let result = ready!(lookup.as_mut().poll(context));
                    let waiting = unfinished(waiting.take());
                    match result {
                        Ok(authenticated) => state.set(waiting.call(authenticated)),
                        Err(rejection) => {
                            let response = waiting.config.responses.respond(rejection);
                            return Poll::Ready(Ok(response.map(ResponseBody::rejection)));
                        }
                    }
                }
                StateProjection::Rejected { kind, config } => {
                    let response = config.responses.respond((*kind).into());
                    return Poll::Ready(Ok(response.map(ResponseBody::rejection)));
                }
            }
        }
    }
}

impl<S, ReqBody> Waiting<S, ReqBody>
where
    S: Service<Request<ReqBody>>,
{
    /// Calls the inner service with the request of this session.
    fn call(mut self, authenticated: Authenticated) -> State<S, ReqBody> {
        let lifetime = SessionLifetime::new(authenticated.session);
        identity::insert(self.request.extensions_mut(), lifetime);
        State::Inner {
            future: self.ready.call(self.request),
            cache_headers: self.cache_headers,
            cache_status: self.config.reported(authenticated.cache_status),
        }
    }
}

/// Unwraps a value that is there until the future is ready. Panics if it is polled after that, as
/// a future may.
fn unfinished<T>(value: Option<T>) -> T {
    value.expect("`ResponseFuture` is not polled after it was ready")
}

impl<S, ReqBody> fmt::Debug for ResponseFuture<S, ReqBody>
where
    S: Service<Request<ReqBody>>,
{
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("ResponseFuture").finish_non_exhaustive()
    }
}
