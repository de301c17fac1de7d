//! Structured fields as JSON.

use serde::{Serialize, de::DeserializeOwned};

use super::error::StoreError;
use crate::details::SessionDetails;

/// Returns the details that have no column of their own, as JSON: all but the times. `None` if there
/// are none.
pub(super) fn details_to_json(details: &SessionDetails) -> Result<Option<String>, StoreError> {
    if !details.has_more_than_times() {
        return Ok(None);
    }
    let mut details = details.clone();
    (details.ends_at, details.authenticated_at) = (None, None);
    to_json(&details).map(Some)
}

/// Writes a structured field as JSON.
pub(super) fn to_json(value: &impl Serialize) -> Result<String, StoreError> {
    serde_json::to_string(value).map_err(StoreError::corrupt)
}

/// Reads a structured field from JSON. The error says where it is corrupt, never what stands there.
pub(super) fn from_json<T: DeserializeOwned>(json: &str) -> Result<T, String> {
    serde_json::from_str(json).map_err(|error| {
        let (line, column) = (error.line(), error.column());
        format!("it is not valid JSON of its kind at line {line}, column {column}")
    })
}
