//! What a layer and the services that it makes have in common.

use std::{fmt, sync::Arc};

use super::{answers::Answers, caching::Caching, credentials::Sources};
use crate::sessions::{Engine, Verdict};

/// The settings of a layer.
#[derive(Clone)]
pub(super) struct LayerConfig {
    pub(super) engine: Arc<Engine>,
    pub(super) optional: bool,
    pub(super) verdict_on_hits: bool,
    /// Where else than in `Authorization` a token may be; nearly always nowhere.
    pub(super) sources: Option<Sources>,
    /// What caches must be told of every answer, sources and optional mode taken together.
    pub(super) caching: Caching,
    pub(super) answers: Answers,
}

impl LayerConfig {
    pub(super) fn new(engine: Arc<Engine>) -> Self {
        Self {
            engine,
            optional: false,
            verdict_on_hits: false,
            sources: None,
            caching: Caching::default(),
            answers: Answers::default(),
        }
    }

    pub(super) fn set_optional(&mut self) {
        self.optional = true;
        self.set_caching();
    }

    pub(super) fn change_sources(&mut self, change: impl FnOnce(&mut Sources)) {
        change(self.sources.get_or_insert_default());
        self.set_caching();
    }

    fn set_caching(&mut self) {
        let sources = self.sources.as_ref().map(Sources::caching);
        self.caching = sources.unwrap_or_default().in_mode(self.optional);
        self.answers.set_caching(self.caching);
    }

    /// The verdict as the answer's extensions are to carry it.
    #[inline]
    pub(super) fn told(&self, verdict: Verdict) -> Option<Verdict> {
        (verdict != Verdict::Fresh || self.verdict_on_hits).then_some(verdict)
    }
}

impl fmt::Debug for LayerConfig {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("LayerConfig")
            .field("optional", &self.optional)
            .field("sources", &self.sources)
            .finish_non_exhaustive()
    }
}
