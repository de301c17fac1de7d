//! The service that decides, for each request, whether it is let in.

use std::{
    sync::Arc,
    task::{Context, Poll},
};

use http::{Request, Response};
use tower_service::Service;

use super::{
    body::ResponseBody,
    cache_headers::CacheHeaders,
    config::LayerConfig,
    credentials::{Credential, bearer_credential, is_preflight},
    future::ResponseFuture,
    identity,
    rejection::RejectionKind,
};
use crate::{
    engine::{Authenticated, CacheLookup},
    sessions::CurrentSession,
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
    /// The token of a cookie, without which the request would go on anonymously.
    LookUpCookie(SessionToken),
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

    fn reject<B>(&mut self, kind: RejectionKind, request: &Request<B>) -> ResponseFuture<S, B>
    where
        S: Service<Request<B>> + Clone,
    {
        // A clone is not ready, and holds no permit that others may wait for.
        self.inner = self.inner.clone();
        let redirects = self.config.redirects(request.method(), request.headers());
        ResponseFuture::rejected(kind, redirects, Arc::clone(&self.config))
    }

    /// Looks the session up. `or_anonymous`: a token that opens nothing is ignored.
    fn wait<B>(
        &mut self,
        token: SessionToken,
        request: Request<B>,
        cache_headers: CacheHeaders,
        or_anonymous: bool,
    ) -> ResponseFuture<S, B>
    where
        S: Service<Request<B>> + Clone,
    {
        // A service that was made ready may hold a permit, which a request that waits for a lookup
        // must not keep from others. Clones are not ready.
        let service = self.inner.clone();
        self.inner = service.clone();
        let config = Arc::clone(&self.config);
        ResponseFuture::waiting(token, service, request, config, cache_headers, or_anonymous)
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
        let (decision, cache_headers) = decide(config, &mut request);
        match decision {
            Decision::Authenticated(authenticated) => {
                if let Err(kind) = config.check_guards(&authenticated, &request) {
                    return self.reject(kind, &request);
                }
                let session = CurrentSession::new(authenticated.session);
                identity::insert(request.extensions_mut(), session);
                let status = config.reported(authenticated.cache_status);
                ResponseFuture::inner(self.inner.call(request), cache_headers, status)
            }
            Decision::Anonymous => {
                identity::insert_anonymous(request.extensions_mut(), config);
                ResponseFuture::inner(self.inner.call(request), cache_headers, None)
            }
            Decision::Rejected(kind) => self.reject(kind, &request),
            Decision::LookUp(token) => self.wait(token, request, cache_headers, false),
            Decision::LookUpCookie(token) => self.wait(token, request, cache_headers, true),
        }
    }
}

/// Decides about a request by its credential and the cache, without waiting. Returns the cache
/// headers of its response too.
#[inline]
fn decide<B>(config: &LayerConfig, request: &mut Request<B>) -> (Decision, CacheHeaders) {
    let cache_headers = config.cache_headers;
    let is_passed_on = config.pass_preflights && is_preflight(request.method(), request.headers());
    match &config.sources {
        None => {
            let credential = bearer_credential(request.headers_mut());
            (decide_by(config, credential, is_passed_on), cache_headers)
        }
        Some(sources) => {
            let extracted = sources.extract(request, is_passed_on);
            let cache_headers = cache_headers.private_if(extracted.is_unknown_to_caches());
            let decision = decide_by(config, extracted.combined(), is_passed_on);
            // A browser sends its cookie unasked, so one that opens nothing claims nothing.
            let decision = match decision {
                decision if !config.admits_anonymous || !extracted.is_cookie() => decision,
                Decision::Rejected(RejectionKind::InvalidToken) => Decision::Anonymous,
                Decision::LookUp(token) => Decision::LookUpCookie(token),
                decision => decision,
            };
            (decision, cache_headers)
        }
    }
}

#[inline]
fn decide_by(config: &LayerConfig, credential: Credential<&[u8]>, is_passed_on: bool) -> Decision {
    if is_passed_on {
        return Decision::Anonymous;
    }
    let (token, lookup) = match credential {
        Credential::Token(token) => (token, config.lookup_cached(token)),
        Credential::Malformed => (&b""[..], config.engine.screen()),
        Credential::Multiple => return Decision::Rejected(RejectionKind::MultipleTokens),
        Credential::CrossSite => return Decision::Rejected(RejectionKind::CrossSite),
        Credential::None if config.admits_anonymous => return Decision::Anonymous,
        Credential::None => return Decision::Rejected(RejectionKind::MissingToken),
    };
    match lookup {
        CacheLookup::Hit(authenticated) => Decision::Authenticated(authenticated),
        CacheLookup::NegativeHit => Decision::Rejected(RejectionKind::InvalidToken),
        CacheLookup::Miss => Decision::LookUp(SessionToken::from_ascii(token)),
    }
}
