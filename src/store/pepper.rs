//! Tokens at rest: hashes under keys that the database does not have.

use std::fmt;

use chrono::{DateTime, SubsecRound as _, Utc};
use hmac::{Hmac, KeyInit, Mac};
use sha2::{Digest, Sha256};

use super::error::StoreError;
use crate::token::SessionToken;

/// Shortest accepted pepper, in bytes.
const MIN_LEN: usize = 16;

/// Attempts of a check at putting a new pepper in use while others put theirs.
pub(super) const MAX_ROTATIONS: u32 = 4;

/// Text whose hash is a pepper's fingerprint. No token contains a space.
const FINGERPRINT_OF: &str = "customer-session pepper";

/// The secrets under which a store keeps tokens: hex HMAC-SHA256(pepper, token), as Polar does.
///
/// A pepper is configured, not stored. A copy of the database is therefore of no use: its hashes do
/// not open sessions, and do not tell whether a token found elsewhere is among them. An attacker
/// who can write to the database cannot plant a session for a token of their own.
///
/// Peppers form a ring: the first one writes, all of them read, and a session that is found under
/// an older pepper is kept under the first from then on. To change the pepper, give the new one to
/// all machines behind the old one, `Peppers::new(old).or(new)`. When all machines read it, put it
/// first. Remove the old one when the last session kept under it has expired.
///
/// The database remembers the fingerprints of the peppers that came first in a ring, and when each
/// of them took the place of the one before. The last of them is in use, and a store whose ring
/// lacks it refuses to work, whether its peppers are unknown or retired. To go back after a change,
/// keep both: `Peppers::new(old).or(new)`.
///
/// ```
/// use customer_session::store::Peppers;
///
/// let peppers = Peppers::new("from your secret manager, 2031").or("the one of 2030, perhaps");
/// assert_eq!(format!("{peppers:?}"), "Peppers(2, redacted)");
/// ```
#[derive(Clone)]
pub struct Peppers {
    /// Never empty; the first one writes.
    ring: Vec<Pepper>,
}

#[derive(Clone)]
enum Pepper {
    Key { hmac: Hmac<Sha256>, len: usize },
    None,
}

/// A token as it is kept.
pub(super) type TokenHash = [u8; 32];

impl Peppers {
    /// Creates a ring of one pepper: at least 16 bytes, better 32 random ones. Stores refuse to work
    /// with a shorter one.
    pub fn new(pepper: impl AsRef<[u8]>) -> Self {
        Self {
            ring: vec![Pepper::new(pepper.as_ref())],
        }
    }

    /// Creates a ring without a pepper: plain SHA-256.
    ///
    /// The tokens stay secret all the same, since 220 random bits cannot be guessed. What you give
    /// up: a copy of the database confirms a token that was found elsewhere, and an attacker who can
    /// write to the database can plant the hash of a token that they made.
    pub fn none() -> Self {
        Self {
            ring: vec![Pepper::None],
        }
    }

    /// Also reads sessions kept under `older`.
    #[must_use]
    pub fn or(mut self, older: impl AsRef<[u8]>) -> Self {
        self.ring.push(Pepper::new(older.as_ref()));
        self
    }

    /// Also reads sessions kept without a pepper.
    #[must_use]
    pub fn or_none(mut self) -> Self {
        self.ring.push(Pepper::None);
        self
    }

    /// Returns the number of hashes of a token.
    pub(super) fn len(&self) -> usize {
        self.ring.len()
    }

    /// Returns the hash under which `token` is kept from now on.
    pub(super) fn hash(&self, token: &SessionToken) -> TokenHash {
        self.ring[0].hash(token.expose())
    }

    /// Returns all hashes under which `token` may be kept, the current one first.
    pub(super) fn hashes(&self, token: &SessionToken) -> impl Iterator<Item = TokenHash> {
        self.ring.iter().map(|pepper| pepper.hash(token.expose()))
    }

