//! `Authorization` (RFC 6750, section 2.1; RFC 9110, sections 5.3 and 11.4).

use bytes::Bytes;
use http::{HeaderValue, Request};
use http_body_util::Empty;

use crate::{
    random::{Random, Target},
    request::{Edge, MAX_TOKEN, Read, trimmed},
};

const WORDS: &[&str] = &[
    "Bearer",
    "bearer",
    "BEARER",
    "Bearers",
    "Basic",
    "Digest",
    "DPoP",
    " ",
    "  ",
    "\t",
    ",",
    ", ",
    " , ",
    "\"",
    "\\",
    "=",
    "==",
    "abc",
    "a.b-c_d~e+f/g",
    "dTpw",
    "realm=\"x\"",
    "realm = \"x\"",
    "realm=\"a, Bearer b\"",
    ":",
    ";",
    "\u{a0}",
    "\u{e4}",
    "x",
];

pub fn target() -> Target {
    let edge = Edge::new(|layer| layer);
    Box::new(move |random| {
        let count = if random.one_in(10) {
            random.below(3)
        } else {
            1
        };
        let mut lines: Vec<Vec<u8>> = (0..count).map(|_| line(random)).collect();
        lines.retain(|line| HeaderValue::from_bytes(line).is_ok());
        let mut request = Request::new(Empty::<Bytes>::new());
        for line in &lines {
            let value = HeaderValue::from_bytes(line).expect("checked");
            request.headers_mut().append("authorization", value);
        }
        if random.one_in(2) {
            // Two lines of another name take another way through the headers.
            for _ in 0..random.below(3) {
                request
                    .headers_mut()
                    .append("accept", HeaderValue::from_static("Bearer x"));
            }
        }
        let outcome = edge.send(request);
        let shown: Vec<_> = lines
            .iter()
            .map(|line| String::from_utf8_lossy(line))
            .collect();
        assert_eq!(outcome.read, reference(&lines), "{shown:?}");
        for (name, value) in outcome.seen.iter().flat_map(|(_, headers)| headers) {
            assert_eq!(value.is_sensitive(), name == "authorization");
        }
    })
}

fn line(random: &mut Random) -> Vec<u8> {
    let mut line = match random.below(4) {
        0 => random.text(WORDS, 8),
        1 => format!("Bearer {}", random.text(WORDS, 3)),
        2 => format!("Bearer abc, {}", random.text(WORDS, 6)),
        _ => format!(
            "{} {}, Bearer abc",
            random.pick(WORDS),
            random.text(WORDS, 4)
        ),
    };
    if random.one_in(200) {
        let length = MAX_TOKEN - 80 + random.below(160);
        line = format!("{} {}{line}", random.pick(WORDS), "a".repeat(length));
    }
    let mut line = line.into_bytes();
    random.mutate(&mut line, WORDS);
    line
}

fn reference(lines: &[Vec<u8>]) -> Read {
    let [line] = lines else {
        return if lines.is_empty() {
            Read::None
        } else {
            Read::Multiple
        };
    };
    let value = trimmed(line);
    let scheme: Vec<u8> = value
        .iter()
        .copied()
        .take_while(u8::is_ascii_graphic)
        .collect();
    let is_bearer = scheme.eq_ignore_ascii_case(b"bearer");
    if value.len() > MAX_TOKEN + 6 + 64 {
        return if is_bearer { Read::Invalid } else { Read::None };
    }
    let others = credentials_after_commas(value);
    if !is_bearer {
        let lists_bearer = others
            .iter()
            .any(|(scheme, _)| scheme.eq_ignore_ascii_case(b"bearer"));
        return if lists_bearer {
            Read::Multiple
        } else {
            Read::None
        };
    }
    let rest = &value[scheme.len()..];
    let token: Vec<u8> = rest
        .iter()
        .copied()
        .skip_while(|byte| *byte == b' ')
        .collect();
    if token.is_empty() || token.len() == rest.len() {
        return Read::Invalid;
    }
    let is_second = |(scheme, value): &(Vec<u8>, Vec<u8>)| {
        let starts_value = |byte: &u8| is_tchar(*byte) || *byte == b'/';
        scheme.eq_ignore_ascii_case(b"bearer")
            || (!scheme.is_empty()
                && scheme.iter().copied().all(is_tchar)
                && value.first().is_some_and(starts_value))
    };
    if others.iter().any(is_second) {
        return Read::Multiple;
    }
    Read::token(&token)
}

/// Returns each scheme that follows a comma and is followed by a space, with what comes then.
fn credentials_after_commas(value: &[u8]) -> Vec<(Vec<u8>, Vec<u8>)> {
    let mut found = Vec::new();
    let mut rest = value;
    while let Some(byte) = rest.first() {
        match byte {
            b'"' => {
                // A quoted string ends at the next quote without a backslash before it.
                rest = &rest[1..];
                while let Some(byte) = rest.first() {
                    let step = if *byte == b'\\' { 2 } else { 1 };
                    rest = &rest[step.min(rest.len())..];
                    if *byte == b'"' {
                        break;
                    }
                }
                continue;
            }
            b',' => {
                let next = trimmed(&rest[1..]);
                if let Some(space) = next.iter().position(|byte| *byte == b' ') {
                    let value = &next[space..];
                    let value = value.iter().copied().skip_while(|byte| *byte == b' ');
                    found.push((next[..space].to_vec(), value.collect()));
                }
            }
            _ => {}
        }
        rest = &rest[1..];
    }
    found
}

fn is_tchar(byte: u8) -> bool {
    byte.is_ascii_graphic() && !br#""(),/:;<=>?@[\]{}"#.contains(&byte)
}
