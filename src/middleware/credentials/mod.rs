//! The places in a request where its token may be.

mod bearer;
mod cookie;
mod credential;
mod custom;
mod header;
mod origin;
mod query;
mod websocket;

use std::{fmt, sync::Arc};

use http::{
    HeaderMap, Method, Request, Uri,
    header::{AUTHORIZATION, COOKIE},
};

pub use self::custom::RequestHead;
pub(super) use self::{credential::Credential, origin::is_preflight};
use self::{
    custom::TokenFn,
    origin::{Origin, is_cross_site},
};
use super::{cache_headers::CacheHeaders, cookie::SessionCookie};
use crate::{config_error::ConfigError, token::SessionToken};

/// Reads the credential in `Authorization`, for a layer without other sources, and marks the header
/// as sensitive.
#[inline]
pub(super) fn bearer_credential(headers: &mut HeaderMap) -> Credential<&[u8]> {
    // Most requests have as many lines as names, and then one search of the headers is enough.
    if headers.len() != headers.keys_len() {
        mark_sensitive(headers, false);
        return bearer::read(headers);
    }
    match headers.get_mut(AUTHORIZATION) {
        Some(value) => {
            value.set_sensitive(true);
            bearer::parse(value.as_bytes())
        }
        None => Credential::None,
    }
}

/// Returns `true` if `Authorization` holds a bearer token, or what should be one.
pub(super) fn has_bearer(headers: &HeaderMap) -> bool {
    bearer::read(headers) != Credential::None
}

/// Marks the headers that hold credentials, so that `Debug` does not show them, and HTTP/2 does not
/// index them (RFC 7541, section 7.1.3) if the request is passed on to another server.
fn mark_sensitive(headers: &mut HeaderMap, reads_cookies: bool) {
    for (name, value) in headers.iter_mut() {
        if name == AUTHORIZATION || (reads_cookies && name == COOKIE) {
            value.set_sensitive(true);
        }
    }
}

/// The sources that are switched on, in addition to `Authorization`.
#[derive(Clone, Default)]
pub(super) struct CredentialSources {
    cookie: Option<SessionCookie>,
    trusted_origins: Vec<Origin>,
    query: bool,
    websocket_protocol: bool,
    custom: Option<Arc<TokenFn>>,
}

impl CredentialSources {
    pub(super) fn set_cookie(&mut self, cookie: SessionCookie) {
        self.cookie = Some(cookie);
    }

    pub(super) fn add_trusted_origin(&mut self, origin: &str) -> Result<(), ConfigError> {
        self.trusted_origins
            .push(Origin::parse(origin).ok_or(ConfigError::new(
                "a trusted origin must be a scheme, a host and perhaps a port, as in \
             https://app.example.com, without a path",
            ))?);
        Ok(())
    }

    pub(super) fn enable_query(&mut self) {
        self.query = true;
    }

    pub(super) fn enable_websocket_protocol(&mut self) {
        self.websocket_protocol = true;
    }

    pub(super) fn set_custom(&mut self, find: Arc<TokenFn>) {
        self.custom = Some(find);
    }

    /// Returns `true` if another site may have made a browser send this request.
    pub(super) fn is_cross_site(&self, method: &Method, uri: &Uri, headers: &HeaderMap) -> bool {
        is_cross_site(method, uri, headers, &self.trusted_origins)
    }

    /// Returns the `Vary` that responses need. The URI is not part of it: caches key on it anyway.
    pub(super) fn cache_headers(&self) -> CacheHeaders {
        [
            (self.cookie.is_some(), CacheHeaders::VARY_COOKIE),
            (self.websocket_protocol, CacheHeaders::VARY_PROTOCOL),
            (self.custom.is_some(), CacheHeaders::VARY_ANY),
        ]
        .into_iter()
        .filter(|(is_enabled, _)| *is_enabled)
        .fold(CacheHeaders::default(), |all, (_, one)| all.with(one))
    }

    /// Extracts the credentials of a request, `Authorization` included.
    ///
    /// Tokens in the URI and among the subprotocols are removed from the request, since the
    /// services behind the layer must not see them. Headers stay, marked as sensitive. The function
    /// of the application is not called for a preflight that is passed on.
    pub(super) fn extract<'a, B>(
        &self,
        request: &'a mut Request<B>,
        is_preflight: bool,
    ) -> ExtractedCredentials<'a> {
        let query = if self.query {
            query::extract(request.uri_mut())
        } else {
            Credential::None
        };
        let protocol = if self.websocket_protocol {
            websocket::extract(request.headers_mut())
        } else {
            Credential::None
        };
        mark_sensitive(request.headers_mut(), self.cookie.is_some());
        let head = RequestHead::new(request);
        let custom = match &self.custom {
            Some(find) if !is_preflight => find(&head),
            _ => None,
        };
        ExtractedCredentials {
            bearer: bearer::read(head.headers),
            cookie: self.read_cookie(&head),
            query,
            protocol,
            custom: custom.map_or(Credential::None, Credential::Token),
        }
    }

    /// Reads the cookie, unless another site may have made the browser send it. The answer to such a
    /// request must not depend on whether the token is good, so nothing looks at it.
    fn read_cookie<'a>(&self, head: &RequestHead<'a>) -> Credential<&'a [u8]> {
        let Some(cookie) = &self.cookie else {
            return Credential::None;
        };
        match cookie::read(head.headers, cookie) {
            Credential::Token(_) | Credential::Malformed
                if self.is_cross_site(head.method, head.uri, head.headers) =>
            {
                Credential::CrossSite
            }
            credential => credential,
        }
    }
}

impl fmt::Debug for CredentialSources {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("CredentialSources")
            .field("cookie", &self.cookie)
            .field("trusted_origins", &self.trusted_origins)
            .field("query", &self.query)
            .field("websocket_protocol", &self.websocket_protocol)
            .field("custom", &self.custom.is_some())
            .finish()
    }
}

/// The credentials extracted from one request.
pub(super) struct ExtractedCredentials<'a> {
    bearer: Credential<&'a [u8]>,
    cookie: Credential<&'a [u8]>,
    query: Credential<SessionToken>,
    protocol: Credential<SessionToken>,
    custom: Credential<SessionToken>,
}

impl ExtractedCredentials<'_> {
    /// Returns `true` if the credential is in a place that shared caches do not know of: the URI, or
    /// a cookie.
    pub(super) fn is_unknown_to_caches(&self) -> bool {
        self.query != Credential::None || self.cookie != Credential::None
    }

    /// Returns `true` if the one credential of the request, should there be one only, is a cookie.
    pub(super) fn is_cookie(&self) -> bool {
        matches!(self.cookie, Credential::Token(_) | Credential::Malformed)
    }

    /// Combines the credentials into the one of the request.
    pub(super) fn combined(&self) -> Credential<&[u8]> {
        self.bearer
            .and(self.cookie)
            .and(self.query.as_bytes())
            .and(self.protocol.as_bytes())
            .and(self.custom.as_bytes())
    }
}
