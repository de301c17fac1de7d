//! The cookie that holds a session's token.

use crate::config_error::ConfigError;

/// The cookie in which a browser keeps the token of its session.
///
/// A layer reads it once [`token_from_cookie`](crate::CustomerSessionLayer::token_from_cookie) says
/// so. A name that begins with `__Host-` is the safe choice: a browser accepts such a cookie only
/// with `Secure` and `Path=/` and without `Domain`, so that no sibling domain can set it.
///
/// ```
/// use customer_session::{CustomerSessionLayer, SessionCookie, store::MemoryStore};
///
/// # fn main() -> Result<(), Box<dyn std::error::Error>> {
/// let cookie = SessionCookie::new("__Host-session")?;
/// let layer = CustomerSessionLayer::new(MemoryStore::new()).token_from_cookie(&cookie);
///
/// assert!(SessionCookie::new("my session").is_err());
/// # Ok(())
/// # }
/// ```
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct SessionCookie {
    name: String,
}

impl SessionCookie {
    /// Creates a cookie with this name.
    ///
    /// # Errors
    ///
    /// Returns an error if the name is not a token of RFC 6265 (section 4.1.1): it must consist of
    /// letters, digits and ``!#$%&'*+-.^_`|~``, and must not be empty.
    pub fn new(name: impl Into<String>) -> Result<Self, ConfigError> {
        let name = name.into();
        if is_name(&name) {
            Ok(Self { name })
        } else {
            Err(ConfigError::new(
                "a cookie's name must be a token of RFC 6265: letters, digits and \
                 !#$%&'*+-.^_`|~, without spaces",
            ))
        }
    }

    /// Returns the name of the cookie.
    pub fn name(&self) -> &str {
        &self.name
    }
}

/// Returns `true` if `name` is a token (RFC 6265, section 4.1.1; RFC 9110, section 5.6.2).
fn is_name(name: &str) -> bool {
    let is_tchar = |byte: u8| byte.is_ascii_alphanumeric() || b"!#$%&'*+-.^_`|~".contains(&byte);
    !name.is_empty() && name.bytes().all(is_tchar)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_cookie_name_is_a_token() {
        for name in ["session", "__Host-session", "a.b_c~d!"] {
            let cookie = SessionCookie::new(name).expect("a token");
            assert_eq!(cookie.name(), name);
        }
        for name in ["", "a b", "a=b", "a;b", "ä", "a\n", "\"a\"", "a,b"] {
            let error = SessionCookie::new(name).expect_err(name);
            assert!(error.to_string().contains("must be a token"), "{error}");
        }
    }
}
