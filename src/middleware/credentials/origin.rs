//! The origin of a request, as the browser states it.

use http::{
    HeaderMap, HeaderName, Method, Uri,
    header::{ACCESS_CONTROL_REQUEST_METHOD, CONNECTION, HOST, ORIGIN, UPGRADE},
};

/// Request header by which a browser relates the origin to this site (Fetch Metadata).
const SEC_FETCH_SITE: HeaderName = HeaderName::from_static("sec-fetch-site");

/// A web origin (RFC 6454, section 6.2), such as `https://app.example.com`. A default port may be
/// left out.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Origin {
    scheme: String,
    host: String,
    port: Option<u16>,
}

impl Origin {
    /// Parses an origin. Returns `None` for anything else, `null` and lists of origins included.
    pub(super) fn parse(text: &str) -> Option<Self> {
        let (scheme, authority) = text.split_once("://")?;
        let mut bytes = scheme.bytes();
        let is_scheme = bytes.next().is_some_and(|byte| byte.is_ascii_alphabetic())
            && bytes.all(|byte| byte.is_ascii_alphanumeric() || b"+-.".contains(&byte));
        let (host, port) = split_authority(authority)?;
        let scheme = scheme.to_ascii_lowercase();
        is_scheme.then(|| Self {
            port: port.or(default_port(&scheme)),
            host: host.to_ascii_lowercase(),
            scheme,
        })
    }

    /// Returns `true` if a request to `authority` goes to this origin.
    ///
    /// Behind a proxy the scheme of the request is unknown. It is assumed to be the origin's.
    fn matches_authority(&self, authority: &str) -> bool {
        matches!(&*self.scheme, "http" | "https")
            && split_authority(authority).is_some_and(|(host, port)| {
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

/// Splits `host[:port]`. Returns `None` if it holds anything else, user information included.
fn split_authority(authority: &str) -> Option<(&str, Option<u16>)> {
    let (end, is_host_byte): (usize, fn(u8) -> bool) = if authority.starts_with('[') {
        let in_address = |byte: u8| byte.is_ascii_hexdigit() || b"[]:.".contains(&byte);
        (authority.find(']')? + 1, in_address)
    } else {
        let in_name = |byte: u8| byte.is_ascii_alphanumeric() || b"-._~".contains(&byte);
        (authority.find(':').unwrap_or(authority.len()), in_name)
    };
    let (host, port) = authority.split_at(end);
    let port = match port.strip_prefix(':') {
        // Digits only: `parse` would accept a sign.
        Some(digits) if digits.bytes().all(|byte| byte.is_ascii_digit()) => {
            Some(digits.parse().ok()?)
        }
        None if port.is_empty() => None,
        _ => return None,
    };
    (!host.is_empty() && host.bytes().all(is_host_byte)).then_some((host, port))
}

/// Returns `true` for requests that another site must not make a browser send.
///
/// These may change something (RFC 9110, section 9.2.1), or open a connection that the page behind
/// it can read (RFC 6455, section 10.2). Extended CONNECT (RFC 8441) is not a safe method either.
fn needs_origin_check(method: &Method, headers: &HeaderMap) -> bool {
    let is_safe = [Method::GET, Method::HEAD, Method::OPTIONS, Method::TRACE].contains(method);
    let upgrades = |line: &http::HeaderValue| {
        let mut members = line.as_bytes().split(|byte| *byte == b',');
        members.any(|member| member.trim_ascii().eq_ignore_ascii_case(b"upgrade"))
    };
    !is_safe || headers.contains_key(UPGRADE) || headers.get_all(CONNECTION).iter().any(upgrades)
}

/// Returns `true` if another site may have made a browser send this request.
///
/// The browser itself compares the sites, schemes included, and says so in `Sec-Fetch-Site`. Only
/// old browsers leave that header out; for them `Origin` is compared with the host. A request that
/// needs the check and states neither counts as cross-site, as does a header that no browser sends.
pub(super) fn is_cross_site(
    method: &Method,
    uri: &Uri,
    headers: &HeaderMap,
    trusted: &[Origin],
) -> bool {
    if !needs_origin_check(method, headers) {
        return false;
    }
    let origin = single_value(headers, ORIGIN).and_then(Origin::parse);
    let is_trusted = || {
        origin
            .as_ref()
            .is_some_and(|origin| trusted.contains(origin))
    };
    let is_own_host = || {
        let host = match uri.authority() {
            // The authority of the URI takes precedence over `Host` (RFC 9112, section 3.2.2).
            Some(authority) => Some(authority.as_str()),
            None => single_value(headers, HOST),
        };
        let matches = |origin: &Origin| host.is_some_and(|host| origin.matches_authority(host));
        origin.as_ref().is_some_and(matches)
    };
    let is_same_site = match single_value(headers, SEC_FETCH_SITE) {
        Some("same-origin" | "none") => true,
        Some("same-site" | "cross-site") => is_trusted(),
        None if !headers.contains_key(SEC_FETCH_SITE) => is_trusted() || is_own_host(),
        _ => false,
    };
    !is_same_site
}

/// Returns the value of a header that has exactly one line.
fn single_value(headers: &HeaderMap, name: HeaderName) -> Option<&str> {
    let mut lines = headers.get_all(name).iter();
    match (lines.next(), lines.next()) {
        (Some(line), None) => line.to_str().ok(),
        _ => None,
    }
}

/// Returns `true` for a CORS preflight.
///
/// A browser sends it without credentials, to ask whether a request may have them (Fetch
/// standard, section 3.2.2). The shape proves nothing: any client can send it.
pub(crate) fn is_preflight(method: &Method, headers: &HeaderMap) -> bool {
    method == Method::OPTIONS
        && headers.contains_key(ORIGIN)
        && headers.contains_key(ACCESS_CONTROL_REQUEST_METHOD)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn origins_are_equal_regardless_of_case_and_default_port() {
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
    fn anything_but_an_origin_is_refused() {
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
        for (origin, authority, matches) in [
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
            assert_eq!(
                parsed.matches_authority(authority),
                matches,
                "{origin} at {authority}"
            );
        }
    }
}
