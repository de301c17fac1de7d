//! The token of a session, and the format of tokens.

use std::{fmt, sync::Arc};

use constant_time_eq::constant_time_eq;
use serde::{Deserialize, Deserializer, Serialize, Serializer};
use zeroize::Zeroizing;

/// The secret that opens a customer session.
///
/// The type keeps it secret: `Debug` is redacted, there is no `Display`, comparison takes constant
/// time, and the memory is overwritten on drop. Only [`expose`](SessionToken::expose) and
/// serialization reveal it, because the response of a sign-in endpoint must carry it once.
///
/// ```
/// use customer_session::SessionToken;
///
/// let token = SessionToken::new("cst_secret");
/// assert_eq!(format!("{token:?}"), "SessionToken(redacted)");
/// assert_eq!(token.expose(), "cst_secret");
/// ```
#[derive(Clone)]
pub struct SessionToken(Zeroizing<String>);

impl SessionToken {
    /// Wraps a token without checking it; [`TokenFormat::matches`] checks.
    pub fn new(token: impl Into<String>) -> Self {
        Self(Zeroizing::new(token.into()))
    }

    /// Wraps a token that its format has accepted.
    pub(crate) fn from_ascii(token: &[u8]) -> Self {
        Self::new(String::from_utf8_lossy(token))
    }

    /// Returns the secret itself. Hash it or send it to its owner; do not log it.
    pub fn expose(&self) -> &str {
        &self.0
    }

    /// Returns `true` if this is `token`, in time that depends on the lengths alone.
    #[inline]
    pub(crate) fn is(&self, token: &[u8]) -> bool {
        constant_time_eq(self.0.as_bytes(), token)
    }
}

impl PartialEq for SessionToken {
    fn eq(&self, other: &Self) -> bool {
        self.is(other.expose().as_bytes())
    }
}

impl Eq for SessionToken {}

impl fmt::Debug for SessionToken {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("SessionToken(redacted)")
    }
}

impl Serialize for SessionToken {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.serialize_str(self.expose())
    }
}

impl<'de> Deserialize<'de> for SessionToken {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        String::deserialize(deserializer).map(Self::new)
    }
}

const RANDOM_LEN: usize = 37;
const CHECKSUM_LEN: usize = 6;
const BASE62: &[u8; 62] = b"0123456789ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz";

/// The prefix of the tokens that this crate's own stores issue.
const OWN_PREFIX: &str = "cst_";

/// The prefix of one-time links, which no format accepts.
const LINK_PREFIX: &str = "cst_link_";

/// The format of the tokens of a store. A token that does not match is refused without asking the
/// store.
///
/// A token made by [`generate`](TokenFormat::generate) consists of a prefix, 37 random characters of
/// `[0-9A-Za-z]` (220 bits from the operating system), and 6 characters that are the base62 of the
/// CRC-32 of those 37. Polar uses this format, and secret scanners recognize it by its prefix.
///
/// No format accepts a token that begins with `cst_link_`: these are
/// [one-time links](crate::CustomerSessions::link), which open nothing by themselves.
///
/// ```
/// use customer_session::TokenFormat;
///
/// let format = TokenFormat::new("acme_cst_").or("acme_old_");
/// let token = format.generate();
/// assert!(token.expose().starts_with("acme_cst_"));
/// assert!(format.matches(token.expose()));
/// assert!(!format.matches("undefined"));
/// ```
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct TokenFormat {
    /// `None` is [`TokenFormat::any`]. New tokens get the first prefix.
    prefixes: Option<Arc<[Box<str>]>>,
}

impl TokenFormat {
    /// The longest token that [`any`](TokenFormat::any) accepts, in bytes.
    pub const MAX_LEN: usize = 4096;

    /// Accepts every `b64token` (RFC 6750, section 2.1) of up to 4 KiB.
    ///
    /// New tokens of this format begin with `cst_`.
    pub fn any() -> Self {
        Self { prefixes: None }
    }

    /// Accepts `prefix`, 37 random characters, and their checksum.
    ///
    /// A prefix should be made of the characters that RFC 6750 allows in a token (letters,
    /// digits, `-._~+/`); with any other character a client cannot send the token.
    ///
    /// # Panics
    ///
    /// Panics if the prefix begins with `cst_link_`, by which one-time links are known.
    pub fn new(prefix: impl Into<String>) -> Self {
        Self {
            prefixes: Some(Arc::new([checked_prefix(prefix)])),
        }
    }

    /// Accepts one more prefix. New tokens still get the first. Changes nothing on
    /// [`any`](TokenFormat::any), which accepts it already.
    ///
    /// # Panics
    ///
    /// Panics if the prefix begins with `cst_link_`, by which one-time links are known.
    #[must_use]
    pub fn or(self, prefix: impl Into<String>) -> Self {
        let one_more = checked_prefix(prefix);
        let prefixes = self
            .prefixes
            .map(|prefixes| prefixes.iter().cloned().chain([one_more]).collect());
        Self { prefixes }
    }

