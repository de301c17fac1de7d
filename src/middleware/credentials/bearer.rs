//! The token in the `Authorization` header (RFC 6750, section 2.1).

use http::{HeaderMap, header::AUTHORIZATION};

use super::{credential::Credential, header::trim};
use crate::token::TokenFormat;

const SCHEME: &[u8] = b"bearer";

/// Longest value that is searched for a token. No token format accepts a longer token.
const MAX_VALUE_LEN: usize = TokenFormat::MAX_LEN + SCHEME.len() + 64;

/// Reads the credential in `Authorization`.
///
/// No other header is read: a header that names an identity could be forged.
#[inline]
pub(super) fn read(headers: &HeaderMap) -> Credential<&[u8]> {
    let Some(value) = headers.get(AUTHORIZATION) else {
        return Credential::None;
    };
    // The field is not a list (RFC 9110, section 11.6.2), so two lines are two credentials.
    if headers.get_all(AUTHORIZATION).iter().nth(1).is_some() {
        return Credential::Multiple;
    }
    parse(value.as_bytes())
}

/// Parses `auth-scheme 1*SP token68`, the scheme in any case (RFC 9110, section 11.4).
#[inline]
pub(super) fn parse(value: &[u8]) -> Credential<&[u8]> {
    // A fast path for what nearly every client sends. The code below gives the same result.
    match value.strip_prefix(b"Bearer ") {
        Some(token @ [first, .., last])
            if first.is_ascii_graphic()
                && last.is_ascii_graphic()
                && token.len() <= TokenFormat::MAX_LEN
                && has_no_comma(token) =>
        {
            return Credential::Token(token);
        }
        _ => {}
    }
    // HTTP/1 has trimmed the value already, HTTP/2 has not (RFC 9113, section 8.2.1).
    let value = trim(value);
    let Some((scheme, rest)) = value.split_at_checked(SCHEME.len()) else {
        return Credential::None;
    };
    let is_bearer = scheme.eq_ignore_ascii_case(SCHEME)
        // A further visible character makes it another scheme, `Bearers` or `Bearer:`.
        && !rest.first().is_some_and(u8::is_ascii_graphic);
    if value.len() > MAX_VALUE_LEN {
        return if is_bearer {
            Credential::Malformed
        } else {
            Credential::None
        };
    }
    if !is_bearer {
        return if lists_credential(value, is_bearer_credential) {
            Credential::Multiple
        } else {
            Credential::None
        };
    }
    let token = &rest[rest.iter().take_while(|byte| **byte == b' ').count()..];
    if token.is_empty() || token.len() == rest.len() {
        Credential::Malformed
    } else if has_no_comma(token) || !lists_credential(value, is_credential) {
        Credential::Token(token)
    } else {
        Credential::Multiple
    }
}

/// Sixteen bytes at a time, the last of them perhaps again: this is a part of every request.
#[inline]
fn has_no_comma(token: &[u8]) -> bool {
    // No early return, so that the compiler compares all sixteen at once.
    let has_comma = |bytes: &[u8; 16]| bytes.iter().fold(false, |any, byte| any | (*byte == b','));
    let Some(last) = token.last_chunk() else {
        return !token.contains(&b',');
    };
    let chunks = token
        .chunks_exact(16)
        .filter_map(|chunk| chunk.first_chunk());
    !chunks.fold(has_comma(last), |any, chunk| any | has_comma(chunk))
}

/// Returns `true` if a comma outside quotes is followed by what `is_credential` accepts.
///
/// That is how a proxy joins two header lines into one (RFC 9110, section 5.3).
fn lists_credential(value: &[u8], is_credential: fn(&[u8]) -> bool) -> bool {
    let mut quoted = false;
    let mut escaped = false;
    value.iter().enumerate().any(|(index, byte)| {
        match byte {
            _ if escaped => escaped = false,
            b'\\' if quoted => escaped = true,
            b'"' => quoted = !quoted,
            b',' if !quoted => return is_credential(trim(&value[index + 1..])),
            _ => {}
        }
        false
    })
}

/// Returns `true` if `text` begins with the bearer scheme and a space.
fn is_bearer_credential(text: &[u8]) -> bool {
    text.split_at_checked(SCHEME.len())
        .is_some_and(|(scheme, rest)| scheme.eq_ignore_ascii_case(SCHEME) && rest.starts_with(b" "))
}

