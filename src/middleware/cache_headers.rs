//! The headers that tell caches what a response depends on.

use http::{
    HeaderMap, HeaderName, HeaderValue,
    header::{CACHE_CONTROL, VARY},
};

/// The `Vary` and `Cache-Control` that a response needs, in one byte that travels with the request.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(super) struct CacheHeaders(u8);

impl CacheHeaders {
    /// The response varies on `Authorization`.
    pub(super) const VARY_AUTHORIZATION: Self = Self(1);
    /// The response varies on `Cookie`.
    pub(super) const VARY_COOKIE: Self = Self(2);
    /// The response varies on `Sec-WebSocket-Protocol`.
    pub(super) const VARY_PROTOCOL: Self = Self(4);
    /// The response varies on something that no header names.
    pub(super) const VARY_ANY: Self = Self(8);
    /// The request held a credential that shared caches do not know of: in the URI (RFC 6750,
    /// section 2.3), or in a cookie (RFC 9111, section 3.5, is about `Authorization` only).
    const PRIVATE: Self = Self(16);

    /// Combines two sets.
    pub(super) fn with(self, other: Self) -> Self {
        Self(self.0 | other.0)
    }

    fn contains(self, other: Self) -> bool {
        self.0 & other.0 != 0
    }

    /// Adds `Vary: Authorization` where responses need it.
    ///
    /// In optional mode one address has a response for each customer and one for anonymous
    /// requests. Otherwise shared caches store nothing that was requested with `Authorization`
    /// (RFC 9111, section 3.5); since they know nothing of other credentials, a layer with such
    /// sources always names it.
    pub(super) fn vary_on_authorization(self, optional: bool) -> Self {
        if optional || self != Self::default() {
            self.with(Self::VARY_AUTHORIZATION)
        } else {
            self
        }
    }

    /// Adds `Cache-Control: private` if shared caches do not know of the credential.
    pub(super) fn private_if(self, is_unknown_to_caches: bool) -> Self {
        if is_unknown_to_caches {
            self.with(Self::PRIVATE)
        } else {
            self
        }
    }

    /// Writes the headers, unless the response has them already.
    #[inline]
    pub(super) fn apply_to(self, headers: &mut HeaderMap) {
        if self == Self::default() {
            return;
        }
        self.add_vary(headers);
        if self.contains(Self::PRIVATE) {
            make_private(headers);
        }
    }

    /// Adds the names that `Vary` lacks (RFC 9110, section 12.5.5).
    fn add_vary(self, headers: &mut HeaderMap) {
        let is_named = |name: &str| {
            members(headers, VARY)
                .any(|member| member == b"*" || member.eq_ignore_ascii_case(name.as_bytes()))
        };
        let missing = |header: Self, name: &'static str| {
            (self.contains(header) && !is_named(name)).then_some(name)
        };
        let value = match [
            missing(Self::VARY_ANY, "*"),
            missing(Self::VARY_AUTHORIZATION, "authorization"),
            missing(Self::VARY_COOKIE, "cookie"),
            missing(Self::VARY_PROTOCOL, "sec-websocket-protocol"),
        ] {
            [None, None, None, None] => return,
            [Some(any), ..] => HeaderValue::from_static(any),
            [None, Some(authorization), None, None] => HeaderValue::from_static(authorization),
            [None, names @ ..] => {
                let names: Vec<&str> = names.into_iter().flatten().collect();
                HeaderValue::try_from(names.join(", ")).unwrap_or(HeaderValue::from_static("*"))
            }
        };
        headers.append(VARY, value);
    }
}

/// Adds `private`, unless it or `no-store` is there, and removes directives that contradict it.
///
/// A `private` with field names is about those fields only (RFC 9111, section 5.2.2.7).
fn make_private(headers: &mut HeaderMap) {
    let is = |directive: &[u8], name: &str| directive.eq_ignore_ascii_case(name.as_bytes());
    if members(headers, CACHE_CONTROL)
        .any(|directive| is(directive, "private") || is(directive, "no-store"))
    {
        return;
    }
    let mut value = b"private".to_vec();
    for directive in members(headers, CACHE_CONTROL) {
        let name = directive.split(|byte| *byte == b'=').next();
        let name = name.unwrap_or_default().trim_ascii();
        if !directive.is_empty() && !is(name, "public") && !is(name, "s-maxage") {
            value.extend_from_slice(b", ");
            value.extend_from_slice(directive);
        }
    }
    let value = HeaderValue::from_bytes(&value).unwrap_or(HeaderValue::from_static("private"));
    headers.insert(CACHE_CONTROL, value);
}

/// Returns the members of a list header, over all its lines. A comma in quotes is part of a member.
fn members(headers: &HeaderMap, name: HeaderName) -> impl Iterator<Item = &[u8]> + use<'_> {
    headers.get_all(name).into_iter().flat_map(|line| {
        let mut quoted = false;
        let mut escaped = false;
        line.as_bytes()
            .split(move |byte| {
                match byte {
                    _ if escaped => escaped = false,
                    b'\\' if quoted => escaped = true,
                    b'"' => quoted = !quoted,
                    b',' => return !quoted,
                    _ => {}
                }
                false
            })
            .map(<[u8]>::trim_ascii)
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    fn applied(
        cache_headers: CacheHeaders,
        name: HeaderName,
        lines: &[&'static str],
    ) -> Vec<String> {
        let mut headers = HeaderMap::new();
        for line in lines {
            headers.append(&name, HeaderValue::from_static(line));
        }
        cache_headers.apply_to(&mut headers);
        let values = headers.get_all(&name).iter();
        values
            .map(|value| value.to_str().expect("ASCII").to_owned())
            .collect()
    }

    #[test]
    fn vary_lists_each_name_once() {
        let both = CacheHeaders::VARY_COOKIE.vary_on_authorization(true);
        assert_eq!(applied(both, VARY, &[]), ["authorization, cookie"]);
        assert_eq!(
            applied(both, VARY, &["Cookie"]),
            ["Cookie", "authorization"]
        );
        assert_eq!(applied(both, VARY, &["origin, *"]), ["origin, *"]);
        assert_eq!(
            applied(both.with(CacheHeaders::VARY_ANY), VARY, &["cookie"]),
            ["cookie", "*"]
        );
        assert_eq!(
            applied(both.with(CacheHeaders::VARY_PROTOCOL), VARY, &[]),
            ["authorization, cookie, sec-websocket-protocol"]
        );
        assert!(
            applied(
                CacheHeaders::default().vary_on_authorization(false),
                VARY,
                &[]
            )
            .is_empty()
        );
    }

    #[test]
    fn private_is_listed_once_and_not_contradicted() {
        for (given, kept) in [
            (&[][..], "private"),
            (&["max-age=60"], "private, max-age=60"),
            (&["Public, max-age=60, s-maxage=9"], "private, max-age=60"),
            (&["public", "must-revalidate"], "private, must-revalidate"),
            (&["max-age=60, Private"], "max-age=60, Private"),
            (&["no-store"], "no-store"),
            (
                &["private=\"set-cookie, private\""],
                "private, private=\"set-cookie, private\"",
            ),
            (
                &["no-cache=\"a, no-store\""],
                "private, no-cache=\"a, no-store\"",
            ),
        ] {
            assert_eq!(applied(CacheHeaders::PRIVATE, CACHE_CONTROL, given), [kept]);
        }
    }
}
