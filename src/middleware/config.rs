//! The settings that a layer shares with the services it makes.

use std::{fmt, sync::Arc};

use http::{HeaderMap, Method, Request, Uri};

use super::{
    cache_headers::CacheHeaders,
    credentials::{CredentialSources, RequestHead},
    guards::Guards,
    navigation::is_navigation,
    rejection::RejectionKind,
    rejection_responses::RejectionResponses,
};
use crate::engine::{Authenticated, CacheLookup, CacheStatus, Engine, LookupPolicy};

/// The settings of a layer, and the engine that it asks.
#[derive(Clone)]
pub(super) struct LayerConfig {
    pub(super) engine: Arc<Engine>,
    optional: bool,
    /// Requests without a credential go on anonymously: `optional`, unless a guard needs a session.
    pub(super) admits_anonymous: bool,
    /// CORS preflights go on anonymously, whatever they carry.
    pub(super) pass_preflights: bool,
    pub(super) cache_status_on_hits: bool,
    /// The sources of tokens other than `Authorization`. Most layers have none.
    pub(super) sources: Option<CredentialSources>,
    /// What a request needs beyond a live session. Most layers have no guards.
    guards: Option<Guards>,
    /// The cache headers of every response, from `sources` and `optional`.
    pub(super) cache_headers: CacheHeaders,
    pub(super) responses: RejectionResponses,
}

impl LayerConfig {
    pub(super) fn new(engine: Arc<Engine>) -> Self {
        Self {
            engine,
            optional: false,
            admits_anonymous: false,
            pass_preflights: false,
            cache_status_on_hits: false,
            sources: None,
            guards: None,
            cache_headers: CacheHeaders::default(),
            responses: RejectionResponses::default(),
        }
    }

    pub(super) fn set_optional(&mut self) {
        self.optional = true;
        self.set_admits_anonymous();
        self.set_cache_headers();
    }

    pub(super) fn change_sources<T>(
        &mut self,
        change: impl FnOnce(&mut CredentialSources) -> T,
    ) -> T {
        let result = change(self.sources.get_or_insert_default());
        self.set_cache_headers();
        result
    }

    pub(super) fn change_guards<T>(&mut self, change: impl FnOnce(&mut Guards) -> T) -> T {
        let guards = self.guards.get_or_insert_default();
        let result = change(guards);
        self.responses.set_guards(guards);
        self.set_admits_anonymous();
        result
    }

    fn set_admits_anonymous(&mut self) {
        let require_session = self.guards.as_ref().is_some_and(Guards::require_session);
        self.admits_anonymous = self.optional && !require_session;
    }

    /// Looks `token` up in the cache, as far as the guards let the cache decide.
    #[inline]
    pub(super) fn lookup_cached(&self, token: &[u8]) -> CacheLookup {
        match &self.guards {
            Some(guards) if guards.forbids_cached() => self.engine.lookup_negative(token),
            _ => self.engine.lookup_cached(token),
        }
    }

    /// Applies the guards to an authenticated request, whether its session was cached or looked up.
    ///
    /// # Errors
    ///
    /// The kind of the first guard that refuses.
    #[inline]
    pub(super) fn check_guards<B>(
        &self,
        authenticated: &Authenticated,
        request: &Request<B>,
    ) -> Result<(), RejectionKind> {
        match &self.guards {
            Some(guards) => guards.check(authenticated, &RequestHead::new(request), &self.engine),
            None => Ok(()),
        }
    }

    /// Returns the lookup for requests that the cache does not decide.
    pub(super) fn policy(&self) -> LookupPolicy {
        self.guards.as_ref().map(Guards::policy).unwrap_or_default()
    }

    /// Returns `true` if a person is to be sent to the sign-in page in place of a 401. It is asked
    /// about refused requests only.
    pub(super) fn redirects(&self, method: &Method, headers: &HeaderMap) -> bool {
        self.responses.has_redirect() && is_navigation(method, headers)
    }

    /// Returns `true` if another site may have made a browser send this request. Without sources of
    /// tokens no origin is trusted but that of the host.
    pub(super) fn is_cross_site(&self, method: &Method, uri: &Uri, headers: &HeaderMap) -> bool {
        match &self.sources {
            Some(sources) => sources.is_cross_site(method, uri, headers),
            None => CredentialSources::default().is_cross_site(method, uri, headers),
        }
    }

    fn set_cache_headers(&mut self) {
        let of_sources = self.sources.as_ref().map(CredentialSources::cache_headers);
        let of_sources = of_sources.unwrap_or_default();
        self.cache_headers = of_sources.vary_on_authorization(self.optional);
        self.responses.set_cache_headers(self.cache_headers);
    }

    /// Returns the cache status if the response is to carry it.
    #[inline]
    pub(super) fn reported(&self, status: CacheStatus) -> Option<CacheStatus> {
        (status != CacheStatus::Hit || self.cache_status_on_hits).then_some(status)
    }
}

impl fmt::Debug for LayerConfig {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("LayerConfig")
            .field("optional", &self.optional)
            .field("pass_preflights", &self.pass_preflights)
            .field("sources", &self.sources)
            .field("guards", &self.guards)
            .finish_non_exhaustive()
    }
}