    /// Judges the peppers by those that a database was written under, oldest first: the ring must
    /// hold the newest of them. Returns the one to add to them, if it is new. Once it is added, the
    /// caller reads them and judges again, since another machine may have added one first.
    ///
    /// # Errors
    ///
    /// [`Unavailable`](crate::StoreErrorKind::Unavailable), with a text that says what to do.
    pub(super) fn judge(&self, used: &[UsedPepper]) -> Result<Option<NewPepper>, StoreError> {
        if self.ring.iter().any(Pepper::is_too_short) {
            return Err(StoreError::unavailable(format!(
                "a pepper is shorter than {MIN_LEN} bytes; check that the variable it comes from is set"
            )));
        }
        let ring: Vec<_> = self.ring.iter().map(Pepper::fingerprint).collect();
        let Some(newest) = used.last() else {
            return Ok(Some(NewPepper::new(&ring[0], "")));
        };
        if ring.contains(&newest.fingerprint) {
            let is_used = used.iter().any(|pepper| pepper.fingerprint == ring[0]);
            return Ok((!is_used).then(|| NewPepper::new(&ring[0], &newest.fingerprint)));
        }
        let mut pairs = used.windows(2).rev();
        let retired = pairs.find(|pair| ring.contains(&pair[0].fingerprint));
        Err(retired.map_or_else(is_unknown, |pair| is_retired(pair[1].used_since)))
    }
}

/// A pepper under which a database keeps sessions, or did.
pub(super) struct UsedPepper {
    pub(super) fingerprint: String,
    /// When it became the newest, and the one before was retired.
    pub(super) used_since: DateTime<Utc>,
}

/// The fingerprint of a pepper that is to become the newest.
#[derive(Debug, PartialEq, Eq)]
pub(super) struct NewPepper {
    pub(super) fingerprint: String,
    /// The fingerprint that must still be the newest then; empty if there must be none.
    pub(super) after: String,
}

impl NewPepper {
    fn new(fingerprint: &str, after: &str) -> Self {
        Self {
            fingerprint: fingerprint.to_owned(),
            after: after.to_owned(),
        }
    }
}

/// Returns the error of a ring of peppers that the database was never written under.
fn is_unknown() -> StoreError {
    StoreError::unavailable(
        "these sessions were kept under another pepper than those given: give that one, \
         or put the new one in front of it with `Peppers::new(new).or(old)`; to end all \
         sessions instead, delete them and the fingerprints of their peppers",
    )
}

/// Returns the error of a ring whose newest pepper is an older one of the database.
fn is_retired(at: DateTime<Utc>) -> StoreError {
    let at = at.trunc_subsecs(0);
    StoreError::unavailable(format!(
        "the pepper given was retired at {at}, when a newer one took its place, under which \
         sessions are kept now: give the newer one; to go back to this one, give both, \
         `Peppers::new(this).or(newer)`"
    ))
}

/// Returns the error of a new pepper that could not become the newest.
pub(super) fn keeps_changing() -> StoreError {
    StoreError::unavailable("other machines are changing the pepper at the same time; try again")
}

impl Pepper {
    fn new(pepper: &[u8]) -> Self {
        Self::Key {
            hmac: Hmac::new_from_slice(pepper).expect("HMAC takes a key of any length"),
            len: pepper.len(),
        }
    }

    fn is_too_short(&self) -> bool {
        matches!(self, Self::Key { len, .. } if *len < MIN_LEN)
    }

    fn fingerprint(&self) -> String {
        hex::encode(&self.hash(FINGERPRINT_OF)[..8])
    }

    fn hash(&self, text: &str) -> TokenHash {
        match self {
            Self::Key { hmac, .. } => {
                let mut hmac = hmac.clone();
                hmac.update(text.as_bytes());
                hmac.finalize().into_bytes().into()
            }
            Self::None => Sha256::digest(text).into(),
        }
    }
}

