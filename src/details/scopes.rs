//! What a session may be used for.

use std::{error::Error, fmt, str::FromStr, sync::Arc};

use serde::{Deserialize, Serialize};

use super::invalid::InvalidDetails;

/// Scopes of a session: names such as `orders:read`, sorted, each once.
///
/// A scope is 1 to 128 characters of RFC 6749, section 3.3: printable ASCII without the space, `"` and
/// `\`. Scopes compare byte for byte. Cloning copies a pointer. As text and in JSON they are one string,
/// with a space between two.
///
/// ```
/// use customer_session::Scopes;
///
/// let scopes: Scopes = "orders:write orders:read".parse()?;
/// assert!(scopes.contains("orders:read"));
/// assert!(Scopes::new(["orders:read"])?.is_subset_of(&scopes));
/// assert_eq!(scopes.to_string(), "orders:read orders:write");
/// # Ok::<(), Box<dyn std::error::Error>>(())
/// ```
#[derive(Clone, Default, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(try_from = "String", into = "String")]
pub struct Scopes(Option<Arc<[Box<str>]>>);

impl Scopes {
    /// The number of scopes that a session has at most.
    pub const MAX: usize = 64;

    /// The length of the longest scope, in bytes.
    pub const MAX_SCOPE_LEN: usize = 128;

    /// Creates scopes from their names, in any order.
    ///
    /// # Errors
    ///
    /// If there are more than [`MAX`](Self::MAX), or if one is empty, too long, or holds a character
    /// that RFC 6749 does not allow.
    pub fn new<S: AsRef<str>>(names: impl IntoIterator<Item = S>) -> Result<Self, InvalidDetails> {
        let mut scopes: Vec<Box<str>> = Vec::new();
        for name in names {
            let name = name.as_ref();
            check_scope(name)?;
            if let Err(index) = scopes.binary_search_by(|scope| (**scope).cmp(name)) {
                if scopes.len() == Self::MAX {
                    return Err(InvalidDetails::new("a session has at most 64 scopes"));
                }
                scopes.insert(index, name.into());
            }
        }
        Ok(Self(
            Some(scopes)
                .filter(|scopes| !scopes.is_empty())
                .map(Arc::from),
        ))
    }

    /// Returns `true` if `scope` is one of them.
    pub fn contains(&self, scope: &str) -> bool {
        let scopes = self.as_slice();
        scopes.binary_search_by(|name| (**name).cmp(scope)).is_ok()
    }

    /// Returns `true` if each of them is one of `others`.
    pub fn is_subset_of(&self, others: &Self) -> bool {
        self.iter().all(|scope| others.contains(scope))
    }

    /// Returns the scopes in the order of their bytes.
    pub fn iter(&self) -> impl Iterator<Item = &str> {
        self.as_slice().iter().map(|scope| &**scope)
    }

    /// Returns `true` if there are none.
    pub fn is_empty(&self) -> bool {
        self.0.is_none()
    }

    fn as_slice(&self) -> &[Box<str>] {
        self.0.as_deref().unwrap_or_default()
    }
}

/// Refuses what is not a scope.
pub(super) fn check_scope(name: &str) -> Result<(), InvalidDetails> {
    // RFC 6749, section 3.3: %x21 / %x23-5B / %x5D-7E.
    let is_allowed = |byte: u8| byte.is_ascii_graphic() && byte != b'"' && byte != b'\\';
    match (1..=Scopes::MAX_SCOPE_LEN).contains(&name.len()) && name.bytes().all(is_allowed) {
        true => Ok(()),
        false => Err(InvalidDetails::new(
            "a scope must be 1 to 128 characters of RFC 6749, section 3.3: printable ASCII without \
             the space, `\"` and `\\`",
        )),
    }
}

impl FromStr for Scopes {
    type Err = InvalidDetails;

    /// Reads scopes with a space between two, as in the parameter `scope` of OAuth 2.0.
    fn from_str(text: &str) -> Result<Self, InvalidDetails> {
        match text {
            "" => Ok(Self::default()),
            text => Self::new(text.split(' ')),
        }
    }
}

impl TryFrom<String> for Scopes {
    type Error = InvalidDetails;

    fn try_from(text: String) -> Result<Self, InvalidDetails> {
        text.parse()
    }
}

impl From<Scopes> for String {
    fn from(scopes: Scopes) -> Self {
        scopes.as_slice().join(" ")
    }
}

impl fmt::Display for Scopes {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.as_slice().join(" "))
    }
}

impl fmt::Debug for Scopes {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_set().entries(self.iter()).finish()
    }
}

/// A session lacks a scope.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct InsufficientScope {
    scope: String,
}

impl InsufficientScope {
    pub(super) fn new(scope: &str) -> Self {
        Self {
            scope: scope.to_owned(),
        }
    }

    /// Returns the scope that is required.
    pub fn scope(&self) -> &str {
        &self.scope
    }
}

impl fmt::Display for InsufficientScope {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "the session lacks the scope {:?}", self.scope)
    }
}

impl Error for InsufficientScope {}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn scopes_are_sorted_and_each_is_there_once() {
        let scopes = Scopes::new(["b", "a", "b", "B"]).expect("valid");
        assert_eq!(scopes.iter().collect::<Vec<_>>(), ["B", "a", "b"]);
        assert_eq!(scopes, "b a B".parse().expect("valid"));
        assert!(!scopes.contains("A") && !scopes.contains("") && !scopes.contains("a b"));
        assert_eq!("".parse(), Ok(Scopes::default()));
    }

    #[test]
    fn a_subset_has_no_scope_of_its_own() {
        let scopes = |text: &str| -> Scopes { text.parse().expect("valid") };
        for (some, others, is_subset) in [
            ("", "", true),
            ("", "a", true),
            ("a", "", false),
            ("a", "a b", true),
            ("a c", "a b", false),
        ] {
            let answer = scopes(some).is_subset_of(&scopes(others));
            assert_eq!(answer, is_subset, "{some:?} of {others:?}");
        }
    }

    #[test]
    fn only_the_characters_of_rfc_6749_are_allowed() {
        for byte in 0..=127_u8 {
            let name = char::from(byte).to_string();
            let is_allowed = matches!(byte, 0x21 | 0x23..=0x5b | 0x5d..=0x7e);
            assert_eq!(Scopes::new([&name]).is_ok(), is_allowed, "{name:?}");
        }
        for text in [" ", "a ", " a", "a  b", "é", "a\tb"] {
            assert!(text.parse::<Scopes>().is_err(), "{text:?}");
        }
    }

    #[test]
    fn number_and_length_have_bounds() {
        let names = (0..=Scopes::MAX).map(|number| number.to_string());
        let names: Vec<_> = names.collect();
        assert!(Scopes::new(&names[1..]).is_ok());
        let error = Scopes::new(&names).expect_err("one too many");
        assert_eq!(error.to_string(), "a session has at most 64 scopes");
        // A repeated one does not count.
        assert!(Scopes::new(names[1..].iter().chain(&names[1..])).is_ok());
        assert!(Scopes::new(["x".repeat(Scopes::MAX_SCOPE_LEN)]).is_ok());
        assert!(Scopes::new(["x".repeat(Scopes::MAX_SCOPE_LEN + 1)]).is_err());
    }
}
