//! JSON with numbers that no `f64` can hold.

use serde::de::DeserializeOwned;
use zeroize::Zeroizing;

/// The number that stands for one that is out of range, without its sign: `f64::MAX`.
const LARGEST: &[u8] = b"1.7976931348623157e308";

/// Reads JSON. A number that is too large for an `f64` becomes the largest one of its sign: Polar takes
/// whole numbers of any size as metadata, and one of them must not shut a customer out. It does not
/// become infinity, which could not be written as JSON again.
///
/// # Errors
///
/// If it is not JSON, or has another shape. The place in the error is that of the text as it came, unless
/// the text has such a number.
pub(super) fn from_slice<T: DeserializeOwned>(json: &[u8]) -> serde_json::Result<T> {
    serde_json::from_slice(json).or_else(|error| match within_range(json) {
        Some(json) => serde_json::from_slice(&json),
        None => Err(error),
    })
}

/// Returns the text with its numbers in range, or `None` if they all are.
fn within_range(json: &[u8]) -> Option<Zeroizing<Vec<u8>>> {
    // The text may contain a token: no copy of it is left by a vector that grows. A number that is out
    // of range has 5 bytes at least.
    let mut changed = Zeroizing::new(Vec::with_capacity(json.len() * 5));
    let (mut is_changed, mut rest) = (false, json);
    while let Some(first) = rest.first() {
        let len = match first {
            b'"' => string_len(rest),
            b'-' | b'0'..=b'9' => number_len(rest),
            _ => 1,
        };
        let (value, after) = rest.split_at(len);
        if is_out_of_range(value) {
            is_changed = true;
            if value[0] == b'-' {
                changed.push(b'-');
            }
            changed.extend_from_slice(LARGEST);
        } else {
            changed.extend_from_slice(value);
        }
        rest = after;
    }
    is_changed.then_some(changed)
}

/// Returns the length of the string at the beginning, with its quotes.
fn string_len(json: &[u8]) -> usize {
    let mut is_escaped = false;
    let end = json[1..].iter().position(|byte| {
        let is_end = *byte == b'"' && !is_escaped;
        is_escaped = *byte == b'\\' && !is_escaped;
        is_end
    });
    end.map_or(json.len(), |end| end + 2)
}

/// Returns the length of the number at the beginning.
fn number_len(json: &[u8]) -> usize {
    let is_part = |byte: &u8| matches!(byte, b'0'..=b'9' | b'-' | b'+' | b'.' | b'e' | b'E');
    let end = json.iter().position(|byte| !is_part(byte));
    end.unwrap_or(json.len())
}

fn is_out_of_range(value: &[u8]) -> bool {
    if !matches!(value[0], b'-' | b'0'..=b'9') {
        return false;
    }
    let number = std::str::from_utf8(value).ok();
    let number: Option<f64> = number.and_then(|text| text.parse().ok());
    number.is_some_and(f64::is_infinite)
}

#[cfg(test)]
mod tests {
    use serde_json::{Value, json};

    use super::*;

    #[test]
    fn a_number_out_of_range_is_the_largest_of_its_sign() {
        let digits = "9".repeat(400);
        let text = format!(
            r#"{{"a":1e400,"b":-{digits},"c":{digits}.5,"d":[1E+309,2],"e":"1e400 \" 1e400","f":1.5}}"#
        );
        let read: Value = from_slice(text.as_bytes()).expect("JSON");
        let max = f64::MAX;
        let expected = json!({
            "a": max, "b": -max, "c": max, "d": [max, 2], "e": "1e400 \" 1e400", "f": 1.5,
        });
        assert_eq!(read, expected);
        assert!(serde_json::to_string(&read).is_ok());
    }

    #[test]
    fn numbers_in_range_stay_as_they_are() {
        for text in [
            "1.7976931348623157e308",
            "18446744073709551615",
            "-5e-324",
            "1e-400",
        ] {
            assert_eq!(within_range(text.as_bytes()), None, "{text}");
            let read: Value = from_slice(text.as_bytes()).expect("JSON");
            assert_eq!(read, serde_json::from_str::<Value>(text).expect("JSON"));
        }
    }

    #[test]
    fn what_is_not_json_is_an_error_as_before() {
        for text in [
            "", "{", "1e400", "[1e400", "\"\\", "-", "1e4001e", "--1e400", "\"1e400",
        ] {
            let read = from_slice::<Vec<Value>>(text.as_bytes());
            assert!(read.is_err(), "{text}: {read:?}");
        }
    }
}
