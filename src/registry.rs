//! What a registry of sessions is asked for, and what it answers.

use chrono::{DateTime, Utc};

use crate::{
    customer::CustomerId,
    invalidation::Invalidation,
    session::{CustomerSession, SessionId, SessionSummary},
};

/// The sessions that a revocation ends.
///
/// A session is named by its id, or by that of a session that it has replaced: an id leads to the
/// live session of its *family*, which is a session and all that took its place by
/// [`replace`](crate::SessionRegistry::replace). Where a session ends, so do those that were
/// [derived](crate::SessionRegistry::derive) from its family, and those of the family that
/// [overlap](crate::SessionRegistry::replace_overlapping) with it.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
#[non_exhaustive]
pub enum Revocation {
    /// The session that an id leads to, whichever customer it belongs to.
    Session(SessionId),
    /// The session that an id leads to, if it belongs to this customer.
    Owned {
        /// The customer that the session must belong to.
        customer: CustomerId,
        /// The session to end.
        session: SessionId,
    },
    /// All sessions of a customer but one.
    Others {
        /// The customer whose sessions end.
        customer: CustomerId,
        /// The session to keep, or one that it has replaced. With it stay the sessions that were derived
        /// from its family, or, if it was derived itself, its parent and all that were derived from that
        /// one. If it is not one of the customer's, all of them end.
        keep: SessionId,
    },
    /// All sessions of a customer.
    Customer(CustomerId),
    /// All sessions with a `created_at` before this time, of every customer. A session that has
    /// replaced another counts by its own time.
    CreatedBefore(DateTime<Utc>),
    /// All sessions of every customer.
    All,
}

impl Revocation {
    /// Returns the invalidation that covers everything this revocation may end.
    pub fn invalidation(&self) -> Invalidation {
        match self {
            Self::Session(session) | Self::Owned { session, .. } => {
                Invalidation::Session(session.clone())
            }
            Self::Others { customer, .. } | Self::Customer(customer) => {
                Invalidation::Customer(customer.clone())
            }
            Self::CreatedBefore(_) | Self::All => Invalidation::All,
        }
    }
}

/// The result of a revocation.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
#[non_exhaustive]
pub struct Revoked {
    /// `true` if at least one session was ended.
    pub any: bool,
    /// Invalidations that this node must record, with identifiers as they are stored.
    ///
    /// It names every session that was ended, by its id or its customer, and the session or the
    /// customer that was asked for even if nothing was ended: another node may have ended it a
    /// moment ago, and its message may still be on the way. For the same reason it names the
    /// customer of a replaced session whose successor is gone. It is empty if the session belongs
    /// to another customer.
    pub invalidations: Vec<Invalidation>,
}

impl Revoked {
    /// Creates the answer to a revocation.
    pub fn new(any: bool, invalidations: impl IntoIterator<Item = Invalidation>) -> Self {
        Self {
            any,
            invalidations: invalidations.into_iter().collect(),
        }
    }

    /// Creates the answer to a revocation of the session that `asked_for` leads to: `ended`, if
    /// there was one. `customer` is that of a session that was replaced.
    pub(crate) fn of_session(
        asked_for: &SessionId,
        ended: Option<SessionId>,
        customer: Option<CustomerId>,
    ) -> Self {
        let any = ended.is_some();
        let mut invalidations = vec![Invalidation::Session(asked_for.clone())];
        match (ended, customer) {
            (Some(ended), _) if ended == *asked_for => {}
            (Some(ended), _) => invalidations.push(Invalidation::Session(ended)),
            // The successor is gone, and its id may be forgotten.
            (None, Some(customer)) => invalidations.push(Invalidation::Customer(customer)),
            (None, None) => {}
        }
        Self::new(any, invalidations)
    }

    /// Adds sessions that have ended with their parent.
    pub(crate) fn with_derived(mut self, ended: impl IntoIterator<Item = SessionId>) -> Self {
        let before = self.invalidations.len();
        (self.invalidations).extend(ended.into_iter().map(Invalidation::Session));
        self.any |= self.invalidations.len() > before;
        self
    }
}

/// What a registry keeps of a session beyond its identity and its times.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash)]
#[non_exhaustive]
pub struct Keeps {
    /// `true` if all [`SessionDetails`](crate::SessionDetails) are kept, found, listed, and replaced
    /// with the session. If not, sessions with more than times in them are not issued: losing an
    /// [`actor`](crate::SessionDetails::actor), for example, would open doors.
    pub details: bool,
    /// `true` if [`touch`](crate::SessionRegistry::touch) records when a session was last used. If not,
    /// sessions cannot end by idleness.
    pub uses: bool,
}

