//! The identity in the extensions of a request.

use std::sync::{
    Arc,
    atomic::{AtomicBool, Ordering::Relaxed},
};

use http::Extensions;

use super::config::LayerConfig;
use crate::{customer::Customer, sessions::CurrentSession};

/// A mark of requests that go on without a customer. It holds the layer's settings, with which an
/// extractor refuses the request as the layer would have.
#[derive(Clone)]
pub(super) struct Anonymous(pub(super) Arc<LayerConfig>);

/// A mark that a test puts into a request, to learn whether a layer passes it on without a customer.
#[derive(Clone, Debug, Default)]
pub(crate) struct AnonymityProbe(Arc<AtomicBool>);

impl AnonymityProbe {
    /// Returns `true` if a layer has passed the request on without a customer.
    pub(crate) fn was_anonymous(&self) -> bool {
        self.0.load(Relaxed)
    }
}

/// Removes an identity that another layer, or an attacker who found a way, has left.
#[inline]
pub(crate) fn remove(extensions: &mut Extensions) {
    if extensions.is_empty() {
        return;
    }
    extensions.remove::<Customer>();
    extensions.remove::<Anonymous>();
}

/// Inserts the session's customer, whose handle leads to the session. An extension for each would
/// cost each request an allocation more.
#[inline]
pub(crate) fn insert(extensions: &mut Extensions, session: CurrentSession) {
    extensions.insert(session.into_customer());
}

/// Marks a request as anonymous.
pub(super) fn insert_anonymous(extensions: &mut Extensions, config: &Arc<LayerConfig>) {
    if let Some(AnonymityProbe(was_anonymous)) = extensions.get() {
        was_anonymous.store(true, Relaxed);
    }
    extensions.insert(Anonymous(Arc::clone(config)));
}
