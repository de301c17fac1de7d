//! `Sec-WebSocket-Protocol` (RFC 6455, section 4.1).

use bytes::Bytes;
use http::{HeaderValue, Request};
use http_body_util::Empty;

use crate::{
    random::{Random, Target},
    request::{Edge, MAX_HEADER, Read, trimmed},
};

const WORDS: &[&str] = &[
    "bearer.",
    "bearer",
    "Bearer.",
    "bearer.abc",
    "feed.v1",
    ",",
    ", ",
    " ,",
    ",,",
    " ",
    "\t",
    "abc",
    "a~b",
    "=",
    "/",
    "\"",
    ".",
    "x.bearer.abc",
    "\u{e4}",
];

pub fn target() -> Target {
    let edge = Edge::new(|layer| layer.token_from_websocket_protocol());
    Box::new(move |random| {
        let mut lines: Vec<Vec<u8>> = (0..random.below(4)).map(|_| line(random)).collect();
        lines.retain(|line| HeaderValue::from_bytes(line).is_ok());
        let mut request = Request::new(Empty::<Bytes>::new());
        for line in &lines {
            let value = HeaderValue::from_bytes(line).expect("checked");
            request
                .headers_mut()
                .append("sec-websocket-protocol", value);
        }
        let outcome = edge.send(request);
        let shown: Vec<_> = lines
            .iter()
            .map(|line| String::from_utf8_lossy(line))
            .collect();
        let (read, rest) = reference(&lines);
        assert_eq!(outcome.read, read, "{shown:?}");
        if let Some((_, headers)) = outcome.seen {
            let seen: Vec<_> = headers.get_all("sec-websocket-protocol").iter().collect();
            let seen: Vec<_> = seen.iter().map(|line| line.as_bytes()).collect();
            assert_eq!(seen, rest, "{shown:?}");
        }
    })
}

fn line(random: &mut Random) -> Vec<u8> {
    let mut line = match random.below(2) {
        0 => random.text(WORDS, 8),
        _ => format!("feed.v1, bearer.{}", random.text(WORDS, 3)),
    };
    if random.one_in(500) {
        line.push_str(&",".repeat(MAX_HEADER - 40 + random.below(80)));
    }
    let mut line = line.into_bytes();
    random.mutate(&mut line, WORDS);
    line
}

/// Returns the credential and the lines that are left.
fn reference(lines: &[Vec<u8>]) -> (Read, Vec<Vec<u8>>) {
    if lines.concat().len() > MAX_HEADER {
        return (Read::Invalid, Vec::new());
    }
    let mut found = Vec::new();
    let mut rest = Vec::new();
    for line in lines {
        let protocols = line.split(|byte| *byte == b',').map(trimmed);
        let mut kept = Vec::new();
        for protocol in protocols.filter(|protocol| !protocol.is_empty()) {
            match protocol.strip_prefix(b"bearer.") {
                Some(token) => found.push(Read::token(token)),
                None => kept.push(protocol),
            }
        }
        if !kept.is_empty() {
            rest.push(kept.join(&b", "[..]));
        }
    }
    if found.is_empty() {
        return (Read::None, lines.to_vec());
    }
    (Read::one_of(found), rest)
}
