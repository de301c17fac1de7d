//! A customer in an organization, as in Polar's API.

use std::{any::Any, fmt, ops::Deref, sync::Arc};

use chrono::{DateTime, SubsecRound, Utc};
use serde::{Deserialize, Serialize, Serializer};

use crate::metadata::Metadata;

/// Defines a newtype for identifiers.
macro_rules! string_id {
    ($(#[$doc:meta])* $name:ident) => {
        $(#[$doc])*
        #[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, serde::Serialize, serde::Deserialize)]
        #[serde(transparent)]
        pub struct $name(String);

        impl $name {
            /// Returns the identifier as a string.
            pub fn as_str(&self) -> &str {
                &self.0
            }
        }

        impl From<&str> for $name {
            fn from(id: &str) -> Self {
                Self(id.to_owned())
            }
        }

        impl From<String> for $name {
            fn from(id: String) -> Self {
                Self(id)
            }
        }

        impl AsRef<str> for $name {
            fn as_ref(&self) -> &str {
                &self.0
            }
        }

        impl std::fmt::Display for $name {
            fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
                f.write_str(&self.0)
            }
        }
    };
}
pub(crate) use string_id;

string_id! {
    /// Identifier of a customer.
    CustomerId
}

string_id! {
    /// Identifier of the organization that a customer belongs to.
    OrganizationId
}

/// A customer in an organization: a handle, whose clones share the data.
///
/// The fields are those of [`CustomerData`], reached by dereferencing. A handle never
/// changes; to change a customer, build new data and hand it to
/// [`CustomerSessions::update_customer`](crate::CustomerSessions::update_customer).
///
/// The handle that the layer puts into the extensions of a request leads to the session that
/// authenticated the request, too:
/// [`CurrentSession::from_extensions`](crate::CurrentSession::from_extensions) returns it. The session
/// is not a part of the customer: it is neither compared nor shown nor serialized. But as long as such
/// a handle is kept, its session stays in memory, with its token. To keep a customer beyond the
/// request, keep what [`detached`](Self::detached) returns.
///
/// ```
/// use customer_session::{Customer, CustomerData};
///
/// let mut data = CustomerData::new("cus_1", "org_1");
/// data.email = Some("jane@example.com".into());
/// let customer = Customer::from(data);
/// assert_eq!(customer.id.as_str(), "cus_1");
/// ```
#[derive(Clone, Deserialize)]
#[doc(alias = "current_user")]
#[serde(from = "CustomerData")]
pub struct Customer(Handle);

#[derive(Clone)]
enum Handle {
    Plain(Arc<CustomerData>),
    InSession(Arc<dyn SessionContext>),
}

/// The session that authenticated a customer. It travels with the handle, since an extension of its
/// own would cost each request an allocation.
pub(crate) trait SessionContext: Send + Sync + 'static {
    fn customer(&self) -> &Customer;

    fn into_any(self: Arc<Self>) -> Arc<dyn Any + Send + Sync>;
}

impl Customer {
    /// Returns a handle of the context's customer that carries the context.
    pub(crate) fn in_session(context: Arc<impl SessionContext>) -> Self {
        Self(Handle::InSession(context))
    }

    /// Returns a handle of the same data that leads to no session, to be kept beyond the request.
    pub fn detached(&self) -> Self {
        Self(Handle::Plain(Arc::clone(self.shared())))
    }

    pub(crate) fn context<T: Any + Send + Sync>(&self) -> Option<Arc<T>> {
        match &self.0 {
            Handle::Plain(_) => None,
            Handle::InSession(context) => Arc::clone(context).into_any().downcast().ok(),
        }
    }

    fn shared(&self) -> &Arc<CustomerData> {
        match &self.0 {
            Handle::Plain(data) => data,
            Handle::InSession(context) => context.customer().shared(),
        }
    }
}

impl Deref for Customer {
    type Target = CustomerData;

    fn deref(&self) -> &CustomerData {
        self.shared()
    }
}

impl From<CustomerData> for Customer {
    fn from(data: CustomerData) -> Self {
        Self(Handle::Plain(Arc::new(data)))
    }
}

impl PartialEq for Customer {
    fn eq(&self, other: &Self) -> bool {
        **self == **other
    }
}

impl fmt::Debug for Customer {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_tuple("Customer").field(&**self).finish()
    }
}

impl Serialize for Customer {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        (**self).serialize(serializer)
    }
}

