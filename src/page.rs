//! Pages of a list of sessions.

use std::{error::Error, fmt, str::FromStr};

use chrono::{DateTime, Datelike, SecondsFormat, Utc};

use crate::session::{SessionId, SessionSummary};

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
    has_expired: bool,
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
            ..Self::default()
        }
    }

    /// Sets the number of sessions, from 1 to [`MAX_SIZE`](Self::MAX_SIZE). Other numbers are
    /// brought into that range.
    #[must_use]
    pub fn with_size(mut self, size: u32) -> Self {
        self.size = size.clamp(1, Self::MAX_SIZE);
        self
    }

    /// Has [`CustomerSessions::list_page`](crate::CustomerSessions::list_page) return expired sessions
    /// too, which have not been purged. A [`SessionRegistry`](crate::SessionRegistry) always does.
    #[must_use]
    pub fn with_expired(mut self) -> Self {
        self.has_expired = true;
        self
    }

    /// Returns `true` if expired sessions are asked for.
    pub(crate) fn has_expired(&self) -> bool {
        self.has_expired
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
            has_expired: false,
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