    /// Accepts the tokens of Polar's customer (`polar_cst_`) and member (`polar_mst_`) sessions.
    pub fn polar() -> Self {
        Self::new("polar_cst_").or("polar_mst_")
    }

    /// Returns `true` if `token` has this format.
    ///
    /// The length is checked first, so that a long token costs nothing.
    pub fn matches(&self, token: &str) -> bool {
        self.accepts(token.as_bytes())
    }

    /// Returns `true` if the bytes of a header have this format. They are ASCII then.
    pub(crate) fn accepts(&self, token: &[u8]) -> bool {
        let is_accepted = match &self.prefixes {
            None => self.has_shape(token) && is_b64token(token),
            Some(prefixes) => prefixes
                .iter()
                .filter_map(|prefix| without_prefix(token, prefix))
                .any(is_checked_random),
        };
        is_accepted && !token.starts_with(LINK_PREFIX.as_bytes())
    }

    /// Checks the part of [`accepts`](Self::accepts) that is cheap: length and prefix.
    #[inline]
    pub(crate) fn has_shape(&self, token: &[u8]) -> bool {
        match &self.prefixes {
            None => token.len() <= Self::MAX_LEN,
            Some(prefixes) => prefixes
                .iter()
                .any(|prefix| without_prefix(token, prefix).is_some()),
        }
    }

    /// Generates a token from the operating system's randomness.
    ///
    /// # Panics
    ///
    /// Panics if the operating system provides no randomness, since there is no safe token to return.
    pub fn generate(&self) -> SessionToken {
        self.try_generate()
            .expect("the operating system gives random bytes")
    }

    /// Generates a token, for callers that can report an error.
    pub(crate) fn try_generate(&self) -> Result<SessionToken, getrandom::Error> {
        generate(match &self.prefixes {
            Some(prefixes) => &prefixes[0],
            None => OWN_PREFIX,
        })
    }
}

/// Refuses the prefix of one-time links.
fn checked_prefix(prefix: impl Into<String>) -> Box<str> {
    let prefix = prefix.into();
    assert!(
        !prefix.starts_with(LINK_PREFIX),
        "tokens that begin with `{LINK_PREFIX}` are one-time links; choose another prefix"
    );
    prefix.into_boxed_str()
}

/// Generates the token of a one-time link.
pub(crate) fn generate_link() -> Result<SessionToken, getrandom::Error> {
    generate(LINK_PREFIX)
}

/// Returns `true` if `token` may be that of a one-time link.
pub(crate) fn is_link(token: &SessionToken) -> bool {
    without_prefix(token.expose().as_bytes(), LINK_PREFIX).is_some_and(is_checked_random)
}

fn generate(prefix: &str) -> Result<SessionToken, getrandom::Error> {
    // Full capacity at once: growing would leave a copy of the secret behind.
    let mut token = String::with_capacity(prefix.len() + RANDOM_LEN + CHECKSUM_LEN);
    token.push_str(prefix);
    let mut bytes = Zeroizing::new([0; 64]);
    while token.len() < prefix.len() + RANDOM_LEN {
        getrandom::fill(bytes.as_mut_slice())?;
        let missing = prefix.len() + RANDOM_LEN - token.len();
        // 248 is the largest multiple of 62 in a byte: above it characters would be uneven.
        let fair = bytes.iter().filter(|byte| **byte < 248).take(missing);
        token.extend(fair.map(|byte| char::from(BASE62[usize::from(byte % 62)])));
    }
    let checksum = base62(crc32fast::hash(&token.as_bytes()[prefix.len()..]));
    token.extend(checksum.map(char::from));
    Ok(SessionToken::new(token))
}

/// RFC 6750, section 2.1: `1*( ALPHA / DIGIT / "-" / "." / "_" / "~" / "+" / "/" ) *"="`.
fn is_b64token(token: &[u8]) -> bool {
    let end = token
        .iter()
        .rposition(|byte| *byte != b'=')
        .map_or(0, |last| last + 1);
    end > 0
        && all(&token[..end], |byte| {
            byte.is_ascii_alphanumeric() | matches!(byte, b'-' | b'.' | b'_' | b'~' | b'+' | b'/')
        })
}

/// Returns `true` if `is_good` holds for every byte. It checks all of them, sixteen at a time, which
/// is much faster on valid input than stopping at the first that fails.
fn all(bytes: &[u8], is_good: impl Fn(u8) -> bool) -> bool {
    bytes.iter().fold(true, |good, byte| good & is_good(*byte))
}

