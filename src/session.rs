//! The session itself: who it authenticates, and until when.

use chrono::{DateTime, Utc};
use serde::{Deserialize, Serialize};

use crate::{
    customer::{Customer, CustomerId, string_id},
    token::SessionToken,
};

string_id! {
    /// Identifies a session. It is not a secret: it revokes a session but opens none.
    SessionId
}

/// A customer session that can be used to authenticate as a customer.
///
/// In JSON the names are snake_case; camelCase is accepted too, unknown fields are ignored.
/// JSON carries the token, since the endpoint that creates a session must return it; `Debug`
/// does not.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct CustomerSession {
    /// Identifies the session.
    pub id: SessionId,
    /// When the session was created.
    #[serde(alias = "createdAt")]
    pub created_at: DateTime<Utc>,
    /// When the session was last changed.
    #[serde(alias = "modifiedAt", default)]
    pub modified_at: Option<DateTime<Utc>>,
    /// The secret that opens it.
    pub token: SessionToken,
    /// The first moment at which the session is no longer accepted.
    #[serde(alias = "expiresAt")]
    pub expires_at: DateTime<Utc>,
    /// Identifies the customer; the same as `customer.id`.
    #[serde(alias = "customerId")]
    pub customer_id: CustomerId,
    /// The customer whom the session authenticates.
    pub customer: Customer,
}

impl CustomerSession {
    /// Whether the session authenticates its customer at `now`: it has not expired
    /// (`now < expires_at`), and the customer has not been deleted.
    pub fn is_live_at(&self, now: DateTime<Utc>) -> bool {
        now < self.expires_at && self.customer.deleted_at.is_none()
    }
}

/// What may be shown of a session: everything but the token and the customer's details.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct SessionSummary {
    /// Identifies the session.
    pub id: SessionId,
    /// Identifies the customer.
    pub customer_id: CustomerId,
    /// When the session was created.
    pub created_at: DateTime<Utc>,
    /// When the session was last changed.
    pub modified_at: Option<DateTime<Utc>>,
    /// The first moment at which the session is no longer accepted.
    pub expires_at: DateTime<Utc>,
}

impl From<&CustomerSession> for SessionSummary {
    fn from(session: &CustomerSession) -> Self {
        Self {
            id: session.id.clone(),
            customer_id: session.customer_id.clone(),
            created_at: session.created_at,
            modified_at: session.modified_at,
            expires_at: session.expires_at,
        }
    }
}
