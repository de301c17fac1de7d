//! A session as it is kept.

use chrono::{DateTime, Utc};

use super::keys::{Packed, ShortHash};
use crate::{
    customer::CustomerId,
    session::{CustomerSession, SessionSummary},
    store::{
        error::{ContextError, StoreError},
        json::{details_to_json, from_json},
    },
};

/// The first byte of a record. Another one is another layout.
const LAYOUT: u8 = b'1';

/// The first byte of a pointer to a session that has taken the place of another.
const LAYOUT_OF_MEMBER: u8 = b'2';

/// The first byte of a pointer to a session that was derived from another.
const LAYOUT_OF_CHILD: u8 = b'3';

/// The first byte of a session in the set of its customer if it was derived from another.
const CHILD: u8 = b'c';

/// The same if it was replaced and is still accepted, as a child of its own family.
const OVERLAPPING: u8 = b'o';

const HAS_MODIFIED: u8 = 1;
const HAS_END: u8 = 2;
const HAS_FAMILY: u8 = 4;
/// The customer proved who they are when the session was created, as most do.
const AUTHENTICATED_AT_CREATION: u8 = 8;
const HAS_AUTHENTICATED: u8 = 16;
const HAS_DETAILS: u8 = 32;
const KNOWN_FLAGS: u8 = 63;

/// A session without its token and its customer.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Record {
    pub(super) customer: Packed,
    pub(super) id: Packed,
    created_at: i64,
    expires_at: i64,
    modified_at: Option<i64>,
    ends_at: Option<i64>,
    authenticated_at: Option<i64>,
    /// The other details, as JSON.
    details: Option<String>,
    /// The first session of the family, if it is not this one.
    family: Option<Packed>,
    /// The family of the parent.
    parent: Option<Packed>,
}

/// The value of a key `i:`, by which an id leads to its session. It stays for as long as the session or
/// its successor is there.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Pointer {
    pub(super) hash: ShortHash,
    pub(super) customer: Packed,
    expires_at: i64,
    /// The first session of the family, if it is not this one.
    family: Option<Packed>,
    /// The family of the parent.
    parent: Option<Packed>,
}

/// A reader of bytes.
struct Reader<'a>(&'a [u8]);

impl Record {
    /// Takes what is kept of a session.
    ///
    /// # Errors
    ///
    /// [`Corrupt`](crate::StoreErrorKind::Corrupt) if the details cannot be written as JSON.
    pub(super) fn new(session: &CustomerSession) -> Result<Self, StoreError> {
        let micros = |time: Option<DateTime<Utc>>| time.map(|time| time.timestamp_micros());
        Ok(Self {
            customer: (&session.customer_id).into(),
            id: (&session.id).into(),
            created_at: session.created_at.timestamp_micros(),
            expires_at: session.expires_at.timestamp_micros(),
            modified_at: micros(session.modified_at),
            ends_at: micros(session.details.ends_at),
            authenticated_at: micros(session.details.authenticated_at),
            details: details_to_json(&session.details)?,
            family: None,
            parent: None,
        })
    }

    /// Makes it a member of a family.
    pub(super) fn with_family(mut self, family: Packed) -> Self {
        self.family = Some(family);
        self
    }

    /// Makes it a child of a family.
    pub(super) fn with_parent(mut self, parent: Option<Packed>) -> Self {
        self.parent = parent;
        self
    }

    /// Returns the session as the member of a set.
    pub(super) fn member(&self) -> Vec<u8> {
        let family = self.family.as_ref().unwrap_or(&self.id);
        member(&self.id, self.expires_at, family, self.parent.as_ref())
    }

    /// Returns `true` if it was replaced and is still accepted, as a child of its own family.
    pub(super) fn is_replaced(&self) -> bool {
        self.parent.as_ref() == Some(self.family.as_ref().unwrap_or(&self.id))
    }

    pub(super) fn created_at(&self) -> i64 {
        self.created_at
    }

    pub(super) fn expires_at(&self) -> i64 {
        self.expires_at
    }

