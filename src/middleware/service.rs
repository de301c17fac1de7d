//! The service that decides, for each request, whether it is let in.

use std::{
    mem,
    sync::Arc,
    task::{Context, Poll},
};

use http::{HeaderMap, Method, Request, Response};
use tower_service::Service;

use super::{
    body::ResponseBody,
    config::LayerConfig,
    credentials::{Credential, ExtractedCredentials, bearer_credential, is_preflight},
    future::ResponseFuture,
    identity,
    rejection::{Rejection, RejectionKind},
};
use crate::{
    engine::{Authenticated, CacheLookup},
    sessions::SessionLifetime,
    token::SessionToken,
};

/// The service that [`CustomerSessionLayer`](crate::CustomerSessionLayer) puts in front of
/// another.
#[derive(Clone, Debug)]
pub struct CustomerSessionService<S> {
    inner: S,
    config: Arc<LayerConfig>,
}

/// The decision about one request.
enum Decision {
    Authenticated(Authenticated),
    Anonymous,
    Rejected(RejectionKind),
    LookUp(SessionToken),
}

impl<S> CustomerSessionService<S> {
    pub(super) fn new(inner: S, config: Arc<LayerConfig>) -> Self {
        Self { inner, config }
    }

    /// Returns a reference to the inner service.
    pub fn get_ref(&self) -> &S {
        &self.inner
    }

    /// Returns a mutable reference to the inner service.
    pub fn get_mut(&mut self) -> &mut S {
        &mut self.inner
    }

    /// Returns the inner service, and drops the layer around it.
    pub fn into_inner(self) -> S {
        self.inner
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
        identity::remove(request.extensions_mut());
        let sources = config.sources.as_ref();
        let extracted = sources.map(|sources| sources.extract(&mut request));
        let extracted = extracted.as_ref();
        let was_in_uri = extracted.is_some_and(ExtractedCredentials::was_in_uri);
        let cache_headers = config.cache_headers.private_if(was_in_uri);
        match decide(config, request.method(), request.headers(), extracted) {
            Decision::Authenticated(authenticated) => {
                let lifetime = SessionLifetime::new(authenticated.session);
                identity::insert(request.extensions_mut(), lifetime);
                let status = config.reported(authenticated.cache_status);
                ResponseFuture::inner(self.inner.call(request), cache_headers, status)
            }
            Decision::Anonymous => {
                identity::insert_anonymous(request.extensions_mut(), config);
                ResponseFuture::inner(self.inner.call(request), cache_headers, None)
            }
            Decision::Rejected(kind) => ResponseFuture::rejected(kind, Arc::clone(config)),
            Decision::LookUp(token) => {
                let engine = Arc::clone(&config.engine);
                let lookup = async move {
                    let result = engine.authenticate(token).await;
                    result.map_err(|error| Rejection::new(error, engine.retry_after()))
                };
                // The service that `poll_ready` made ready is the one to call later. The clone in
                // its place is not ready.
                let not_ready = self.inner.clone();
                let ready = mem::replace(&mut self.inner, not_ready);
                ResponseFuture::waiting(lookup, ready, request, Arc::clone(config), cache_headers)
            }
        }
    }
}

/// Decides about a request by its credential and the cache, without waiting.
#[inline]
fn decide(
    config: &LayerConfig,
    method: &Method,
    headers: &HeaderMap,
    extracted: Option<&ExtractedCredentials<'_>>,
) -> Decision {
    let engine = &config.engine;
    if is_preflight(method, headers) {
        return Decision::Anonymous;
    }
    let credential = match extracted {
        None => bearer_credential(headers),
        Some(extracted) => extracted.combined(headers),
    };
    let (token, lookup) = match credential {
        Credential::Token(token) => (token, engine.lookup_cached(token)),
        Credential::Malformed => (&b""[..], engine.screen()),
        Credential::Multiple => return Decision::Rejected(RejectionKind::MultipleTokens),
        Credential::CrossSite => return Decision::Rejected(RejectionKind::CrossSite),
        Credential::None if config.optional => return Decision::Anonymous,
        Credential::None => return Decision::Rejected(RejectionKind::MissingToken),
    };
    match lookup {
        CacheLookup::Hit(authenticated) => Decision::Authenticated(authenticated),
        CacheLookup::NegativeHit => Decision::Rejected(RejectionKind::InvalidToken),
        CacheLookup::Miss => Decision::LookUp(SessionToken::from_ascii(token)),
    }
}
