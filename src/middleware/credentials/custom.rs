//! A source of tokens that the application writes itself.

use std::fmt;

use http::{Extensions, HeaderMap, Method, Uri};

use crate::token::SessionToken;

/// What a function given to [`token_from_fn`](CustomerSessionLayer::token_from_fn) sees of a
/// request: what the services behind the layer will see, before anybody is signed in.
#[derive(Clone, Copy)]
#[non_exhaustive]
pub struct RequestHead<'a> {
    /// The method.
    pub method: &'a Method,
    /// The URI, without a token that [`token_from_query`](CustomerSessionLayer::token_from_query) took.
    pub uri: &'a Uri,
    /// The headers, with their secrets, but without a token that
    /// [`token_from_websocket_protocol`](CustomerSessionLayer::token_from_websocket_protocol) took.
    pub headers: &'a HeaderMap,
    /// What the layers outside left: the peer's certificate, say.
    pub extensions: &'a Extensions,
}

/// Without the URI, the headers and the extensions, which may hold secrets.
impl fmt::Debug for RequestHead<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("RequestHead")
            .field("method", &self.method)
            .finish_non_exhaustive()
    }
}

pub(super) type OwnSource = dyn Fn(&RequestHead<'_>) -> Option<SessionToken> + Send + Sync;
