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

use http::{HeaderMap, Request};

pub use self::custom::RequestHead;
pub(super) use self::{credential::Credential, origin::is_preflight};
use self::{
    custom::TokenFn,
    origin::{Origin, is_cross_site},
};
use super::{cache_headers::CacheHeaders, cookie::SessionCookie};
use crate::{config_error::ConfigError, token::SessionToken};

/// Reads the credential in `Authorization`, for a layer without other sources.
#[inline]
pub(super) fn bearer_credential(headers: &HeaderMap) -> Credential<&[u8]> {
    bearer::read(headers)
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

    /// Extracts the credentials that these sources find.
    ///
    /// Tokens in the URI and among the subprotocols are removed from the request, since the
    /// services behind the layer must not see them. A cookie stays, and is read by
    /// [`ExtractedCredentials::combined`].
    pub(super) fn extract<B>(&self, request: &mut Request<B>) -> ExtractedCredentials<'_> {
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
        let head = RequestHead {
            method: request.method(),
            uri: request.uri(),
            headers: request.headers(),
            extensions: request.extensions(),
        };
        let custom = match &self.custom {
            // A preflight never has a credential.
            Some(find) if !is_preflight(head.method, head.headers) => find(&head),
            _ => None,
        };
        ExtractedCredentials {
            query,
            protocol,
            custom: custom.map_or(Credential::None, Credential::Token),
            is_cross_site: self.cookie.is_some()
                && is_cross_site(head.method, head.uri, head.headers, &self.trusted_origins),
            cookie: self.cookie.as_ref(),
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

/// The credentials extracted from one request, and whether its cookie may be used.
pub(super) struct ExtractedCredentials<'a> {
    query: Credential<SessionToken>,
    protocol: Credential<SessionToken>,
    custom: Credential<SessionToken>,
    is_cross_site: bool,
    /// The cookie to read.
    cookie: Option<&'a SessionCookie>,
}

impl ExtractedCredentials<'_> {
    /// Returns `true` if the URI of the request held a credential.
    pub(super) fn was_in_uri(&self) -> bool {
        self.query != Credential::None
    }

    /// Combines what the sources found with `Authorization` into the credential of the request.
    pub(super) fn combined<'a>(&'a self, headers: &'a HeaderMap) -> Credential<&'a [u8]> {
        let cookie = match self.cookie {
            // The answer must not depend on whether the token is good, so nothing looks at it.
            Some(cookie) => match cookie::read(headers, cookie) {
                Credential::Token(_) | Credential::Malformed if self.is_cross_site => {
                    Credential::CrossSite
                }
                credential => credential,
            },
            None => Credential::None,
        };
        bearer::read(headers)
            .and(cookie)
            .and(self.query.as_bytes())
            .and(self.protocol.as_bytes())
            .and(self.custom.as_bytes())
    }
}
