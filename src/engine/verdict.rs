//! How an answer came about.

/// How the layer came to let a request in, or not; for logs and metrics.
///
/// [`Statistics`](crate::Statistics) counts them.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
#[non_exhaustive]
pub enum Verdict {
    /// Let in from the cache.
    Fresh,
    /// Let in after the store was asked, for this request or for another with the same token.
    Verified,
    /// Let in by an answer that is no longer fresh, since the store fails: see
    /// [`stale_if_error`](crate::CustomerSessionsBuilder::stale_if_error).
    Stale,
    /// Refused: the token opens no live session.
    Absent,
    /// Refused: whether the token opens a session could not be told.
    Unknown,
    /// There was no credential. The request went on anonymously, or was refused for that.
    Anonymous,
    /// Refused for the way in which a credential was sent.
    Malformed,
}

impl Verdict {
    /// Its name in lower case, as a label of a metric.
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Fresh => "fresh",
            Self::Verified => "verified",
            Self::Stale => "stale",
            Self::Absent => "absent",
            Self::Unknown => "unknown",
            Self::Anonymous => "anonymous",
            Self::Malformed => "malformed",
        }
    }
}
