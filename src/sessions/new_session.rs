//! What a new session is asked for.

use std::time::Duration;

use crate::{
    details::{Actor, Device, InvalidDetails, Member, Scopes, SessionDetails},
    registry::{SessionLimit, WhenFull},
};

/// A session to be issued: how long it is accepted, how far rotations may extend it (OWASP calls that
/// the absolute timeout), and its details.
///
/// ```
/// use std::time::Duration;
///
/// use customer_session::{
///     CustomerData, CustomerSessions, Device, NewSession, store::MemoryStore,
/// };
///
/// # #[tokio::main(flavor = "current_thread")]
/// # async fn main() -> Result<(), Box<dyn std::error::Error>> {
/// const HOUR: Duration = Duration::from_secs(3600);
///
/// let sessions = CustomerSessions::builder(MemoryStore::new()).build();
/// let customer = CustomerData::new("cus_1", "org_1");
/// // An hour, and again an hour after each rotation, but no more than a day in all.
/// let new = NewSession::new(HOUR)
///     .max_lifetime(24 * HOUR)
///     .scopes(["orders:read"])
///     .device(Device::new("Jane's phone").ip([203, 0, 113, 7]));
/// let session = sessions.issue_with(customer, new).await?;
/// let rotated = sessions.rotate(&session.token, HOUR).await?.expect("it is live");
/// assert!(rotated.expires_at > session.expires_at);
/// assert_eq!(rotated.details, session.details);
/// # Ok(())
/// # }
/// ```
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct NewSession {
    pub(super) ttl: Duration,
    pub(super) max_lifetime: Option<Duration>,
    pub(super) limit: Option<SessionLimit>,
    scopes: Result<Scopes, InvalidDetails>,
    device: Option<Device>,
    actor: Option<Actor>,
    member: Option<Member>,
}

impl NewSession {
    /// Creates a session that is accepted for `ttl` from now, with the same end for its rotations:
    /// they change its token, and extend nothing.
    pub fn new(ttl: Duration) -> Self {
        Self {
            ttl,
            max_lifetime: None,
            limit: None,
            scopes: Ok(Scopes::default()),
            device: None,
            actor: None,
            member: None,
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

    /// Sets what the session may be used for: names such as `orders:read`, or [`Scopes`]' own
    /// [`iter`](Scopes::iter). A session has none by default.
    ///
    /// A name that is not a scope is refused when the session is issued.
    #[must_use]
    pub fn scopes<N: AsRef<str>>(mut self, names: impl IntoIterator<Item = N>) -> Self {
        self.scopes = Scopes::new(names);
        self
    }

    /// Sets the device on which the customer signs in.
    #[must_use]
    pub fn device(mut self, device: Device) -> Self {
        self.device = Some(device);
        self
    }

    /// Sets who acts in the customer's place.
    ///
    /// A handler reads it from [`SessionDetails::actor`], for example to refuse a payout. Pass a short
    /// time to live.
    #[doc(alias = "impersonate")]
    #[must_use]
    pub fn actor(mut self, actor: Actor) -> Self {
        self.actor = Some(actor);
        self
    }

    /// Sets the member of the customer's team who signs in.
    ///
    /// A guard or a handler reads it from [`SessionDetails::member`], for example to let owners alone
    /// pay. A derived session always has the member of its parent.
    #[must_use]
    pub fn member(mut self, member: Member) -> Self {
        self.member = Some(member);
        self
    }

    /// Limits the customer to `max` live sessions, this one included, and says what happens to a
    /// further one. Of concurrent sign-ins, no more are accepted than the limit allows.
    /// [Links](crate::CustomerSessions::link) and [derived](crate::CustomerSessions::derive) sessions do not
    /// count, and the session that a link is exchanged for does.
    ///
    /// ```
    /// # use std::time::Duration;
    /// use customer_session::{NewSession, WhenFull};
    ///
    /// # const HOUR: Duration = Duration::from_secs(3600);
    /// let new = NewSession::new(8 * HOUR).at_most(5, WhenFull::EndOldest);
    /// ```
    #[must_use]
    pub fn at_most(mut self, max: u32, when_full: WhenFull) -> Self {
        self.limit = Some(match when_full {
            WhenFull::EndOldest => SessionLimit::end_oldest(max),
            WhenFull::Refuse => SessionLimit::refuse(max),
        });
        self
    }

    /// Returns the details that have been set.
    pub(super) fn details(&self) -> Result<SessionDetails, InvalidDetails> {
        let details = SessionDetails {
            scopes: self.scopes.clone()?,
            device: self.device.clone(),
            actor: self.actor.clone(),
            member: self.member.clone(),
            ..SessionDetails::default()
        };
        details.check()?;
        Ok(details)
    }
}
