//! The query parameter `access_token` (RFC 6750, section 2.3; RFC 3986, section 2.1).

use bytes::Bytes;
use http::{Request, Uri};
use http_body_util::Empty;

use crate::{
    random::{Random, Target},
    request::{Edge, MAX_TOKEN, Read},
};

const WORDS: &[&str] = &[
    "access_token",
    "access%5Ftoken",
    "%61ccess_token",
    "access%255Ftoken",
    "ACCESS_TOKEN",
    "=",
    "&",
    "&&",
    "?",
    "a",
    "abc",
    "%",
    "%4",
    "%41",
    "%zz",
    "%00",
    "%ff",
    "%3D",
    "%26",
    "+",
    "/",
    "access_token=abc",
    "b=2",
    "c=%20+%2b",
    ";",
    "'",
];

pub fn target() -> Target {
    let edge = Edge::new(|layer| layer.token_from_query());
    Box::new(move |random| {
        let mut uri = format!(
            "{}?{}",
            random.pick(&["/", "/a", "//b", "http://h:1/a"]),
            query(random)
        )
        .into_bytes();
        if random.one_in(4) {
            random.mutate(&mut uri, WORDS);
        }
        let Ok(uri) = Uri::try_from(uri) else {
            return;
        };
        let mut request = Request::new(Empty::<Bytes>::new());
        *request.uri_mut() = uri.clone();
        let outcome = edge.send(request);
        let (read, rest) = reference(uri.query());
        assert_eq!(outcome.read, read, "{uri}");
        if let Some((seen, _)) = outcome.seen {
            assert_eq!(seen.path(), uri.path(), "{uri}");
            assert_eq!(seen.authority(), uri.authority(), "{uri}");
            assert_eq!(seen.query(), rest.as_deref(), "{uri}");
        }
    })
}

fn query(random: &mut Random) -> String {
    match random.below(3) {
        0 => random.text(WORDS, 10),
        1 => format!("access_token={}&b=2", random.text(WORDS, 3)),
        _ if random.one_in(100) => {
            let length = 3 * MAX_TOKEN - 20 + random.below(40);
            format!("access_token={}", "%61".repeat(length / 3))
        }
        _ => format!("b=2&{}={}", random.text(WORDS, 2), random.text(WORDS, 2)),
    }
}

/// Returns the credential and what is left of the query.
fn reference(query: Option<&str>) -> (Read, Option<String>) {
    let Some(query) = query else {
        return (Read::None, None);
    };
    let mut found = Vec::new();
    let mut rest = Vec::new();
    for parameter in query.split('&') {
        let (name, value) = parameter.split_once('=').unwrap_or((parameter, ""));
        if decoded(name) == b"access_token" {
            let decoded = decoded(value);
            let is_too_long = value.len() > 3 * MAX_TOKEN;
            found.push(if is_too_long {
                Read::Invalid
            } else {
                Read::token(&decoded)
            });
        } else {
            rest.push(parameter);
        }
    }
    if found.is_empty() {
        return (Read::None, Some(query.to_owned()));
    }
    let rest = rest.join("&");
    let is_empty = rest.chars().all(|character| character == '&');
    (Read::one_of(found), (!is_empty).then_some(rest))
}

fn decoded(text: &str) -> Vec<u8> {
    let mut decoded = Vec::new();
    let bytes = text.as_bytes();
    let mut place = 0;
    while place < bytes.len() {
        let hex = text.get(place + 1..place + 3);
        let hex = hex.filter(|hex| hex.bytes().all(|byte| byte.is_ascii_hexdigit()));
        match hex.and_then(|hex| u8::from_str_radix(hex, 16).ok()) {
            Some(byte) if bytes[place] == b'%' => {
                decoded.push(byte);
                place += 3;
            }
            _ => {
                decoded.push(bytes[place]);
                place += 1;
            }
        }
    }
    decoded
}
