//! The cookie that holds a session's token.

use std::fmt::Write as _;

use chrono::{DateTime, Utc};
use http::{
    HeaderMap, HeaderValue,
    header::{CACHE_CONTROL, SET_COOKIE},
};

use crate::{config_error::ConfigError, session::CustomerSession, store::StoreError};

/// The prefixes that browsers know, longest first (RFC 6265bis, section 4.1.3). The name after the
/// prefix `__Host-` may begin with another.
const PREFIXES: [&str; 4] = ["__Host-Http-", "__Host-", "__Secure-", "__Http-"];

/// Longest name and value together that every browser keeps (RFC 6265bis, section 5.7), in bytes.
const MAX_PAIR_LEN: usize = 4096;

/// Longest attribute that browsers read (RFC 6265bis, section 5.6), in bytes.
const MAX_ATTRIBUTE_LEN: usize = 1024;

/// The cookie in which a browser keeps the token of its session.
///
/// One description says what a layer [reads](crate::CustomerSessionLayer::token_from_cookie), what a
/// sign-in route [sets](Self::set) and what a sign-out route [clears](Self::clear). A browser removes
/// a cookie only if name, domain and path are those with which it was set, and for some names and
/// connections only with `Secure`. Otherwise it says nothing, and the customer stays signed in.
///
/// The attributes are `Path=/; Secure; HttpOnly; SameSite=Lax`. Without [`persistent`](Self::persistent)
/// the browser forgets the cookie when it is closed. A name that begins with `__Host-` is the safe
/// choice: a browser accepts such a cookie only with `Secure` and `Path=/` and without `Domain`, so
/// that no sibling domain can set it.
///
/// ```
/// use chrono::{TimeDelta, Utc};
/// use customer_session::{
///     CustomerData, CustomerSession, CustomerSessionLayer, SessionCookie, TokenFormat,
///     store::MemoryStore,
/// };
///
/// # fn main() -> Result<(), Box<dyn std::error::Error>> {
/// let cookie = SessionCookie::new("__Host-session")?;
/// let layer = CustomerSessionLayer::new(MemoryStore::new()).token_from_cookie(&cookie);
///
/// let token = TokenFormat::new("acme_cst_").generate();
/// let customer = CustomerData::new("cus_1", "org_1");
/// let session = CustomerSession::new("ses_1", token, customer, Utc::now() + TimeDelta::hours(1));
/// let set = cookie.set(&session)?;
/// assert!(set.header_value().is_sensitive());
/// let clear = cookie.clear();
/// assert_eq!(
///     clear.header_value(),
///     "__Host-session=; Path=/; Secure; HttpOnly; SameSite=Lax; Max-Age=0",
/// );
///
/// assert!(SessionCookie::new("my session").is_err());
/// assert!(SessionCookie::new("__Host-session")?.domain("example.com").is_err());
/// # Ok(())
/// # }
/// ```
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct SessionCookie {
    name: String,
    domain: Option<String>,
    path: String,
    is_secure: bool,
    is_strict: bool,
    is_persistent: bool,
}

impl SessionCookie {
    /// Creates a cookie with this name.
    ///
    /// # Errors
    ///
    /// Returns an error if the name is not a token of RFC 6265 (section 4.1.1): it must consist of
    /// letters, digits and ``!#$%&'*+-.^_`|~``, and must not be empty. A prefix such as `__Host-` must
    /// be written so, with something after it: browsers apply its rules to `__host-` too, other
    /// programs do not.
    pub fn new(name: impl Into<String>) -> Result<Self, ConfigError> {
        let name = name.into();
        if !is_name(&name) {
            return Err(ConfigError::new(
                "a cookie's name must be a token of RFC 6265: letters, digits and \
                 !#$%&'*+-.^_`|~, without spaces",
            ));
        }
        if without_prefix(&name).is_some_and(|(prefix, rest)| {
            rest.is_empty() || !name.starts_with(prefix) || without_prefix(rest).is_some()
        }) {
            return Err(ConfigError::new(
                "a cookie's prefix must be written as browsers define it, __Host- or __Secure-, \
                 once, and a name must follow",
            ));
        }
        Ok(Self {
            name,
            domain: None,
            path: "/".to_owned(),
            is_secure: true,
            is_strict: false,
            is_persistent: false,
        })
    }

    /// Sends the cookie to `domain` and to all its subdomains. By default it goes to the host that
    /// set it, and to no other.
    ///
    /// Every host of the domain then sees the token, and can set the cookie.
    ///
    /// # Errors
    ///
    /// Returns an error if the name begins with `__Host-`, which forbids it, and if `domain` is not
    /// the name of a host with a dot inside, such as `example.com` (an internationalized one in its
    /// `xn--` form). Browsers ignore the cookie of a public suffix, such as `co.uk`; this is not found
    /// here.
    pub fn domain(self, domain: impl AsRef<str>) -> Result<Self, ConfigError> {
        if self.is_for_one_host() {
            return Err(ConfigError::new(
                "a cookie whose name begins with __Host- must not have a domain; a name that \
                 begins with __Secure- may",
            ));
        }
        if !is_domain(domain.as_ref()) {
            return Err(ConfigError::new(
                "a cookie's domain must be the name of a host, such as example.com",
            ));
        }
        let domain = Some(domain.as_ref().to_ascii_lowercase());
        Ok(Self { domain, ..self })
    }

