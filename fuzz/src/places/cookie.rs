//! Cookies (RFC 6265, sections 4.1.1 and 4.2.1).

use bytes::Bytes;
use customer_session::SessionCookie;
use http::{HeaderValue, Request};
use http_body_util::Empty;

use crate::{
    random::{Random, Target},
    request::{Edge, MAX_HEADER, Read, trimmed},
};

const WORDS: &[&str] = &[
    "__Host-s",
    "__host-s",
    "s",
    "=",
    "==",
    ";",
    "; ",
    " ;",
    "\"",
    "abc",
    "a.b/c+d=",
    "theme=dark",
    " ",
    "\t",
    ",",
    "\\",
    "%3D",
    "__Host-s=",
    "__Host-s=abc",
    "\u{e4}",
];

pub fn target() -> Target {
    let cookie = SessionCookie::new("__Host-s").expect("a name");
    let edge = Edge::new(|layer| layer.token_from_cookie(&cookie));
    Box::new(move |random| {
        let mut lines: Vec<Vec<u8>> = (0..random.below(4)).map(|_| line(random)).collect();
        lines.retain(|line| HeaderValue::from_bytes(line).is_ok());
        let mut request = Request::new(Empty::<Bytes>::new());
        for line in &lines {
            let value = HeaderValue::from_bytes(line).expect("checked");
            request.headers_mut().append("cookie", value);
        }
        let outcome = edge.send(request);
        let shown: Vec<_> = lines
            .iter()
            .map(|line| String::from_utf8_lossy(line))
            .collect();
        // A browser sends a cookie unasked: one that opens nothing is anonymous, as customers are optional.
        let expected = match reference(&lines) {
            Read::Invalid => Read::None,
            expected => expected,
        };
        assert_eq!(outcome.read, expected, "{shown:?}");
        for (name, value) in outcome.seen.iter().flat_map(|(_, headers)| headers) {
            assert!(value.is_sensitive(), "{name}");
        }
    })
}

fn line(random: &mut Random) -> Vec<u8> {
    let mut line = match random.below(3) {
        0 => random.text(WORDS, 8),
        1 => format!("__Host-s={}", random.text(WORDS, 3)),
        _ => format!("a=1; __Host-s={}; b=2", random.text(WORDS, 2)),
    };
    if random.one_in(500) {
        line.push_str(&";".repeat(MAX_HEADER - 40 + random.below(80)));
    }
    let mut line = line.into_bytes();
    random.mutate(&mut line, WORDS);
    line
}

fn reference(lines: &[Vec<u8>]) -> Read {
    if lines.concat().len() > MAX_HEADER {
        return Read::Invalid;
    }
    let mut found = Vec::new();
    for line in lines {
        for pair in line.split(|byte| *byte == b';') {
            let pair = trimmed(pair);
            let Some(equals) = pair.iter().position(|byte| *byte == b'=') else {
                continue;
            };
            if &pair[..equals] != b"__Host-s" {
                continue;
            }
            let value = &pair[equals + 1..];
            let is_quoted = value.len() > 1 && value[0] == b'"' && value[value.len() - 1] == b'"';
            let value = if is_quoted {
                &value[1..value.len() - 1]
            } else {
                value
            };
            found.push(Read::token(value));
        }
    }
    Read::one_of(found)
}
