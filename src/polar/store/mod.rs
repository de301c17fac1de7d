//! Lookups of the customer sessions that Polar issues.
//!
//! A lookup takes three calls: two at once with the customer's token, and one with the
//! organization's own, which alone tells whether the customer belongs to the organization.

mod base_url;
pub(super) mod builder;
mod call_budget;
mod check;
pub(super) mod create_session;
mod credential;
mod known_customers;
mod lookup;

use std::{fmt, sync::Arc};

use async_trait::async_trait;
use chrono::{DateTime, TimeDelta};
use sha2::{Digest, Sha256};

use self::known_customers::KnownCustomers;
use super::{client::PolarClient, rate_limit::Caller};
use crate::{
    customer::OrganizationId,
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
/// [`SessionStore`], not a registry; [`Revocable`](crate::store::Revocable) ends sessions here.
/// [`create`](Self::create) creates a session.
///
/// For the token of a member (`polar_mst_`) the second call asks for the member in place of the
/// customer: [`SessionDetails::member`](crate::SessionDetails::member) is that member. All members of a
/// team are the same [`Customer`](crate::Customer).
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
/// | 401 to the customer's token, with `invalid_token` as its JSON's `error` | no session |
/// | 404 with `ResourceNotFound` for a customer that was never found, created more than two minutes ago | no session: another organization's, or deleted; Polar is not asked for this customer again for a day, but no longer than the customer has existed (for a minute if Polar does not tell when it was created); for the token of a member this takes one call more |
/// | the same for a customer that is newer, that was found before, or that [`create`](Self::create) has returned | asked once more after 200 milliseconds, since Polar reads customers from a replica; then [`Unavailable`](crate::StoreErrorKind::Unavailable), for a second |
/// | 410 for the customer | no session |
/// | 422 for the member | the session, without a member |
/// | the customer, of another organization than the [`organization`](super::PolarStoreBuilder::organization) set | no session |
/// | any other 401 or 404, which a gateway in front of Polar may answer | [`Unavailable`](crate::StoreErrorKind::Unavailable): the base URL or a proxy is wrong |
/// | 404 for so many other customers that the [calls of this minute](super::PolarStoreBuilder::foreign_customer_calls_per_minute) are used up | [`Unavailable`](crate::StoreErrorKind::Unavailable) for customers that were never found, with the time until the next call |
/// | 429 | [`Unavailable`](crate::StoreErrorKind::Unavailable), with its `Retry-After`, at most a quarter of an hour; until then no calls are made with this token, or none at all if it was the organization's |
/// | 401 or 403 to the organization's token | [`Unavailable`](crate::StoreErrorKind::Unavailable): the access token is wrong, or lacks the scope `customers:read` |
/// | a redirect, which is not followed; any other status | [`Unavailable`](crate::StoreErrorKind::Unavailable) |
/// | nothing in time | [`Timeout`](crate::StoreErrorKind::Timeout) |
/// | a number in the metadata that no `f64` can hold | the largest `f64` of its sign in its place |
/// | an unreadable body, or more than 1 MiB | [`Corrupt`](crate::StoreErrorKind::Corrupt) |
///
/// A live token of another organization's customer is refused like an unknown one. A log event tells
/// how many there were, at most once a minute: if they should be yours, the access token is of another
/// organization.
///
/// The guide's page [`polar`](crate::guide::polar) has the details.
#[derive(Clone)]
pub struct PolarStore {
    client: Arc<PolarClient>,
    session_ttl: TimeDelta,
    known: Arc<KnownCustomers>,
    organization: Option<OrganizationId>,
    token_format: TokenFormat,
    caches: SharedCaches,
}

impl PolarStore {
    /// Polar's production API, the default.
    pub const PRODUCTION: &str = "https://api.polar.sh";

    /// Polar's sandbox, with accounts and tokens of its own.
    pub const SANDBOX: &str = "https://sandbox-api.polar.sh";

    /// Returns `true` unless another organization was set.
    fn is_of_organization(&self, organization: &OrganizationId) -> bool {
        let expected = self.organization.as_ref();
        expected.is_none_or(|expected| expected == organization)
    }
}

#[async_trait]
impl SessionStore for PolarStore {
    async fn find(&self, token: &SessionToken) -> Result<Option<CustomerSession>, StoreError> {
        if !self.token_format.matches(token.expose()) {
            return Ok(None);
        }
        let id = derived_id(token);
        // A lookup that cannot be completed is not begun.
        self.client.check_limit(Caller::Organization)?;
        let caller = Caller::Customer {
            token,
            session: &id,
        };
        let Some(session) = self.portal_session(caller).await? else {
            return Ok(None);
        };
        let Some(customer) = self.customer(&session, caller).await? else {
            return Ok(None);
        };
        let (customer_id, expires_at) = (session.customer_id, session.expires_at);
        let created_at = expires_at
            .checked_sub_signed(self.session_ttl)
            .unwrap_or(DateTime::UNIX_EPOCH);
        let mut summary = SessionSummary::new(id, customer_id, created_at, expires_at);
        summary.details.member = session.member;
        Ok(Some(summary.into_session(token.clone(), customer)))
    }

    fn token_format(&self) -> TokenFormat {
        self.token_format.clone()
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
}
