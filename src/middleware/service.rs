//! Decides, for each request, what becomes of it.

use std::{
    mem,
    sync::Arc,
    task::{Context, Poll},
};

use http::{HeaderMap, Method, Request, Response};
use tower_service::Service;

use super::{
    config::LayerConfig,
    credentials::{Credential, Taken, credential, is_preflight},
    future::{ResponseBody, ResponseFuture},
    identity,
    rejection::{Rejection, RejectionKind},
};
use crate::{
    sessions::{Admitted, Engine, Recall, Verdict},
    token::SessionToken,
};

/// What [`CustomerSessionLayer`](crate::CustomerSessionLayer) makes of a service.
#[derive(Clone, Debug)]
pub struct CustomerSessionService<S> {
    inner: S,
    config: Arc<LayerConfig>,
}

/// What becomes of a request.
enum Admission {
    SignedIn(Admitted),
    Anonymous,
    Refused(RejectionKind),
    /// The store must be asked.
    Unknown(SessionToken),
}

impl<S> CustomerSessionService<S> {
    pub(super) fn new(inner: S, config: Arc<LayerConfig>) -> Self {
        Self { inner, config }
    }
}

impl<S, ReqBody, ResBody> Service<Request<ReqBody>> for CustomerSessionService<S>
where
    S: Service<Request<ReqBody>, Response = Response<ResBody>> + Clone,
{
    type Response = Response<ResponseBody<ResBody>>;
    type Error = S::Error;
    type Future = ResponseFuture<S, ReqBody>;

    fn poll_ready(&mut self, context: &mut Context<'_>) -> Poll<Result<(), S::Error>> {
        self.inner.poll_ready(context)
    }

    #[inline]
    fn call(&mut self, mut request: Request<ReqBody>) -> Self::Future {
        let config = &self.config;
        identity::clear(request.extensions_mut());
        let mut caching = config.caching;
        let mut taken = None;
        if let Some(sources) = &config.sources {
            let it = taken.insert(sources.take(&mut request));
            caching = caching.of(it.was_in_uri());
        }
        match admit(
            &config.engine,
            config.optional,
            request.method(),
            request.headers(),
            taken.as_ref(),
        ) {
            Admission::SignedIn(admitted) => {
                let extensions = request.extensions_mut();
                identity::sign_in(extensions, admitted.lifetime);
                let verdict = config.told(admitted.verdict);
                ResponseFuture::inner(self.inner.call(request), caching, verdict)
            }
            Admission::Anonymous => {
                identity::pass_anonymously(request.extensions_mut(), config);
                let verdict = config.told(Verdict::Anonymous);
                ResponseFuture::inner(self.inner.call(request), caching, verdict)
            }
            Admission::Refused(reason) => ResponseFuture::refused(reason, Arc::clone(config)),
            Admission::Unknown(token) => {
                // The service that `poll_ready` made ready is the one to call later; what is
                // left in its place must be made ready anew.
                let not_ready = self.inner.clone();
                let ready = mem::replace(&mut self.inner, not_ready);
                let engine = Arc::clone(&config.engine);
                let lookup = async move {
                    let landed = engine.resolve(token).await;
                    landed.map_err(|error| Rejection::new(error, engine.retry_after()))
                };
                ResponseFuture::waiting(lookup, ready, request, Arc::clone(config), caching)
            }
        }
    }
}

fn admit(
    engine: &Arc<Engine>,
    optional: bool,
    method: &Method,
    headers: &HeaderMap,
    taken: Option<&Taken<'_>>,
) -> Admission {
    if is_preflight(method, headers) {
        return Admission::Anonymous;
    }
    let presented = match taken {
        None => credential(headers),
        Some(taken) => taken.with(headers),
    };
    let (token, recall) = match presented {
        Credential::Token(token) => (token, engine.recall(token)),
        Credential::Malformed => (&b""[..], engine.screen()),
        Credential::Multiple => return Admission::Refused(RejectionKind::MultipleTokens),
        Credential::CrossSite => return Admission::Refused(RejectionKind::CrossSite),
        Credential::None if optional => return Admission::Anonymous,
        Credential::None => return Admission::Refused(RejectionKind::MissingToken),
    };
    match recall {
        Recall::Live(admitted) => Admission::SignedIn(admitted),
        Recall::Invalid => Admission::Refused(RejectionKind::InvalidToken),
        Recall::Unknown => Admission::Unknown(SessionToken::from_ascii(token)),
    }
}
