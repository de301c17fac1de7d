//! What a registry of sessions is asked for, and what it answers.

use std::{error::Error, fmt, str::FromStr};

use chrono::{DateTime, Datelike, SecondsFormat, Utc};

use crate::{
    customer::CustomerId,
    invalidation::Invalidation,
    session::{CustomerSession, SessionId, SessionSummary},
};

/// The sessions that a revocation ends.
///
/// A session is named by its id, or by that of a session that it has replaced: an id leads to the
/// live session of its *family*, which is a session and all that took its place by
/// [`replace`](crate::SessionRegistry::replace).
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
        /// The session to keep, or one that it has replaced. If it is not one of the customer's,
        /// all of them end.
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
}

/// What a registry keeps of a session beyond its identity and its times.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash)]
#[non_exhaustive]
pub struct Keeps {
    /// `true` if all [`SessionDetails`](crate::SessionDetails) are kept, found, listed, and replaced
    /// with the session. If not, sessions with more than times in them are not issued: losing an
    /// [`actor`](crate::SessionDetails::actor), for example, would open doors.
    pub details: bool,
}

impl Keeps {
    /// Creates what a registry keeps that keeps all details.
    pub fn details() -> Self {
        Self { details: true }
    }
}

/// A bound on the sessions that one customer may have at a time.
///
/// A session counts if it is live when the new one is created: its `expires_at` is later than the
/// new session's `created_at`.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
#[non_exhaustive]
pub struct SessionLimit {
    /// The number of live sessions, the new one included.
    pub max: u32,
    /// Treatment of a new session beyond that.
    pub when_full: WhenFull,
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
        }
    }

    /// Creates a limit that refuses new sessions.
    pub fn refuse(max: u32) -> Self {
        Self {
            max,
            when_full: WhenFull::Refuse,
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

/// The result of an insertion.
#[derive(Clone, Debug, PartialEq)]
#[non_exhaustive]
pub struct Inserted {
    /// The session as stored, with the customer as the store knows them.
    pub session: CustomerSession,
    /// The sessions that the [`SessionLimit`] ended, oldest first.
    pub ended: Vec<SessionSummary>,
}

impl Inserted {
    /// Creates the answer to an insertion that ended no other session.
    pub fn new(session: CustomerSession) -> Self {
        Self {
            session,
            ended: Vec::new(),
        }
    }
}

/// A part of a list: where it begins, and how many sessions it holds at most.
///
/// ```
/// use customer_session::Page;
///
/// let first = Page::default();
/// assert_eq!((first.size(), first.cursor()), (Page::DEFAULT_SIZE, None));
/// assert_eq!(first.with_size(1_000_000).size(), Page::MAX_SIZE);
/// ```
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub struct Page {
    cursor: Option<PageCursor>,
    size: u32,
}

impl Page {
    /// The size of a page that does not say otherwise.
    pub const DEFAULT_SIZE: u32 = 100;

    /// The largest size of a page.
    pub const MAX_SIZE: u32 = 1000;

    /// Creates the page that follows `cursor`.
    pub fn after(cursor: PageCursor) -> Self {
        Self {
            cursor: Some(cursor),
            size: Self::DEFAULT_SIZE,
        }
    }

    /// Sets the number of sessions, from 1 to [`MAX_SIZE`](Self::MAX_SIZE). Other numbers are
    /// brought into that range.
    #[must_use]
    pub fn with_size(mut self, size: u32) -> Self {
        self.size = size.clamp(1, Self::MAX_SIZE);
        self
    }

    /// Returns the number of sessions that the page holds at most.
    pub fn size(&self) -> u32 {
        self.size
    }

    /// Returns the place that the page follows, or `None` for the first page.
    pub fn cursor(&self) -> Option<&PageCursor> {
        self.cursor.as_ref()
    }
}

impl Default for Page {
    fn default() -> Self {
        Self {
            cursor: None,
            size: Self::DEFAULT_SIZE,
        }
    }
}

/// A place in a list of sessions: that of the last session of a page.
///
/// As text it is safe in a URL's query if it is percent-encoded; it holds no secret.
///
/// ```
/// use customer_session::PageCursor;
///
/// let cursor: PageCursor = "2030-01-01T00:00:00.000000000Z~ses_1".parse()?;
/// assert_eq!(cursor.id.as_str(), "ses_1");
/// assert_eq!(cursor.to_string(), "2030-01-01T00:00:00.000000000Z~ses_1");
/// # Ok::<(), Box<dyn std::error::Error>>(())
/// ```
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
#[non_exhaustive]
pub struct PageCursor {
    /// Time of creation of the session.
    pub created_at: DateTime<Utc>,
    /// Identifier of the session.
    pub id: SessionId,
}

impl PageCursor {
    /// Creates the cursor behind which the sessions after `session` stand.
    pub fn of(session: &SessionSummary) -> Self {
        Self {
            created_at: session.created_at,
            id: session.id.clone(),
        }
    }
}

impl fmt::Display for PageCursor {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let created_at = self.created_at.to_rfc3339_opts(SecondsFormat::Nanos, true);
        write!(f, "{created_at}~{}", self.id)
    }
}

impl FromStr for PageCursor {
    type Err = InvalidCursor;

    fn from_str(text: &str) -> Result<Self, InvalidCursor> {
        let (created_at, id) = text.split_once('~').ok_or(InvalidCursor)?;
        if id.contains('\0') {
            return Err(InvalidCursor);
        }
        Ok(Self {
            created_at: in_range(created_at.parse().map_err(|_| InvalidCursor)?)?,
            id: id.into(),
        })
    }
}

/// Refuses times that a database cannot express.
fn in_range(time: DateTime<Utc>) -> Result<DateTime<Utc>, InvalidCursor> {
    if (0..=9999).contains(&time.year()) {
        Ok(time)
    } else {
        Err(InvalidCursor)
    }
}

/// The error of reading a [`PageCursor`] from text that is not one.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub struct InvalidCursor;

impl fmt::Display for InvalidCursor {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("this is not the cursor of a page of sessions")
    }
}

