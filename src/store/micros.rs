//! Times as databases without a type for them keep them: microseconds since 1970, UTC.

use chrono::{DateTime, Utc};

pub(super) fn to_micros(time: DateTime<Utc>) -> i64 {
    time.timestamp_micros()
}

pub(super) fn from_micros(micros: i64) -> Result<DateTime<Utc>, String> {
    DateTime::from_timestamp_micros(micros)
        .ok_or_else(|| format!("{micros} microseconds are no time"))
}
