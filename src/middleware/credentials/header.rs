//! Reading the values of header fields.

use http::HeaderValue;

/// More is not searched, in bytes over all lines of one header: the request is refused.
pub(super) const MOST_SEARCHED: usize = 64 * 1024;

pub(super) fn is_too_long<'a>(lines: impl Iterator<Item = &'a HeaderValue>) -> bool {
    lines.map(HeaderValue::len).sum::<usize>() > MOST_SEARCHED
}

/// Without the spaces and tabs around it; other white space is no part of HTTP's.
pub(super) fn trim(mut value: &[u8]) -> &[u8] {
    while let [b' ' | b'\t', rest @ ..] = value {
        value = rest;
    }
    while let [rest @ .., b' ' | b'\t'] = value {
        value = rest;
    }
    value
}
