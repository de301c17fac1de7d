//! The reason why a request is not let in.

use std::{fmt, time::Duration};

use http::StatusCode;

use crate::{engine::AuthenticateError, random::random, store::StoreError};

/// The reason for a refused request.
///
/// It travels in the extensions of the response, for outer layers to log or to count. The client
/// is told less.
#[derive(Clone, Debug)]
pub struct Rejection {
    kind: RejectionKind,
    store_error: Option<StoreError>,
    retry_after: Option<Duration>,
}

/// The kinds of [`Rejection`].
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
#[non_exhaustive]
pub enum RejectionKind {
    /// The request has no credential, or one of another scheme.
    MissingToken,
    /// The request has more than one credential.
    MultipleTokens,
    /// The token is malformed, unknown, expired or revoked, or its customer was deleted.
    InvalidToken,
    /// Another site may have made the browser send the request: a cross-site request forgery. See
    /// [`token_from_cookie`](crate::CustomerSessionLayer::token_from_cookie) and
    /// [`same_origin`](crate::CustomerSessionLayer::same_origin).
    CrossSite,
    /// The session lacks a scope that
    /// [`require_scope`](crate::CustomerSessionLayer::require_scope) asks for.
    InsufficientScope,
    /// The customer's last sign-in is longer ago than
    /// [`require_recent`](crate::CustomerSessionLayer::require_recent) allows, or its time is not
    /// known.
    NotRecent,
    /// A function given to [`require`](crate::CustomerSessionLayer::require) did not allow the
    /// request.
    Forbidden,
    /// The store was not asked, since
    /// [`max_concurrent_lookups`](crate::CustomerSessionsBuilder::max_concurrent_lookups) were in
    /// flight.
    Overloaded,
    /// The store failed or did not answer in time.
    StoreUnavailable,
}

impl Rejection {
    /// Creates the reason from the error of a lookup. `retry_after` is the wait that the engine
    /// knows of. If the store asked for a longer one, that one counts.
    pub(super) fn new(error: AuthenticateError, retry_after: Duration) -> Self {
        let (kind, store_error) = match error {
            AuthenticateError::InvalidToken => return RejectionKind::InvalidToken.into(),
            AuthenticateError::Overloaded => (RejectionKind::Overloaded, None),
            AuthenticateError::Store(error) => (RejectionKind::StoreUnavailable, Some(error)),
        };
        let by_store = store_error.as_ref().and_then(StoreError::retry_after);
        let retry_after = by_store.map_or(retry_after, |by_store| by_store.max(retry_after));
        Self {
            kind,
            store_error,
            retry_after: Some(with_jitter(retry_after)),
        }
    }

    /// Creates the reason from the refusal of a guard. `retry_after` is the wait that the engine
    /// knows of, for a guard that answers as if the store had failed.
    pub(super) fn by_guard(kind: RejectionKind, retry_after: Duration) -> Self {
        match kind {
            RejectionKind::StoreUnavailable => {
                let error = StoreError::unavailable("the session is stale");
                Self::new(error.into(), retry_after)
            }
            kind => kind.into(),
        }
    }

    /// Returns the kind of the rejection.
    pub fn kind(&self) -> RejectionKind {
        self.kind
    }

    /// Returns the status of the response, unless
    /// [`rejection_response`](crate::CustomerSessionLayer::rejection_response) chose another.
    pub fn status(&self) -> StatusCode {
        match self.kind {
            RejectionKind::MissingToken
            | RejectionKind::InvalidToken
            | RejectionKind::NotRecent => StatusCode::UNAUTHORIZED,
            RejectionKind::MultipleTokens => StatusCode::BAD_REQUEST,
            RejectionKind::CrossSite
            | RejectionKind::InsufficientScope
            | RejectionKind::Forbidden => StatusCode::FORBIDDEN,
            RejectionKind::Overloaded | RejectionKind::StoreUnavailable => {
                StatusCode::SERVICE_UNAVAILABLE
            }
        }
    }

