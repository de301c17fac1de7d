//! The answers to a request that is not let in.

use std::{fmt, sync::Arc};

use bytes::Bytes;
use http::{
    HeaderValue, Response, StatusCode,
    header::{CACHE_CONTROL, CONTENT_TYPE, RETRY_AFTER, VARY, WWW_AUTHENTICATE},
};

use crate::{observe, sessions::AuthenticateError, store::StoreError};

/// Why a request was refused; it travels in the response's extensions, for the layers outside
/// to log or to count. The client is told less.
#[derive(Clone, Debug)]
pub struct Rejection {
    kind: RejectionKind,
    store_error: Option<StoreError>,
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
    /// Too many lookups are under way.
    Overloaded,
    /// The store could not tell.
    StoreUnavailable,
}

impl Rejection {
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
            RejectionKind::Overloaded | RejectionKind::StoreUnavailable => {
                StatusCode::SERVICE_UNAVAILABLE
            }
        }
    }

    /// The store's error, if that is the reason.
    pub fn store_error(&self) -> Option<&StoreError> {
        self.store_error.as_ref()
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
        }
    }
}

impl From<AuthenticateError> for Rejection {
    fn from(error: AuthenticateError) -> Self {
        match error {
            AuthenticateError::InvalidToken => RejectionKind::InvalidToken.into(),
            AuthenticateError::Overloaded => RejectionKind::Overloaded.into(),
            AuthenticateError::Store(error) => Self {
                kind: RejectionKind::StoreUnavailable,
                store_error: Some(error),
            },
        }
    }
}

impl fmt::Display for Rejection {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self.kind {
            RejectionKind::MissingToken => "no bearer token",
            RejectionKind::MultipleTokens => "more than one credential",
            RejectionKind::InvalidToken => "invalid token",
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

/// How a layer answers those it refuses: everything that can be is made beforehand.
#[derive(Clone)]
pub(super) struct Answers {
    no_credential: HeaderValue,
    invalid_token: HeaderValue,
    invalid_request: HeaderValue,
    pub(super) optional: bool,
    pub(super) responder: Option<Arc<Responder>>,
}

const DEFAULT_REALM: &str = "customer";

impl Default for Answers {
    fn default() -> Self {
        let mut answers = Self {
            no_credential: HeaderValue::from_static("Bearer"),
            invalid_token: HeaderValue::from_static("Bearer"),
            invalid_request: HeaderValue::from_static("Bearer"),
            optional: false,
            responder: None,
        };
        answers.set_realm(DEFAULT_REALM);
        answers
    }
}

impl Answers {
    /// Puts `realm` into the challenges, unless it holds what cannot stand in a header.
    pub(super) fn set_realm(&mut self, realm: &str) {
        let quoted = realm.replace('\\', "\\\\").replace('"', "\\\"");
        // RFC 6750, section 3: each attribute once, `error_description` in plain ASCII.
        let challenge = |error: &str| {
            let value = format!("Bearer realm=\"{quoted}\"{error}");
            HeaderValue::try_from(value).ok()
        };
        let challenges = (
            challenge(""),
            challenge(r#", error="invalid_token", error_description="The token is invalid""#),
            challenge(
                r#", error="invalid_request", error_description="More than one credential was sent""#,
            ),
        );
        match challenges {
            (Some(plain), Some(token), Some(request)) if !realm.contains('\t') => {
                self.no_credential = plain;
                self.invalid_token = token;
                self.invalid_request = request;
            }
            _ => observe::realm_refused(),
        }
    }

    pub(super) fn answer(&self, rejection: Rejection) -> Response<Bytes> {
        observe::rejected(&rejection.kind);
        let mut response = match &self.responder {
            Some(responder) => responder(&rejection),
            None => {
                let mut response =
                    Response::new(Bytes::from_static(rejection.problem().as_bytes()));
                *response.status_mut() = rejection.status();
                response.headers_mut().reserve(4);
                response.headers_mut().insert(
                    CONTENT_TYPE,
                    HeaderValue::from_static("application/problem+json"),
                );
                response
            }
        };
        let headers = response.headers_mut();
        headers.insert(CACHE_CONTROL, HeaderValue::from_static("no-store"));
        match rejection.kind {
            RejectionKind::MissingToken => {
                headers.append(WWW_AUTHENTICATE, self.no_credential.clone());
            }
            RejectionKind::InvalidToken => {
                headers.append(WWW_AUTHENTICATE, self.invalid_token.clone());
            }
            RejectionKind::MultipleTokens => {
                headers.append(WWW_AUTHENTICATE, self.invalid_request.clone());
            }
            RejectionKind::Overloaded | RejectionKind::StoreUnavailable => {
                headers
                    .entry(RETRY_AFTER)
                    .or_insert(HeaderValue::from_static("1"));
            }
        }
        if self.optional {
            vary_on_authorization(headers);
        }
        response.extensions_mut().insert(rejection);
        response
    }
}

/// Says that the answer depends on the credential (RFC 9110, section 12.5.5).
pub(super) fn vary_on_authorization(headers: &mut http::HeaderMap) {
    headers.append(VARY, HeaderValue::from_static("authorization"));
}
