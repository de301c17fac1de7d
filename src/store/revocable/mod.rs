//! Sessions that can be ended although the store that keeps them cannot end them.

mod any;
mod entry;
mod list;

use std::{fmt, sync::Arc, time::Duration};

use async_trait::async_trait;
use chrono::{DateTime, TimeDelta, Utc};

use self::{entry::Cutoff, list::RevocationList};
use super::{
    error::StoreError,
    traits::{SessionRegistry, SessionStore},
};
use crate::{
    clock::{Clock, END_OF_TIME, SystemClock},
    customer::{Customer, CustomerId},
    invalidation::Invalidation,
    page::{Page, SessionPage},
    registry::{Inserted, Revocation, Revoked, SessionLimit},
    session::{CustomerSession, SessionId},
    shared_caches::SharedCaches,
    token::{SessionToken, TokenFormat},
};

/// The longest time from now until a session ends, unless it is set.
const DEFAULT_MAX_LIFETIME: TimeDelta = TimeDelta::days(1);

/// Difference of clocks that a session's creation may be off by, unless it is set.
const DEFAULT_LEEWAY: TimeDelta = TimeDelta::seconds(2);

/// Difference of clocks that does not make a session look longer than the maximum, or as if it came
/// from the future.
const CLOCK_SLACK: TimeDelta = TimeDelta::minutes(5);

