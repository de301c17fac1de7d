//! What a session carries beyond its identity and its times, and what a new one is asked for.

use std::time::Duration;

use chrono::{DateTime, Utc};

/// Details of a session.
///
/// They are not part of the JSON of a [`CustomerSession`](crate::CustomerSession), which has
/// exactly the fields of the API object.
#[derive(Clone, Debug, Default, PartialEq, Eq, Hash)]
#[non_exhaustive]
pub struct SessionDetails {
    /// The absolute end of the session and of all that it is exchanged for: no
    /// [`rotate`](crate::CustomerSessions::rotate) goes past it.
    ///
    /// Sessions that [`issue`](crate::CustomerSessions::issue) has opened always have one. `None`
    /// means that `expires_at` is the end.
    pub ends_at: Option<DateTime<Utc>>,
}

/// A session to be issued: how long it is accepted, and how far rotations may extend it.
///
/// OWASP calls the second one the absolute timeout.
///
/// ```
/// use std::time::Duration;
///
/// use customer_session::{CustomerData, CustomerSessions, NewSession, store::MemoryStore};
///
/// # #[tokio::main(flavor = "current_thread")]
/// # async fn main() -> Result<(), Box<dyn std::error::Error>> {
/// const HOUR: Duration = Duration::from_secs(3600);
///
/// let sessions = CustomerSessions::builder(MemoryStore::new()).build();
/// let customer = CustomerData::new("cus_1", "org_1");
/// // An hour, and again an hour after each rotation, but no more than a day in all.
/// let new = NewSession::new(HOUR).max_lifetime(24 * HOUR);
/// let session = sessions.issue_with(customer, new).await?;
/// let rotated = sessions.rotate(&session.token, HOUR).await?.expect("it is live");
/// assert!(rotated.expires_at > session.expires_at);
/// assert_eq!(rotated.details.ends_at, session.details.ends_at);
/// # Ok(())
/// # }
/// ```
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct NewSession {
    pub(crate) ttl: Duration,
    pub(crate) max_lifetime: Option<Duration>,
}

impl NewSession {
    /// Creates a session that is accepted for `ttl` from now, with the same end for its rotations:
    /// they change its token, and extend nothing.
    pub fn new(ttl: Duration) -> Self {
        Self {
            ttl,
            max_lifetime: None,
        }
    }

    /// Sets the time from now after which the session and all that it is exchanged for have ended
    /// ([`ends_at`](SessionDetails::ends_at)).
    ///
    /// If it is shorter than the time to live, the session ends then.
    #[doc(alias = "ends_at")]
    #[doc(alias = "absolute_timeout")]
    #[must_use]
    pub fn max_lifetime(mut self, max_lifetime: Duration) -> Self {
        self.max_lifetime = Some(max_lifetime);
        self
    }
}
