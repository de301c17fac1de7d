//! What the rules are checked with: sessions to insert, and ways to look for them.

use std::{error::Error, fmt, sync::Arc};

use chrono::{DateTime, SubsecRound, TimeDelta, Utc};

use crate::{
    customer::{Address, Customer, CustomerData, CustomerId, CustomerKind, TaxId},
    invalidation::Invalidation,
    metadata::MetadataValue,
    page::Page,
    registry::{Inserted, Revocation, Revoked},
    session::{CustomerSession, SessionId, SessionSummary},
    store::{SessionRegistry, StoreError, StoreErrorKind},
    token::TokenFormat,
};

/// Calls that race for one session or one customer.
pub(super) const CONTENDERS: usize = 64;

pub(super) type RuleResult = Result<(), Violation>;

/// The way in which a rule is broken. It never holds a token.
pub(super) struct Violation(pub(super) String);

impl From<StoreError> for Violation {
    fn from(error: StoreError) -> Self {
        let cause = error
            .source()
            .map_or(String::new(), |cause| format!(": {cause}"));
        Self(format!("{error}{cause}"))
    }
}

pub(super) fn ensure(holds: bool, otherwise: impl Into<String>) -> RuleResult {
    if holds {
        Ok(())
    } else {
        Err(Violation(otherwise.into()))
    }
}

pub(super) fn conflict<T: fmt::Debug>(answer: Result<T, StoreError>, what: &str) -> RuleResult {
    match answer {
        Err(error) if error.kind() == StoreErrorKind::Conflict => Ok(()),
        other => Err(Violation(format!(
            "{what}: Conflict was expected, not {other:?}"
        ))),
    }
}

pub(super) struct Harness<S> {
    pub(super) store: Arc<S>,
}

impl<S: SessionRegistry> Harness<S> {
    /// Creates a live session of a customer, with an id and a token of its own.
    pub(super) fn session(&self, customer: &str) -> CustomerSession {
        let now = Utc::now().trunc_subsecs(6);
        let mut data = CustomerData::new(customer, "org_conformance");
        // One customer looks the same in all of their sessions.
        data.created_at = DateTime::UNIX_EPOCH + TimeDelta::microseconds(1_893_456_000_000_001);
        data.name = Some(format!("name of {customer}"));
        let token = self.store.token_format().generate();
        CustomerSession::new(new_id(), token, data, now + TimeDelta::hours(1))
    }

    pub(super) async fn find(
        &self,
        session: &CustomerSession,
    ) -> Result<CustomerSession, Violation> {
        let found = self.store.find(&session.token).await?;
        found.ok_or_else(|| Violation(format!("session {} is not found", session.id)))
    }

    pub(super) async fn is_found(&self, session: &CustomerSession) -> RuleResult {
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

    pub(super) async fn is_gone(&self, session: &CustomerSession, because: &str) -> RuleResult {
        let found = self.store.find(&session.token).await?;
        ensure(
            found.is_none(),
            format!("session {} is found, though {because}", session.id),
        )
    }

    /// Inserts a session without a limit.
    pub(super) async fn insert(&self, session: &CustomerSession) -> Result<Inserted, StoreError> {
        self.store.insert(session, None).await
    }

    /// Replaces a session without a limit, and returns the new one as stored.
    pub(super) async fn replace(
        &self,
        old: &SessionId,
        new: &CustomerSession,
    ) -> Result<Option<CustomerSession>, StoreError> {
        let replaced = self.store.replace(old, new, None).await?;
        Ok(replaced.map(|replaced| replaced.session))
    }

    pub(super) async fn revoke(&self, session: &SessionId) -> Result<bool, StoreError> {
        let what = Revocation::Session(session.clone());
        Ok(self.store.revoke(&what).await?.any)
    }

    /// Returns how many sessions the customer had.
    pub(super) async fn revoke_customer(&self, customer: &CustomerId) -> Result<usize, StoreError> {
        let before = self.list(customer).await?.len();
        let what = Revocation::Customer(customer.clone());
        self.store.revoke(&what).await?;
        let after = self.list(customer).await?.len();
        Ok(before.saturating_sub(after))
    }

    /// Returns the first page of a customer's sessions.
    pub(super) async fn list(
        &self,
        customer: &CustomerId,
    ) -> Result<Vec<SessionSummary>, StoreError> {
        Ok(self.store.list(customer, &Page::default()).await?.sessions)
    }

    pub(super) async fn forget(&self, sessions: &[&CustomerSession]) -> RuleResult {
        for session in sessions {
            self.revoke(&session.id).await?;
        }
        Ok(())
    }
}

/// Returns `true` if the engine would no longer trust an answer for `session`.
pub(super) fn names(revoked: &Revoked, session: &CustomerSession) -> bool {
    revoked.invalidations.iter().any(|named| match named {
        Invalidation::Session(id) => *id == session.id,
        Invalidation::Customer(id) | Invalidation::CustomerChanged { id, .. } => {
            *id == session.customer_id
        }
        Invalidation::All => true,
    })
}

pub(super) fn joined<T>(
    outcome: Result<Result<T, StoreError>, tokio::task::JoinError>,
) -> Result<T, Violation> {
    match outcome {
        Ok(answer) => Ok(answer?),
        Err(_) => Err(Violation("the store panicked".to_owned())),
    }
}

/// Returns an identifier unlike any other. It is not a secret.
pub(super) fn new_id() -> String {
    let token = TokenFormat::any().generate();
    format!("kit_{}", &token.expose()[4..24])
}

/// Returns a customer with every field set and as much metadata as there may be.
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
