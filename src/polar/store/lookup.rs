//! The calls of a lookup, and what their answers say of the session.

use std::{pin::pin, time::Duration};

use chrono::{DateTime, Utc};
use http::StatusCode;
use serde::Deserialize;
use serde_json::Value;
use tokio::time::sleep;

use super::{PolarStore, call_budget::CallPermit, known_customers::Absence};
use crate::{
    customer::{Customer, CustomerId},
    details::{Member, MemberRole},
    polar::{answer::PolarAnswer, client::Call, rate_limit::Caller},
    store::error::StoreError,
};

/// Pause before a customer that Polar has just created is asked for once more.
const REPLICA_PAUSE: Duration = Duration::from_millis(200);

/// What Polar tells with the customer's token.
pub(super) struct PortalSession {
    pub(super) expires_at: DateTime<Utc>,
    pub(super) customer_id: CustomerId,
    /// The member of the customer's team, if the token is a member's.
    pub(super) member: Option<Member>,
    /// When the customer was created.
    customer_created_at: Option<DateTime<Utc>>,
}

/// The end of a session (`GET /v1/customer-portal/customer-session/introspect`).
#[derive(Deserialize)]
struct Introspection {
    expires_at: DateTime<Utc>,
}

/// The customer of a session (`GET /v1/customer-portal/customers/me`).
#[derive(Deserialize)]
struct PortalCustomer {
    id: CustomerId,
    /// Read leniently: whose customer it is does not depend on it.
    #[serde(default)]
    created_at: Value,
}

impl PortalCustomer {
    fn created_at(&self) -> Option<DateTime<Utc>> {
        self.created_at.as_str()?.parse().ok()
    }
}

/// The member of a session (`GET /v1/customer-portal/customer-session/user`).
#[derive(Deserialize)]
struct PortalUser {
    customer_id: CustomerId,
    member_id: Option<String>,
    role: Option<String>,
    name: Option<String>,
    email: Option<String>,
}

impl PortalUser {
    fn into_member(self) -> Option<Member> {
        let role = MemberRole::from(self.role.unwrap_or_default());
        let mut member = Member::new(self.member_id?, role);
        member.name = self.name;
        member.email = self.email;
        Some(member)
    }
}

/// Polar's answer for a customer.
enum CustomerAnswer {
    Found(Customer),
    /// Polar does not have the customer any more.
    Gone,
    /// The customer is another organization's, is deleted, or was created a moment ago.
    NotFound,
}

impl PolarStore {
    /// Returns what Polar tells of a session with the customer's token, or `None` if it refuses the
    /// token.
    pub(super) async fn portal_session(
        &self,
        caller: Caller<'_>,
    ) -> Result<Option<PortalSession>, StoreError> {
        let expiry = Call::get("asking Polar for the end of a session", caller).at([
            "v1",
            "customer-portal",
            "customer-session",
            "introspect",
        ]);
        let is_members = is_members(caller);
        let identity = if is_members { user(caller) } else { me(caller) };
        let (expiry, identity) = (
            self.client.send(expiry, None),
            self.client.send(identity, None),
        );
        let Some((expiry, mut identity)) = neither_refused(expiry, identity).await? else {
            return Ok(None);
        };
        let Introspection { expires_at } = expiry.read()?;
        if is_members && identity.status != StatusCode::UNPROCESSABLE_ENTITY {
            let user: PortalUser = identity.read()?;
            return Ok(Some(PortalSession {
                expires_at,
                customer_id: user.customer_id.clone(),
                member: user.into_member(),
                customer_created_at: None,
            }));
        }
        if is_members {
            // The customer is a team without an e-mail address, and Polar names no member.
            identity = self.client.send(me(caller), None).await?;
            if identity.refuses_token() {
                return Ok(None);
            }
        }
        let customer: PortalCustomer = identity.read()?;
        Ok(Some(PortalSession {
            expires_at,
            customer_created_at: customer.created_at(),
            customer_id: customer.id,
            member: None,
        }))
    }

    /// Returns the session's customer, if it belongs to the organization.
    ///
    /// Polar reads it from a replica, which may not have a customer that was created a moment ago.
    pub(super) async fn customer(
        &self,
        session: &PortalSession,
        caller: Caller<'_>,
    ) -> Result<Option<Customer>, StoreError> {
        let id = &session.customer_id;
        let path = path_segment(id)?;
        match self.known.absence(id) {
            Some(Absence::Foreign) => {
                self.known.count_foreign_session();
                return Ok(None);
            }
            Some(Absence::Missing(left)) => return Err(missing(left)),
            None => {}
        }
        let mut permit = self.known.permit(id).await?;
        // A call that fails says nothing of the customer, and does not count.
        match self.ask_for_customer(id, path).await? {
            CustomerAnswer::NotFound => permit.count(true),
            answer => return Ok(self.conclude(id, answer, permit)),
        }
        if !self.known.is_ours(id) {
            let created_at = self.customer_created_at(session, caller).await?;
            if !self.known.is_new(created_at) {
                self.known.record_foreign(id, created_at);
                return Ok(None);
            }
        }
        if permit.try_add() {
            sleep(REPLICA_PAUSE).await;
            match self.ask_for_customer(id, path).await? {
                CustomerAnswer::NotFound => {}
                answer => return Ok(self.conclude(id, answer, permit)),
            }
        }
        Err(missing(self.known.record_missing(id)))
    }

