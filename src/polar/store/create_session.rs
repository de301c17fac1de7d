//! Creating a customer session at Polar.

use std::{error::Error, fmt};

use http::StatusCode;
use serde::{Deserialize, Serialize};
use zeroize::Zeroizing;

use super::PolarStore;
use crate::{
    customer::CustomerId,
    polar::{answer::PolarAnswer, client::Call, rate_limit::Caller},
    session::CustomerSession,
    store::error::StoreError,
};

/// The customer of a session to be created.
///
/// ```
/// use customer_session::{CustomerId, polar::CustomerRef};
///
/// let by_polar_s_id = CustomerRef::from(CustomerId::from("f0fc9fb8-9781-41dd-998e-e806192143af"));
/// let by_your_own = CustomerRef::external("usr_1");
/// # let _ = (by_polar_s_id, by_your_own);
/// ```
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
#[non_exhaustive]
pub enum CustomerRef {
    /// Polar's identifier.
    Id(CustomerId),
    /// The identifier in your own system.
    External(String),
}

impl CustomerRef {
    /// Refers to the customer with this id in your own system.
    pub fn external(id: impl Into<String>) -> Self {
        Self::External(id.into())
    }
}

impl From<CustomerId> for CustomerRef {
    fn from(id: CustomerId) -> Self {
        Self::Id(id)
    }
}

impl From<&CustomerId> for CustomerRef {
    fn from(id: &CustomerId) -> Self {
        Self::Id(id.clone())
    }
}

/// Settings of a session to be created. All are optional.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize)]
pub struct SessionOptions {
    #[serde(skip_serializing_if = "Option::is_none")]
    return_url: Option<String>,
    #[serde(skip_serializing_if = "Option::is_none")]
    member_id: Option<String>,
    #[serde(skip_serializing_if = "Option::is_none")]
    external_member_id: Option<String>,
}

impl SessionOptions {
    /// Creates settings without a value.
    pub fn new() -> Self {
        Self::default()
    }

    /// Sets the URL that Polar's customer portal leads back to.
    #[must_use]
    pub fn return_url(mut self, url: impl Into<String>) -> Self {
        self.return_url = Some(url.into());
        self
    }

    /// Sets the member of a team by Polar's id. In a team only members have sessions.
    #[must_use]
    pub fn member_id(mut self, id: impl Into<String>) -> Self {
        self.member_id = Some(id.into());
        self
    }

    /// Sets the member of a team by the id in your own system.
    #[must_use]
    pub fn external_member_id(mut self, id: impl Into<String>) -> Self {
        self.external_member_id = Some(id.into());
        self
    }
}

/// A session that Polar has just created.
#[derive(Clone, Debug, PartialEq)]
#[non_exhaustive]
pub struct CreatedSession {
    /// The session with its token, which Polar never tells again.
    pub session: CustomerSession,
    /// The URL that Polar's customer portal leads back to.
    pub return_url: Option<String>,
    /// The URL of Polar's customer portal, with the customer signed in.
    pub customer_portal_url: Option<PortalUrl>,
}

/// A URL that contains the session's token, and is as secret. `Debug` does not show it.
#[derive(Clone, PartialEq, Eq, Deserialize)]
#[serde(from = "String")]
pub struct PortalUrl(Zeroizing<String>);

impl PortalUrl {
    /// Returns the URL itself. Send the customer there; do not log it.
    pub fn expose(&self) -> &str {
        &self.0
    }
}

impl From<String> for PortalUrl {
    fn from(url: String) -> Self {
        Self(Zeroizing::new(url))
    }
}

impl fmt::Debug for PortalUrl {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("PortalUrl(redacted)")
    }
}

#[derive(Serialize)]
struct Request<'a> {
    #[serde(skip_serializing_if = "Option::is_none")]
    customer_id: Option<&'a CustomerId>,
    #[serde(skip_serializing_if = "Option::is_none")]
    external_customer_id: Option<&'a str>,
    #[serde(flatten)]
    options: &'a SessionOptions,
}

/// The URLs in Polar's answer.
#[derive(Deserialize)]
struct PortalLinks {
    #[serde(default)]
    return_url: Option<String>,
    #[serde(default)]
    customer_portal_url: Option<PortalUrl>,
}

