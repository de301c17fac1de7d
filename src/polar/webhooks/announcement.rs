//! How a change that Polar has announced to one node reaches the others.

use std::{error::Error, pin::Pin, sync::Arc};

use crate::{invalidation::Invalidation, store::SessionRegistry};

type Announced = Pin<Box<dyn Future<Output = Result<(), Box<dyn Error + Send + Sync>>> + Send>>;

/// Announces changes to other nodes.
#[derive(Clone)]
pub(super) struct Announcer(Arc<dyn Fn(Invalidation) -> Announced + Send + Sync>);

impl Announcer {
    pub(super) fn new<F, A, E>(announce: F) -> Self
    where
        F: Fn(Invalidation) -> A + Send + Sync + 'static,
        A: Future<Output = Result<(), E>> + Send + 'static,
        E: Into<Box<dyn Error + Send + Sync>>,
    {
        Self(Arc::new(move |invalidation| {
            let announced = announce(invalidation);
            Box::pin(async move { announced.await.map_err(Into::into) })
        }))
    }

    pub(super) fn through(registry: impl SessionRegistry) -> Self {
        let registry = Arc::new(registry);
        Self::new(move |invalidation| {
            let registry = Arc::clone(&registry);
            async move { registry.announce(&invalidation).await }
        })
    }

    pub(super) fn announce(&self, invalidation: Invalidation) -> Announced {
        (self.0)(invalidation)
    }
}