/// Returns `true` if `text` begins with a scheme, spaces and the first character of a value
/// (RFC 9110, section 11.4). A parameter, such as `realm = "x"`, is not a credential.
fn is_credential(text: &[u8]) -> bool {
    let is_tchar = |byte: &u8| byte.is_ascii_alphanumeric() || b"!#$%&'*+-.^_`|~".contains(byte);
    let (scheme, rest) = text.split_at(text.iter().take_while(|byte| is_tchar(byte)).count());
    let spaces = rest.iter().take_while(|byte| **byte == b' ').count();
    let starts_value = |byte: &u8| is_tchar(byte) || *byte == b'/';
    is_bearer_credential(text)
        || (!scheme.is_empty() && spaces > 0 && rest.get(spaces).is_some_and(starts_value))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_case_of_the_scheme_and_spaces_around_a_token_do_not_matter() {
        for value in [
            "Bearer abc",
            "bearer abc",
            "BEARER abc",
            "Bearer    abc",
            " \tBearer abc\t ",
            "Bearer abc ",
        ] {
            assert_eq!(
                parse(value.as_bytes()),
                Credential::Token(&b"abc"[..]),
                "{value}"
            );
        }
    }

    #[test]
    fn another_scheme_is_ignored() {
        for value in [
            "",
            "  ",
            "null",
            "Basic dTpw",
            "Bearers abc",
            "Beare abc",
            "Bearer:abc",
            "Bearer: abc",
            "Bearerabc",
            "Digest realm=\"a, bearer b\", nonce=\"n\"",
            "Digest realm=\"a\\\", bearer b\"",
            "Basic dTpw, Bearer",
            "Basic dTpw, Digest abc",
        ] {
            assert_eq!(parse(value.as_bytes()), Credential::None, "{value}");
        }
    }

    #[test]
    fn bearer_without_a_token_is_malformed() {
        for value in [&b"Bearer"[..], b"Bearer ", b"Bearer\tabc", b"Bearer\xa0abc"] {
            assert_eq!(parse(value), Credential::Malformed, "{value:?}");
        }
    }

    #[test]
    fn an_odd_token_is_left_to_the_token_format() {
        for value in [
            &b"Bearer \tabc"[..],
            b"Bearer a b",
            b"Bearer a,b",
            b"Bearer a,",
            b"Bearer a, ",
            b"Bearer a, b",
            b"Bearer a, Basic",
            b"Bearer a, Basic ",
            b"Bearer a, Basic\tdTpw",
            b"Bearer a, realm=\"x\"",
            b"Bearer a, realm = \"x\"",
            b"Bearer a, , b",
            b"Bearer a, b , c",
            b"Bearer a, b=c d",
            b"Bearer \"a, Basic dTpw\"",
            b"Bearer abc\xa0",
            b"Bearer \xf0\x9f\x94\x91",
        ] {
            let Credential::Token(token) = parse(value) else {
                panic!("{value:?}");
            };
            assert!(!TokenFormat::any().accepts(token), "{value:?}");
        }
    }

    #[test]
    fn joined_lines_are_more_than_one_credential() {
        for value in [
            "Basic dTpw, Bearer abc",
            "Basic dTpw,bearer abc",
            "Digest realm=\"a\", Bearer abc",
            "Bearer abc, Bearer def",
            "Bearer abc, Basic dTpw",
            "Bearer abc,basic  dTpw==",
            "Bearer abc, Digest realm=\"x\"",
            "Bearer abc, x /",
            "Bearer abc, realm=\"a, b\", Basic dTpw",
        ] {
            assert_eq!(parse(value.as_bytes()), Credential::Multiple, "{value}");
        }
    }

    #[test]
    fn a_comma_is_found_at_every_place_of_a_token_of_any_length() {
        for len in 0..40 {
            for filling in 0..=u8::MAX {
                let mut token = vec![filling; len];
                assert_eq!(has_no_comma(&token), filling != b',' || len == 0);
                for place in 0..len {
                    token[place] = b',';
                    assert!(!has_no_comma(&token), "{token:?}");
                    token[place] = filling;
                }
            }
        }
    }

    #[test]
    fn a_value_that_is_too_long_is_not_searched() {
        let long = "a".repeat(64 * 1024);
        let parse_len = |value: String| match parse(value.as_bytes()) {
            Credential::None => "none",
            Credential::Malformed => "malformed",
            _ => "searched",
        };
        assert_eq!(parse_len(format!("Bearer {long}")), "malformed");
        assert_eq!(parse_len(format!("Basic {long}, Bearer abc")), "none");
        assert_eq!(parse_len(long), "none");
    }
}
