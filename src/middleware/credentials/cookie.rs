//! The token in a cookie (RFC 6265).

use http::{HeaderMap, header::COOKIE};

use super::{
    super::cookie::SessionCookie,
    credential::Credential,
    header::{is_too_long, trim},
};

/// Reads the credential in `cookie`.
///
/// All lines are read, since HTTP/2 may spread cookies over several (RFC 9113, section 8.2.3).
/// Two cookies of one name are two credentials: which of them counts is not specified (RFC 6265,
/// section 4.2.2).
pub(super) fn read<'a>(headers: &'a HeaderMap, cookie: &SessionCookie) -> Credential<&'a [u8]> {
    let name = cookie.name().as_bytes();
    if is_too_long(headers.get_all(COOKIE).iter()) {
        return Credential::Malformed;
    }
    headers
        .get_all(COOKIE)
        .iter()
        .flat_map(|line| line.as_bytes().split(|byte| *byte == b';'))
        .filter_map(|pair| trim(pair).strip_prefix(name)?.strip_prefix(b"="))
        .map(|value| match unquoted(value) {
            [] => Credential::Malformed,
            token => Credential::Token(token),
        })
        .fold(Credential::None, Credential::and)
}

/// Removes the quotes in which a value may stand (RFC 6265, section 4.1.1).
fn unquoted(value: &[u8]) -> &[u8] {
    match value {
        [b'"', inside @ .., b'"'] => inside,
        _ => value,
    }
}

#[cfg(test)]
mod tests {
    use http::HeaderValue;

    use super::{super::header::MAX_HEADER_LEN, *};

    fn read(lines: &[&str]) -> Credential<Vec<u8>> {
        let mut headers = HeaderMap::new();
        for line in lines {
            headers.append(COOKIE, HeaderValue::from_str(line).expect("a value"));
        }
        let cookie = SessionCookie::new("session").expect("a name");
        super::read(&headers, &cookie).map(<[u8]>::to_vec)
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
    fn a_cookie_of_another_name_is_ignored() {
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
    fn an_empty_cookie_is_malformed_and_two_cookies_are_two_credentials() {
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
    fn cookies_that_are_too_long_are_refused_unread() {
        let long = "a".repeat(MAX_HEADER_LEN);
        assert_eq!(read(&[&long]), Credential::None);
        assert_eq!(read(&[&long, "session=abc"]), Credential::Malformed);
        assert_eq!(read(&[&";".repeat(MAX_HEADER_LEN)]), Credential::None);
    }
}
