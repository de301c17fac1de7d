//! Helpers for the values of header fields.

use http::HeaderValue;

/// Largest total size, in bytes, of the lines of one header that are searched for a token. A
/// request with more is refused.
pub(super) const MAX_HEADER_LEN: usize = 64 * 1024;

/// Returns `true` if the lines of a header are too long to be searched.
pub(super) fn is_too_long<'a>(lines: impl Iterator<Item = &'a HeaderValue>) -> bool {
    lines.map(HeaderValue::len).sum::<usize>() > MAX_HEADER_LEN
}

/// Removes spaces and tabs at both ends. HTTP has no other white space (RFC 9110,
/// section 5.6.3).
pub(super) fn trim(mut value: &[u8]) -> &[u8] {
    while let [b' ' | b'\t', rest @ ..] = value {
        value = rest;
    }
    while let [rest @ .., b' ' | b'\t'] = value {
        value = rest;
    }
    value
}
