//! What the layer leaves in a request's extensions for those behind it.

use std::sync::Arc;

use http::Extensions;

use super::config::LayerConfig;
use crate::{customer::Customer, session::CustomerSession, sessions::SessionLifetime};

/// Left where a request goes on without a customer: the layer was here, and this is how it
/// would have refused the request.
#[derive(Clone)]
pub(super) struct Anonymous(pub(super) Arc<LayerConfig>);

/// Removes whatever another layer, or an attacker who found a way, has left.
pub(crate) fn clear(extensions: &mut Extensions) {
    if extensions.is_empty() {
        return;
    }
    extensions.remove::<Customer>();
    extensions.remove::<Arc<CustomerSession>>();
    extensions.remove::<Anonymous>();
}

/// Leaves a session and its customer, who wears the session's [`SessionLifetime`]: an extension
/// of its own for that would be an allocation for each request.
pub(crate) fn sign_in(extensions: &mut Extensions, lifetime: SessionLifetime) {
    extensions.insert(Arc::clone(lifetime.session()));
    extensions.insert(lifetime.into_customer());
}

impl SessionLifetime {
    /// The lifetime of the session with which a request was let in, from the request's
    /// extensions; `None` if it was not. In axum handlers `SessionLifetime` is an extractor.
    ///
    /// It is found with the [`Customer`] that the layer has put there: whoever puts another in
    /// its place takes the lifetime away with it.
    pub fn of(extensions: &Extensions) -> Option<Self> {
        extensions.get::<Customer>().and_then(Self::of_customer)
    }
}

pub(super) fn pass_anonymously(extensions: &mut Extensions, config: &Arc<LayerConfig>) {
    extensions.insert(Anonymous(Arc::clone(config)));
}