/// Ends sessions of a store that cannot end them: one that another service keeps, such as
/// `PolarStore`, or a table that this service only reads.
///
/// What was ended here is kept on a list, in a registry of your choice, until the session would have
/// expired. A lookup asks the wrapped store first and the list second, so that the list refuses what
/// the store still finds. All nodes need the same registry; [`announce`](SessionRegistry::announce)
/// of the registry tells them of a sign-out, so they listen to *its* source of invalidations.
///
/// ```
/// use std::time::Duration;
///
/// use customer_session::{
///     CustomerData, CustomerSession, CustomerSessions, SessionRegistry, SessionStore,
///     store::{MemoryStore, Revocable},
/// };
/// # use chrono::{TimeDelta, Utc};
///
/// # #[tokio::main(flavor = "current_thread")]
/// # async fn main() -> Result<(), Box<dyn std::error::Error>> {
/// # let elsewhere = MemoryStore::new();
/// # let token = elsewhere.token_format().generate();
/// # let customer = CustomerData::new("cus_1", "org_1");
/// # let end = Utc::now() + TimeDelta::hours(1);
/// # let session = CustomerSession::new("ses_1", token.clone(), customer, end);
/// # elsewhere.insert(&session, None).await?;
/// // `elsewhere` only finds sessions; in production the list is in a store that all nodes share.
/// let store = Revocable::new(elsewhere, MemoryStore::new()).max_lifetime(Duration::from_secs(3600));
/// let sessions = CustomerSessions::builder(store).build();
///
/// let current = sessions.authenticate(&token).await?;
/// assert!(sessions.revoke(&current.id).await?);
/// assert!(sessions.authenticate(&token).await.is_err());
/// # Ok(())
/// # }
/// ```
///
/// # What can be done with such sessions
///
/// | method of [`CustomerSessions`](crate::CustomerSessions) | effect |
/// |---|---|
/// | [`revoke`](crate::CustomerSessions::revoke) | Ends the session with the id that the store gives it: that of a [`CurrentSession`](crate::CurrentSession). The store is not asked, so it works while the store is down. |
/// | [`revoke_owned`](crate::CustomerSessions::revoke_owned) | The same, if the session belongs to the customer. |
/// | [`revoke_token`](crate::CustomerSessions::revoke_token) | Looks the session up, and ends it. |
/// | [`revoke_customer`](crate::CustomerSessions::revoke_customer) | Ends the customer's sessions that were created until now. |
/// | [`revoke_others`](crate::CustomerSessions::revoke_others) | The same, but for one session. |
/// | [`revoke_created_before`](crate::CustomerSessions::revoke_created_before), [`revoke_all`](crate::CustomerSessions::revoke_all) | Ends all customers' sessions that were created before the time, or until now. |
/// | `issue`, `link`, `rotate`, `derive`, `update_customer`, `list` | [`Invalid`](crate::StoreErrorKind::Invalid): the sessions are created and changed elsewhere, and only their store could list them. |
/// | [`purge`](crate::CustomerSessions::purge) | Removes what the list need not hold any more. |
///
/// `revoke` and `revoke_owned` answer `true` if the session was not on the list before. They cannot tell
/// whether there ever was such a session: an id that never was one goes on the list too.
///
/// # Times
///
/// The list does not know when a session ends that it has only the id of. So an entry stays for
/// [`max_lifetime`](Self::max_lifetime), and a session that lives for longer, by which it could come back,
/// is an error ([`Corrupt`](crate::StoreErrorKind::Corrupt)): its requests get 503 until you raise the
/// maximum. Its whole life counts, from `created_at` to `expires_at`, so that a session which the other
/// service prolongs does not come back.
///
/// Where many sessions end, their `created_at` decides, which is a time by the clock of the service that
/// created them. Those created within [`leeway`](Self::leeway) after the revocation are refused as well. The
/// store must give the same `created_at` at each lookup. A successor that its owner gives a session, by a
/// rotation, is another session with another id: end the customer's sessions there, too.
///
/// # The list
///
/// The port that it needs is [`SessionRegistry`], of which it uses `insert`, `find`, `list`, `revoke`,
/// `announce` and `purge_expired`. `list` must be as fresh as `find`. The registry must
/// [keep](SessionRegistry::keeps) details. An entry is a [one-time link](crate::SessionDetails::is_link) of a
/// customer whose id begins with `customer-session:`. Its token stands in parentheses, so that no
/// [`TokenFormat`] accepts it: it opens nothing, also where other sessions are kept in the same registry.
///
/// **Give the list a registry of its own if you can**: a schema, a prefix, a file. `revoke_all` and
/// `revoke_created_before` of other sessions in it would empty the list. A `PostgresStore` that was built
/// with `external_customers` refuses entries, since they have customers of their own.
///
/// **A list that cannot be read lets nothing in.** A lookup then fails with the registry's error, and the
/// client gets 503. What is cached is used, as during any outage.
///
/// **A list that is lost brings sessions back.** Where a failover or a restored backup has lost the last
/// entries, the sessions that they ended are live again, until their own end. So is a session whose entry
/// was hashed under a pepper that was retired since. If that cannot be borne, call `revoke_all` afterwards:
/// all customers have to sign in again.
#[derive(Clone)]
pub struct Revocable<S, R> {
    store: S,
    list: RevocationList<R>,
    max_lifetime: TimeDelta,
    leeway: TimeDelta,
    clock: Arc<dyn Clock>,
}

impl<S: SessionStore, R: SessionRegistry> Revocable<S, R> {
    /// Creates a store that finds the sessions of `store`, but for those that are on a list in `registry`.
    pub fn new(store: S, registry: R) -> Self {
        Self {
            store,
            list: RevocationList::new(registry),
            max_lifetime: DEFAULT_MAX_LIFETIME,
            leeway: DEFAULT_LEEWAY,
            clock: Arc::new(SystemClock),
        }
    }

    /// Sets the longest time for which a session of the store can still live; a day by default. For
    /// Polar's an hour is enough.
    ///
    /// For so long, and ten minutes for clocks that differ, an entry stays on the list. A session that lives
    /// for longer, by more than five minutes, is not let in: its lookup fails with
    /// [`Corrupt`](crate::StoreErrorKind::Corrupt). Entries that were made before you raise the maximum stay
    /// for the time that held then.
    #[must_use]
    pub fn max_lifetime(mut self, limit: Duration) -> Self {
        self.max_lifetime = saturating(limit);
        self
    }