    /// Returns the time after which a retry may succeed, if the reason is a passing one.
    ///
    /// It is what the store [asked for](StoreError::retry_after), or what is left of the circuit
    /// breaker's [cooldown](crate::CustomerSessionsBuilder::breaker_cooldown), and one second at
    /// least. To that a random part is added, so that clients that were refused together do not come
    /// back together: up to as much again, but no less than two seconds and no more than 30. The
    /// client gets it as `Retry-After`, in whole seconds: 1 to 3 as a rule.
    pub fn retry_after(&self) -> Option<Duration> {
        self.retry_after
    }

    /// Returns the error of the store, if that is the reason.
    pub fn store_error(&self) -> Option<&StoreError> {
        self.store_error.as_ref()
    }

    /// Returns the body that a client gets by default (RFC 9457).
    ///
    /// It is the same for every invalid token. A client cannot tell an expired token from one that
    /// was never issued.
    pub(super) fn problem(&self) -> &'static str {
        match self.kind {
            RejectionKind::MissingToken => {
                r#"{"type":"about:blank","title":"Unauthorized","status":401,"detail":"Sign-in is required."}"#
            }
            RejectionKind::InvalidToken => {
                r#"{"type":"about:blank","title":"Unauthorized","status":401,"detail":"The session is not valid."}"#
            }
            RejectionKind::MultipleTokens => {
                r#"{"type":"about:blank","title":"Bad Request","status":400,"detail":"More than one credential was sent."}"#
            }
            RejectionKind::CrossSite => {
                r#"{"type":"about:blank","title":"Forbidden","status":403,"detail":"The request does not come from this site."}"#
            }
            RejectionKind::InsufficientScope => {
                r#"{"type":"about:blank","title":"Forbidden","status":403,"detail":"The session does not have the required scope."}"#
            }
            RejectionKind::NotRecent => {
                r#"{"type":"about:blank","title":"Unauthorized","status":401,"detail":"A more recent sign-in is required."}"#
            }
            RejectionKind::Forbidden => {
                r#"{"type":"about:blank","title":"Forbidden","status":403,"detail":"The request is not allowed."}"#
            }
            RejectionKind::Overloaded | RejectionKind::StoreUnavailable => {
                r#"{"type":"about:blank","title":"Service Unavailable","status":503,"detail":"The session could not be checked. Try again."}"#
            }
        }
    }
}

/// Returns `wait` in whole seconds, rounded up, and a random part beyond it.
fn with_jitter(wait: Duration) -> Duration {
    let seconds = wait.as_secs();
    let seconds = seconds.saturating_add(u64::from(wait.subsec_nanos() > 0));
    let seconds = seconds.max(1);
    let jitter = random() % (seconds.clamp(2, 30) + 1);
    Duration::from_secs(seconds.saturating_add(jitter))
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
            RejectionKind::CrossSite => "a request from another site",
            RejectionKind::InsufficientScope => "the session lacks a scope",
            RejectionKind::NotRecent => "the last sign-in is too long ago",
            RejectionKind::Forbidden => "the request is not allowed",
            RejectionKind::Overloaded => "too many session lookups in flight",
            RejectionKind::StoreUnavailable => "the session could not be looked up",
        })
    }
}

impl std::error::Error for Rejection {
    fn source(&self) -> Option<&(dyn std::error::Error + 'static)> {
        self.store_error.as_ref().map(|error| error as _)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_wait_is_whole_seconds_and_never_the_same_for_all() {
        for (wait, range) in [
            (Duration::ZERO, 1..=3),
            (Duration::from_millis(500), 1..=3),
            (Duration::from_millis(15_500), 16..=32),
            (Duration::from_secs(3600), 3600..=3630),
        ] {
            let waits: std::collections::BTreeSet<u64> = (0..500)
                .map(|_| with_jitter(wait))
                .inspect(|wait| assert_eq!(wait.subsec_nanos(), 0))
                .map(|wait| wait.as_secs())
                .collect();
            assert!(waits.iter().all(|seconds| range.contains(seconds)));
            assert!(waits.len() > 2, "{waits:?}");
        }
        assert_eq!(with_jitter(Duration::MAX).as_secs(), u64::MAX);
    }
}
