//! Lookups of the customer sessions that Polar issues.
//!
//! A lookup takes three calls: two at once with the customer's token, and one with the
//! organization's own, which alone tells whether the customer belongs to the organization.

pub(super) mod builder;
pub(super) mod create_session;

use std::{fmt, pin::pin, sync::Arc, time::Duration};

use async_trait::async_trait;
use chrono::{DateTime, TimeDelta, Utc};
use http::StatusCode;
use moka::sync::Cache;
use serde::Deserialize;
use sha2::{Digest, Sha256};

use super::{
    answer::PolarAnswer,
    client::{Call, PolarClient},
    rate_limit::Caller,
};
use crate::{
    customer::{Customer, CustomerId},
    session::{CustomerSession, SessionId, SessionSummary},
    shared_caches::SharedCaches,
    store::{error::StoreError, traits::SessionStore},
    token::{SessionToken, TokenFormat},
};

/// Accepts the customer sessions that Polar issues for one organization.
///
/// A lookup makes three calls: for the session's end and for its customer's id, both at once with
/// the customer's token, then for the customer, with the organization's. The last one keeps the
/// customers of other organizations out: Polar's customer endpoints accept a live token of *any*
/// organization, and do not name the organization. Behind a
/// [`CustomerSessionLayer`](crate::CustomerSessionLayer) only a token that is not cached is looked
/// up, and a token that Polar cannot have issued never is.
///
/// Polar has no endpoint that lists or revokes sessions, so this is a
/// [`SessionStore`], not a registry. [`create`](Self::create) creates a session.
///
/// ```no_run
/// use customer_session::{CustomerSessions, polar::PolarStore};
///
/// # fn start() -> Result<(), Box<dyn std::error::Error>> {
/// let store = PolarStore::builder(std::env::var("POLAR_ACCESS_TOKEN")?)
///     .base_url(PolarStore::SANDBOX)
///     .build()?;
/// let sessions = CustomerSessions::builder(store).build();
/// # Ok(())
/// # }
/// ```
///
/// # What Polar does not tell
///
/// Of a session that it has not just created, Polar tells neither the id nor the time of creation.
/// They are derived, and the same at each lookup:
///
/// - `id` is `polar-` and 32 hexadecimal digits of the token's SHA-256. It is *not* the identifier
///   that [`create`](Self::create) returns.
/// - `created_at` is `expires_at` less
///   [`session_ttl`](super::PolarStoreBuilder::session_ttl), one hour.
/// - `modified_at` is `None`.
///
/// # What becomes of Polar's answers
///
/// | Polar answers | a lookup returns |
/// |---|---|
/// | 401 to the customer's token, with `invalid_token` or `Unauthorized` as its JSON's `error` | no session |
/// | 404 with `ResourceNotFound` for the customer | no session: another organization's, or deleted; for a minute Polar is not asked for this customer again |
/// | 410 for the customer | no session |
/// | any other 401 or 404, which a gateway in front of Polar may answer | [`Unavailable`](crate::StoreErrorKind::Unavailable): the base URL or a proxy is wrong |
/// | 429 | [`Unavailable`](crate::StoreErrorKind::Unavailable), with its `Retry-After`, at most a quarter of an hour; until then no calls are made with this token, or none at all if it was the organization's |
/// | 401 or 403 to the organization's token | [`Unavailable`](crate::StoreErrorKind::Unavailable): the access token is wrong, or lacks the scope `customers:read` |
/// | a redirect, which is not followed; any other status | [`Unavailable`](crate::StoreErrorKind::Unavailable) |
/// | nothing in time | [`Timeout`](crate::StoreErrorKind::Timeout) |
/// | an unreadable body, or more than 1 MiB | [`Corrupt`](crate::StoreErrorKind::Corrupt) |
///
/// The guide's page [`polar`](crate::guide::polar) has the details.
#[derive(Clone)]
pub struct PolarStore {
    client: Arc<PolarClient>,
    session_ttl: TimeDelta,
    foreign_customers: ForeignCustomers,
    caches: SharedCaches,
}

/// Customers of other organizations, and deleted ones. Each lookup of one takes one of the calls that
/// Polar allows the organization, so a client with many foreign tokens could use these up.
type ForeignCustomers = Cache<CustomerId, ()>;

fn foreign_customers() -> ForeignCustomers {
    Cache::builder()
        .max_capacity(10_000)
        .time_to_live(Duration::from_secs(60))
        .build()
}

/// The end of a session (`GET /v1/customer-portal/customer-session/introspect`).
#[derive(Deserialize)]
struct Introspection {
    expires_at: DateTime<Utc>,
}

/// The customer's id of a session (`GET /v1/customer-portal/customers/me`).
#[derive(Deserialize)]
struct Identity {
    id: CustomerId,
}

impl PolarStore {
    /// Polar's production API, the default.
    pub const PRODUCTION: &str = "https://api.polar.sh";

    /// Polar's sandbox, with accounts and tokens of its own.
    pub const SANDBOX: &str = "https://sandbox-api.polar.sh";

