//! Checks of what no database can keep.

use super::error::{ContextError, StoreError, child_does_not_overlap};
use crate::{
    customer::Customer,
    metadata::{Metadata, MetadataValue},
    session::{CustomerSession, SessionId},
};

/// Returns `true` if a text can be kept. PostgreSQL has no NUL in its texts, and what one store
/// refuses all stores refuse.
pub(super) fn is_storable(text: &str) -> bool {
    !text.contains('\0')
}

/// Refuses a session that would not come back as it is; the error names the field.
pub(super) fn check_session(session: &CustomerSession) -> Result<(), StoreError> {
    if !is_storable(session.id.as_str()) {
        return Err(StoreError::invalid("a session id holds a NUL character"));
    }
    let refuse = |why: String| StoreError::invalid(format!("session {}: {why}", session.id));
    if session.customer_id != session.customer.id {
        return Err(refuse("customer_id is not the customer's id".to_owned()));
    }
    let context = || format!("session {}: its details are not valid", session.id);
    let details = session.details.check();
    details.map_err(|error| StoreError::invalid(ContextError::new(context(), error)))?;
    check_fields(&session.customer).map_err(refuse)
}

/// Refuses a new session that is marked as replaced.
pub(super) fn check_is_current(session: &CustomerSession) -> Result<(), StoreError> {
    match session.details.is_replaced {
        false => Ok(()),
        true => Err(StoreError::invalid(format!(
            "session {}: a new session cannot be marked as replaced",
            session.id
        ))),
    }
}

/// Refuses two sessions of which `new` cannot replace `old`, or after which `old` cannot remain.
pub(super) fn check_overlap(
    old: &CustomerSession,
    new: &CustomerSession,
) -> Result<(), StoreError> {
    check_session(old)?;
    check_session(new)?;
    if old.details.parent.is_some() {
        return Err(child_does_not_overlap(&old.id));
    }
    check_is_no_child(new)?;
    check_is_current(new)?;
    if old.details.is_replaced && old.customer_id == new.customer_id {
        return Ok(());
    }
    let (old, new) = (&old.id, &new.id);
    Err(StoreError::invalid(format!(
        "session {new}: it cannot replace {old}, which is not marked as replaced, or belongs to another customer"
    )))
}

/// Refuses a session that must be derived.
pub(super) fn check_is_no_child(session: &CustomerSession) -> Result<(), StoreError> {
    match &session.details.parent {
        None => Ok(()),
        Some(parent) => Err(StoreError::invalid(format!(
            "session {}: it has the parent {parent}, and must be derived",
            session.id
        ))),
    }
}

/// Refuses a session that is not a child of `parent`.
pub(super) fn check_is_child(
    child: &CustomerSession,
    parent: &SessionId,
) -> Result<(), StoreError> {
    check_session(child)?;
    check_is_current(child)?;
    if child.details.parent.as_ref() == Some(parent) {
        return Ok(());
    }
    let why = format!("session {}: its parent is not {parent}", child.id);
    Err(StoreError::invalid(why))
}

/// Refuses a customer that would not come back as it is; the error names the field.
pub(super) fn check_customer(customer: &Customer) -> Result<(), StoreError> {
    check_fields(customer)
        .map_err(|why| StoreError::invalid(format!("customer {:?}: {why}", customer.id.as_str())))
}

fn check_fields(customer: &Customer) -> Result<(), String> {
    let address = customer.billing_address.as_ref();
    let tax_id = customer.tax_id.as_ref();
    let kind = String::from(customer.kind.clone());
    let texts = [
        ("customer.id", Some(customer.id.as_str())),
        (
            "customer.organization_id",
            Some(customer.organization_id.as_str()),
        ),
        ("customer.external_id", customer.external_id.as_deref()),
        ("customer.email", customer.email.as_deref()),
        ("customer.type", Some(kind.as_str())),
        ("customer.name", customer.name.as_deref()),
        ("customer.billing_name", customer.billing_name.as_deref()),
        (
            "customer.tax_id",
            tax_id.map(|tax_id| tax_id.value.as_str()),
        ),
        (
            "customer.tax_id",
            tax_id.map(|tax_id| tax_id.format.as_str()),
        ),
        ("customer.locale", customer.locale.as_deref()),
        (
            "customer.default_payment_method_id",
            customer.default_payment_method_id.as_deref(),
        ),
        ("customer.avatar_url", customer.avatar_url.as_deref()),
    ];
    let address = address.into_iter().flat_map(|address| {
        let country = Some(address.country.as_str());
        [
            &address.line1,
            &address.line2,
            &address.postal_code,
            &address.city,
            &address.state,
        ]
        .map(|line| line.as_deref())
        .into_iter()
        .chain([country])
        .map(|line| ("customer.billing_address", line))
    });
    for (field, text) in texts.into_iter().chain(address) {
        if text.is_some_and(|text| !is_storable(text)) {
            return Err(format!(
                "{field} holds a NUL character, which cannot be kept"
            ));
        }
    }
    check_metadata(&customer.metadata)
}

fn check_metadata(metadata: &Metadata) -> Result<(), String> {
    for (key, value) in metadata {
        let why = match value {
            _ if !is_storable(key) => "a key with a NUL character",
            MetadataValue::String(text) if !is_storable(text) => "a NUL character",
            MetadataValue::Float(number) if !number.is_finite() => "a number that is not finite",
            // Readers of JSON take larger ones for fractions.
            MetadataValue::Integer(number)
                if i64::try_from(*number).is_err() && u64::try_from(*number).is_err() =>
            {
                "an integer of more than 64 bits"
            }
            _ => continue,
        };
        return Err(format!(
            "customer.metadata holds {why} in {key:?}, which cannot be kept"
        ));
    }
    Ok(())
}