    /// Sends the cookie with requests for `path` and what lies below. The default is `/`.
    ///
    /// It is not a boundary of security: scripts of the same host reach every path.
    ///
    /// # Errors
    ///
    /// Returns an error if the name begins with `__Host-`, which demands `/`, and if `path` is not
    /// made of up to 1024 visible ASCII characters that begin with a slash and hold no semicolon.
    pub fn path(self, path: impl Into<String>) -> Result<Self, ConfigError> {
        let path = path.into();
        if self.is_for_one_host() && path != "/" {
            return Err(ConfigError::new(
                "a cookie whose name begins with __Host- must have the path /; a name that begins \
                 with __Secure- may have another",
            ));
        }
        let is_path_byte = |byte: u8| byte.is_ascii_graphic() && byte != b';';
        if !path.starts_with('/')
            || path.len() > MAX_ATTRIBUTE_LEN
            || !path.bytes().all(is_path_byte)
        {
            return Err(ConfigError::new(
                "a cookie's path must begin with a slash, and hold visible ASCII characters \
                 without a semicolon",
            ));
        }
        Ok(Self { path, ..self })
    }

    /// Lets the browser keep the cookie when it is closed ("remember me"), for as long as the session
    /// lasts: [`set`](Self::set) adds a `Max-Age` of what is left of it.
    #[must_use = "the changed cookie is returned"]
    #[doc(alias("max_age", "remember_me"))]
    pub fn persistent(self) -> Self {
        Self {
            is_persistent: true,
            ..self
        }
    }

    /// Sets `SameSite=Strict` in place of `Lax`.
    ///
    /// The browser then leaves the cookie out when a customer follows a link from another site, so
    /// the page opens as for an anonymous visitor.
    #[must_use = "the changed cookie is returned"]
    pub fn strict(self) -> Self {
        Self {
            is_strict: true,
            ..self
        }
    }

    /// Leaves `Secure` out, and the prefix of the name that demands it, for development without TLS.
    ///
    /// **Never in production**: each listener on the way could read the token.
    ///
    /// ```
    /// use customer_session::SessionCookie;
    ///
    /// # fn main() -> Result<(), customer_session::ConfigError> {
    /// let cookie = SessionCookie::new("__Host-session")?.insecure_for_development();
    /// assert_eq!(cookie.name(), "session");
    /// # Ok(())
    /// # }
    /// ```
    #[must_use = "the changed cookie is returned"]
    pub fn insecure_for_development(mut self) -> Self {
        if let Some((prefix, _)) = without_prefix(&self.name) {
            self.name.drain(..prefix.len());
        }
        self.is_secure = false;
        self
    }

    /// Returns the name of the cookie.
    pub fn name(&self) -> &str {
        &self.name
    }

    /// Returns the header that signs a browser in: it holds the token of `session`.
    ///
    /// # Errors
    ///
    /// Returns a [`StoreErrorKind::Invalid`](crate::StoreErrorKind::Invalid) if the token holds a
    /// character that a cookie cannot (a space, `"`, `,`, `;`, `\` or one that is not ASCII: RFC 6265,
    /// section 4.1.1), if it is empty, or if it is longer with the name than the 4096 bytes that
    /// browsers keep. Tokens that a [`TokenFormat`](crate::TokenFormat) makes fit.
    pub fn set(&self, session: &CustomerSession) -> Result<SetCookie, StoreError> {
        self.set_at(session, Utc::now())
    }

    /// Returns the header that signs a browser in, as [`set`](Self::set) does at this time. `now`
    /// matters to a [`persistent`](Self::persistent) cookie only.
    ///
    /// # Errors
    ///
    /// As [`set`](Self::set).
    pub fn set_at(
        &self,
        session: &CustomerSession,
        now: DateTime<Utc>,
    ) -> Result<SetCookie, StoreError> {
        let token = session.token.expose();
        if token.is_empty() || !token.bytes().all(is_cookie_octet) {
            return Err(StoreError::invalid(
                "the token has a character that a cookie cannot hold, or none: use a token format \
                 without spaces, quotes, commas, semicolons and backslashes",
            ));
        }
        if self.name.len() + token.len() > MAX_PAIR_LEN {
            return Err(StoreError::invalid(
                "the token is too long for a cookie: browsers keep 4096 bytes with the name",
            ));
        }
        // Rounded down: the cookie does not outlive the session.
        let left = (session.expires_at - now).num_seconds().max(0);
        Ok(self.header(token, self.is_persistent.then_some(left)))
    }

