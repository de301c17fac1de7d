//! The way of a request from the layer's decision to its response.

use std::{
    fmt,
    pin::Pin,
    sync::Arc,
    task::{Context, Poll, ready},
};

use bytes::Bytes;
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
    sessions::CurrentSession,
    token::SessionToken,
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
        Rejected { kind: RejectionKind, redirects: bool, config: Arc<LayerConfig> },
    }
}

type Lookup = Pin<Box<dyn Future<Output = Result<Authenticated, Rejection>> + Send>>;

/// The session of a request that goes on, `None` if it does so anonymously, or the refusal.
type Outcome = Result<Option<Authenticated>, Rejection>;

/// A request that waits for the lookup of its session, then for the inner service.
struct Waiting<S, ReqBody> {
    lookup: Lookup,
    /// The result of the lookup.
    authenticated: Option<Authenticated>,
    /// A clone that holds no permit: it is made ready after the lookup.
    service: S,
    request: Request<ReqBody>,
    config: Arc<LayerConfig>,
    cache_headers: CacheHeaders,
    /// A token that opens nothing is ignored.
    or_anonymous: bool,
    /// The token opened nothing, and the request goes on without it.
    is_anonymous: bool,
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

    pub(super) fn rejected(kind: RejectionKind, redirects: bool, config: Arc<LayerConfig>) -> Self {
        Self {
            state: State::Rejected {
                kind,
                redirects,
                config,
            },
        }
    }

    pub(super) fn waiting(
        token: SessionToken,
        service: S,
        request: Request<ReqBody>,
        config: Arc<LayerConfig>,
        cache_headers: CacheHeaders,
        or_anonymous: bool,
    ) -> Self {
        Self {
            state: State::Waiting {
                waiting: Some(Box::new(Waiting {
                    lookup: lookup(&config, token),
                    authenticated: None,
                    service,
                    request,
                    config,
                    cache_headers,
                    or_anonymous,
                    is_anonymous: false,
                })),
            },
        }
    }
}

fn lookup(config: &LayerConfig, token: SessionToken) -> Lookup {
    let (engine, policy) = (Arc::clone(&config.engine), config.policy());
    Box::pin(async move {
        let result = engine.authenticate_by(policy, token).await;
        result.map_err(|error| Rejection::new(error, engine.retry_after()))
    })
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
                    let result = ready!(unfinished(waiting.as_mut()).poll_ready(context))?;
                    let waiting = unfinished(waiting.take());
                    match result {
                        Ok(authenticated) => state.set(waiting.call(authenticated)),
                        Err(rejection) => {
                            let response = waiting.respond(rejection);
                            return Poll::Ready(Ok(response.map(ResponseBody::rejection)));
                        }
                    }
                }
                StateProjection::Rejected {
                    kind,
                    redirects,
                    config,
                } => {
                    let rejection = (*kind).into();
                    let response = config.responses.respond_or_redirect(rejection, *redirects);
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
    /// Waits for the lookup, applies the guards, and then waits until the inner service is ready. A
    /// session that has ended while the service was not ready is looked up again. Returns `None` for
    /// a request that goes on anonymously.
    fn poll_ready(&mut self, context: &mut Context<'_>) -> Poll<Result<Outcome, S::Error>> {
        loop {
            if self.is_anonymous {
                ready!(self.service.poll_ready(context))?;
                return Poll::Ready(Ok(Ok(None)));
            }
            let (authenticated, has_waited) = match self.authenticated.take() {
                Some(authenticated) => (authenticated, true),
                None => {
                    let result = ready!(self.lookup.as_mut().poll(context));
                    match result.and_then(|authenticated| self.guarded(authenticated)) {
                        Ok(authenticated) => (authenticated, false),
                        Err(rejection) if self.ignores(&rejection) => {
                            self.is_anonymous = true;
                            continue;
                        }
                        Err(rejection) => return Poll::Ready(Ok(Err(rejection))),
                    }
                }
            };
            if self.service.poll_ready(context)?.is_pending() {
                self.authenticated = Some(authenticated);
                return Poll::Pending;
            }
            if self.config.engine.is_still_admitted(&authenticated.session) {
                let authenticated = match has_waited {
                    // By now the sign-in may be too long ago.
                    true => self.guarded(authenticated),
                    false => Ok(authenticated),
                };
                return Poll::Ready(Ok(authenticated.map(Some)));
            }
            let token = authenticated.session.session.token.clone();
            self.lookup = lookup(&self.config, token);
        }
    }

    /// Returns `true` if the request goes on without the token that was refused for this reason. An
    /// outage is another reason: the token may open a session.
    fn ignores(&self, rejection: &Rejection) -> bool {
        self.or_anonymous && rejection.kind() == RejectionKind::InvalidToken
    }

    /// Applies the guards to the result of the lookup.
    fn guarded(&self, authenticated: Authenticated) -> Result<Authenticated, Rejection> {
        let config = &self.config;
        match config.check_guards(&authenticated, &self.request) {
            Ok(()) => Ok(authenticated),
            Err(kind) => Err(Rejection::by_guard(kind, config.engine.retry_after())),
        }
    }

    /// Returns the response to the request, which is refused.
    fn respond(&self, rejection: Rejection) -> Response<Bytes> {
        let (config, request) = (&self.config, &self.request);
        let redirects = config.redirects(request.method(), request.headers());
        config.responses.respond_or_redirect(rejection, redirects)
    }

    /// Calls the inner service, which is ready, with the request of this session, or with an
    /// anonymous one.
    fn call(mut self, authenticated: Option<Authenticated>) -> State<S, ReqBody> {
        let extensions = self.request.extensions_mut();
        let cache_status = match authenticated {
            Some(authenticated) => {
                identity::insert(extensions, CurrentSession::new(authenticated.session));
                self.config.reported(authenticated.cache_status)
            }
            None => {
                identity::insert_anonymous(extensions, &self.config);
                None
            }
        };
        State::Inner {
            future: self.service.call(self.request),
            cache_headers: self.cache_headers,
            cache_status,
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