    /// Sets by how much the clock of the service that creates the sessions may be ahead of those of the
    /// nodes; two seconds by default.
    ///
    /// A session that was created within this time after its customer's sessions were revoked is refused as
    /// well. A customer who signs in again that fast has to do it once more. A session whose `created_at` is
    /// further ahead is not let in: its lookup fails with [`Corrupt`](crate::StoreErrorKind::Corrupt).
    #[must_use]
    pub fn leeway(mut self, leeway: Duration) -> Self {
        self.leeway = saturating(leeway);
        self
    }

    /// Sets the clock; [`SystemClock`] by default.
    #[must_use]
    pub fn clock(mut self, clock: impl Clock) -> Self {
        self.clock = Arc::new(clock);
        self
    }

    /// Refuses a session whose times say that the list cannot be relied on for it.
    fn check_times(&self, session: &CustomerSession) -> Result<(), StoreError> {
        let now = self.clock.now();
        let corrupt = |why: &str| {
            let id = &session.id;
            Err(StoreError::corrupt(format!("session {id} {why}")))
        };
        // Both what is left and the whole: an entry is removed after that time, and a session that
        // another service prolongs must not come back then.
        let longest = later(session.created_at, self.max_lifetime, CLOCK_SLACK);
        if session.expires_at > later(now, self.max_lifetime, CLOCK_SLACK).min(longest) {
            return corrupt(
                "lives for longer than `Revocable::max_lifetime`, so that it could outlive its \
                 revocation; raise the maximum",
            );
        }
        if session.created_at > later(now, self.leeway, TimeDelta::zero()) {
            return corrupt(
                "has a `created_at` in the future, so that it could outlive the revocation of its \
                 customer; correct the clocks, or the lifetime that the time is derived from",
            );
        }
        Ok(())
    }

    /// Returns the time until which an entry must stay on the list.
    fn entry_end(&self, now: DateTime<Utc>) -> DateTime<Utc> {
        // Once for a session that looks shorter than it is, and once for this node's clock.
        later(now, self.max_lifetime, CLOCK_SLACK * 2)
    }

    /// Puts what `what` describes on the list. Returns `true` if it was not there, and what the other nodes
    /// must be told.
    async fn put(&self, what: &Revocation) -> Result<(bool, Invalidation), StoreError> {
        let (now, list) = (self.clock.now(), &self.list);
        let end = self.entry_end(now);
        let long_ago = now.checked_sub_signed(CLOCK_SLACK).unwrap_or(now);
        let is_new = match what {
            Revocation::Session(session) => list.put_session(None, session, end).await?,
            Revocation::Owned { customer, session } => {
                let is_new = list.put_session(Some(customer), session, end).await?;
                // A client may have named a session of another customer.
                return Ok((is_new, Invalidation::Customer(customer.clone())));
            }
            Revocation::Others { customer, keep } => {
                let cutoff = Cutoff::new(now, now, end).but(keep.clone());
                list.put_cutoff(Some(customer), cutoff, long_ago).await?
            }
            Revocation::Customer(customer) => {
                let cutoff = Cutoff::new(now, now, end);
                list.put_cutoff(Some(customer), cutoff, long_ago).await?
            }
            Revocation::CreatedBefore(time) => {
                let cutoff = Cutoff::new(now, now.min(*time), end);
                list.put_cutoff(None, cutoff, long_ago).await?
            }
            Revocation::All => {
                let cutoff = Cutoff::new(now, now, end);
                list.put_cutoff(None, cutoff, long_ago).await?
            }
        };
        Ok((is_new, what.invalidation()))
    }
}

impl<S: fmt::Debug, R: fmt::Debug> fmt::Debug for Revocable<S, R> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Revocable")
            .field("store", &self.store)
            .field("registry", self.list.registry())
            .field("max_lifetime", &self.max_lifetime)
            .field("leeway", &self.leeway)
            .finish_non_exhaustive()
    }
}

