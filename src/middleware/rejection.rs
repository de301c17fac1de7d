//! The answers to a request that is not let in.

use std::{fmt, sync::Arc, time::Duration};

use bytes::Bytes;
use http::{
    HeaderMap, HeaderName, HeaderValue, Response, StatusCode,
    header::{CACHE_CONTROL, CONTENT_TYPE, RETRY_AFTER, WWW_AUTHENTICATE},
};

use super::caching::Caching;
use crate::{
    observe,
    sessions::{AuthenticateError, Verdict},
    store::StoreError,
};

/// Why a request was refused; it travels in the response's extensions, for the layers outside
/// to log or to count. The client is told less.
#[derive(Clone, Debug)]
pub struct Rejection {
    kind: RejectionKind,
    store_error: Option<StoreError>,
    retry_after: Option<Duration>,
}

/// What sort of refusal a [`Rejection`] is.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
#[non_exhaustive]
pub enum RejectionKind {
    /// No credential, or one of another scheme.
    MissingToken,
    /// More than one credential.
    MultipleTokens,
    /// Malformed, unknown, expired, revoked, or of a deleted customer.
    InvalidToken,
    /// A cookie came with a request that another site may have made the browser send; see
    /// [`token_from_cookie`](crate::CustomerSessionLayer::token_from_cookie).
    CrossSite,
    /// Too many lookups are under way.
    Overloaded,
    /// The store could not tell.
    StoreUnavailable,
}

impl Rejection {
    pub(super) fn new(error: AuthenticateError, retry_after: Duration) -> Self {
        let (kind, store_error) = match error {
            AuthenticateError::InvalidToken => return RejectionKind::InvalidToken.into(),
            AuthenticateError::Overloaded => (RejectionKind::Overloaded, None),
            AuthenticateError::Store(error) => (RejectionKind::StoreUnavailable, Some(error)),
        };
        let said = store_error.as_ref().and_then(StoreError::retry_after);
        let retry_after = said.map_or(retry_after, |said| said.max(retry_after));
        Self {
            kind,
            store_error,
            retry_after: Some(retry_after),
        }
    }

    /// What sort of refusal this is.
    pub fn kind(&self) -> RejectionKind {
        self.kind
    }

    /// The status of the answer, unless
    /// [`rejection_response`](crate::CustomerSessionLayer::rejection_response) chose another.
    pub fn status(&self) -> StatusCode {
        match self.kind {
            RejectionKind::MissingToken | RejectionKind::InvalidToken => StatusCode::UNAUTHORIZED,
            RejectionKind::MultipleTokens => StatusCode::BAD_REQUEST,
            RejectionKind::CrossSite => StatusCode::FORBIDDEN,
            RejectionKind::Overloaded | RejectionKind::StoreUnavailable => {
                StatusCode::SERVICE_UNAVAILABLE
            }
        }
    }

    /// When it is worth asking again, if the reason will pass: at once, when the store
    /// [said](StoreError::retry_after), or when the circuit breaker's
    /// [pause](crate::CustomerSessionsBuilder::breaker_cooldown) is over. The client hears it as
    /// `Retry-After`, in whole seconds and one at the least.
    pub fn retry_after(&self) -> Option<Duration> {
        self.retry_after
    }

    /// The store's error, if that is the reason.
    pub fn store_error(&self) -> Option<&StoreError> {
        self.store_error.as_ref()
    }

    fn verdict(&self) -> Verdict {
        match self.kind {
            RejectionKind::MissingToken => Verdict::Anonymous,
            RejectionKind::MultipleTokens | RejectionKind::CrossSite => Verdict::Malformed,
            RejectionKind::InvalidToken => Verdict::Absent,
            RejectionKind::Overloaded | RejectionKind::StoreUnavailable => Verdict::Unknown,
        }
    }

    /// The body a client gets by default (RFC 9457). One answer for every invalid token: a
    /// client cannot tell an expired one from one that never was.
    fn problem(&self) -> &'static str {
        match self.kind {
            RejectionKind::MissingToken => {
                r#"{"type":"about:blank","title":"Unauthorized","status":401,"detail":"A bearer token is required."}"#
            }
            RejectionKind::InvalidToken => {
                r#"{"type":"about:blank","title":"Unauthorized","status":401,"detail":"The token is invalid."}"#
            }
            RejectionKind::MultipleTokens => {
                r#"{"type":"about:blank","title":"Bad Request","status":400,"detail":"More than one credential was sent."}"#
            }
            RejectionKind::CrossSite => {
                r#"{"type":"about:blank","title":"Forbidden","status":403,"detail":"The request does not come from this site."}"#
            }
            RejectionKind::Overloaded | RejectionKind::StoreUnavailable => {
                r#"{"type":"about:blank","title":"Service Unavailable","status":503,"detail":"The token could not be checked. Try again."}"#
            }
        }
    }
}

impl From<RejectionKind> for Rejection {
    fn from(kind: RejectionKind) -> Self {
        Self {
            kind,
            store_error: None,
            retry_after: None,
        }
    }
}

impl fmt::Display for Rejection {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self.kind {
            RejectionKind::MissingToken => "no bearer token",
            RejectionKind::MultipleTokens => "more than one credential",
            RejectionKind::InvalidToken => "invalid token",
            RejectionKind::CrossSite => "a cookie with a request of another site",
            RejectionKind::Overloaded => "too many session lookups under way",
            RejectionKind::StoreUnavailable => "the session store could not tell",
        })
    }
}

impl std::error::Error for Rejection {
    fn source(&self) -> Option<&(dyn std::error::Error + 'static)> {
        self.store_error.as_ref().map(|error| error as _)
    }
}

pub(super) type Responder = dyn Fn(&Rejection) -> Response<Bytes> + Send + Sync;