impl PolarStore {
    /// Creates a session for a customer. At Polar it lasts an hour.
    ///
    /// In an organization with members the token is that of the customer's only member, or of the
    /// one that [`member_id`](SessionOptions::member_id) names.
    ///
    /// ```no_run
    /// use customer_session::polar::{CreateError, CustomerRef, PolarStore, SessionOptions};
    ///
    /// # async fn sign_in(store: &PolarStore) -> Result<(), CreateError> {
    /// let customer = CustomerRef::external("usr_1");
    /// let options = SessionOptions::new().return_url("https://example.com/account");
    /// let created = store.create(customer, options).await?;
    /// println!("it lasts until {}", created.session.expires_at);
    /// # Ok(())
    /// # }
    /// ```
    ///
    /// # Errors
    ///
    /// [`CreateError::Invalid`] if Polar does not accept the request, with the fields that are
    /// wrong, for example an unknown customer. Otherwise the store's error; then the session may
    /// have been created all the same, and ends by itself. It is one too if the customer is of another
    /// [`organization`](crate::polar::PolarStoreBuilder::organization) than the one that was set.
    pub async fn create(
        &self,
        customer: impl Into<CustomerRef>,
        options: SessionOptions,
    ) -> Result<CreatedSession, CreateError> {
        let customer = customer.into();
        let (customer_id, external_customer_id) = match &customer {
            CustomerRef::Id(id) => (Some(id), None),
            CustomerRef::External(id) => (None, Some(id.as_str())),
        };
        let request = serde_json::to_vec(&Request {
            customer_id,
            external_customer_id,
            options: &options,
        });
        let request = request.map_err(StoreError::unavailable)?;
        // Without the slash at the end Polar answers a redirect.
        let call = Call::post("creating a customer session at Polar", Caller::Organization).at([
            "v1",
            "customer-sessions",
            "",
        ]);
        let answer = self.client.send(call, Some(request)).await?;
        if answer.status == StatusCode::UNPROCESSABLE_ENTITY {
            return Err(invalid(&answer, &customer));
        }
        let session: CustomerSession = answer.read()?;
        if !self.is_of_organization(&session.customer.organization_id) {
            self.known.count_foreign_session();
            let text = "Polar has created a session for a customer of another organization than the \
                        one that was set: check the organization access token";
            return Err(StoreError::unavailable(text).into());
        }
        self.known.record_ours(&session.customer_id);
        let links: PortalLinks = answer.read()?;
        Ok(CreatedSession {
            session,
            return_url: links.return_url,
            customer_portal_url: links.customer_portal_url,
        })
    }
}

/// The reason why Polar has not created a session.
#[derive(Clone, Debug)]
#[non_exhaustive]
pub enum CreateError {
    /// Polar refuses the request.
    Invalid(Vec<FieldError>),
    /// Polar cannot be reached, does not answer in time, or its answer cannot be read.
    Store(StoreError),
}

/// The error of one field of a request.
#[derive(Clone, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub struct FieldError {
    /// The name of the field in Polar's API, such as `customer_id`; with dots for a nested one,
    /// empty for the request as a whole.
    pub field: String,
    /// Polar's message.
    pub message: String,
}

impl fmt::Display for CreateError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Invalid(errors) => {
                f.write_str("Polar does not accept the request")?;
                let mut separator = ": ";
                for FieldError { field, message } in errors {
                    write!(f, "{separator}{field}: {message}")?;
                    separator = "; ";
                }
                Ok(())
            }
            Self::Store(_) => f.write_str("Polar has not created a session"),
        }
    }
}

impl Error for CreateError {
    fn source(&self) -> Option<&(dyn Error + 'static)> {
        match self {
            Self::Invalid(_) => None,
            Self::Store(error) => Some(error),
        }
    }
}

impl From<StoreError> for CreateError {
    fn from(error: StoreError) -> Self {
        Self::Store(error)
    }
}

fn invalid(answer: &PolarAnswer, customer: &CustomerRef) -> CreateError {
    #[derive(Deserialize)]
    struct Problem {
        detail: Vec<Detail>,
    }
    #[derive(Deserialize)]
    struct Detail {
        loc: Vec<Place>,
        msg: String,
    }
    #[derive(Deserialize)]
    #[serde(untagged)]
    enum Place {
        Field(String),
        Index(u64),
    }
    let problem = match answer.parse::<Problem>() {
        Ok(problem) => problem,
        Err(_) => return CreateError::Store(answer.unexpected()),
    };
    // Polar validates a request as each kind that it knows, and names the kind before the field.
    let is_external = matches!(customer, CustomerRef::External(_));
    let is_kind = |part: &str| part.starts_with(|first: char| first.is_ascii_uppercase());
    let mut errors = Vec::new();
    for detail in problem.detail {
        let place = detail.loc.into_iter().map(|place| match place {
            Place::Field(name) => name,
            Place::Index(index) => index.to_string(),
        });
        let place: Vec<_> = place.skip_while(|part| part == "body").collect();
        let kind = place.first().filter(|part| is_kind(part));
        // Errors of the other kind do not matter.
        if kind.is_some_and(|kind| kind.contains("External") != is_external) {
            continue;
        }
        let error = FieldError {
            field: place[usize::from(kind.is_some())..].join("."),
            message: detail.msg,
        };
        if !errors.contains(&error) {
            errors.push(error);
        }
    }
    CreateError::Invalid(errors)
}
