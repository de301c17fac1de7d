//! Why a store could not answer.

use std::{borrow::Cow, error::Error, fmt, sync::Arc, time::Duration};

use crate::{session::SessionId, telemetry::with_causes, token::SessionToken};

/// A store could not answer, or could not do what it was asked.
///
/// `Display` says what failed in general; [`source`](Error::source) has the store's own
/// error. Cloning copies one pointer, since all requests that wait for one lookup get its error.
///
/// ```
/// use customer_session::{StoreError, StoreErrorKind};
///
/// let error = StoreError::unavailable("connection refused");
/// assert_eq!(error.kind(), StoreErrorKind::Unavailable);
/// assert_eq!(error.to_string(), "the session store is unavailable");
/// ```
#[derive(Clone, Debug)]
pub struct StoreError {
    kind: StoreErrorKind,
    source: Arc<dyn Error + Send + Sync>,
    retry_after: Option<Duration>,
}

/// The sort of failure that a [`StoreError`] is.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
#[non_exhaustive]
pub enum StoreErrorKind {
    /// A session cannot be added beside what the store holds: its id or its token exists already,
    /// its customer is deleted, or a [`SessionLimit`](crate::SessionLimit) refuses it.
    Conflict,
    /// A record in the store cannot be read.
    Corrupt,
    /// What the store was asked to keep is not valid, or is more than it can keep. Nothing was changed.
    Invalid,
    /// The store did not answer in time; a write may have happened or not.
    Timeout,
    /// The store cannot be reached or refuses to work.
    Unavailable,
}

impl StoreError {
    /// Creates a [`Conflict`](StoreErrorKind::Conflict): a session cannot be added beside what the
    /// store holds.
    pub fn conflict(source: impl Into<Box<dyn Error + Send + Sync>>) -> Self {
        Self::of_kind(StoreErrorKind::Conflict, source.into())
    }

    /// Creates the error of a record that cannot be understood. Name the record by its id, never by
    /// its token.
    pub fn corrupt(source: impl Into<Box<dyn Error + Send + Sync>>) -> Self {
        Self::of_kind(StoreErrorKind::Corrupt, source.into())
    }

    /// Creates an [`Invalid`](StoreErrorKind::Invalid): the store cannot keep what it was asked to.
    /// Say what is wrong, and what to do.
    pub fn invalid(source: impl Into<Box<dyn Error + Send + Sync>>) -> Self {
        Self::of_kind(StoreErrorKind::Invalid, source.into())
    }

    /// Creates the error of a store that did not answer in time.
    pub fn timeout(source: impl Into<Box<dyn Error + Send + Sync>>) -> Self {
        Self::of_kind(StoreErrorKind::Timeout, source.into())
    }

    /// Creates the error of a store that cannot be reached or refuses to work.
    pub fn unavailable(source: impl Into<Box<dyn Error + Send + Sync>>) -> Self {
        Self::of_kind(StoreErrorKind::Unavailable, source.into())
    }

    fn of_kind(kind: StoreErrorKind, source: Box<dyn Error + Send + Sync>) -> Self {
        Self {
            kind,
            source: source.into(),
            retry_after: None,
        }
    }

    /// Adds the time after which the store may be asked again, as a service with a rate limit
    /// tells it.
    ///
    /// The client gets it as `Retry-After`. Such an error does not count for the circuit breaker: a
    /// service that counts requests works, and may have meant one caller alone.
    #[must_use]
    pub fn with_retry_after(mut self, after: Duration) -> Self {
        self.retry_after = Some(after);
        self
    }

    /// Removes `secret` from the text of the store's own error.
    pub(crate) fn without(self, secret: &SessionToken) -> Self {
        let secret = secret.expose();
        let text = with_causes(&*self.source);
        if !text.contains(secret) && !format!("{:?}", self.source).contains(secret) {
            return self;
        }
        // A token this short matches unrelated text; the whole text is redacted instead.
        let text = if secret.len() < 8 {
            "[redacted]".to_owned()
        } else {
            text.replace(secret, "[token]")
        };
        Self {
            source: Box::<dyn Error + Send + Sync>::from(text).into(),
            ..self
        }
    }

    /// Returns the sort of failure.
    pub fn kind(&self) -> StoreErrorKind {
        self.kind
    }

    /// Returns the time after which the store may be asked again, if the store told it.
    pub fn retry_after(&self) -> Option<Duration> {
        self.retry_after
    }
}

impl fmt::Display for StoreError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self.kind {
            StoreErrorKind::Conflict => "the session conflicts with what the store holds",
            StoreErrorKind::Corrupt => "the session store holds a record that cannot be read",
            StoreErrorKind::Invalid => "the session store cannot keep the session",
            StoreErrorKind::Timeout => "the session store did not answer in time",
            StoreErrorKind::Unavailable => "the session store is unavailable",
        })
    }
}

impl Error for StoreError {
    fn source(&self) -> Option<&(dyn Error + 'static)> {
        Some(&*self.source)
    }
}

/// An error of a driver, with what was attempted; [`source`](Error::source) is the driver's error.
#[derive(Debug)]
pub(crate) struct ContextError {
    context: Cow<'static, str>,
    source: Box<dyn Error + Send + Sync>,
}

impl ContextError {
    #[allow(dead_code, reason = "for stores that have a driver")]
    pub(crate) fn new(
        context: impl Into<Cow<'static, str>>,
        source: impl Into<Box<dyn Error + Send + Sync>>,
    ) -> Self {
        Self {
            context: context.into(),
            source: source.into(),
        }
    }
}

impl fmt::Display for ContextError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.context)
    }
}

impl Error for ContextError {
    fn source(&self) -> Option<&(dyn Error + 'static)> {
        Some(&*self.source)
    }
}

/// Returns the error of adding a session whose customer is deleted.
pub(super) fn customer_is_deleted(session: &SessionId) -> StoreError {
    StoreError::conflict(format!("session {session}: its customer is deleted"))
}

/// Returns the error of adding a session under an id that leads to another.
pub(super) fn id_is_taken(session: &SessionId) -> StoreError {
    StoreError::conflict(format!("session id {session} is taken"))
}

/// Returns the error of deriving a session from one that was derived.
pub(super) fn parent_is_child(parent: &SessionId) -> StoreError {
    StoreError::invalid(format!("session {parent} was derived, and has no children"))
}

/// Returns the error of a rotation after which the token of a derived session would still be accepted.
pub(super) fn child_does_not_overlap(session: &SessionId) -> StoreError {
    StoreError::invalid(format!(
        "session {session} was derived from another; rotate it without an overlap"
    ))
}

/// Returns the error of adding a session that the limit refuses.
pub(super) fn limit_is_reached(session: &SessionId) -> StoreError {
    StoreError::conflict(format!(
        "session {session}: its customer has as many sessions as are allowed"
    ))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_secret_is_taken_out_and_the_rest_is_kept() {
        let secret = SessionToken::new("cst_planted");
        let after = Duration::from_secs(7);
        let error = StoreError::corrupt("no row for cst_planted, cst_planted");
        let error = error.with_retry_after(after).without(&secret);
        assert_eq!(error.kind(), StoreErrorKind::Corrupt);
        assert_eq!(error.retry_after(), Some(after));
        assert_eq!(
            with_causes(&error),
            "the session store holds a record that cannot be read: no row for [token], [token]"
        );
        assert!(!format!("{error:?}").contains("planted"));

        let harmless = StoreError::timeout("no answer").without(&secret);
        assert!(with_causes(&harmless).ends_with(": no answer"));
    }
}
