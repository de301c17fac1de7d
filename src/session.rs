//! The session: which customer it authenticates, and until when.

use chrono::{DateTime, SubsecRound, Utc};
use serde::{Deserialize, Serialize};

use crate::{
    customer::{Customer, CustomerId},
    details::SessionDetails,
    token::SessionToken,
};

pub use crate::session_id::SessionId;

/// A customer session that can be used to authenticate as a customer.
///
/// In JSON the names are snake_case; camelCase is accepted too, unknown fields are ignored.
/// JSON carries the token, since the endpoint that creates a session must return it; `Debug`
/// does not.
///
/// ```
/// use chrono::{TimeDelta, Utc};
/// use customer_session::{CustomerData, CustomerSession, TokenFormat};
///
/// let customer = CustomerData::new("cus_1", "org_1");
/// let token = TokenFormat::new("acme_cst_").generate();
/// let mut session =
///     CustomerSession::new("ses_1", token, customer, Utc::now() + TimeDelta::hours(1));
/// session.modified_at = Some(session.created_at);
/// assert_eq!(session.customer_id, session.customer.id);
/// ```
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[non_exhaustive]
pub struct CustomerSession {
    /// Identifier of the session.
    pub id: SessionId,
    /// Time of creation.
    #[serde(alias = "createdAt")]
    pub created_at: DateTime<Utc>,
    /// Time of the last change.
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
    /// The customer that the session authenticates.
    pub customer: Customer,
    /// Everything else. It is never in the JSON.
    #[serde(skip)]
    pub details: SessionDetails,
}

impl CustomerSession {
    /// Creates a session of `customer` that is accepted until `expires_at`.
    ///
    /// `created_at` is the present time, to the microsecond as databases keep it, and
    /// `customer_id` the customer's id. `modified_at` and `details` are empty. Set the fields of
    /// the result to change any of them.
    pub fn new(
        id: impl Into<SessionId>,
        token: SessionToken,
        customer: impl Into<Customer>,
        expires_at: DateTime<Utc>,
    ) -> Self {
        let customer = customer.into();
        Self {
            id: id.into(),
            created_at: Utc::now().trunc_subsecs(6),
            modified_at: None,
            token,
            expires_at,
            customer_id: customer.id.clone(),
            customer,
            details: SessionDetails::default(),
        }
    }

    /// Returns `true` if the session authenticates its customer at `now`: it has not expired
    /// (`now < expires_at`), the customer has not been deleted, and it is not a
    /// [one-time link](SessionDetails::is_link).
    pub fn is_live_at(&self, now: DateTime<Utc>) -> bool {
        self.may_be_exchanged_at(now) && !self.details.is_link
    }

    /// Returns the time of the last use that is known. Creating a session is one.
    pub(crate) fn last_use(&self) -> DateTime<Utc> {
        last_use(self.created_at, &self.details)
    }

    /// Returns `true` if the session or the link has neither expired nor lost its customer.
    pub(crate) fn may_be_exchanged_at(&self, now: DateTime<Utc>) -> bool {
        now < self.expires_at && self.customer.deleted_at.is_none()
    }
}

fn last_use(created_at: DateTime<Utc>, details: &SessionDetails) -> DateTime<Utc> {
    details
        .last_used_at
        .map_or(created_at, |used_at| used_at.max(created_at))
}

/// A session without its token and its customer, as a list shows it.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[non_exhaustive]
pub struct SessionSummary {
    /// Identifies the session.
    pub id: SessionId,
    /// Identifies the customer.
    pub customer_id: CustomerId,
    /// Time of creation.
    pub created_at: DateTime<Utc>,
    /// Time of the last change.
    pub modified_at: Option<DateTime<Utc>>,
    /// The first moment at which the session is no longer accepted.
    pub expires_at: DateTime<Utc>,
    /// Everything else. It is not in the JSON.
    #[serde(skip)]
    pub details: SessionDetails,
}

impl SessionSummary {
    /// Creates the summary of a session that is accepted until `expires_at`.
    ///
    /// `modified_at` and `details` are empty. Set the fields of the result to change them.
    pub fn new(
        id: impl Into<SessionId>,
        customer_id: impl Into<CustomerId>,
        created_at: DateTime<Utc>,
        expires_at: DateTime<Utc>,
    ) -> Self {
        Self {
            id: id.into(),
            customer_id: customer_id.into(),
            created_at,
            modified_at: None,
            expires_at,
            details: SessionDetails::default(),
        }
    }

    /// Returns the time of the last use that is known. Creating a session is one.
    pub(crate) fn last_use(&self) -> DateTime<Utc> {
        last_use(self.created_at, &self.details)
    }

    /// Returns the time until which the ids that this session has replaced must lead to it.
    pub(crate) fn family_end(&self) -> DateTime<Utc> {
        let end = self.details.ends_at.unwrap_or(self.expires_at);
        end.max(self.expires_at)
    }

    /// Joins the summary with what it leaves out. `customer` must be the session's customer.
    pub(crate) fn into_session(self, token: SessionToken, customer: Customer) -> CustomerSession {
        CustomerSession {
            id: self.id,
            created_at: self.created_at,
            modified_at: self.modified_at,
            token,
            expires_at: self.expires_at,
            customer_id: self.customer_id,
            customer,
            details: self.details,
        }
    }
}

impl From<&CustomerSession> for SessionSummary {
    fn from(session: &CustomerSession) -> Self {
        Self {
            id: session.id.clone(),
            customer_id: session.customer_id.clone(),
            created_at: session.created_at,
            modified_at: session.modified_at,
            expires_at: session.expires_at,
            details: session.details.clone(),
        }
    }
}
