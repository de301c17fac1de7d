//! A customer in an organization, as Polar's API describes one.

use std::{any::Any, collections::BTreeMap, fmt, ops::Deref, sync::Arc};

use chrono::{DateTime, SubsecRound, Utc};
use serde::{Deserialize, Deserializer, Serialize, Serializer, de};

/// A newtype over a string that says what the string identifies.
macro_rules! string_id {
    ($(#[$doc:meta])* $name:ident) => {
        $(#[$doc])*
        #[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, serde::Serialize, serde::Deserialize)]
        #[serde(transparent)]
        pub struct $name(String);

        impl $name {
            /// The identifier as it stands.
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
    /// Identifies a customer.
    CustomerId
}

string_id! {
    /// Identifies the organization a customer belongs to.
    OrganizationId
}

/// A customer in an organization: a handle that costs one pointer to clone.
///
/// The fields are those of [`CustomerData`], reached by dereferencing. A handle never
/// changes; to change a customer, build new data and hand it to
/// [`CustomerSessions::update_customer`](crate::CustomerSessions::update_customer).
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
#[serde(from = "CustomerData")]
pub struct Customer(Handle);

#[derive(Clone)]
enum Handle {
    Plain(Arc<CustomerData>),
    Badged(Arc<Badged>),
}

/// A customer who has come in somewhere, and what is known there of how.
struct Badged {
    data: Arc<CustomerData>,
    badge: Box<dyn Any + Send + Sync>,
}

impl Customer {
    /// The same customer with a badge, in place of another. Whatever belongs to a customer who
    /// has been let in travels with the handle, which costs a request nothing.
    pub(crate) fn with_badge(&self, badge: impl Any + Send + Sync) -> Self {
        let badged = Badged {
            data: Arc::clone(self.shared()),
            badge: Box::new(badge),
        };
        Self(Handle::Badged(Arc::new(badged)))
    }

    /// The same customer without a badge, to be kept.
    pub(crate) fn without_badge(&self) -> Self {
        Self(Handle::Plain(Arc::clone(self.shared())))
    }

    pub(crate) fn badge<T: Any>(&self) -> Option<&T> {
        match &self.0 {
            Handle::Plain(_) => None,
            Handle::Badged(badged) => badged.badge.downcast_ref(),
        }
    }

    fn shared(&self) -> &Arc<CustomerData> {
        match &self.0 {
            Handle::Plain(data) => data,
            Handle::Badged(badged) => &badged.data,
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
    /// Identifies the customer.
    pub id: CustomerId,
    /// When the customer was created.
    #[serde(alias = "createdAt")]
    pub created_at: DateTime<Utc>,
    /// When the customer was last changed.
    #[serde(alias = "modifiedAt", default)]
    pub modified_at: Option<DateTime<Utc>>,
    /// What the merchant keeps with the customer.
    #[serde(default)]
    pub metadata: Metadata,
    /// The customer's identifier in the merchant's own system.
    #[serde(alias = "externalId", default)]
    pub external_id: Option<String>,
    /// The e-mail address; teams may have none.
    #[serde(default)]
    pub email: Option<String>,
    /// Whether the e-mail address is known to be the customer's.
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
    /// The organization this customer is a customer of.
    #[serde(alias = "organizationId")]
    pub organization_id: OrganizationId,
    /// The payment method charged unless another is chosen.
    #[serde(alias = "defaultPaymentMethodId", default)]
    pub default_payment_method_id: Option<String>,
    /// When the customer was deleted. A deleted customer authenticates nobody.
    #[serde(alias = "deletedAt", default)]
    pub deleted_at: Option<DateTime<Utc>>,
    /// When the first usage event of this customer came in.
    #[serde(alias = "firstUserEventAt", default)]
    pub first_user_event_at: Option<DateTime<Utc>>,
    /// Where a picture of the customer is.
    #[serde(alias = "avatarUrl", default)]
    pub avatar_url: Option<String>,
}

impl CustomerData {
    /// A customer created now, with every optional field empty.
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

/// What sort of customer this is.
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
    /// What does not fit in the first line.
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

/// What the merchant keeps with a customer, by key.
pub type Metadata = BTreeMap<String, MetadataValue>;

/// One value in [`Metadata`].
#[derive(Clone, Debug, PartialEq)]
pub enum MetadataValue {
    /// A text.
    String(String),
    /// A whole number. JSON carries those of 64 bits, signed or unsigned, without loss.
    Integer(i128),
    /// A number with a fraction, even if that is zero: `2.0` is not `2`.
    Float(f64),
    /// True or false.
    Bool(bool),
}

impl From<&str> for MetadataValue {
    fn from(value: &str) -> Self {
        Self::String(value.to_owned())
    }
}

impl From<String> for MetadataValue {
    fn from(value: String) -> Self {
        Self::String(value)
    }
}

impl From<i64> for MetadataValue {
    fn from(value: i64) -> Self {
        Self::Integer(value.into())
    }
}

impl From<f64> for MetadataValue {
    fn from(value: f64) -> Self {
        Self::Float(value)
    }
}

impl From<bool> for MetadataValue {
    fn from(value: bool) -> Self {
        Self::Bool(value)
    }
}

impl Serialize for MetadataValue {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        match self {
            Self::String(value) => serializer.serialize_str(value),
            // Formats without 128-bit integers are spared them wherever 64 bits do.
            Self::Integer(value) => match (i64::try_from(*value), u64::try_from(*value)) {
                (Ok(value), _) => serializer.serialize_i64(value),
                (_, Ok(value)) => serializer.serialize_u64(value),
                _ => serializer.serialize_i128(*value),
            },
            // JSON would turn these into null, and null is no metadata.
            Self::Float(value) if !value.is_finite() => Err(serde::ser::Error::custom(
                "a metadata number must be finite",
            )),
            Self::Float(value) => serializer.serialize_f64(*value),
            Self::Bool(value) => serializer.serialize_bool(*value),
        }
    }
}

impl<'de> Deserialize<'de> for MetadataValue {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        deserializer.deserialize_any(MetadataVisitor)
    }
}

struct MetadataVisitor;

impl de::Visitor<'_> for MetadataVisitor {
    type Value = MetadataValue;

    fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("a string, a number or a boolean")
    }

    fn visit_str<E>(self, value: &str) -> Result<MetadataValue, E> {
        Ok(value.into())
    }

    fn visit_string<E>(self, value: String) -> Result<MetadataValue, E> {
        Ok(value.into())
    }

    fn visit_i64<E>(self, value: i64) -> Result<MetadataValue, E> {
        Ok(MetadataValue::Integer(value.into()))
    }

    fn visit_u64<E>(self, value: u64) -> Result<MetadataValue, E> {
        Ok(MetadataValue::Integer(value.into()))
    }

    fn visit_i128<E>(self, value: i128) -> Result<MetadataValue, E> {
        Ok(MetadataValue::Integer(value))
    }

    fn visit_f64<E>(self, value: f64) -> Result<MetadataValue, E> {
        Ok(value.into())
    }

    fn visit_bool<E>(self, value: bool) -> Result<MetadataValue, E> {
        Ok(value.into())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_badge_is_worn_by_one_handle_and_shows_nowhere() {
        let plain = Customer::from(CustomerData::new("cus_1", "org_1"));
        let badged = plain.with_badge(7_u8);
        assert_eq!(badged.badge::<u8>(), Some(&7));
        assert_eq!(badged.clone().badge::<u8>(), Some(&7));
        assert_eq!(badged.badge::<u16>(), None);
        assert_eq!(plain.badge::<u8>(), None);
        assert_eq!(badged.without_badge().badge::<u8>(), None);
        assert_eq!(badged.with_badge("other").badge::<u8>(), None);
        assert_eq!(badged, plain);
        assert_eq!(format!("{badged:?}"), format!("{plain:?}"));
        assert!(std::ptr::eq(&*badged, &*plain), "the data is shared");
    }
}