    /// Returns when the session's customer was created, if Polar tells. Of a member's customer it has
    /// not been asked yet; the call is one of the member's own.
    async fn customer_created_at(
        &self,
        session: &PortalSession,
        caller: Caller<'_>,
    ) -> Result<Option<DateTime<Utc>>, StoreError> {
        if session.customer_created_at.is_some() || !is_members(caller) {
            return Ok(session.customer_created_at);
        }
        let answer = self.client.send(me(caller), None).await?;
        let customer: PortalCustomer = answer.read()?;
        Ok(customer.created_at())
    }

    /// Remembers whose customer it is, and returns the organization's own.
    fn conclude(
        &self,
        id: &CustomerId,
        answer: CustomerAnswer,
        mut permit: CallPermit<'_>,
    ) -> Option<Customer> {
        permit.count(true);
        match answer {
            CustomerAnswer::Found(customer)
                if self.is_of_organization(&customer.organization_id) =>
            {
                permit.count(false);
                self.known.record_ours(id);
                Some(customer)
            }
            CustomerAnswer::Found(customer) => {
                self.known.forget_ours(id);
                self.known.record_foreign(id, Some(customer.created_at));
                None
            }
            CustomerAnswer::Gone | CustomerAnswer::NotFound => None,
        }
    }

    async fn ask_for_customer(
        &self,
        id: &CustomerId,
        path: &str,
    ) -> Result<CustomerAnswer, StoreError> {
        let call = Call::get("asking Polar for a customer", Caller::Organization);
        let answer = self.client.send(call.at(["v1", "customers", path]), None);
        let answer = answer.await?;
        if answer.status == StatusCode::GONE {
            return Ok(CustomerAnswer::Gone);
        }
        if answer.is_not_found() {
            return Ok(CustomerAnswer::NotFound);
        }
        let customer: Customer = answer.read()?;
        if customer.id != *id {
            let text = format!("Polar was asked for customer {id} and answered with another");
            return Err(StoreError::corrupt(text));
        }
        Ok(CustomerAnswer::Found(customer))
    }
}

fn me(caller: Caller<'_>) -> Call<'_> {
    let call = Call::get("asking Polar for the customer of a session", caller);
    call.at(["v1", "customer-portal", "customers", "me"])
}

fn user(caller: Caller<'_>) -> Call<'_> {
    let call = Call::get("asking Polar for the member of a session", caller);
    call.at(["v1", "customer-portal", "customer-session", "user"])
}

/// Returns `true` if the token is a member's, by its prefix.
fn is_members(caller: Caller<'_>) -> bool {
    match caller {
        Caller::Customer { token, .. } => token.expose().starts_with("polar_mst_"),
        Caller::Organization => false,
    }
}

/// Waits for both answers, unless one refuses the token: that decides, whatever becomes of the other.
async fn neither_refused(
    one: impl Future<Output = Result<PolarAnswer, StoreError>>,
    other: impl Future<Output = Result<PolarAnswer, StoreError>>,
) -> Result<Option<(PolarAnswer, PolarAnswer)>, StoreError> {
    let is_refusal = |answer: &Result<PolarAnswer, StoreError>| {
        answer.as_ref().is_ok_and(PolarAnswer::refuses_token)
    };
    let (mut one, mut other) = (pin!(one), pin!(other));
    let (one, other) = tokio::select! {
        first = &mut one => match is_refusal(&first) {
            true => return Ok(None),
            false => (first, other.await),
        },
        first = &mut other => match is_refusal(&first) {
            true => return Ok(None),
            false => (one.await, first),
        },
    };
    if is_refusal(&one) || is_refusal(&other) {
        return Ok(None);
    }
    // If both have to wait, the longer wait counts.
    let wait = |answer: &Result<PolarAnswer, StoreError>| {
        answer.as_ref().err().and_then(StoreError::retry_after)
    };
    match (one, other) {
        (one, Err(later)) if later.retry_after() > wait(&one) => Err(later),
        (one, other) => Ok(Some((one?, other?))),
    }
}

/// Returns the error of a customer that may be the organization's, and that Polar does not find.
fn missing(retry_after: Duration) -> StoreError {
    let text = "Polar knows the session, but does not find its customer, which is new or was there \
                before; it is asked again";
    StoreError::unavailable(text).with_retry_after(retry_after)
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
