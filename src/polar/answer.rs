//! An answer of Polar's, and what it says.

use http::StatusCode;
use serde::{Deserialize, de::DeserializeOwned};
use zeroize::Zeroizing;

use super::json;
use crate::store::error::{ContextError, StoreError};

/// An answer with a status below 500.
pub(super) struct PolarAnswer {
    pub(super) status: StatusCode,
    pub(super) context: &'static str,
    pub(super) is_to_organization: bool,
    /// It may contain a token.
    pub(super) body: Zeroizing<Vec<u8>>,
}

/// The body of Polar's errors.
#[derive(Deserialize)]
struct ErrorBody {
    error: String,
}

impl PolarAnswer {
    /// Reads a successful answer; any other status is an error.
    pub(super) fn read<T: DeserializeOwned>(&self) -> Result<T, StoreError> {
        if self.status.is_success() {
            self.parse()
        } else {
            Err(self.unexpected())
        }
    }

    /// Reads the body, whatever the status.
    pub(super) fn parse<T: DeserializeOwned>(&self) -> Result<T, StoreError> {
        json::from_slice(&self.body).map_err(|error| {
            // The text of serde's error quotes the answer, which may contain a token.
            let (line, column) = (error.line(), error.column());
            let text = match error.classify() {
                serde_json::error::Category::Data => "has another shape than expected",
                serde_json::error::Category::Eof => "ends too soon",
                _ => "is not JSON",
            };
            let text = format!("the answer {text}, at line {line}, column {column}");
            StoreError::corrupt(ContextError::new(self.context, text))
        })
    }

    /// Returns `true` if Polar itself refuses the customer's token. A gateway in front of Polar may
    /// answer 401 too, and knows nothing of the token. Polar's own "Unauthorized" says that no token of a
    /// customer has arrived, as behind a proxy that takes it out.
    pub(super) fn refuses_token(&self) -> bool {
        self.status == StatusCode::UNAUTHORIZED
            && self.error_name().as_deref() == Some("invalid_token")
    }

    /// Returns `true` if Polar itself says that there is no such record. The 404 of a gateway, or of
    /// a path that Polar does not have, says nothing of the record.
    pub(super) fn is_not_found(&self) -> bool {
        self.status == StatusCode::NOT_FOUND
            && self.error_name().as_deref() == Some("ResourceNotFound")
    }

    /// Returns the name that each error of Polar's has.
    fn error_name(&self) -> Option<String> {
        let body: ErrorBody = serde_json::from_slice(&self.body).ok()?;
        Some(body.error)
    }

    /// Returns the error of an answer with an unexpected status.
    pub(super) fn unexpected(&self) -> StoreError {
        let is_polars = self.error_name().is_some();
        let hint = match self.status {
            StatusCode::UNAUTHORIZED | StatusCode::FORBIDDEN | StatusCode::NOT_FOUND
                if !is_polars =>
            {
                ", and not in Polar's words: check the base URL, and the proxy if there is one"
            }
            StatusCode::UNAUTHORIZED if self.is_to_organization => {
                ": check the organization access token"
            }
            StatusCode::FORBIDDEN if self.is_to_organization => {
                ": check the scopes of the organization access token (lookups need `customers:read`, `create` \
                 needs `customer_sessions:write`)"
            }
            _ => "",
        };
        let text = format!("Polar answered {}{hint}", self.status);
        StoreError::unavailable(ContextError::new(self.context, text))
    }
}