    /// Returns the header that signs a browser out: it removes the cookie.
    ///
    /// Revoke the session too: a copy of the token would still open it.
    pub fn clear(&self) -> SetCookie {
        self.header("", Some(0))
    }

    /// Builds the header, for setting and for clearing, so that the attributes cannot differ.
    fn header(&self, token: &str, max_age: Option<i64>) -> SetCookie {
        // Allocated at full size: growing would leave a copy of the secret in freed memory.
        let domain_len = self.domain.as_ref().map_or(0, String::len);
        let len = self.name.len() + token.len() + self.path.len() + domain_len + 128;
        let mut text = String::with_capacity(len);
        let same_site = if self.is_strict { "Strict" } else { "Lax" };
        text.extend([&*self.name, "=", token, "; Path=", &*self.path]);
        if let Some(domain) = &self.domain {
            text.extend(["; Domain=", domain]);
        }
        if self.is_secure {
            text.push_str("; Secure");
        }
        text.extend(["; HttpOnly; SameSite=", same_site]);
        if let Some(seconds) = max_age {
            // Writing to a string does not fail.
            let _ = write!(text, "; Max-Age={seconds}");
        }
        let mut value =
            HeaderValue::try_from(text).expect("each part was checked to be visible ASCII");
        value.set_sensitive(true);
        SetCookie { value }
    }

    /// Returns `true` if the name promises that no other host sees or sets the cookie.
    fn is_for_one_host(&self) -> bool {
        self.name.starts_with("__Host-")
    }
}

/// A `Set-Cookie` header that signs a browser in or out.
///
/// With axum it is a part of a response: `(cookie.set(&session)?, Redirect::to("/"))`. It also makes
/// the response `Cache-Control: no-store`. The value is marked as sensitive, so `Debug` does not show
/// the token.
#[derive(Clone, Debug)]
#[must_use = "the browser learns of it only by a response"]
pub struct SetCookie {
    value: HeaderValue,
}

impl SetCookie {
    /// Returns the value of the header, marked as sensitive.
    pub fn header_value(&self) -> &HeaderValue {
        &self.value
    }

    /// Adds the header to those of a response, and makes the response `Cache-Control: no-store`.
    ///
    /// Cookies that are set already stay. A cache that kept the response would sign others in: set no
    /// other `Cache-Control` afterwards.
    pub fn apply_to(self, headers: &mut HeaderMap) {
        headers.append(SET_COOKIE, self.value);
        headers.insert(CACHE_CONTROL, HeaderValue::from_static("no-store"));
    }
}

/// Splits the prefix off a name, if it has one in any case, as browsers do.
fn without_prefix(name: &str) -> Option<(&'static str, &str)> {
    PREFIXES.into_iter().find_map(|prefix| {
        let (start, rest) = name.split_at_checked(prefix.len())?;
        start.eq_ignore_ascii_case(prefix).then_some((prefix, rest))
    })
}

/// Returns `true` if `name` is a token (RFC 6265, section 4.1.1; RFC 9110, section 5.6.2).
fn is_name(name: &str) -> bool {
    let is_tchar = |byte: u8| byte.is_ascii_alphanumeric() || b"!#$%&'*+-.^_`|~".contains(&byte);
    !name.is_empty() && name.bytes().all(is_tchar)
}

/// Returns `true` if a cookie's value may hold `byte` (RFC 6265, section 4.1.1).
fn is_cookie_octet(byte: u8) -> bool {
    byte.is_ascii_graphic() && !b"\",;\\".contains(&byte)
}

/// Returns `true` if `domain` is the name of a host with a dot inside. An address is not: its last
/// label is a number.
fn is_domain(domain: &str) -> bool {
    let is_label = |label: &str| {
        (1..=63).contains(&label.len())
            && !label.starts_with('-')
            && !label.ends_with('-')
            && label
                .bytes()
                .all(|byte| byte.is_ascii_alphanumeric() || byte == b'-')
    };
    let last = domain.rsplit_once('.').map(|(_, last)| last);
    domain.len() <= 253
        && domain.split('.').all(is_label)
        && last.is_some_and(|last| {
            !last
                .bytes()
                .next()
                .is_some_and(|byte| byte.is_ascii_digit())
        })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_cookie_name_is_a_token() {
        for name in [
            "session",
            "__Host-session",
            "a.b_c~d!",
            "__Host",
            "__Secure-a",
        ] {
            let cookie = SessionCookie::new(name).expect("a token");
            assert_eq!(cookie.name(), name);
        }
        for name in ["", "a b", "a=b", "a;b", "ä", "a\n", "\"a\"", "a,b"] {
            let error = SessionCookie::new(name).expect_err(name);
            assert!(error.to_string().contains("must be a token"), "{error}");
        }
    }
}
