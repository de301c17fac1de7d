//! What an answer tells the caches on its way.

use http::{
    HeaderMap, HeaderValue,
    header::{CACHE_CONTROL, VARY},
};

/// What caches must know of an answer. It travels with the request, in one byte.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(super) struct Caching(u8);

impl Caching {
    pub(super) const AUTHORIZATION: Self = Self(1);
    pub(super) const COOKIE: Self = Self(2);
    pub(super) const PROTOCOL: Self = Self(4);
    /// The answer depends on who knows what.
    pub(super) const ANYTHING: Self = Self(8);
    /// The request's URI held the token (RFC 6750, section 2.3).
    const PRIVATE: Self = Self(16);

    pub(super) fn with(self, other: Self) -> Self {
        Self(self.0 | other.0)
    }

    fn has(self, other: Self) -> bool {
        self.0 & other.0 != 0
    }

    /// What optional mode adds: there, the same address has answers for everybody. Caches
    /// that are shared keep nothing that was asked for with `Authorization` (RFC 9111,
    /// section 3.5), but of other credentials they know nothing, so those are named always.
    pub(super) fn in_mode(self, optional: bool) -> Self {
        if optional || self != Self::default() {
            self.with(Self::AUTHORIZATION)
        } else {
            self
        }
    }

    pub(super) fn of(self, was_in_uri: bool) -> Self {
        if was_in_uri {
            self.with(Self::PRIVATE)
        } else {
            self
        }
    }

    /// Says it in the headers of an answer, unless they say so already.
    #[inline]
    pub(super) fn tell(self, headers: &mut HeaderMap) {
        if self == Self::default() {
            return;
        }
        self.vary(headers);
        if self.has(Self::PRIVATE) {
            make_private(headers);
        }
    }

    /// RFC 9110, section 12.5.5.
    fn vary(self, headers: &mut HeaderMap) {
        let says = |wanted: &[u8]| {
            members(headers, VARY)
                .any(|member| member == b"*" || member.eq_ignore_ascii_case(wanted))
        };
        let missing =
            |it: Self, name: &'static str| (self.has(it) && !says(name.as_bytes())).then_some(name);
        let value = match [
            missing(Self::ANYTHING, "*"),
            missing(Self::AUTHORIZATION, "authorization"),
            missing(Self::COOKIE, "cookie"),
            missing(Self::PROTOCOL, "sec-websocket-protocol"),
        ] {
            [None, None, None, None] => return,
            [Some(anything), ..] => HeaderValue::from_static(anything),
            [None, Some(alone), None, None] => HeaderValue::from_static(alone),
            [None, names @ ..] => {
                let names: Vec<&str> = names.into_iter().flatten().collect();
                HeaderValue::try_from(names.join(", ")).unwrap_or(HeaderValue::from_static("*"))
            }
        };
        headers.append(VARY, value);
    }
}

/// Adds `private`, unless it or `no-store` is there, and takes away what contradicts it. A
/// `private` that is followed by field names speaks of those fields alone (RFC 9111,
/// section 5.2.2.7).
fn make_private(headers: &mut HeaderMap) {
    let is = |directive: &[u8], name: &str| directive.eq_ignore_ascii_case(name.as_bytes());
    if members(headers, CACHE_CONTROL).any(|it| is(it, "private") || is(it, "no-store")) {
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

/// The members of a header that is a list, over all its lines; a comma in quotes is part of
/// the member.
fn members(headers: &HeaderMap, name: http::HeaderName) -> impl Iterator<Item = &[u8]> + use<'_> {
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

    fn told(caching: Caching, name: http::HeaderName, lines: &[&'static str]) -> Vec<String> {
        let mut headers = HeaderMap::new();
        for line in lines {
            headers.append(&name, HeaderValue::from_static(line));
        }
        caching.tell(&mut headers);
        let values = headers.get_all(&name).iter();
        values
            .map(|it| it.to_str().expect("ASCII").to_owned())
            .collect()
    }

    #[test]
    fn vary_names_what_is_not_named_yet() {
        let both = Caching::COOKIE.in_mode(true);
        assert_eq!(told(both, VARY, &[]), ["authorization, cookie"]);
        assert_eq!(told(both, VARY, &["Cookie"]), ["Cookie", "authorization"]);
        assert_eq!(told(both, VARY, &["origin, *"]), ["origin, *"]);
        assert_eq!(
            told(both.with(Caching::ANYTHING), VARY, &["cookie"]),
            ["cookie", "*"]
        );
        assert_eq!(
            told(both.with(Caching::PROTOCOL), VARY, &[]),
            ["authorization, cookie, sec-websocket-protocol"]
        );
        assert!(told(Caching::default().in_mode(false), VARY, &[]).is_empty());
    }

    #[test]
    fn private_is_said_once_and_not_contradicted() {
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
            assert_eq!(told(Caching::PRIVATE, CACHE_CONTROL, given), [kept]);
        }
    }
}
