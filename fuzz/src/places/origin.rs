//! The site that a request with a cookie comes from (RFC 6454; Fetch Metadata).

use bytes::Bytes;
use customer_session::SessionCookie;
use http::{HeaderMap, HeaderValue, Method, Request, Uri};
use http_body_util::Empty;

use crate::{
    random::{Random, Target},
    request::{Edge, Read},
};

const TRUSTED: [&str; 2] = ["https://app.example", "http://localhost:5173"];

const ORIGINS: &[&str] = &[
    "https://app.example",
    "HTTPS://App.Example:443",
    "http://app.example",
    "http://localhost:5173",
    "http://localhost",
    "https://shop.example",
    "http://shop.example",
    "https://shop.example:443",
    "https://shop.example:8443",
    "https://evil.example",
    "https://shop.example.evil",
    "null",
    "",
    "https://shop.example/",
    "https://u@shop.example",
    "https://[::1]:80",
    "http://[::1]",
];

const HOSTS: &[&str] = &[
    "shop.example",
    "SHOP.example:443",
    "shop.example:80",
    "shop.example:8443",
    "app.example",
    "evil.example",
    "[::1]",
    "[::1]:80",
    "",
    "u@shop.example",
    "shop.example.",
    "shop.example:",
];

const SITES: &[&str] = &[
    "same-origin",
    "none",
    "same-site",
    "cross-site",
    "Same-Origin",
    "",
    "same-origin, none",
    "same-origin ",
    "x",
];

const WORDS: &[&str] = &[
    ":", "//", "https", ".", "443", "80", "+", "@", "/", " ", ",", "a",
];

pub fn target() -> Target {
    let cookie = SessionCookie::new("s").expect("a name");
    let edge = Edge::new(|layer| {
        let layer = layer.token_from_cookie(&cookie);
        TRUSTED.into_iter().fold(layer, |layer, origin| {
            layer.trusted_origin(origin).expect("an origin")
        })
    });
    Box::new(move |random| {
        let mut request = Request::new(Empty::<Bytes>::new());
        let methods = [
            "GET", "HEAD", "OPTIONS", "TRACE", "POST", "PUT", "DELETE", "CONNECT", "X",
        ];
        *request.method_mut() = random.pick(&methods).parse().expect("a method");
        if random.one_in(4) {
            let uri = format!("https://{}/", random.pick(HOSTS));
            *request.uri_mut() = uri.parse().unwrap_or_default();
        }
        let headers = request.headers_mut();
        headers.insert("cookie", HeaderValue::from_static("s=abc"));
        add(headers, random, "sec-fetch-site", SITES, 2);
        add(headers, random, "origin", ORIGINS, 4);
        add(headers, random, "host", HOSTS, 4);
        if random.one_in(8) {
            headers.insert("upgrade", HeaderValue::from_static("websocket"));
        }
        if random.one_in(8) {
            headers.insert(
                "connection",
                HeaderValue::from_static("keep-alive, UPGRADE"),
            );
        }
        let expected = if is_admitted(request.method(), request.uri(), request.headers()) {
            Read::Token("abc".into())
        } else {
            Read::CrossSite
        };
        let shown = format!("{request:?}");
        assert_eq!(edge.send(request).read, expected, "{shown}");
    })
}

/// Adds a header: as a rule one line, sometimes none, two or a mutated one.
fn add(
    headers: &mut HeaderMap,
    random: &mut Random,
    name: &'static str,
    values: &[&str],
    none_in: usize,
) {
    if random.one_in(none_in) {
        return;
    }
    for _ in 0..if random.one_in(10) { 2 } else { 1 } {
        let mut value = random.pick(values).as_bytes().to_vec();
        if random.one_in(6) {
            random.mutate(&mut value, WORDS);
        }
        if let Ok(value) = HeaderValue::from_bytes(&value) {
            headers.append(name, value);
        }
    }
}

fn is_admitted(method: &Method, uri: &Uri, headers: &HeaderMap) -> bool {
    let is_safe = ["GET", "HEAD", "OPTIONS", "TRACE"].contains(&method.as_str());
    if is_safe && !headers.contains_key("upgrade") && !headers.contains_key("connection") {
        return true;
    }
    let origin = single(headers, "origin").and_then(parts);
    let is_trusted = TRUSTED
        .iter()
        .any(|trusted| origin.is_some() && parts(trusted) == origin);
    match (
        headers.get_all("sec-fetch-site").iter().count(),
        single(headers, "sec-fetch-site"),
    ) {
        (0, _) => {}
        (1, Some("same-origin" | "none")) => return true,
        (1, Some("same-site" | "cross-site")) => return is_trusted,
        _ => return false,
    }
    let Some((scheme, host, port)) = origin else {
        return false;
    };
    let asked = match uri.authority() {
        Some(authority) => Some(authority.as_str()),
        None => single(headers, "host"),
    };
    let own = asked.and_then(|asked| parts(&format!("{scheme}://{asked}")));
    let is_web = scheme == "http" || scheme == "https";
    is_trusted || (is_web && own == Some((scheme, host, port)))
}

fn single<'a>(headers: &'a HeaderMap, name: &str) -> Option<&'a str> {
    let all: Vec<_> = headers.get_all(name).iter().collect();
    match all[..] {
        [one] => one.to_str().ok(),
        _ => None,
    }
}

/// Returns the scheme, host and port of an origin, by way of a URI.
fn parts(origin: &str) -> Option<(String, String, Option<u16>)> {
    let (scheme, authority) = origin.split_once("://")?;
    let is_scheme_byte = |byte: u8| byte.is_ascii_alphanumeric() || b"+-.".contains(&byte);
    if !scheme.starts_with(|first: char| first.is_ascii_alphabetic())
        || !scheme.bytes().all(is_scheme_byte)
    {
        return None;
    }
    let uri: Uri = format!("http://{authority}").parse().ok()?;
    let parsed = uri.authority()?;
    let is_whole = parsed.as_str() == authority && !authority.contains('@');
    let host = parsed.host().to_ascii_lowercase();
    let is_host_byte: fn(u8) -> bool = if host.starts_with('[') {
        |byte| byte.is_ascii_hexdigit() || b"[]:.".contains(&byte)
    } else {
        |byte| byte.is_ascii_alphanumeric() || b"-._~".contains(&byte)
    };
    let port = authority.get(host.len()..)?;
    let digits = port.strip_prefix(':');
    let is_port = port.is_empty()
        || digits.is_some_and(|digits| {
            !digits.is_empty() && digits.bytes().all(|byte| byte.is_ascii_digit())
        });
    if !is_whole || host.is_empty() || !host.bytes().all(is_host_byte) || !is_port {
        return None;
    }
    let port = match digits {
        Some(digits) => Some(digits.parse().ok()?),
        None => None,
    };
    let scheme = scheme.to_ascii_lowercase();
    let default = match scheme.as_str() {
        "http" | "ws" => Some(80),
        "https" | "wss" => Some(443),
        _ => None,
    };
    Some((scheme, host, port.or(default)))
}