impl Keeps {
    /// Creates what a registry keeps that keeps all details, and not when sessions were last used.
    pub fn details() -> Self {
        Self {
            details: true,
            uses: false,
        }
    }

    /// Creates what a registry keeps that keeps all details, and when sessions were last used.
    pub fn details_and_uses() -> Self {
        Self {
            details: true,
            uses: true,
        }
    }
}

/// A use of a session: a request that it has authenticated.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
#[non_exhaustive]
pub struct SessionUse {
    /// The session that was used.
    pub session: SessionId,
    /// The customer that the session belongs to.
    pub customer: CustomerId,
    /// Time of the use.
    pub at: DateTime<Utc>,
}

impl SessionUse {
    /// Creates a use of a session of `customer`.
    pub fn new(
        session: impl Into<SessionId>,
        customer: impl Into<CustomerId>,
        at: DateTime<Utc>,
    ) -> Self {
        Self {
            session: session.into(),
            customer: customer.into(),
            at,
        }
    }
}

/// A bound on the sessions that one customer may have at a time.
///
/// A session counts if it is live when the new one is created: its `expires_at` is later than the
/// new session's `created_at`, and it has been used since [`used_since`](Self::used_since). A
/// [one-time link](crate::SessionDetails::is_link) does not count, nor does a session that was
/// [derived](crate::SessionDetails::parent) from another, nor one that was
/// [replaced](crate::SessionDetails::is_replaced) and is still accepted, nor the one that the new one replaces.
/// Where a session ends by a limit, those that were derived from it or overlap with it end too.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
#[non_exhaustive]
pub struct SessionLimit {
    /// The number of live sessions, the new one included.
    pub max: u32,
    /// Treatment of a new session beyond that.
    pub when_full: WhenFull,
    /// If it is set, sessions that were last used then or earlier do not count: they have ended by
    /// idleness. A session is used when it is created, and by
    /// [`touch`](crate::SessionRegistry::touch). A registry that
    /// [keeps no uses](Keeps::uses) is never asked for it.
    pub used_since: Option<DateTime<Utc>>,
}

/// The treatment of a new session when a customer has as many as a [`SessionLimit`] allows.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
#[non_exhaustive]
pub enum WhenFull {
    /// The oldest sessions end, by `created_at`, until the new one fits.
    EndOldest,
    /// The new session is refused with [`Conflict`](crate::StoreErrorKind::Conflict).
    Refuse,
}

impl SessionLimit {
    /// Creates a limit that ends the customer's oldest sessions.
    pub fn end_oldest(max: u32) -> Self {
        Self {
            max,
            when_full: WhenFull::EndOldest,
            used_since: None,
        }
    }

    /// Creates a limit that refuses new sessions.
    pub fn refuse(max: u32) -> Self {
        Self {
            max,
            when_full: WhenFull::Refuse,
            used_since: None,
        }
    }

    /// Returns how many of `live` sessions must end before the new one is added, or `None` if the
    /// new one is refused.
    pub fn surplus(&self, live: usize) -> Option<usize> {
        let max = usize::try_from(self.max).unwrap_or(usize::MAX);
        match self.when_full {
            WhenFull::EndOldest => Some(live.saturating_sub(max.saturating_sub(1))),
            WhenFull::Refuse if live < max => Some(0),
            WhenFull::Refuse => None,
        }
    }
}

/// The result of an insertion or a replacement.
#[derive(Clone, Debug, PartialEq)]
#[non_exhaustive]
pub struct Inserted {
    /// The session as stored, with the customer as the store knows them.
    pub session: CustomerSession,
    /// The sessions that the [`SessionLimit`] ended, oldest first, and among them those that end with them.
    pub ended: Vec<SessionSummary>,
    /// Further invalidations that this node must record, as in [`Revoked::invalidations`]. A store that
    /// had to repeat itself, and so cannot name all the sessions that the limit ended, names their
    /// customer.
    pub invalidations: Vec<Invalidation>,
}

impl Inserted {
    /// Creates the answer to an insertion or a replacement after which no limit ended other sessions.
    pub fn new(session: CustomerSession) -> Self {
        Self {
            session,
            ended: Vec::new(),
            invalidations: Vec::new(),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_limit_makes_room_for_one_more_or_refuses_it() {
        let (ends, refuses) = (SessionLimit::end_oldest(3), SessionLimit::refuse(3));
        let surplus = [(0, 0), (2, 0), (3, 1), (5, 3)];
        for (live, expected) in surplus {
            assert_eq!(ends.surplus(live), Some(expected), "{live}");
        }
        assert_eq!((refuses.surplus(2), refuses.surplus(3)), (Some(0), None));
        assert_eq!(SessionLimit::end_oldest(0).surplus(2), Some(2));
    }
}