/// Returns what follows `prefix`, if it has the length of random characters and checksum.
#[inline]
fn without_prefix<'a>(
    token: &'a [u8],
    prefix: &str,
) -> Option<&'a [u8; RANDOM_LEN + CHECKSUM_LEN]> {
    token.strip_prefix(prefix.as_bytes())?.try_into().ok()
}

fn is_checked_random(rest: &[u8; RANDOM_LEN + CHECKSUM_LEN]) -> bool {
    let (random, checksum) = rest.split_at(RANDOM_LEN);
    all(random, |byte| byte.is_ascii_alphanumeric())
        // Encoding the true value and comparing needs no decoder that could overflow.
        && base62(crc32fast::hash(random)) == checksum
}

/// Returns `value` as six base62 digits, padded with zeros; `u32::MAX` is `4gfFC3`.
fn base62(mut value: u32) -> [u8; CHECKSUM_LEN] {
    let mut digits = [b'0'; CHECKSUM_LEN];
    for digit in digits.iter_mut().rev() {
        *digit = BASE62[(value % 62) as usize];
        value /= 62;
    }
    digits
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn base62_pads_to_six_digits() {
        let known: [(u32, &[u8; 6]); 8] = [
            (0, b"000000"),
            (9, b"000009"),
            (10, b"00000A"),
            (36, b"00000a"),
            (62, b"000010"),
            (3844, b"000100"),
            (2_147_483_648, b"2LKcb2"),
            (u32::MAX, b"4gfFC3"),
        ];
        for (value, digits) in known {
            assert_eq!(&base62(value), digits, "{value}");
        }
    }

    #[test]
    fn b64token_is_that_of_rfc_6750() {
        for good in ["a", "-._~+/", "abc=", "abc=====", "0"] {
            assert!(is_b64token(good.as_bytes()), "{good}");
        }
        for bad in ["", "=", "==", "a=b", "a b", "a,b", "a\"", "a:b", "é", "a\n"] {
            assert!(!is_b64token(bad.as_bytes()), "{bad}");
        }
    }

    #[test]
    fn the_checksum_covers_the_random_part_alone() {
        let format = TokenFormat::new("one_").or("two_");
        let token = format.generate();
        let random = token.expose().strip_prefix("one_").expect("first prefix");
        assert!(format.matches(&format!("two_{random}")));
        assert!(!format.matches(&format!("six_{random}")));
    }

    #[test]
    fn no_format_accepts_a_link() {
        let link = generate_link().expect("random bytes");
        assert!(is_link(&link));
        for format in [
            TokenFormat::any(),
            TokenFormat::new("cst_"),
            TokenFormat::new("").or("cst_"),
            TokenFormat::polar(),
        ] {
            assert!(!format.matches(link.expose()), "{format:?}");
        }
        let session = TokenFormat::any().generate();
        assert!(!is_link(&session));
        let (_, random) = session.expose().split_at(OWN_PREFIX.len());
        assert!(is_link(&SessionToken::new(format!("cst_link_{random}"))));
        assert!(!is_link(&SessionToken::new(format!("cst_link_{random}0"))));
        assert!(!is_link(&SessionToken::new("cst_link_")));
    }

    #[test]
    #[should_panic(expected = "one-time links")]
    fn a_format_with_the_prefix_of_links_is_refused_at_start_up() {
        let _ = TokenFormat::new("other_").or("cst_link_2_");
    }

    #[test]
    fn any_changed_character_is_noticed() {
        let format = TokenFormat::new("cst_");
        let token = format.generate();
        for place in 0..token.expose().len() {
            let mut bytes = token.expose().as_bytes().to_vec();
            bytes[place] = if bytes[place] == b'x' { b'y' } else { b'x' };
            let changed = String::from_utf8(bytes).expect("ASCII");
            assert!(!format.matches(&changed), "changed at {place}");
        }
    }

    #[test]
    fn new_tokens_use_the_whole_alphabet_and_never_repeat() {
        let format = TokenFormat::any();
        let mut seen = std::collections::HashSet::new();
        let mut letters = std::collections::HashSet::new();
        for _ in 0..500 {
            let token = format.generate();
            assert!(format.matches(token.expose()));
            assert_eq!(token.expose().len(), 4 + RANDOM_LEN + CHECKSUM_LEN);
            letters.extend(token.expose()[4..4 + RANDOM_LEN].bytes());
            assert!(seen.insert(token.expose().to_owned()));
        }
        assert_eq!(letters.len(), 62);
    }

    #[test]
    fn length_is_limited() {
        assert!(TokenFormat::any().matches(&"a".repeat(TokenFormat::MAX_LEN)));
        assert!(!TokenFormat::any().matches(&"a".repeat(TokenFormat::MAX_LEN + 1)));
        assert!(!TokenFormat::any().matches(""));
    }
}