    /// Returns the time until which the ids of the family must lead to it.
    pub(super) fn family_end(&self) -> i64 {
        let end = self.ends_at.unwrap_or(self.expires_at);
        end.max(self.expires_at)
    }

    pub(super) fn to_bytes(&self) -> Vec<u8> {
        let mut bytes = vec![LAYOUT, self.customer.shard()];
        put(&mut bytes, self.customer.as_bytes());
        put(&mut bytes, &self.member());
        bytes.extend(self.created_at.to_be_bytes());
        let at_creation = self.authenticated_at == Some(self.created_at);
        let authenticated_at = self.authenticated_at.filter(|_| !at_creation);
        let mut flags = 0;
        for (flag, is_set) in [
            (HAS_MODIFIED, self.modified_at.is_some()),
            (HAS_END, self.ends_at.is_some()),
            (HAS_FAMILY, self.family.is_some()),
            (AUTHENTICATED_AT_CREATION, at_creation),
            (HAS_AUTHENTICATED, authenticated_at.is_some()),
            (HAS_DETAILS, self.details.is_some()),
        ] {
            flags |= if is_set { flag } else { 0 };
        }
        bytes.push(flags);
        let times = [self.modified_at, self.ends_at, authenticated_at];
        for time in times.into_iter().flatten() {
            bytes.extend(time.to_be_bytes());
        }
        if let Some(family) = &self.family {
            put(&mut bytes, family.as_bytes());
        }
        if let Some(details) = &self.details {
            put(&mut bytes, details.as_bytes());
        }
        bytes
    }

    /// Reads a record; `None` if it is damaged.
    pub(super) fn from_bytes(bytes: &[u8]) -> Option<Self> {
        let mut reader = Reader(bytes);
        if reader.byte()? != LAYOUT {
            return None;
        }
        let _shard = reader.byte()?;
        let customer = Packed::from_bytes(reader.text()?)?;
        let member = reader.text()?;
        let ((id, expires_at), parent) = (read_member(member)?, parent_of(member));
        let created_at = reader.number()?;
        let flags = reader.byte()?;
        if flags & !KNOWN_FLAGS != 0 {
            return None;
        }
        let mut optional = |flag| match flags & flag {
            0 => Some(None),
            _ => reader.number().map(Some),
        };
        let (modified_at, ends_at) = (optional(HAS_MODIFIED)?, optional(HAS_END)?);
        let authenticated_at = optional(HAS_AUTHENTICATED)?;
        let at_creation = flags & AUTHENTICATED_AT_CREATION != 0;
        let authenticated_at = authenticated_at.or(at_creation.then_some(created_at));
        let family = match flags & HAS_FAMILY {
            0 => None,
            _ => Some(Packed::from_bytes(reader.text()?)?),
        };
        let details = match flags & HAS_DETAILS {
            0 => None,
            _ => Some(String::from_utf8(reader.text()?.to_vec()).ok()?),
        };
        Some(Self {
            customer,
            id,
            created_at,
            expires_at,
            modified_at,
            ends_at,
            authenticated_at,
            details,
            family,
            parent,
        })
    }

    /// Returns what a list shows of it.
    ///
    /// # Errors
    ///
    /// [`Corrupt`](crate::StoreErrorKind::Corrupt) if a time is out of range, or if the details are
    /// damaged.
    pub(super) fn summary(&self) -> Result<SessionSummary, StoreError> {
        let id = self.id.text();
        let time = |micros| {
            let corrupt = || StoreError::corrupt(format!("session {id}: its record is corrupt"));
            DateTime::from_timestamp_micros(micros).ok_or_else(corrupt)
        };
        let customer = CustomerId::from(self.customer.text());
        let (created_at, expires_at) = (time(self.created_at)?, time(self.expires_at)?);
        let mut summary = SessionSummary::new(&*id, customer, created_at, expires_at);
        summary.modified_at = self.modified_at.map(time).transpose()?;
        if let Some(details) = &self.details {
            let corrupt = |error| {
                let context = format!("session {id}: its details are corrupt");
                StoreError::corrupt(ContextError::new(context, error))
            };
            summary.details = from_json(details).map_err(corrupt)?;
        }
        summary.details.ends_at = self.ends_at.map(time).transpose()?;
        summary.details.authenticated_at = self.authenticated_at.map(time).transpose()?;
        Ok(summary)
    }
}

