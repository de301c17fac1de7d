//! The token among the subprotocols that a WebSocket client offers (RFC 6455, section 4.1).

use http::{HeaderMap, HeaderValue, header::SEC_WEBSOCKET_PROTOCOL};

use super::{
    credential::Credential,
    header::{is_too_long, trim},
};
use crate::token::{SessionToken, TokenFormat};

/// Subprotocols are told apart by case, so it counts here, too.
const PREFIX: &[u8] = b"bearer.";

/// Takes the token out of the subprotocols, whatever sort of request this is: a condition
/// would be a way round for whoever reads the header by another.
pub(super) fn take(headers: &mut HeaderMap) -> Credential<SessionToken> {
    let lines = headers.get_all(SEC_WEBSOCKET_PROTOCOL);
    if is_too_long(lines.iter()) {
        headers.remove(SEC_WEBSOCKET_PROTOCOL);
        return Credential::Malformed;
    }
    if !lines.iter().flat_map(entries).any(is_ours) {
        return Credential::None;
    }
    let mut found = Credential::None;
    let mut rest = Vec::new();
    for line in lines {
        let mut kept = Vec::new();
        for entry in entries(line) {
            match entry.strip_prefix(PREFIX) {
                Some(value) => found = found.and(token(value)),
                None => kept.push(entry),
            }
        }
        if !kept.is_empty() {
            // Never an error: these are parts of a valid value.
            rest.extend(HeaderValue::from_bytes(&kept.join(&b", "[..])).ok());
        }
    }
    headers.remove(SEC_WEBSOCKET_PROTOCOL);
    for line in rest {
        headers.append(SEC_WEBSOCKET_PROTOCOL, line);
    }
    found
}

fn entries(line: &HeaderValue) -> impl Iterator<Item = &[u8]> {
    let entries = line.as_bytes().split(|byte| *byte == b',').map(trim);
    entries.filter(|entry| !entry.is_empty())
}

fn is_ours(entry: &[u8]) -> bool {
    entry.starts_with(PREFIX)
}

fn token(value: &[u8]) -> Credential<SessionToken> {
    if value.is_empty() || value.len() > TokenFormat::MAX_LEN || !value.is_ascii() {
        Credential::Malformed
    } else {
        Credential::Token(SessionToken::from_ascii(value))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn taken(lines: &[&str]) -> (Credential<String>, Vec<String>) {
        let mut headers = HeaderMap::new();
        for line in lines {
            let value = HeaderValue::from_str(line).expect("a value");
            headers.append(SEC_WEBSOCKET_PROTOCOL, value);
        }
        let found = match take(&mut headers) {
            Credential::None => Credential::None,
            Credential::Token(token) => Credential::Token(token.expose().to_owned()),
            Credential::Malformed => Credential::Malformed,
            Credential::CrossSite => Credential::CrossSite,
            Credential::Multiple => Credential::Multiple,
        };
        let rest = headers.get_all(SEC_WEBSOCKET_PROTOCOL).iter();
        let rest = rest.map(|it| it.to_str().expect("ASCII").to_owned());
        (found, rest.collect())
    }

    #[test]
    fn the_token_is_taken_and_the_other_protocols_stay() {
        let token = || Credential::Token("t".to_owned());
        for (lines, rest) in [
            (&["bearer.t"][..], &[][..]),
            (&["feed.v1, bearer.t"], &["feed.v1"]),
            (&["bearer.t,feed.v1,feed.v2"], &["feed.v1, feed.v2"]),
            (&["feed.v1", "bearer.t", "feed.v2"], &["feed.v1", "feed.v2"]),
            (&[" , bearer.t ,, feed.v1"], &["feed.v1"]),
        ] {
            assert_eq!(
                taken(lines),
                (token(), rest.iter().map(|it| (*it).to_owned()).collect()),
                "{lines:?}"
            );
        }
    }

    #[test]
    fn other_protocols_are_left_as_they_are() {
        for line in ["feed.v1,feed.v2", "Bearer.t", "bearer", "x.bearer.t", ", ,"] {
            assert_eq!(
                taken(&[line]),
                (Credential::None, vec![line.to_owned()]),
                "{line}"
            );
        }
    }

    #[test]
    fn an_empty_token_is_malformed_and_two_are_two() {
        for (lines, found) in [
            (&["bearer., a"][..], Credential::Malformed),
            (&["bearer.a, bearer.a", "a"], Credential::Multiple),
            (&["bearer.a", "a, bearer.b"], Credential::Multiple),
            (&["bearer., bearer.b, a"], Credential::Multiple),
        ] {
            assert_eq!(taken(lines), (found, vec!["a".to_owned()]), "{lines:?}");
        }
    }

    #[test]
    fn what_is_too_long_is_refused() {
        let long = "a".repeat(64 * 1024);
        let line = format!("bearer.{}", &long[..5000]);
        assert_eq!(taken(&[&line]), (Credential::Malformed, vec![]));
        let line = format!("bearer.t, {long}");
        assert_eq!(taken(&[&line]), (Credential::Malformed, vec![]));
    }
}