impl Error for InvalidCursor {}

/// The sessions of one page.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
#[non_exhaustive]
pub struct SessionPage {
    /// The sessions, oldest first.
    pub sessions: Vec<SessionSummary>,
    /// Beginning of the next page; `None` after the last one.
    pub next: Option<PageCursor>,
}

impl SessionPage {
    /// Cuts a page from the sessions that follow its cursor, oldest first.
    ///
    /// Hand in one session more than [`Page::size`], if there is one: it tells that another page
    /// follows, and does not become part of this one.
    pub fn cut(mut sessions: Vec<SessionSummary>, page: &Page) -> Self {
        let size = usize::try_from(page.size).unwrap_or(usize::MAX);
        let has_more = sessions.len() > size;
        sessions.truncate(size);
        let last = sessions.last().filter(|_| has_more);
        Self {
            next: last.map(PageCursor::of),
            sessions,
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

    #[test]
    fn a_cursor_that_is_not_one_is_refused() {
        let time = "2030-01-01T00:00:00Z";
        for text in ["", "~", "ses_1", time, "yesterday~ses_1", "2030~ses_1"] {
            assert_eq!(text.parse::<PageCursor>(), Err(InvalidCursor), "{text:?}");
        }
        assert!(format!("{time}~a\0").parse::<PageCursor>().is_err());
        for year in ["-5000", "+12000"] {
            let far = format!("{year}-01-01T00:00:00Z~ses_1");
            assert_eq!(far.parse::<PageCursor>(), Err(InvalidCursor), "{far}");
        }
        let cursor: PageCursor = format!("{time}~a~b").parse().expect("a cursor");
        assert_eq!(cursor.id.as_str(), "a~b");
    }

    #[test]
    fn a_page_ends_where_the_next_begins() {
        let time = DateTime::UNIX_EPOCH;
        let summary = |id: &str| SessionSummary::new(id, "cus_1", time, time);
        let all = vec![summary("a"), summary("b"), summary("c")];
        let page = SessionPage::cut(all.clone(), &Page::default().with_size(2));
        assert_eq!(page.sessions, all[..2]);
        assert_eq!(page.next, Some(PageCursor::of(&all[1])));
        let whole = SessionPage::cut(all.clone(), &Page::default().with_size(3));
        assert_eq!((whole.sessions.len(), whole.next), (3, None));
    }
}