impl Pointer {
    pub(super) fn new(record: &Record, hash: ShortHash) -> Self {
        Self {
            hash,
            customer: record.customer.clone(),
            expires_at: record.expires_at,
            family: record.family.clone(),
            parent: record.parent.clone(),
        }
    }

    /// Returns `true` if it leads to a session, or to the family of an overlapping one: what ends the family ends
    /// that.
    pub(super) fn leads_to(&self, record: &Record) -> bool {
        let id = &record.id;
        let is_of_family = record.parent.as_ref() == Some(self.family(id));
        self.customer == record.customer
            && (self.member(id) == record.member() || record.is_replaced() && is_of_family)
    }

    /// Returns the session, by its id, as the member of a set.
    pub(super) fn member(&self, id: &Packed) -> Vec<u8> {
        member(id, self.expires_at, self.family(id), self.parent.as_ref())
    }

    /// Returns the family of the parent, if the session was derived.
    pub(super) fn parent(&self) -> Option<&Packed> {
        self.parent.as_ref()
    }

    /// Returns the first session of the family.
    pub(super) fn family<'a>(&'a self, id: &'a Packed) -> &'a Packed {
        self.family.as_ref().unwrap_or(id)
    }

    pub(super) fn to_bytes(&self) -> Vec<u8> {
        let layout = match (&self.parent, &self.family) {
            (Some(_), _) => LAYOUT_OF_CHILD,
            (None, Some(_)) => LAYOUT_OF_MEMBER,
            (None, None) => LAYOUT,
        };
        let mut bytes = vec![layout];
        bytes.extend(self.hash);
        bytes.extend(self.expires_at.to_be_bytes());
        if let Some(parent) = &self.parent {
            put(&mut bytes, parent.as_bytes());
            put(
                &mut bytes,
                self.family.as_ref().map_or(&[], Packed::as_bytes),
            );
        } else if let Some(family) = &self.family {
            put(&mut bytes, family.as_bytes());
        }
        bytes.extend(self.customer.as_bytes());
        bytes
    }

    /// Reads a pointer; `None` if it is damaged.
    pub(super) fn from_bytes(bytes: &[u8]) -> Option<Self> {
        let mut reader = Reader(bytes);
        let layout = reader.byte()?;
        let hash = *reader.take(size_of::<ShortHash>())?.first_chunk()?;
        let expires_at = reader.number()?;
        let (mut parent, mut family) = (None, None);
        match layout {
            LAYOUT => {}
            LAYOUT_OF_MEMBER => family = Some(Packed::from_bytes(reader.text()?)?),
            LAYOUT_OF_CHILD => {
                parent = Some(Packed::from_bytes(reader.text()?)?);
                let bytes = reader.text()?;
                if !bytes.is_empty() {
                    family = Some(Packed::from_bytes(bytes)?);
                }
            }
            _ => return None,
        }
        let customer = Packed::from_bytes(reader.0)?;
        Some(Self {
            hash,
            customer,
            expires_at,
            family,
            parent,
        })
    }
}

/// Reads the id of a session and the time at which it expires from a member of a set.
pub(super) fn read_member(member: &[u8]) -> Option<(Packed, i64)> {
    let (id, expires_at) = member.split_last_chunk()?;
    let id = match id.split_first()? {
        (&CHILD | &OVERLAPPING, rest) => {
            let mut reader = Reader(rest);
            let _parent = reader.text()?;
            reader.0
        }
        _ => id,
    };
    Some((Packed::from_bytes(id)?, i64::from_be_bytes(*expires_at)))
}

/// Returns the family of the parent from a member of a set.
fn parent_of(member: &[u8]) -> Option<Packed> {
    let (&first, rest) = member.split_first()?;
    let is_child = matches!(first, CHILD | OVERLAPPING);
    let parent = is_child.then(|| Reader(rest).text())??;
    Packed::from_bytes(parent)
}

