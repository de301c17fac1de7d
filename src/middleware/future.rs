//! Carries a request from the layer's decision to its response.

use std::{
    fmt, mem,
    pin::Pin,
    sync::Arc,
    task::{Context, Poll, ready},
};

use bytes::Bytes;
use http::{Request, Response};
use http_body::{Body, Frame, SizeHint};
use pin_project_lite::pin_project;
use tower_service::Service;

use super::{
    caching::Caching,
    config::LayerConfig,
    identity,
    rejection::{Rejection, RejectionKind},
};
use crate::sessions::{Admitted, Verdict};

pin_project! {
    /// The response of a [`CustomerSessionService`](crate::CustomerSessionService).
    ///
    /// Two words larger than the inner service's future at most; nothing is boxed unless the
    /// store must be asked.
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
        Inner { #[pin] future: S::Future, caching: Caching, verdict: Option<Verdict> },
        /// The store is being asked.
        Waiting { waiting: Option<Box<Waiting<S, ReqBody>>> },
        /// The layer answers.
        Refused { reason: RejectionKind, config: Arc<LayerConfig> },
    }
}

type Lookup = Pin<Box<dyn Future<Output = Result<Admitted, Rejection>> + Send>>;

struct Waiting<S, ReqBody> {
    lookup: Lookup,
    /// The service that was made ready for this request.
    ready: S,
    request: Request<ReqBody>,
    config: Arc<LayerConfig>,
    caching: Caching,
}

impl<S, ReqBody> ResponseFuture<S, ReqBody>
where
    S: Service<Request<ReqBody>>,
{
    #[inline]
    pub(super) fn inner(future: S::Future, caching: Caching, verdict: Option<Verdict>) -> Self {
        Self {
            state: State::Inner {
                future,
                caching,
                verdict,
            },
        }
    }

    pub(super) fn refused(reason: RejectionKind, config: Arc<LayerConfig>) -> Self {
        Self {
            state: State::Refused { reason, config },
        }
    }

    pub(super) fn waiting(
        lookup: impl Future<Output = Result<Admitted, Rejection>> + Send + 'static,
        ready: S,
        request: Request<ReqBody>,
        config: Arc<LayerConfig>,
        caching: Caching,
    ) -> Self {
        Self {
            state: State::Waiting {
                waiting: Some(Box::new(Waiting {
                    lookup: Box::pin(lookup),
                    ready,
                    request,
                    config,
                    caching,
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
            let (mut waiting, landed) = match state.as_mut().project() {
                StateProjection::Inner {
                    future,
                    caching,
                    verdict,
                } => {
                    let mut response = ready!(future.poll(context))?;
                    caching.tell(response.headers_mut());
                    if let Some(verdict) = *verdict {
                        response.extensions_mut().insert(verdict);
                    }
                    return Poll::Ready(Ok(response.map(ResponseBody::inner)));
                }
                StateProjection::Refused { reason, config } => {
                    let response = config.answers.answer((*reason).into());
                    return Poll::Ready(Ok(response.map(ResponseBody::refusal)));
                }
                StateProjection::Waiting { waiting } => {
                    let mut it = polled_in_time(waiting.take());
                    match it.lookup.as_mut().poll(context) {
                        Poll::Ready(landed) => (it, landed),
                        Poll::Pending => {
                            *waiting = Some(it);
                            return Poll::Pending;
                        }
                    }
                }
            };
            match landed {
                Ok(admitted) => {
                    let extensions = waiting.request.extensions_mut();
                    identity::sign_in(extensions, admitted.lifetime);
                    state.set(State::Inner {
                        future: waiting.ready.call(waiting.request),
                        caching: waiting.caching,
                        verdict: waiting.config.told(admitted.verdict),
                    });
                }
                Err(rejection) => {
                    let response = waiting.config.answers.answer(rejection);
                    return Poll::Ready(Ok(response.map(ResponseBody::refusal)));
                }
            }
        }
    }
}

/// Like any future, this one must not be polled again once it was ready.
fn polled_in_time<T>(value: Option<T>) -> T {
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

pin_project! {
    /// The body of the inner service's response, or of the layer's own.
    #[derive(Clone, Debug)]
    pub struct ResponseBody<B> {
        #[pin]
        kind: Kind<B>,
    }
}

pin_project! {
    #[derive(Clone, Debug)]
    #[project = KindProjection]
    enum Kind<B> {
        Inner { #[pin] body: B },
        Refusal { body: Bytes },
    }
}

impl<B> ResponseBody<B> {
    fn inner(body: B) -> Self {
        Self {
            kind: Kind::Inner { body },
        }
    }

    fn refusal(body: Bytes) -> Self {
        Self {
            kind: Kind::Refusal { body },
        }
    }
}

/// An empty body; layers that answer by themselves, as for CORS, ask for one.
impl<B> Default for ResponseBody<B> {
    fn default() -> Self {
        Self::refusal(Bytes::new())
    }
}

impl<B> Body for ResponseBody<B>
where
    B: Body,
    B::Data: From<Bytes>,
{
    type Data = B::Data;
    type Error = B::Error;

    fn poll_frame(
        self: Pin<&mut Self>,
        context: &mut Context<'_>,
    ) -> Poll<Option<Result<Frame<B::Data>, B::Error>>> {
        match self.project().kind.project() {
            KindProjection::Inner { body } => body.poll_frame(context),
            KindProjection::Refusal { body } if body.is_empty() => Poll::Ready(None),
            KindProjection::Refusal { body } => {
                Poll::Ready(Some(Ok(Frame::data(mem::take(body).into()))))
            }
        }
    }

    fn is_end_stream(&self) -> bool {
        match &self.kind {
            Kind::Inner { body } => body.is_end_stream(),
            Kind::Refusal { body } => body.is_empty(),
        }
    }

    fn size_hint(&self) -> SizeHint {
        match &self.kind {
            Kind::Inner { body } => body.size_hint(),
            Kind::Refusal { body } => SizeHint::with_exact(body.len() as u64),
        }
    }
}