impl fmt::Debug for Peppers {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "Peppers({}, redacted)", self.len())
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::telemetry::with_causes;

    #[test]
    fn a_token_is_kept_as_polar_keeps_it() {
        // RFC 4231, test case 2, and FIPS 180-4's "abc".
        let hmac = Pepper::new(b"Jefe").hash("what do ya want for nothing?");
        assert_eq!(
            hex::encode(hmac),
            "5bdcc146bf60754e6a042426089575c75a003f089d2739839dec58b964ec3843"
        );
        assert_eq!(
            hex::encode(Peppers::none().hash(&SessionToken::new("abc"))),
            "ba7816bf8f01cfea414140de5dae2223b00361a396177a9cb410ff61f20015ad"
        );
    }

    #[test]
    fn a_ring_reads_all_and_writes_the_first() {
        let token = SessionToken::new("cst_1");
        let (old, new) = (Peppers::new([1; 32]), Peppers::new([2; 32]));
        let ring = Peppers::new([2; 32]).or([1; 32]).or_none();
        assert_eq!(ring.hash(&token), new.hash(&token));
        let kept = [&new, &old, &Peppers::none()].map(|peppers| peppers.hash(&token));
        assert_eq!(ring.hashes(&token).collect::<Vec<_>>(), kept);
    }

    /// Uses `peppers` on a database, as a machine does at its start.
    fn start(peppers: &Peppers, used: &mut Vec<UsedPepper>) -> Result<(), StoreError> {
        while let Some(new) = peppers.judge(used)? {
            let newest = used.last().map_or("", |newest| newest.fingerprint.as_str());
            assert_eq!(newest, new.after);
            let days = i64::try_from(used.len()).expect("a few");
            used.push(UsedPepper {
                fingerprint: new.fingerprint,
                used_since: DateTime::UNIX_EPOCH + chrono::TimeDelta::days(days),
            });
        }
        Ok(())
    }

    fn refusal(peppers: &Peppers, used: &[UsedPepper]) -> String {
        with_causes(&peppers.judge(used).expect_err("refused"))
    }

    #[test]
    fn a_ring_without_the_newest_pepper_is_refused() {
        let pepper = |number| Peppers::new([number; 32]);
        let (old, new) = (pepper(1), pepper(2));
        let used = &mut Vec::new();
        start(&old, used).expect("the first");
        start(&old, used).expect("the same again");
        assert_eq!(used.len(), 1);
        assert!(refusal(&new, used).contains("another pepper than those given"));
        assert!(refusal(&Peppers::none(), used).contains("another pepper than those given"));

        start(&old.clone().or([2; 32]), used).expect("all read both");
        assert_eq!(used.len(), 1, "the first one writes as before");
        start(&new.clone().or([1; 32]), used).expect("the rotation");
        assert_eq!(used.len(), 2);
        start(&new, used).expect("the end of the rotation");
        start(&old.clone().or([2; 32]), used).expect("a machine that was not swapped yet");
        assert_eq!(used.len(), 2);

        let retired = refusal(&old, used);
        assert!(
            retired.contains("retired at 1970-01-02 00:00:00 UTC"),
            "{retired}"
        );
        assert!(refusal(&pepper(3).or([1; 32]), used).contains("retired"));
        assert!(refusal(&pepper(3), used).contains("another pepper"));

        start(&pepper(3).or([2; 32]), used).expect("the next rotation");
        assert!(refusal(&new.or([1; 32]), used).contains("retired at 1970-01-03"));
        assert!(refusal(&old, used).contains("retired at 1970-01-02"));
    }

    #[test]
    fn an_empty_pepper_is_refused() {
        assert!(Peppers::new("").judge(&[]).is_err());
        assert!(Peppers::new([0; 16]).or("short").judge(&[]).is_err());
        assert!(Peppers::none().judge(&[]).is_ok());
    }
}
