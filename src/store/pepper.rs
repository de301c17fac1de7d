//! Tokens at rest: hashes under keys that the database does not have.

use std::fmt;

use hmac::{Hmac, KeyInit, Mac};
use sha2::{Digest, Sha256};

use super::error::StoreError;
use crate::token::SessionToken;

/// Shortest accepted pepper, in bytes.
const MIN_LEN: usize = 16;

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

/// A token as it is kept: 64 hexadecimal digits.
pub(super) type TokenHash = String;

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

    /// Compares the peppers with the fingerprints of those that a database was written under.
    /// Returns the fingerprint that the database should keep too, if it is new.
    pub(super) fn verify(&self, known: &[String]) -> Result<Option<String>, StoreError> {
        if self.ring.iter().any(Pepper::is_too_short) {
            return Err(StoreError::unavailable(format!(
                "a pepper is shorter than {MIN_LEN} bytes; check that the variable it comes from is set"
            )));
        }
        let fingerprint = |pepper: &Pepper| pepper.hash(FINGERPRINT_OF)[..16].to_owned();
        let current = fingerprint(&self.ring[0]);
        let is_known = |fingerprint: &String| known.contains(fingerprint);
        if is_known(&current) {
            Ok(None)
        } else if known.is_empty()
            || self.ring[1..]
                .iter()
                .map(fingerprint)
                .any(|older| is_known(&older))
        {
            Ok(Some(current))
        } else {
            Err(StoreError::unavailable(
                "these sessions were kept under another pepper than those given: give that one, \
                 or put the new one in front of it with `Peppers::new(new).or(old)`; to end all \
                 sessions instead, delete them and the fingerprints of their peppers",
            ))
        }
    }
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

    fn hash(&self, text: &str) -> TokenHash {
        match self {
            Self::Key { hmac, .. } => {
                let mut hmac = hmac.clone();
                hmac.update(text.as_bytes());
                hex::encode(hmac.finalize().into_bytes())
            }
            Self::None => hex::encode(Sha256::digest(text)),
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

    #[test]
    fn a_token_is_kept_as_polar_keeps_it() {
        // RFC 4231, test case 2, and FIPS 180-4's "abc".
        let hmac = Pepper::new(b"Jefe").hash("what do ya want for nothing?");
        assert_eq!(
            hmac,
            "5bdcc146bf60754e6a042426089575c75a003f089d2739839dec58b964ec3843"
        );
        assert_eq!(
            Peppers::none().hash(&SessionToken::new("abc")),
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

    #[test]
    fn a_wrong_pepper_is_noticed() {
        let one = Peppers::new([1; 32]);
        let known = vec![one.verify(&[]).expect("the first").expect("to remember")];
        assert_eq!(one.verify(&known).expect("known"), None);

        let two = Peppers::new([2; 32]);
        assert!(two.verify(&known).is_err());
        assert!(Peppers::none().verify(&known).is_err());
        let ring = two.clone().or([1; 32]);
        let both = vec![
            known[0].clone(),
            ring.verify(&known).expect("a change").expect("to remember"),
        ];
        assert_eq!(two.verify(&both).expect("the old one is retired"), None);
    }

    #[test]
    fn an_empty_pepper_is_refused() {
        assert!(Peppers::new("").verify(&[]).is_err());
        assert!(Peppers::new([0; 16]).or("short").verify(&[]).is_err());
        assert!(Peppers::none().verify(&[]).is_ok());
    }
}
