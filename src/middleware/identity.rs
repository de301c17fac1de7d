//! What the layer leaves in a request's extensions for those behind it.

use std::sync::Arc;

use http::Extensions;

use super::rejection::Answers;
use crate::{customer::Customer, session::CustomerSession, sessions::SessionLifetime};

/// Left where a request goes on without a customer: the layer was here, and this is how it
/// would have refused the request.
#[derive(Clone)]
pub(super) struct Anonymous(pub(super) Arc<Answers>);

/// Removes whatever another layer, or an attacker who found a way, has left.
pub(crate) fn clear(extensions: &mut Extensions) {
    if extensions.is_empty() {
        return;
    }
    extensions.remove::<Customer>();
    extensions.remove::<Arc<CustomerSession>>();
    extensions.remove::<SessionLifetime>();
    extensions.remove::<Anonymous>();
}

pub(crate) fn sign_in(
    extensions: &mut Extensions,
    session: Arc<CustomerSession>,
    lifetime: SessionLifetime,
) {
    extensions.insert(session.customer.clone());
    extensions.insert(session);
    extensions.insert(lifetime);
}

pub(super) fn pass_anonymously(extensions: &mut Extensions, answers: &Arc<Answers>) {
    extensions.insert(Anonymous(Arc::clone(answers)));
}
