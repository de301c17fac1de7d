//! Why a request is not let in.

use std::{fmt, time::Duration};

use http::StatusCode;

use crate::{
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

    pub(super) fn verdict(&self) -> Verdict {
        match self.kind {
            RejectionKind::MissingToken => Verdict::Anonymous,
            RejectionKind::MultipleTokens | RejectionKind::CrossSite => Verdict::Malformed,
            RejectionKind::InvalidToken => Verdict::Absent,
            RejectionKind::Overloaded | RejectionKind::StoreUnavailable => Verdict::Unknown,
        }
    }

    /// The body a client gets by default (RFC 9457). One answer for every invalid token: a
    /// client cannot tell an expired one from one that never was.
    pub(super) fn problem(&self) -> &'static str {
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