/// Returns a session as the member of a set.
fn member(id: &Packed, expires_at: i64, family: &Packed, parent: Option<&Packed>) -> Vec<u8> {
    let mut bytes = Vec::new();
    if let Some(parent) = parent {
        bytes.push(if parent == family { OVERLAPPING } else { CHILD });
        put(&mut bytes, parent.as_bytes());
    }
    bytes.extend(id.as_bytes());
    bytes.extend(expires_at.to_be_bytes());
    bytes
}

/// Adds bytes, with their number before them.
fn put(to: &mut Vec<u8>, bytes: &[u8]) {
    let len = u16::try_from(bytes.len()).unwrap_or(u16::MAX);
    to.extend(len.to_be_bytes());
    to.extend(&bytes[..len.into()]);
}

impl<'a> Reader<'a> {
    fn take(&mut self, len: usize) -> Option<&'a [u8]> {
        let (taken, rest) = self.0.split_at_checked(len)?;
        self.0 = rest;
        Some(taken)
    }

    fn byte(&mut self) -> Option<u8> {
        Some(self.take(1)?[0])
    }

    fn number(&mut self) -> Option<i64> {
        Some(i64::from_be_bytes(self.take(8)?.try_into().ok()?))
    }

    /// Reads bytes with their number before them.
    fn text(&mut self) -> Option<&'a [u8]> {
        let len = u16::from_be_bytes(self.take(2)?.try_into().ok()?);
        self.take(len.into())
    }
}

#[cfg(test)]
mod tests {
    use chrono::TimeDelta;

    use super::*;
    use crate::{
        customer::{Customer, CustomerData},
        details::Device,
        session::SessionId,
        token::SessionToken,
    };

    fn session() -> CustomerSession {
        let customer = CustomerData::new("cus_1", "org_1");
        let expires_at = DateTime::UNIX_EPOCH - TimeDelta::microseconds(1);
        CustomerSession::new(
            "ses_1",
            SessionToken::new("cst_1"),
            Customer::from(customer),
            expires_at,
        )
    }

    #[test]
    fn a_session_is_read_as_it_was_kept() {
        let mut session = session();
        let time = Some(DateTime::UNIX_EPOCH + TimeDelta::days(30_000));
        for (modified, end) in [(None, None), (time, None), (None, time), (time, time)] {
            session.modified_at = modified;
            session.details.ends_at = end;
            session.details.authenticated_at = end.or(Some(session.created_at));
            session.details.device = end.map(|_| Device::new("Jane's phone"));
            let mut record = Record::new(&session).expect("valid");
            let details = record.summary().expect("valid").details;
            assert_eq!(details, session.details);
            assert_eq!(Record::from_bytes(&record.to_bytes()), Some(record.clone()));
            record = record.with_family(Packed::from(&SessionId::from("first")));
            let bytes = record.to_bytes();
            assert_eq!(Record::from_bytes(&bytes), Some(record));
            for len in 0..bytes.len() {
                assert_eq!(Record::from_bytes(&bytes[..len]), None, "{len}");
            }
        }
    }

    #[test]
    fn a_pointer_is_read_as_it_was_kept() {
        let record = Record::new(&session()).expect("valid");
        let first = Packed::from(&SessionId::from("first"));
        let child = record.clone().with_parent(Some(first.clone()));
        let of_child = child.clone().with_family(first.clone());
        for record in [record.clone(), record.with_family(first), child, of_child] {
            assert_eq!(Record::from_bytes(&record.to_bytes()), Some(record.clone()));
            assert_eq!(
                read_member(&record.member()).map(|read| read.0),
                Some(record.id.clone())
            );
            let pointer = Pointer::new(&record, [7; 16]);
            assert_eq!(pointer.member(&record.id), record.member());
            let first = record.family.as_ref().unwrap_or(&record.id);
            assert_eq!(pointer.family(&record.id), first);
            let bytes = pointer.to_bytes();
            assert_eq!(Pointer::from_bytes(&bytes), Some(pointer));
            for len in 0..25 {
                assert_eq!(Pointer::from_bytes(&bytes[..len]), None, "{len}");
            }
        }
    }
}