/// How a layer answers those it refuses. The headers are made beforehand.
#[derive(Clone)]
pub(super) struct Answers {
    realm: String,
    pub(super) optional: bool,
    pub(super) verdict_on_hits: bool,
    /// What the sources of tokens make answers depend on.
    sources: Caching,
    /// What caches must be told of every answer, sources and optional mode taken together.
    pub(super) caching: Caching,
    responder: Option<Arc<Responder>>,
    missing_token: HeaderMap,
    multiple_tokens: HeaderMap,
    invalid_token: HeaderMap,
    cross_site: HeaderMap,
    unavailable: HeaderMap,
}

impl Default for Answers {
    fn default() -> Self {
        let mut answers = Self {
            realm: "customer".to_owned(),
            optional: false,
            verdict_on_hits: false,
            sources: Caching::default(),
            caching: Caching::default(),
            responder: None,
            missing_token: HeaderMap::new(),
            multiple_tokens: HeaderMap::new(),
            invalid_token: HeaderMap::new(),
            cross_site: HeaderMap::new(),
            unavailable: HeaderMap::new(),
        };
        answers.prepare();
        answers
    }
}

impl Answers {
    pub(super) fn set_optional(&mut self) {
        self.optional = true;
        self.prepare();
    }

    pub(super) fn set_sources(&mut self, sources: Caching) {
        self.sources = sources;
        self.prepare();
    }

    /// Puts `realm` into the challenges, unless it holds what cannot stand in a header.
    pub(super) fn set_realm(&mut self, realm: &str) {
        if realm.contains(|it: char| it.is_ascii_control()) {
            observe::realm_refused();
        } else {
            realm.clone_into(&mut self.realm);
            self.prepare();
        }
    }

    /// The verdict as the answer's extensions are to carry it.
    #[inline]
    pub(super) fn told(&self, verdict: Verdict) -> Option<Verdict> {
        (verdict != Verdict::Fresh || self.verdict_on_hits).then_some(verdict)
    }

    pub(super) fn set_responder(&mut self, responder: Arc<Responder>) {
        self.responder = Some(responder);
    }

    /// RFC 6750, section 3: each attribute once, `error_description` in plain ASCII.
    fn prepare(&mut self) {
        self.caching = self.sources.in_mode(self.optional);
        let caching = self.caching;
        let realm = self.realm.replace('\\', "\\\\").replace('"', "\\\"");
        let plain = || {
            let mut headers = HeaderMap::with_capacity(4);
            let json = HeaderValue::from_static("application/problem+json");
            headers.insert(CONTENT_TYPE, json);
            headers.insert(CACHE_CONTROL, HeaderValue::from_static("no-store"));
            caching.tell(&mut headers);
            headers
        };
        let headers = |name: HeaderName, value: String| {
            let mut headers = plain();
            // Never an error: neither the realm nor our own words hold control characters.
            headers.extend(HeaderValue::try_from(value).ok().map(|value| (name, value)));
            headers
        };
        let challenge =
            |error: &str| headers(WWW_AUTHENTICATE, format!("Bearer realm=\"{realm}\"{error}"));
        self.missing_token = challenge("");
        self.multiple_tokens = challenge(
            r#", error="invalid_request", error_description="More than one credential was sent""#,
        );
        self.invalid_token =
            challenge(r#", error="invalid_token", error_description="The token is invalid""#);
        self.cross_site = plain();
        self.unavailable = headers(RETRY_AFTER, "1".to_owned());
    }

    pub(super) fn answer(&self, rejection: Rejection) -> Response<Bytes> {
        observe::rejected(&rejection.kind);
        let later;
        let headers = match rejection.kind {
            RejectionKind::MissingToken => &self.missing_token,
            RejectionKind::MultipleTokens => &self.multiple_tokens,
            RejectionKind::InvalidToken => &self.invalid_token,
            RejectionKind::CrossSite => &self.cross_site,
            RejectionKind::Overloaded | RejectionKind::StoreUnavailable => {
                match rejection.retry_after {
                    Some(after) if after > Duration::from_secs(1) => {
                        later = retry_after(&self.unavailable, after);
                        &later
                    }
                    _ => &self.unavailable,
                }
            }
        };
        let mut response = match &self.responder {
            Some(responder) => armed(responder(&rejection), headers, self.caching),
            None => {
                let body = Bytes::from_static(rejection.problem().as_bytes());
                let mut response = Response::new(body);
                *response.status_mut() = rejection.status();
                *response.headers_mut() = headers.clone();
                response
            }
        };
        response.extensions_mut().insert(rejection.verdict());
        response.extensions_mut().insert(rejection);
        response
    }
}

/// RFC 9110, section 10.2.3: whole seconds, here rounded up.
fn retry_after(headers: &HeaderMap, after: Duration) -> HeaderMap {
    let seconds = after.as_secs();
    let seconds = seconds.saturating_add(u64::from(after.subsec_nanos() > 0));
    let mut headers = headers.clone();
    headers.insert(RETRY_AFTER, seconds.into());
    headers
}

/// A user's own answer, with what it must have: our challenge beside its own, `no-store` in
/// place of its own, `Retry-After` unless it has one.
fn armed(mut response: Response<Bytes>, ours: &HeaderMap, caching: Caching) -> Response<Bytes> {
    let headers = response.headers_mut();
    for (name, value) in ours {
        match *name {
            WWW_AUTHENTICATE => {
                headers.append(name, value.clone());
            }
            CACHE_CONTROL => {
                headers.insert(name, value.clone());
            }
            RETRY_AFTER => {
                headers.entry(name).or_insert_with(|| value.clone());
            }
            _ => {}
        }
    }
    caching.tell(headers);
    response
}
