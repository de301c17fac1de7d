//! The token in the query of the URI (RFC 6750, section 2.3).

use std::mem;

use http::{
    Uri,
    uri::{InvalidUri, InvalidUriParts, PathAndQuery},
};

use super::credential::Credential;
use crate::token::{SessionToken, TokenFormat};

/// Name of the query parameter.
const NAME: &[u8] = b"access_token";

/// Removes the credential from `uri` and returns it. Other parameters keep their order and
/// encoding.
pub(super) fn extract(uri: &mut Uri) -> Credential<SessionToken> {
    match uri.query() {
        Some(query) if query.split('&').any(is_access_token) => {
            let (credential, rest) = split(query);
            match with_query(uri, &rest) {
                Ok(without_token) => *uri = without_token,
                // Unreachable, since what is left of a valid query is valid. The token must not
                // stay in any case.
                Err(_) => {
                    *uri = Uri::default();
                    return Credential::Malformed;
                }
            }
            credential
        }
        _ => Credential::None,
    }
}

/// Splits a query into its credential and the other parameters, empty if there are none.
fn split(query: &str) -> (Credential<SessionToken>, String) {
    let mut credential = Credential::None;
    let mut rest = String::with_capacity(query.len());
    let mut is_first = true;
    for parameter in query.split('&') {
        if is_access_token(parameter) {
            let value = parameter.split_once('=').map_or("", |(_, value)| value);
            credential = credential.and(decode(value));
        } else {
            if !mem::take(&mut is_first) {
                rest.push('&');
            }
            rest.push_str(parameter);
        }
    }
    if rest.bytes().all(|byte| byte == b'&') {
        rest.clear();
    }
    (credential, rest)
}

fn with_query(uri: &Uri, query: &str) -> Result<Uri, http::Error> {
    let path_and_query = path_and_query(uri.path(), query)?;
    let mut parts = uri.clone().into_parts();
    parts.path_and_query = Some(path_and_query);
    Uri::from_parts(parts).map_err(|error: InvalidUriParts| error.into())
}

fn path_and_query(path: &str, query: &str) -> Result<PathAndQuery, InvalidUri> {
    if query.is_empty() {
        PathAndQuery::try_from(path)
    } else {
        PathAndQuery::try_from(format!("{path}?{query}"))
    }
}

/// Returns `true` if a parameter holds the token. The name is compared after decoding, as the
/// services behind the layer read it: `access%5Ftoken` must not pass unnoticed.
fn is_access_token(parameter: &str) -> bool {
    let name = parameter
        .split_once('=')
        .map_or(parameter, |(name, _)| name);
    name.len() <= 3 * NAME.len() && Decoded(name.as_bytes()).eq(NAME.iter().copied())
}

/// Decodes the value of the parameter. A plus stays a plus, since tokens contain it and never a
/// space.
fn decode(value: &str) -> Credential<SessionToken> {
    let decoded = || Decoded(value.as_bytes());
    // Checked before anything is copied. An encoded octet takes three characters at most.
    if value.is_empty()
        || value.len() > 3 * TokenFormat::MAX_LEN
        || !decoded().all(|byte| byte.is_ascii())
    {
        return Credential::Malformed;
    }
    // Allocated at full size: growing would leave a copy of the secret in freed memory.
    let mut token = String::with_capacity(value.len());
    token.extend(decoded().map(char::from));
    Credential::Token(SessionToken::new(token))
}

/// An iterator over the octets of a percent-encoded text (RFC 3986, section 2.1). A `%` that is
/// not followed by two hexadecimal digits stands for itself.
struct Decoded<'a>(&'a [u8]);

impl Iterator for Decoded<'_> {
    type Item = u8;

    fn next(&mut self) -> Option<u8> {
        let digit = |byte: u8| char::from(byte).to_digit(16);
        let (byte, rest) = match self.0 {
            [] => return None,
            [b'%', high, low, rest @ ..] => match (digit(*high), digit(*low)) {
                // Two digits of four bits are an octet.
                (Some(high), Some(low)) => ((high << 4 | low) as u8, rest),
                _ => (b'%', &self.0[1..]),
            },
            [byte, rest @ ..] => (*byte, rest),
        };
        self.0 = rest;
        Some(byte)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn extracted(uri: &str) -> (Credential<String>, String) {
        let mut uri: Uri = uri.parse().expect("a URI");
        let credential = extract(&mut uri).map(|token| token.expose().to_owned());
        (credential, uri.to_string())
    }

    fn token(token: &str) -> Credential<String> {
        Credential::Token(token.to_owned())
    }

    #[test]
    fn the_token_is_removed_and_other_parameters_stay() {
        for (uri, rest) in [
            ("/a?access_token=t", "/a"),
            ("/a?access_token=t&b=2", "/a?b=2"),
            ("/a?b=2&access_token=t", "/a?b=2"),
            (
                "/a?c=%20+%2b&access_token=t&b=2&b=1",
                "/a?c=%20+%2b&b=2&b=1",
            ),
            ("/a?b&&access_token=t&", "/a?b&&"),
            ("/a?&access_token=t&", "/a"),
            ("/?access_token=t", "/"),
            ("http://h:1/a?access_token=t&b=2", "http://h:1/a?b=2"),
            ("http://h?access_token=t", "http://h/"),
            ("/a?access%5Ftoken=t", "/a"),
            ("/a?%61ccess%5ftoken=%74", "/a"),
        ] {
            assert_eq!(extracted(uri), (token("t"), rest.to_owned()), "{uri}");
        }
    }

    #[test]
    fn the_value_is_decoded_once_and_a_plus_is_a_plus() {
        for (value, decoded) in [
            ("a%2Bb%2fc%3D%3d", "a+b/c=="),
            ("a+b", "a+b"),
            ("a=b", "a=b"),
            ("%2541", "%41"),
            ("a%zz%4", "a%zz%4"),
            ("a%20b", "a b"),
        ] {
            let uri = format!("/?access_token={value}");
            assert_eq!(extracted(&uri), (token(decoded), "/".to_owned()), "{value}");
        }
    }

    #[test]
    fn other_parameters_are_ignored() {
        for uri in [
            "/a",
            "/a?",
            "/access_token=t",
            "/a?Access_Token=t",
            "/a?access_token2=t",
            "/a?x=access_token=t",
            "/a?access%255Ftoken=t",
            "/a?access+token=t",
            "*",
        ] {
            assert_eq!(extracted(uri), (Credential::None, uri.to_owned()), "{uri}");
        }
    }

    #[test]
    fn an_empty_token_is_malformed_and_two_tokens_are_two_credentials() {
        for (uri, found) in [
            ("/?access_token", Credential::Malformed),
            ("/?access_token=", Credential::Malformed),
            ("/?access_token=%ff", Credential::Malformed),
            ("/?access_token=a&access_token=a", Credential::Multiple),
            ("/?access_token=a&access%5ftoken=b", Credential::Multiple),
            ("/?access_token&access_token=b", Credential::Multiple),
        ] {
            assert_eq!(extracted(uri), (found, "/".to_owned()), "{uri}");
        }
    }

    #[test]
    fn a_token_that_is_too_long_is_not_copied() {
        let long = "a".repeat(60_000);
        let uri = format!("/?access_token={long}&b=2");
        assert_eq!(extracted(&uri), (Credential::Malformed, "/?b=2".to_owned()));
    }
}
