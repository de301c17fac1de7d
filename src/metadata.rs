//! The merchant's own data about a customer.

use std::{collections::BTreeMap, fmt};

use serde::{Deserialize, Deserializer, Serialize, Serializer, de};

/// The merchant's own data about a customer, by key.
pub type Metadata = BTreeMap<String, MetadataValue>;

/// A value in [`Metadata`].
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
            // Not every format has 128-bit integers, so 64 bits are used where they suffice.
            Self::Integer(value) => match (i64::try_from(*value), u64::try_from(*value)) {
                (Ok(value), _) => serializer.serialize_i64(value),
                (_, Ok(value)) => serializer.serialize_u64(value),
                _ => serializer.serialize_i128(*value),
            },
            // JSON would turn these into null, which is not a metadata value.
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
