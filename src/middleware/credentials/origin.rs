//! Where a request comes from, as far as a browser says so.

use http::{
    HeaderMap, HeaderName, Method, Uri,
    header::{ACCESS_CONTROL_REQUEST_METHOD, CONNECTION, HOST, ORIGIN, UPGRADE},
};

const SEC_FETCH_SITE: HeaderName = HeaderName::from_static("sec-fetch-site");

/// A web origin (RFC 6454, section 6.2): `https://app.example.com`, with a port where it is
/// not the scheme's own.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Origin {
    scheme: String,
    host: String,
    port: Option<u16>,
}

impl Origin {
    /// `None` for anything else, `null` and lists of origins among it.
    pub(super) fn parse(text: &str) -> Option<Self> {
        let (scheme, authority) = text.split_once("://")?;
        let mut letters = scheme.bytes();
        let is_scheme = letters.next().is_some_and(|it| it.is_ascii_alphabetic())
            && letters.all(|it| it.is_ascii_alphanumeric() || b"+-.".contains(&it));
        let (host, port) = host_and_port(authority)?;
        let scheme = scheme.to_ascii_lowercase();
        is_scheme.then(|| Self {
            port: port.or(default_port(&scheme)),
            host: host.to_ascii_lowercase(),
            scheme,
        })
    }

    /// Whether a request to `authority` goes where this origin's pages come from. Behind a
    /// proxy nobody knows by which scheme it came; the origin's own is taken for granted.
    fn is_at(&self, authority: &str) -> bool {
        matches!(&*self.scheme, "http" | "https")
            && host_and_port(authority).is_some_and(|(host, port)| {
                host.eq_ignore_ascii_case(&self.host)
                    && port.or(default_port(&self.scheme)) == self.port
            })
    }
}

fn default_port(scheme: &str) -> Option<u16> {
    match scheme {
        "http" | "ws" => Some(80),
        "https" | "wss" => Some(443),
        _ => None,
    }
}

fn host_and_port(authority: &str) -> Option<(&str, Option<u16>)> {
    let (end, is_of_host): (usize, fn(u8) -> bool) = if authority.starts_with('[') {
        let of_address = |byte: u8| byte.is_ascii_hexdigit() || b"[]:.".contains(&byte);
        (authority.find(']')? + 1, of_address)
    } else {
        let of_name = |byte: u8| byte.is_ascii_alphanumeric() || b"-._~".contains(&byte);
        (authority.find(':').unwrap_or(authority.len()), of_name)
    };
    let (host, port) = authority.split_at(end);
    let port = match port.strip_prefix(':') {
        // Digits alone: `parse` would take a sign, too.
        Some(digits) if digits.bytes().all(|it| it.is_ascii_digit()) => Some(digits.parse().ok()?),
        None if port.is_empty() => None,
        _ => return None,
    };
    (!host.is_empty() && host.bytes().all(is_of_host)).then_some((host, port))
}

/// Whether a request is one that another site must not make a browser send: it may change
/// something (RFC 9110, section 9.2.1), or opens a connection that the page behind it can
/// read (RFC 6455, section 10.2). Extended CONNECT (RFC 8441) is no safe method either.
fn needs_origin(method: &Method, headers: &HeaderMap) -> bool {
    let is_safe = [Method::GET, Method::HEAD, Method::OPTIONS, Method::TRACE].contains(method);
    let upgrades = |line: &http::HeaderValue| {
        let mut members = line.as_bytes().split(|byte| *byte == b',');
        members.any(|member| member.trim_ascii().eq_ignore_ascii_case(b"upgrade"))
    };
    !is_safe || headers.contains_key(UPGRADE) || headers.get_all(CONNECTION).iter().any(upgrades)
}

/// Whether a browser may have sent this request because another site told it to. Without a
/// word about where it comes from it counts as such.
pub(super) fn is_cross_site(
    method: &Method,
    uri: &Uri,
    headers: &HeaderMap,
    allowed: &[Origin],
) -> bool {
    if !needs_origin(method, headers) {
        return false;
    }
    if headers.contains_key(ORIGIN) {
        let origin = only(headers, ORIGIN).and_then(Origin::parse);
        let own = match uri.authority() {
            // The URI's counts where there is one (RFC 9112, section 3.2.2).
            Some(authority) => Some(authority.as_str()),
            None => only(headers, HOST),
        };
        !origin.is_some_and(|origin| {
            allowed.contains(&origin) || own.is_some_and(|own| origin.is_at(own))
        })
    } else {
        !matches!(only(headers, SEC_FETCH_SITE), Some("same-origin" | "none"))
    }
}

/// The value of a header that has one line.
fn only(headers: &HeaderMap, name: HeaderName) -> Option<&str> {
    let mut lines = headers.get_all(name).iter();
    match (lines.next(), lines.next()) {
        (Some(line), None) => line.to_str().ok(),
        _ => None,
    }
}

/// A browser asks without credentials whether it may ask with them (Fetch standard,
/// section 3.2.2); refusing would keep every web page of another origin out.
pub(crate) fn is_preflight(method: &Method, headers: &HeaderMap) -> bool {
    method == Method::OPTIONS
        && headers.contains_key(ORIGIN)
        && headers.contains_key(ACCESS_CONTROL_REQUEST_METHOD)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn origins_are_read_whatever_their_case_and_default_port() {
        for (one, other) in [
            ("https://a.example", "HTTPS://A.example:443"),
            ("http://a.example:80", "http://a.example"),
            ("https://[2001:DB8::1]", "https://[2001:db8::1]:443"),
            ("capacitor://localhost", "capacitor://localhost"),
        ] {
            let origin = Origin::parse(one);
            assert!(origin.is_some(), "{one}");
            assert_eq!(origin, Origin::parse(other), "{one}");
        }
        let one = Origin::parse("https://a.example");
        for other in [
            "http://a.example",
            "https://a.example:8443",
            "https://b.example",
            "https://a.example.",
        ] {
            assert!(Origin::parse(other).is_some(), "{other}");
            assert_ne!(one, Origin::parse(other), "{other}");
        }
    }

    #[test]
    fn what_is_no_origin_is_none() {
        for text in [
            "",
            "null",
            "a.example",
            "https:a.example",
            "https://",
            "https://a.example/",
            "https://a.example?",
            "https://u@a.example",
            "https://a.example https://b.example",
            "https://a.example, https://b.example",
            "https://a.example:",
            "https://a.example:+80",
            "https://a.example:65536",
            "https://a.example:80:80",
            "https://[::1",
            "https://[::1]x",
            "https://*.example",
            "https://b\u{fc}cher.example",
            "1https://a.example",
            "://a.example",
        ] {
            assert_eq!(Origin::parse(text), None, "{text}");
        }
    }

    #[test]
    fn a_host_is_compared_with_its_port() {
        for (origin, authority, is_at) in [
            ("https://a.example", "a.example", true),
            ("https://a.example", "A.EXAMPLE:443", true),
            ("http://a.example", "a.example:80", true),
            ("http://a.example:8080", "a.example:8080", true),
            ("https://a.example", "a.example:80", false),
            ("https://a.example:8443", "a.example", false),
            ("https://a.example", "b.a.example", false),
            ("https://a.example", "a.example.evil", false),
            ("https://a.example", "u@a.example", false),
            ("https://a.example", "", false),
            ("capacitor://a.example", "a.example", false),
        ] {
            let parsed = Origin::parse(origin).expect("an origin");
            assert_eq!(parsed.is_at(authority), is_at, "{origin} at {authority}");
        }
    }
}