/// The fields of a customer.
///
/// In JSON the names are snake_case, as Polar's API sends them; camelCase names are accepted
/// too. Unknown fields are ignored, absent nullable fields are `None`.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[non_exhaustive]
pub struct CustomerData {
    /// Identifier of the customer.
    pub id: CustomerId,
    /// Time of creation.
    #[serde(alias = "createdAt")]
    pub created_at: DateTime<Utc>,
    /// Time of the last change.
    #[serde(alias = "modifiedAt", default)]
    pub modified_at: Option<DateTime<Utc>>,
    /// The merchant's own data.
    #[serde(default)]
    pub metadata: Metadata,
    /// The customer's identifier in the merchant's own system.
    #[serde(alias = "externalId", default)]
    pub external_id: Option<String>,
    /// E-mail address; teams may have none.
    #[serde(default)]
    pub email: Option<String>,
    /// `true` if the e-mail address is known to be the customer's.
    #[serde(alias = "emailVerified", default)]
    pub email_verified: bool,
    /// Individual or team; `type` in JSON.
    #[serde(rename = "type", default)]
    pub kind: CustomerKind,
    /// The customer's name.
    #[serde(default)]
    pub name: Option<String>,
    /// The name on invoices.
    #[serde(alias = "billingName", default)]
    pub billing_name: Option<String>,
    /// The address on invoices.
    #[serde(alias = "billingAddress", default)]
    pub billing_address: Option<Address>,
    /// The tax identifier on invoices.
    #[serde(alias = "taxId", default)]
    pub tax_id: Option<TaxId>,
    /// The preferred language, such as `fr-FR`.
    #[serde(default)]
    pub locale: Option<String>,
    /// Identifier of the organization that the customer belongs to.
    #[serde(alias = "organizationId")]
    pub organization_id: OrganizationId,
    /// The payment method charged unless another is chosen.
    #[serde(alias = "defaultPaymentMethodId", default)]
    pub default_payment_method_id: Option<String>,
    /// Time of deletion. The sessions of a deleted customer do not authenticate.
    #[serde(alias = "deletedAt", default)]
    pub deleted_at: Option<DateTime<Utc>>,
    /// Time of the first usage event.
    #[serde(alias = "firstUserEventAt", default)]
    pub first_user_event_at: Option<DateTime<Utc>>,
    /// URL of a picture.
    #[serde(alias = "avatarUrl", default)]
    pub avatar_url: Option<String>,
}

impl CustomerData {
    /// Creates a customer as of now, with every optional field empty.
    pub fn new(id: impl Into<CustomerId>, organization_id: impl Into<OrganizationId>) -> Self {
        Self {
            id: id.into(),
            // Databases keep microseconds; what is stored must read back equal.
            created_at: Utc::now().trunc_subsecs(6),
            modified_at: None,
            metadata: Metadata::new(),
            external_id: None,
            email: None,
            email_verified: false,
            kind: CustomerKind::default(),
            name: None,
            billing_name: None,
            billing_address: None,
            tax_id: None,
            locale: None,
            organization_id: organization_id.into(),
            default_payment_method_id: None,
            deleted_at: None,
            first_user_event_at: None,
            avatar_url: None,
        }
    }
}

/// The kind of a customer.
#[derive(Clone, Debug, Default, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(from = "String", into = "String")]
pub enum CustomerKind {
    /// One person: `individual`.
    #[default]
    Individual,
    /// Several members who share the customer: `team`.
    Team,
    /// A kind this version does not know, kept as it came.
    Unknown(String),
}

impl From<String> for CustomerKind {
    fn from(kind: String) -> Self {
        match kind.as_str() {
            "individual" => Self::Individual,
            "team" => Self::Team,
            _ => Self::Unknown(kind),
        }
    }
}

impl From<CustomerKind> for String {
    fn from(kind: CustomerKind) -> Self {
        match kind {
            CustomerKind::Individual => "individual".to_owned(),
            CustomerKind::Team => "team".to_owned(),
            CustomerKind::Unknown(kind) => kind,
        }
    }
}

/// A postal address.
#[derive(Clone, Debug, Default, PartialEq, Eq, Hash, Serialize, Deserialize)]
pub struct Address {
    /// Street and number.
    #[serde(default)]
    pub line1: Option<String>,
    /// Second line.
    #[serde(default)]
    pub line2: Option<String>,
    /// Postal code.
    #[serde(alias = "postalCode", default)]
    pub postal_code: Option<String>,
    /// Town.
    #[serde(default)]
    pub city: Option<String>,
    /// State or province; with its country in front for the US and Canada, as in `US-NY`.
    #[serde(default)]
    pub state: Option<String>,
    /// ISO 3166-1 alpha-2 country code.
    pub country: String,
}

/// A tax identifier; `[value, format]` in JSON.
#[derive(Clone, Debug, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(from = "(String, String)", into = "(String, String)")]
pub struct TaxId {
    /// The identifier, such as `FR61954506077`.
    pub value: String,
    /// Its kind, such as `eu_vat`.
    pub format: String,
}

impl From<(String, String)> for TaxId {
    fn from((value, format): (String, String)) -> Self {
        Self { value, format }
    }
}

impl From<TaxId> for (String, String) {
    fn from(tax_id: TaxId) -> Self {
        (tax_id.value, tax_id.format)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    struct Number(u8, Customer);

    impl SessionContext for Number {
        fn customer(&self) -> &Customer {
            &self.1
        }

        fn into_any(self: Arc<Self>) -> Arc<dyn Any + Send + Sync> {
            self
        }
    }

    #[test]
    fn a_context_belongs_to_one_handle_and_is_not_shown() {
        let plain = Customer::from(CustomerData::new("cus_1", "org_1"));
        let in_session = Customer::in_session(Arc::new(Number(7, plain.clone())));
        let number = |customer: &Customer| customer.context::<Number>().map(|number| number.0);
        assert_eq!(number(&in_session), Some(7));
        assert_eq!(number(&in_session.clone()), Some(7));
        assert!(in_session.context::<String>().is_none(), "it is another");
        assert_eq!(number(&plain), None);
        assert_eq!(number(&in_session.detached()), None);
        assert_eq!(in_session, plain);
        assert_eq!(format!("{in_session:?}"), format!("{plain:?}"));
        assert!(std::ptr::eq(&*in_session, &*plain), "the data is shared");
    }
}
