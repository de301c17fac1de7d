//! The requests by which a browser opens a page.

use http::{
    HeaderMap, HeaderName, Method,
    header::{ACCEPT, UPGRADE},
};

use super::credentials::has_bearer;

/// Request header by which a browser says what the request is for (Fetch Metadata).
const SEC_FETCH_MODE: HeaderName = HeaderName::from_static("sec-fetch-mode");

/// Returns `true` if the browser shows the answer to a person, who can be sent to another page.
///
/// A script that calls `fetch` may accept HTML too, so `Sec-Fetch-Mode` decides where there is one. A
/// client that sends a bearer token is a program.
pub(super) fn is_navigation(method: &Method, headers: &HeaderMap) -> bool {
    [Method::GET, Method::HEAD].contains(method)
        && !headers.contains_key(UPGRADE)
        && headers
            .get_all(SEC_FETCH_MODE)
            .iter()
            .all(|mode| mode == "navigate")
        && headers
            .get_all(ACCEPT)
            .iter()
            .flat_map(|line| line.as_bytes().split(|byte| *byte == b','))
            .any(is_html)
        && !has_bearer(headers)
}

/// Returns `true` if a member of `Accept` names HTML and does not refuse it (RFC 9110, section 12.5.1).
/// `*/*`, which programs send, does not name it.
fn is_html(member: &[u8]) -> bool {
    let mut parts = member.split(|byte| *byte == b';').map(<[u8]>::trim_ascii);
    let name = parts.next().unwrap_or_default();
    let is_html = [&b"text/html"[..], b"application/xhtml+xml"]
        .into_iter()
        .any(|html| name.eq_ignore_ascii_case(html));
    let is_refusal = |part: &[u8]| match part {
        [b'q' | b'Q', b'=', weight @ ..] => weight.iter().all(|byte| b"0.".contains(byte)),
        _ => false,
    };
    is_html && !parts.any(is_refusal)
}
