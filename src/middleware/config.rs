//! The settings that a layer shares with the services it makes.

use std::{fmt, sync::Arc};

use super::{
    cache_headers::CacheHeaders, credentials::CredentialSources,
    rejection_responses::RejectionResponses,
};
use crate::engine::{CacheStatus, Engine};

/// The settings of a layer, and the engine that it asks.
#[derive(Clone)]
pub(super) struct LayerConfig {
    pub(super) engine: Arc<Engine>,
    pub(super) optional: bool,
    /// CORS preflights go on anonymously, whatever they carry.
    pub(super) pass_preflights: bool,
    pub(super) cache_status_on_hits: bool,
    /// The sources of tokens other than `Authorization`. Most layers have none.
    pub(super) sources: Option<CredentialSources>,
    /// The cache headers of every response, from `sources` and `optional`.
    pub(super) cache_headers: CacheHeaders,
    pub(super) responses: RejectionResponses,
}

impl LayerConfig {
    pub(super) fn new(engine: Arc<Engine>) -> Self {
        Self {
            engine,
            optional: false,
            pass_preflights: false,
            cache_status_on_hits: false,
            sources: None,
            cache_headers: CacheHeaders::default(),
            responses: RejectionResponses::default(),
        }
    }

    pub(super) fn set_optional(&mut self) {
        self.optional = true;
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
            .finish_non_exhaustive()
    }
}
