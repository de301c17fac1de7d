//! From the `Cookie` headers to the token in one cookie.

use http::{HeaderMap, header::COOKIE};

use super::{
    credential::Credential,
    header::{is_too_long, trim},
};

/// Whether `name` can be a cookie's: a token (RFC 6265, section 4.1.1; RFC 9110,
/// section 5.6.2).
pub(super) fn is_name(name: &str) -> bool {
    let is_tchar = |byte: u8| byte.is_ascii_alphanumeric() || b"!#$%&'*+-.^_`|~".contains(&byte);
    !name.is_empty() && name.bytes().all(is_tchar)
}

/// Reads the cookie `name`. HTTP/2 may spread cookies over several lines (RFC 9113,
/// section 8.2.3), so that all are read; two of one name are two credentials, since which one
/// counts depends on who reads them (RFC 6265, section 4.2.2).
pub(super) fn credential<'a>(headers: &'a HeaderMap, name: &str) -> Credential<&'a [u8]> {
    if is_too_long(headers.get_all(COOKIE).iter()) {
        return Credential::Malformed;
    }
    headers
        .get_all(COOKIE)
        .iter()
        .flat_map(|line| line.as_bytes().split(|byte| *byte == b';'))
        .filter_map(|pair| trim(pair).strip_prefix(name.as_bytes())?.strip_prefix(b"="))
        .map(|value| match unquoted(value) {
            [] => Credential::Malformed,
            token => Credential::Token(token),
        })
        .fold(Credential::None, Credential::and)
}

/// RFC 6265, section 4.1.1: a value may stand in quotes.
fn unquoted(value: &[u8]) -> &[u8] {
    match value {
        [b'"', inside @ .., b'"'] => inside,
        _ => value,
    }
}

#[cfg(test)]
mod tests {
    use http::HeaderValue;

    use super::{super::header::MOST_SEARCHED, *};

    fn read(lines: &[&str]) -> Credential<Vec<u8>> {
        let mut headers = HeaderMap::new();
        for line in lines {
            headers.append(COOKIE, HeaderValue::from_str(line).expect("a value"));
        }
        match credential(&headers, "session") {
            Credential::None => Credential::None,
            Credential::Token(token) => Credential::Token(token.to_vec()),
            Credential::Malformed => Credential::Malformed,
            Credential::CrossSite => Credential::CrossSite,
            Credential::Multiple => Credential::Multiple,
        }
    }

    #[test]
    fn the_cookie_is_found_wherever_it_stands() {
        for lines in [
            &["session=abc"][..],
            &["a=1; session=abc"],
            &["a=1;session=abc ; b=2"],
            &["a=1", "session=abc", "b=2"],
            &["session=\"abc\""],
            &["a; =; ;; session=abc"],
        ] {
            assert_eq!(read(lines), Credential::Token(b"abc".to_vec()), "{lines:?}");
        }
        assert_eq!(
            read(&["session=a==; x=y"]),
            Credential::Token(b"a==".into())
        );
    }

    #[test]
    fn another_cookie_is_none_of_ours() {
        for lines in [
            &[][..],
            &[""],
            &["Session=abc"],
            &["xsession=abc"],
            &["sessionx=abc"],
            &["session"],
            &["a=session=abc"],
        ] {
            assert_eq!(read(lines), Credential::None, "{lines:?}");
        }
    }

    #[test]
    fn an_empty_cookie_is_malformed_and_two_are_two() {
        assert_eq!(read(&["session="]), Credential::Malformed);
        assert_eq!(read(&["session=\"\""]), Credential::Malformed);
        assert_eq!(read(&["session=\""]), Credential::Token(b"\"".to_vec()));
        for lines in [
            &["session=a; session=a"][..],
            &["session=a", "session=b"],
            &["session=; session=b"],
            &["session=a; session=b; session=c"],
        ] {
            assert_eq!(read(lines), Credential::Multiple, "{lines:?}");
        }
    }

    #[test]
    fn what_is_too_long_is_refused_unread() {
        let long = "a".repeat(MOST_SEARCHED);
        assert_eq!(read(&[&long]), Credential::None);
        assert_eq!(read(&[&long, "session=abc"]), Credential::Malformed);
        assert_eq!(read(&[&";".repeat(MOST_SEARCHED)]), Credential::None);
    }

    #[test]
    fn names_are_tokens() {
        for name in ["session", "__Host-session", "a.b_c~d!"] {
            assert!(is_name(name), "{name}");
        }
        for name in ["", "a b", "a=b", "a;b", "ä", "a\n", "\"a\"", "a,b"] {
            assert!(!is_name(name), "{name}");
        }
    }
}
