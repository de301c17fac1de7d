//! The part that the cache played in letting a request in.

/// The part that the cache played in letting a request in.
///
/// A layer puts it into the extensions of responses to authenticated requests, for logs and
/// metrics; after a [`Hit`](Self::Hit) only if
/// [`cache_status_on_hits`](crate::CustomerSessionLayer::cache_status_on_hits) says so. The names are
/// those of RFC 9211. A refused request carries a [`Rejection`](crate::Rejection) instead.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
#[non_exhaustive]
pub enum CacheStatus {
    /// The session was in the cache.
    Hit,
    /// The store was asked, for this request or for another with the same token.
    Miss,
    /// The store failed or was slow, and a session that was in the cache but no longer fresh was used. See
    /// [`stale_if_error`](crate::CustomerSessionsBuilder::stale_if_error) and
    /// [`stale_after`](crate::CustomerSessionsBuilder::stale_after).
    Stale,
}

impl CacheStatus {
    /// Returns the name in lower case, as the label of a metric.
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Hit => "hit",
            Self::Miss => "miss",
            Self::Stale => "stale",
        }
    }
}
