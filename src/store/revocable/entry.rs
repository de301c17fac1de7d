//! The entries of the list, as records of a registry.

use chrono::{DateTime, SubsecRound as _, TimeDelta, Utc};
use sha2::{Digest, Sha256};

use crate::{
    clock::END_OF_TIME,
    customer::{CustomerData, CustomerId},
    family::FamilyKey,
    session::{CustomerSession, SessionId, SessionSummary},
    store::error::StoreError,
    token::SessionToken,
};

/// The organization of the customers that entries have.
const ORGANIZATION: &str = "customer-session";

/// The end of all sessions of a customer, or of all customers, that were created until a time.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Cutoff {
    /// The last moment at which an ended session was created.
    created_until: DateTime<Utc>,
    /// The time until which the entry must stay.
    end: DateTime<Utc>,
    /// A session that does not end.
    kept: Option<SessionId>,
    /// The time at which the entry was put on the list.
    put_at: DateTime<Utc>,
}

impl Cutoff {
    /// Creates the end, as of `now`, of the sessions that were created until a time.
    pub(super) fn new(
        now: DateTime<Utc>,
        created_until: DateTime<Utc>,
        end: DateTime<Utc>,
    ) -> Self {
        // Rounded up to what databases keep.
        let created_until = created_until.trunc_subsecs(6) + TimeDelta::microseconds(1);
        Self {
            created_until,
            end: end.trunc_subsecs(6),
            kept: None,
            put_at: now.trunc_subsecs(6),
        }
    }

    /// Leaves one session out.
    pub(super) fn but(mut self, kept: SessionId) -> Self {
        self.kept = Some(kept);
        self
    }

    /// Reads a cutoff from a record.
    pub(super) fn of(record: &SessionSummary) -> Self {
        let kept = record.id.as_str().split_once(' ');
        Self {
            created_until: record.created_at,
            end: record.expires_at,
            kept: kept.map(|(_, kept)| kept.into()),
            put_at: record.details.authenticated_at.unwrap_or(END_OF_TIME),
        }
    }

    /// Returns `true` if the entry has been on the list since `time`.
    pub(super) fn is_there_since(&self, time: DateTime<Utc>) -> bool {
        self.put_at <= time
    }

    /// Returns `true` if the session has ended by this.
    pub(super) fn ends(&self, session: &CustomerSession, leeway: TimeDelta) -> bool {
        let created_until = self.created_until.checked_add_signed(leeway);
        let is_exempt = created_until.is_some_and(|until| session.created_at > until);
        !is_exempt && self.kept.as_ref() != Some(&session.id)
    }

    /// Returns `true` if `other` ends nothing that this one does not, and is not needed for longer.
    pub(super) fn covers(&self, other: &Self) -> bool {
        self.created_until >= other.created_until
            && self.end >= other.end
            && (self.kept.is_none() || self.kept == other.kept)
    }

    /// Returns the record of a cutoff for one customer, or for all.
    pub(super) fn record(
        &self,
        customer: Option<&CustomerId>,
    ) -> Result<CustomerSession, StoreError> {
        let id = new_id()?;
        let id = match &self.kept {
            Some(kept) => format!("{id} {kept}"),
            None => id,
        };
        let token = SessionToken::new(format!("(ended-many {id})"));
        let mut record = record(id, token, cutoffs_of(customer), self.end);
        record.created_at = self.created_until;
        record.details.authenticated_at = Some(self.put_at);
        Ok(record)
    }
}

/// Returns the customer that has the cutoffs of a customer, or those of all.
pub(super) fn cutoffs_of(customer: Option<&CustomerId>) -> CustomerId {
    match customer {
        Some(customer) => format!("customer-session:ended-of:{customer}").into(),
        None => "customer-session:ended-of-all".into(),
    }
}

/// Returns the token of the entry for one session: whichever customer it belongs to, or only if it
/// belongs to this one.
///
/// No format of tokens accepts it: it is not a `b64token`, and its end is not a checksum.
pub(super) fn token_of(customer: Option<&CustomerId>, session: &SessionId) -> SessionToken {
    let Some(customer) = customer else {
        return SessionToken::new(format!("(ended-session {session})"));
    };
    let len = customer.as_str().len();
    SessionToken::new(format!("(ended-own {len} {customer} {session})"))
}

/// Returns the record of the entry for one session.
pub(super) fn record_of(
    customer: Option<&CustomerId>,
    session: &SessionId,
    end: DateTime<Utc>,
) -> Result<CustomerSession, StoreError> {
    // Few customers, so that they are not a second list, and several, so that changes do not wait for one.
    let shard = Sha256::digest(session.as_str())[0];
    let owner = format!("customer-session:ended:{shard:02x}");
    let token = token_of(customer, session);
    Ok(record(new_id()?, token, owner.into(), end.trunc_subsecs(6)))
}

