//! The token among the subprotocols that a WebSocket client offers (RFC 6455, section 4.1).

use http::{HeaderMap, HeaderValue, header::SEC_WEBSOCKET_PROTOCOL};

use super::{
    credential::Credential,
    header::{is_too_long, trim},
};
use crate::token::{SessionToken, TokenFormat};

/// Prefix of the subprotocol that holds the token. Subprotocols are case-sensitive.
const PREFIX: &[u8] = b"bearer.";

/// Removes the credential from the subprotocols and returns it.
///
/// This holds for every request, upgrade or not: a service behind the layer might decide in
/// another way whether the header counts.
pub(super) fn extract(headers: &mut HeaderMap) -> Credential<SessionToken> {
    let lines = headers.get_all(SEC_WEBSOCKET_PROTOCOL);
    if is_too_long(lines.iter()) {
        headers.remove(SEC_WEBSOCKET_PROTOCOL);
        return Credential::Malformed;
    }
    if !lines.iter().flat_map(entries).any(holds_token) {
        return Credential::None;
    }
    let mut credential = Credential::None;
    let mut rest = Vec::new();
    for line in lines {
        let mut kept = Vec::new();
        for entry in entries(line) {
            match entry.strip_prefix(PREFIX) {
                Some(value) => credential = credential.and(parse(value)),
                None => kept.push(entry),
            }
        }
        if !kept.is_empty() {
            // Always a valid value, since it is made of parts of one.
            rest.extend(HeaderValue::from_bytes(&kept.join(&b", "[..])).ok());
        }
    }
    headers.remove(SEC_WEBSOCKET_PROTOCOL);
    for line in rest {
        headers.append(SEC_WEBSOCKET_PROTOCOL, line);
    }
    credential
}

fn entries(line: &HeaderValue) -> impl Iterator<Item = &[u8]> {
    let entries = line.as_bytes().split(|byte| *byte == b',').map(trim);
    entries.filter(|entry| !entry.is_empty())
}

fn holds_token(entry: &[u8]) -> bool {
    entry.starts_with(PREFIX)
}

fn parse(value: &[u8]) -> Credential<SessionToken> {
    if value.is_empty() || value.len() > TokenFormat::MAX_LEN || !value.is_ascii() {
        Credential::Malformed
    } else {
        Credential::Token(SessionToken::from_ascii(value))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn extracted(lines: &[&str]) -> (Credential<String>, Vec<String>) {
        let mut headers = HeaderMap::new();
        for line in lines {
            let value = HeaderValue::from_str(line).expect("a value");
            headers.append(SEC_WEBSOCKET_PROTOCOL, value);
        }
        let credential = extract(&mut headers).map(|token| token.expose().to_owned());
        let rest = headers.get_all(SEC_WEBSOCKET_PROTOCOL).iter();
        let rest = rest.map(|line| line.to_str().expect("ASCII").to_owned());
        (credential, rest.collect())
    }

    #[test]
    fn the_token_is_removed_and_other_protocols_stay() {
        let token = || Credential::Token("t".to_owned());
        for (lines, rest) in [
            (&["bearer.t"][..], &[][..]),
            (&["feed.v1, bearer.t"], &["feed.v1"]),
            (&["bearer.t,feed.v1,feed.v2"], &["feed.v1, feed.v2"]),
            (&["feed.v1", "bearer.t", "feed.v2"], &["feed.v1", "feed.v2"]),
            (&[" , bearer.t ,, feed.v1"], &["feed.v1"]),
        ] {
            assert_eq!(
                extracted(lines),
                (
                    token(),
                    rest.iter().map(|line| (*line).to_owned()).collect()
                ),
                "{lines:?}"
            );
        }
    }

    #[test]
    fn other_protocols_are_ignored() {
        for line in ["feed.v1,feed.v2", "Bearer.t", "bearer", "x.bearer.t", ", ,"] {
            assert_eq!(
                extracted(&[line]),
                (Credential::None, vec![line.to_owned()]),
                "{line}"
            );
        }
    }

    #[test]
    fn an_empty_token_is_malformed_and_two_tokens_are_two_credentials() {
        for (lines, found) in [
            (&["bearer., a"][..], Credential::Malformed),
            (&["bearer.a, bearer.a", "a"], Credential::Multiple),
            (&["bearer.a", "a, bearer.b"], Credential::Multiple),
            (&["bearer., bearer.b, a"], Credential::Multiple),
        ] {
            assert_eq!(extracted(lines), (found, vec!["a".to_owned()]), "{lines:?}");
        }
    }

    #[test]
    fn a_token_or_header_that_is_too_long_is_malformed() {
        let long = "a".repeat(64 * 1024);
        let line = format!("bearer.{}", &long[..5000]);
        assert_eq!(extracted(&[&line]), (Credential::Malformed, vec![]));
        let line = format!("bearer.t, {long}");
        assert_eq!(extracted(&[&line]), (Credential::Malformed, vec![]));
    }
}
