//! What the rules are checked with: sessions to insert, and words to look for them.

use std::{error::Error, fmt, sync::Arc};

use chrono::{DateTime, SubsecRound, TimeDelta, Utc};

use crate::{
    customer::{Address, Customer, CustomerData, CustomerId, CustomerKind, TaxId},
    metadata::MetadataValue,
    session::CustomerSession,
    store::{SessionRegistry, StoreError, StoreErrorKind},
    token::TokenFormat,
};

pub(super) type Checked = Result<(), Broken>;

/// Why a rule is broken. It never holds a token.
pub(super) struct Broken(pub(super) String);

impl From<StoreError> for Broken {
    fn from(error: StoreError) -> Self {
        let cause = error
            .source()
            .map_or(String::new(), |cause| format!(": {cause}"));
        Self(format!("{error}{cause}"))
    }
}

pub(super) fn ensure(holds: bool, otherwise: impl Into<String>) -> Checked {
    if holds {
        Ok(())
    } else {
        Err(Broken(otherwise.into()))
    }
}

pub(super) fn conflict<T: fmt::Debug>(answer: Result<T, StoreError>, what: &str) -> Checked {
    match answer {
        Err(error) if error.kind() == StoreErrorKind::Conflict => Ok(()),
        other => Err(Broken(format!(
            "{what}: Conflict was expected, not {other:?}"
        ))),
    }
}

pub(super) struct Kit<S> {
    pub(super) store: Arc<S>,
}

impl<S: SessionRegistry> Kit<S> {
    /// A live session of a customer, with an id and a token of its own.
    pub(super) fn session(&self, customer: &str) -> CustomerSession {
        let now = Utc::now().trunc_subsecs(6);
        let mut data = CustomerData::new(customer, "org_conformance");
        // One customer looks the same in all of their sessions.
        data.created_at = DateTime::UNIX_EPOCH + TimeDelta::microseconds(1_893_456_000_000_001);
        data.name = Some(format!("name of {customer}"));
        let token = self.store.token_format().generate();
        CustomerSession::new(new_id(), token, data, now + TimeDelta::hours(1))
    }

    pub(super) async fn find(&self, session: &CustomerSession) -> Result<CustomerSession, Broken> {
        let found = self.store.find(&session.token).await?;
        found.ok_or_else(|| Broken(format!("session {} is not found", session.id)))
    }

    pub(super) async fn is_found(&self, session: &CustomerSession) -> Checked {
        let found = self.find(session).await?;
        ensure(
            found.token == session.token,
            format!(
                "session {} came without the token it was asked by",
                session.id
            ),
        )?;
        ensure(
            found == *session,
            format!("{session:?} was inserted, {found:?} is found"),
        )
    }

    pub(super) async fn is_gone(&self, session: &CustomerSession, because: &str) -> Checked {
        let found = self.store.find(&session.token).await?;
        ensure(
            found.is_none(),
            format!("session {} is found, though {because}", session.id),
        )
    }

    pub(super) async fn forget(&self, sessions: &[&CustomerSession]) -> Checked {
        for session in sessions {
            self.store.revoke(&session.id).await?;
        }
        Ok(())
    }
}

pub(super) fn joined<T>(
    outcome: Result<Result<T, StoreError>, tokio::task::JoinError>,
) -> Result<T, Broken> {
    match outcome {
        Ok(answer) => Ok(answer?),
        Err(_) => Err(Broken("the store panicked".to_owned())),
    }
}

/// Unlike any other, and no secret.
pub(super) fn new_id() -> String {
    let token = TokenFormat::any().generate();
    format!("kit_{}", &token.expose()[4..24])
}

/// A customer with every field set and as much metadata as there may be.
pub(super) fn rich_customer(id: &CustomerId) -> Customer {
    let mut data = CustomerData::new(id.clone(), "org_conformance");
    let now = Utc::now().trunc_subsecs(6);
    data.created_at = now - TimeDelta::microseconds(1);
    data.modified_at = Some(now);
    data.metadata = (0..44)
        .map(|n| (format!("key {n}"), "x".repeat(500).into()))
        .collect();
    data.metadata.extend(
        [
            ("whole", MetadataValue::Float(2.0)),
            ("tiny", MetadataValue::Float(1e-7)),
            ("beyond_f64", MetadataValue::Integer(9_007_199_254_740_993)),
            ("least", MetadataValue::Integer(i64::MIN.into())),
            ("beyond_i64", MetadataValue::Integer(u64::MAX.into())),
            ("beta", MetadataValue::Bool(true)),
        ]
        .map(|(key, value)| (key.to_owned(), value)),
    );
    data.external_id = Some("usr_1".to_owned());
    data.email = Some("jane@example.com".to_owned());
    data.email_verified = true;
    data.kind = CustomerKind::Team;
    data.name = Some("Jane 顧客 عميل".to_owned());
    data.billing_name = Some("Jane D. Ltd".to_owned());
    data.billing_address = Some(Address {
        line1: Some("1 rue de Lyon".to_owned()),
        city: Some("Lyon".to_owned()),
        country: "FR".to_owned(),
        ..Address::default()
    });
    data.tax_id = Some(TaxId {
        value: "FR00000000000".to_owned(),
        format: "eu_vat".to_owned(),
    });
    data.locale = Some("fr-FR".to_owned());
    data.default_payment_method_id = Some("pm_1".to_owned());
    data.first_user_event_at = Some(now);
    data.avatar_url = Some("https://example.com/jane.png".to_owned());
    data.into()
}