#[deny(clippy::missing_trait_methods)]
#[async_trait]
impl<S: SessionStore, R: SessionRegistry> SessionStore for Revocable<S, R> {
    async fn find(&self, token: &SessionToken) -> Result<Option<CustomerSession>, StoreError> {
        let Some(session) = self.store.find(token).await? else {
            return Ok(None);
        };
        self.check_times(&session)?;
        let has_ended = self.list.has_ended(&session, self.leeway).await?;
        Ok((!has_ended).then_some(session))
    }

    fn token_format(&self) -> TokenFormat {
        self.store.token_format()
    }

    fn shared_caches(&self) -> Option<&SharedCaches> {
        let of_registry = || self.list.registry().shared_caches();
        self.store.shared_caches().or_else(of_registry)
    }

    fn has_invalidation_source(&self) -> bool {
        self.store.has_invalidation_source() || self.list.registry().has_invalidation_source()
    }
}

/// Ends sessions. What would create, change or list one is refused with
/// [`Invalid`](crate::StoreErrorKind::Invalid).
#[async_trait]
impl<S: SessionStore, R: SessionRegistry> SessionRegistry for Revocable<S, R> {
    async fn insert(
        &self,
        _: &CustomerSession,
        _: Option<&SessionLimit>,
    ) -> Result<Inserted, StoreError> {
        Err(is_elsewhere("create them there"))
    }

    async fn replace(
        &self,
        _: &SessionId,
        _: &CustomerSession,
        _: Option<&SessionLimit>,
    ) -> Result<Option<Inserted>, StoreError> {
        Err(is_elsewhere("replace them there"))
    }

    async fn revoke(&self, what: &Revocation) -> Result<Revoked, StoreError> {
        let (is_new, invalidation) = self.put(what).await?;
        // Also if it was there: the node that put it there may have stopped before it told the others.
        self.list.registry().announce(&invalidation).await?;
        Ok(Revoked::new(is_new, [invalidation]))
    }

    async fn list(&self, _: &CustomerId, _: &Page) -> Result<SessionPage, StoreError> {
        Err(is_elsewhere("list them there"))
    }

    async fn update_customer(&self, _: &Customer) -> Result<bool, StoreError> {
        Err(is_elsewhere(
            "change the customer there, and tell the caches by `announce`",
        ))
    }

    async fn purge_expired(&self, before: DateTime<Utc>, limit: u32) -> Result<u64, StoreError> {
        self.list.registry().purge_expired(before, limit).await
    }

    async fn purge_customers(
        &self,
        after: Option<&CustomerId>,
        limit: u32,
    ) -> Result<Option<CustomerId>, StoreError> {
        self.list.registry().purge_customers(after, limit).await
    }

    async fn announce(&self, invalidation: &Invalidation) -> Result<(), StoreError> {
        self.list.registry().announce(invalidation).await
    }

    async fn check(&self) -> Result<(), StoreError> {
        self.list.check().await
    }
}

/// Returns the error of a call that only the wrapped store's owner could answer.
fn is_elsewhere(advice: &str) -> StoreError {
    StoreError::invalid(format!(
        "the sessions of this store are kept elsewhere, and can only be ended here; {advice}"
    ))
}

fn saturating(duration: Duration) -> TimeDelta {
    TimeDelta::from_std(duration).unwrap_or(TimeDelta::MAX)
}

/// Returns `time` and two durations more, and no later than databases can express.
fn later(time: DateTime<Utc>, more: TimeDelta, slack: TimeDelta) -> DateTime<Utc> {
    let later = time.checked_add_signed(more);
    let later = later.and_then(|time| time.checked_add_signed(slack));
    later.map_or(END_OF_TIME, |time| time.min(END_OF_TIME))
}