fn record(
    id: String,
    token: SessionToken,
    owner: CustomerId,
    end: DateTime<Utc>,
) -> CustomerSession {
    let owner = CustomerData::new(owner, ORGANIZATION);
    let mut record = CustomerSession::new(id, token, owner, end);
    // A link authenticates no request, and is exchanged by a token of another form.
    record.details.is_link = true;
    record
}

fn new_id() -> Result<String, StoreError> {
    let mut random = [0; 16];
    getrandom::fill(&mut random).map_err(StoreError::unavailable)?;
    Ok(FamilyKey::new_id(None, random))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::token::{TokenFormat, is_link};

    fn at(seconds: i64) -> DateTime<Utc> {
        DateTime::from_timestamp(seconds, 0).expect("a time")
    }

    fn session(id: &str, created_at: DateTime<Utc>) -> CustomerSession {
        let (token, customer) = (SessionToken::new("x"), CustomerData::new("cus_1", "org_1"));
        let mut session = CustomerSession::new(id, token, customer, at(10_000));
        session.created_at = created_at;
        session
    }

    #[test]
    fn no_format_accepts_the_token_of_an_entry() {
        let customer = CustomerId::from("cus_1");
        let real = TokenFormat::any().generate();
        // An id may be anything, a token too.
        for id in ["ses_1", "", real.expose()] {
            let cutoff = Cutoff::new(at(0), at(0), at(1)).but(id.into());
            let cutoff = cutoff.record(Some(&customer)).expect("random bytes");
            let tokens = [
                token_of(None, &id.into()),
                token_of(Some(&customer), &id.into()),
                cutoff.token,
            ];
            for token in tokens {
                let text = token.expose();
                for format in [
                    TokenFormat::any(),
                    TokenFormat::new("cst_").or("(ended-session ").or(""),
                    TokenFormat::new(&text[..text.len().saturating_sub(43)]),
                ] {
                    assert!(!format.matches(text), "{text}");
                }
                assert!(!is_link(&token), "{text}");
            }
        }
    }

    #[test]
    fn entries_of_other_sessions_have_other_tokens() {
        let tokens = [
            token_of(None, &"1 a b".into()),
            token_of(None, &"b".into()),
            token_of(Some(&"a".into()), &"b".into()),
            token_of(Some(&"a b".into()), &"c".into()),
            token_of(Some(&"a".into()), &"b c".into()),
        ];
        for (place, token) in tokens.iter().enumerate() {
            assert!(!tokens[..place].contains(token), "{}", token.expose());
        }
    }

    #[test]
    fn an_entry_never_authenticates() {
        let end = at(10_000);
        let one = record_of(None, &"ses_1".into(), end).expect("random bytes");
        let many = Cutoff::new(at(0), at(0), end)
            .record(None)
            .expect("random bytes");
        assert!(!one.is_live_at(at(1)) && !many.is_live_at(at(1)));
    }

    #[test]
    fn a_cutoff_ends_what_was_created_until_then_but_for_the_kept_one() {
        let leeway = TimeDelta::seconds(2);
        let cutoff = Cutoff::new(at(100), at(100), at(10_000)).but("kept by id".into());
        let record = cutoff.record(None).expect("random bytes");
        let read = Cutoff::of(&SessionSummary::from(&record));
        assert_eq!(read, cutoff);
        assert!(cutoff.is_there_since(at(100)) && !cutoff.is_there_since(at(99)));
        assert!(cutoff.ends(&session("other", at(100)), leeway));
        assert!(cutoff.ends(&session("other", at(102)), leeway));
        assert!(!cutoff.ends(&session("other", at(103)), leeway));
        assert!(!cutoff.ends(&session("kept by id", at(1)), leeway));
        assert!(cutoff.ends(&session("kept", at(1)), leeway));
        assert!(cutoff.ends(&session("other", at(103)), TimeDelta::MAX));
    }

    #[test]
    fn a_cutoff_covers_what_it_makes_needless_and_no_more() {
        let cutoff = Cutoff::new(at(100), at(100), at(1000));
        let kept = |id: &str| cutoff.clone().but(id.into());
        assert!(cutoff.covers(&cutoff) && cutoff.covers(&kept("a")));
        assert!(kept("a").covers(&kept("a")));
        assert!(!kept("a").covers(&cutoff) && !kept("a").covers(&kept("b")));
        assert!(cutoff.covers(&Cutoff::new(at(100), at(99), at(999))));
        assert!(!cutoff.covers(&Cutoff::new(at(100), at(101), at(1000))));
        assert!(!cutoff.covers(&Cutoff::new(at(100), at(100), at(1001))));
    }
}
