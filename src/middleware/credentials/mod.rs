//! Where else than in `Authorization` a request may carry its token.

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
pub(super) use self::{bearer::credential, credential::Credential, origin::is_preflight};
use self::{
    custom::OwnSource,
    origin::{Origin, is_cross_site},
};
use super::caching::Caching;
use crate::{observe, token::SessionToken};

/// The sources that are switched on, besides `Authorization`.
#[derive(Clone, Default)]
pub(super) struct Sources {
    cookie: Option<String>,
    allowed: Vec<Origin>,
    query: bool,
    websocket: bool,
    own: Option<Arc<OwnSource>>,
}

impl Sources {
    /// What they make answers depend on. The URI is no part of it: caches know that it counts.
    pub(super) fn caching(&self) -> Caching {
        [
            (self.cookie.is_some(), Caching::COOKIE),
            (self.websocket, Caching::PROTOCOL),
            (self.own.is_some(), Caching::ANYTHING),
        ]
        .into_iter()
        .filter(|(is_on, _)| *is_on)
        .fold(Caching::default(), |all, (_, one)| all.with(one))
    }

    pub(super) fn set_cookie(&mut self, name: &str) {
        let name = Some(name).filter(|name| cookie::is_name(name));
        if name.is_none() {
            observe::cookie_name_refused();
        }
        self.cookie = name.map(str::to_owned);
    }

    pub(super) fn trust(&mut self, origin: &str) {
        let origin = Origin::parse(origin);
        if origin.is_none() {
            observe::origin_refused();
        }
        self.allowed.extend(origin);
    }

    pub(super) fn set_query(&mut self) {
        self.query = true;
    }

    pub(super) fn set_websocket(&mut self) {
        self.websocket = true;
    }

    pub(super) fn set_own(&mut self, own: Arc<OwnSource>) {
        self.own = Some(own);
    }

    /// Takes out of a request what those behind the layer must not see, and asks what must be
    /// asked of the whole request.
    pub(super) fn take<B>(&self, request: &mut Request<B>) -> Taken<'_> {
        let query = if self.query {
            query::take(request.uri_mut())
        } else {
            Credential::None
        };
        let protocol = if self.websocket {
            websocket::take(request.headers_mut())
        } else {
            Credential::None
        };
        let head = RequestHead {
            method: request.method(),
            uri: request.uri(),
            headers: request.headers(),
            extensions: request.extensions(),
        };
        let own = match &self.own {
            // A preflight has no credentials to look for.
            Some(own) if !is_preflight(head.method, head.headers) => own(&head),
            _ => None,
        };
        Taken {
            query,
            protocol,
            own: own.map_or(Credential::None, Credential::Token),
            is_cross_site: self.cookie.is_some()
                && is_cross_site(head.method, head.uri, head.headers, &self.allowed),
            cookie: self.cookie.as_deref(),
        }
    }
}

impl fmt::Debug for Sources {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Sources")
            .field("cookie", &self.cookie)
            .field("allowed", &self.allowed)
            .field("query", &self.query)
            .field("websocket", &self.websocket)
            .field("own", &self.own.is_some())
            .finish()
    }
}

/// What the sources have taken out of one request, and what they said about it.
pub(super) struct Taken<'a> {
    query: Credential<SessionToken>,
    protocol: Credential<SessionToken>,
    own: Credential<SessionToken>,
    is_cross_site: bool,
    cookie: Option<&'a str>,
}

impl Taken<'_> {
    pub(super) fn was_in_uri(&self) -> bool {
        self.query != Credential::None
    }

    /// The request's one credential, if it is one, from wherever it is.
    pub(super) fn with<'a>(&'a self, headers: &'a HeaderMap) -> Credential<&'a [u8]> {
        let cookie = match self.cookie {
            // Whether the token is any good must make no difference here.
            Some(name) => match cookie::credential(headers, name) {
                Credential::Token(_) | Credential::Malformed if self.is_cross_site => {
                    Credential::CrossSite
                }
                cookie => cookie,
            },
            None => Credential::None,
        };
        credential(headers)
            .and(cookie)
            .and(self.query.as_bytes())
            .and(self.protocol.as_bytes())
            .and(self.own.as_bytes())
    }
}