    /// Returns the session's end and its customer's id, as the customer's token tells them.
    async fn introspect(
        &self,
        token: &SessionToken,
        id: &SessionId,
    ) -> Result<Option<(DateTime<Utc>, CustomerId)>, StoreError> {
        let caller = Caller::Customer { token, session: id };
        let expiry = Call::get("asking Polar for the end of a session", caller).at([
            "v1",
            "customer-portal",
            "customer-session",
            "introspect",
        ]);
        let identity = Call::get("asking Polar for the customer of a session", caller).at([
            "v1",
            "customer-portal",
            "customers",
            "me",
        ]);
        // A refusal by either call decides, whatever becomes of the other.
        let is_refusal = |answer: &Result<PolarAnswer, StoreError>| {
            answer.as_ref().is_ok_and(PolarAnswer::refuses_token)
        };
        let mut expiry = pin!(self.client.send(expiry, None));
        let mut identity = pin!(self.client.send(identity, None));
        let (expiry, identity) = tokio::select! {
            first = &mut expiry => match is_refusal(&first) {
                true => return Ok(None),
                false => (first, identity.await),
            },
            first = &mut identity => match is_refusal(&first) {
                true => return Ok(None),
                false => (expiry.await, first),
            },
        };
        if is_refusal(&expiry) || is_refusal(&identity) {
            return Ok(None);
        }
        // If both have to wait, the longer wait counts.
        let wait = |answer: &Result<PolarAnswer, StoreError>| {
            answer.as_ref().err().and_then(StoreError::retry_after)
        };
        let (expiry, identity) = match (expiry, identity) {
            (expiry, Err(later)) if later.retry_after() > wait(&expiry) => return Err(later),
            (expiry, identity) => (expiry?, identity?),
        };
        let (expiry, identity): (Introspection, Identity) = (expiry.read()?, identity.read()?);
        Ok(Some((expiry.expires_at, identity.id)))
    }

    /// Returns the customer, if it belongs to the organization.
    async fn customer(&self, id: &CustomerId) -> Result<Option<Customer>, StoreError> {
        let id_in_path = path_segment(id)?;
        if self.foreign_customers.contains_key(id) {
            return Ok(None);
        }
        let call = Call::get("asking Polar for a customer", Caller::Organization);
        let call = call.at(["v1", "customers", id_in_path]);
        let answer = self.client.send(call, None).await?;
        if answer.status == StatusCode::GONE {
            return Ok(None);
        }
        if answer.is_not_found() {
            self.foreign_customers.insert(id.clone(), ());
            return Ok(None);
        }
        let customer: Customer = answer.read()?;
        if customer.id != *id {
            let text = format!("Polar was asked for customer {id} and answered with another");
            return Err(StoreError::corrupt(text));
        }
        Ok(Some(customer))
    }
}

#[async_trait]
impl SessionStore for PolarStore {
    async fn find(&self, token: &SessionToken) -> Result<Option<CustomerSession>, StoreError> {
        if !self.token_format().matches(token.expose()) {
            return Ok(None);
        }
        let id = derived_id(token);
        // A lookup that cannot be completed is not begun.
        self.client.check_limit(Caller::Organization)?;
        let Some((expires_at, customer_id)) = self.introspect(token, &id).await? else {
            return Ok(None);
        };
        let customer = self.customer(&customer_id).await?;
        let created_at = expires_at
            .checked_sub_signed(self.session_ttl)
            .unwrap_or(DateTime::UNIX_EPOCH);
        Ok(customer.map(|customer| {
            SessionSummary::new(id, customer_id, created_at, expires_at)
                .into_session(token.clone(), customer)
        }))
    }

    fn token_format(&self) -> TokenFormat {
        TokenFormat::polar()
    }

    fn shared_caches(&self) -> Option<&SharedCaches> {
        Some(&self.caches)
    }

    fn has_invalidation_source(&self) -> bool {
        true
    }
}

impl fmt::Debug for PolarStore {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("PolarStore")
            .field("base_url", &self.client.base_url.as_str())
            .finish_non_exhaustive()
    }
}

/// Derives an id for a session whose id Polar does not tell. It reveals nothing of the token, which
/// has 220 random bits.
fn derived_id(token: &SessionToken) -> SessionId {
    let mut digest = Sha256::new();
    digest.update(b"customer-session polar id ");
    digest.update(token.expose());
    format!("polar-{}", hex::encode(&digest.finalize()[..16])).into()
}

/// Returns a customer's id as one segment of a path, which must not lead anywhere else.
fn path_segment(id: &CustomerId) -> Result<&str, StoreError> {
    let is_plain = |byte: u8| byte.is_ascii_alphanumeric() || matches!(byte, b'-' | b'_');
    let id = id.as_str();
    if (1..=64).contains(&id.len()) && id.bytes().all(is_plain) {
        Ok(id)
    } else {
        Err(StoreError::corrupt(
            "Polar told a customer's id that cannot be part of a path",
        ))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_derived_id_is_stable_and_differs_from_token_to_token() {
        let (one, other) = (SessionToken::new("one"), SessionToken::new("other"));
        assert_eq!(derived_id(&one), derived_id(&one));
        assert_ne!(derived_id(&one), derived_id(&other));
        assert_eq!(derived_id(&one).as_str().len(), "polar-".len() + 32);
    }

    #[test]
    fn a_customer_s_id_cannot_lead_elsewhere() {
        for good in ["f0fc9fb8-9781-41dd-998e-e806192143af", "cus_1"] {
            assert_eq!(path_segment(&good.into()).expect("plain"), good);
        }
        let long = "a".repeat(65);
        for bad in ["", ".", "..", "a/b", "a%2fb", "a?b", "a#b", "é", &long] {
            assert!(path_segment(&bad.into()).is_err(), "{bad}");
        }
    }
}
