//! A source of tokens that the application provides.

use std::fmt;

use http::{Extensions, HeaderMap, Method, Request, Uri};

use crate::token::SessionToken;

/// The head of a request, as seen by a function given to
/// [`token_from_fn`](crate::CustomerSessionLayer::token_from_fn) or to a guard such as
/// [`require`](crate::CustomerSessionLayer::require).
///
/// It is what the services behind the layer will see, before a customer is put into it.
#[derive(Clone, Copy)]
#[non_exhaustive]
pub struct RequestHead<'a> {
    /// The method.
    pub method: &'a Method,
    /// The URI, without a token that
    /// [`token_from_query`](crate::CustomerSessionLayer::token_from_query) has removed.
    pub uri: &'a Uri,
    /// The headers with their secrets, but without a token that
    /// [`token_from_websocket_protocol`](crate::CustomerSessionLayer::token_from_websocket_protocol)
    /// has removed.
    pub headers: &'a HeaderMap,
    /// The extensions that outer layers have added, for example the certificate of the peer.
    pub extensions: &'a Extensions,
}

impl<'a> RequestHead<'a> {
    #[inline]
    pub(crate) fn new<B>(request: &'a Request<B>) -> Self {
        Self {
            method: request.method(),
            uri: request.uri(),
            headers: request.headers(),
            extensions: request.extensions(),
        }
    }
}

/// Leaves out the URI, the headers and the extensions, which may hold secrets.
impl fmt::Debug for RequestHead<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("RequestHead")
            .field("method", &self.method)
            .finish_non_exhaustive()
    }
}

/// A function of the application that finds a token in a request.
pub(crate) type TokenFn = dyn Fn(&RequestHead<'_>) -> Option<SessionToken> + Send + Sync;
