//! The rule of identifiers: what a database takes for another spelling is another identifier.

use super::{
    harness::{Harness, RuleResult, Violation, ensure, new_id},
    report::Conformance,
};
use crate::{
    customer::{CustomerData, CustomerId},
    registry::Revocation,
    session::{CustomerSession, SessionId},
    store::SessionRegistry,
};

impl<S: SessionRegistry> Harness<S> {
    /// Checks that every method compares identifiers byte for byte.
    pub(super) async fn check_identifiers(&self, report: &mut Conformance) {
        report.add(
            "identifiers compare byte for byte",
            self.identifiers_compare_exactly().await,
        );
    }

    async fn identifiers_compare_exactly(&self) -> RuleResult {
        let mut session = self.session(&new_uuid()?);
        session.id = new_uuid()?.into();
        self.insert(&session).await?;
        for other in spellings(session.id.as_str()) {
            let other = SessionId::from(other);
            self.names_no_session(&session, &other).await?;
        }
        for other in spellings(session.customer_id.as_str()) {
            let other = CustomerId::from(other);
            self.names_no_customer(&session, &other).await?;
        }
        // Nor does another spelling lead to a session by one that it has replaced.
        let mut new = self.session(session.customer_id.as_str());
        new.id = new_uuid()?.into();
        self.replace(&session.id, &new).await?;
        for other in spellings(session.id.as_str()) {
            let other = SessionId::from(other);
            self.names_no_session(&new, &other).await?;
        }
        self.forget(&[&new]).await?;
        // What is named by another spelling is not kept.
        for number in 0..spellings(session.id.as_str()).len() {
            let mut session = self.session(session.customer_id.as_str());
            session.id = new_uuid()?.into();
            self.insert(&session).await?;
            let keep = spellings(session.id.as_str()).swap_remove(number).into();
            let customer = session.customer_id.clone();
            let others = Revocation::Others { customer, keep };
            let revoked = self.store.revoke(&others).await?;
            ensure(revoked.any, format!("{others:?} kept {:?}", session.id))?;
        }
        Ok(())
    }

    /// Checks that nothing happens to `session` by the name of `other`.
    async fn names_no_session(&self, session: &CustomerSession, other: &SessionId) -> RuleResult {
        let customer = session.customer_id.clone();
        let owned = Revocation::Owned {
            customer,
            session: other.clone(),
        };
        for what in [Revocation::Session(other.clone()), owned] {
            self.ends_nothing(session, &what).await?;
        }
        let new = self.session(session.customer_id.as_str());
        let replaced = self.replace(other, &new).await?;
        ensure(
            replaced.is_none(),
            format!("session {other:?} was replaced, which is {:?}", session.id),
        )?;
        self.is_gone(&new, "what it should replace was never there")
            .await?;
        self.is_found(session).await
    }

    /// Checks that nothing happens to `session` by the name of another customer.
    async fn names_no_customer(&self, session: &CustomerSession, other: &CustomerId) -> RuleResult {
        let owned = Revocation::Owned {
            customer: other.clone(),
            session: session.id.clone(),
        };
        let others = Revocation::Others {
            customer: other.clone(),
            keep: new_id().into(),
        };
        for what in [owned, others, Revocation::Customer(other.clone())] {
            self.ends_nothing(session, &what).await?;
        }
        let list = self.list(other).await?;
        ensure(list.is_empty(), format!("customer {other:?} has {list:?}"))?;
        let data = CustomerData::new(other.clone(), "org_other");
        let is_known = self.store.update_customer(&data.into()).await?;
        ensure(!is_known, format!("customer {other:?} was updated"))?;
        self.is_found(session).await
    }

    async fn ends_nothing(&self, session: &CustomerSession, what: &Revocation) -> RuleResult {
        let revoked = self.store.revoke(what).await?;
        ensure(!revoked.any, format!("{what:?} ended {:?}", session.id))?;
        self.is_found(session).await
    }
}

/// Returns an identifier such as a column of type `uuid` would hold, with a letter in it.
fn new_uuid() -> Result<String, Violation> {
    let mut random = [0; 16];
    getrandom::fill(&mut random).map_err(|error| Violation(error.to_string()))?;
    random[0] |= 0xA0;
    Ok(uuid::Builder::from_random_bytes(random)
        .into_uuid()
        .to_string())
}

/// Returns texts that some databases take for `id`.
fn spellings(id: &str) -> Vec<String> {
    vec![
        id.to_uppercase(),
        format!("{{{id}}}"),
        id.replace('-', ""),
        format!("{id} "),
        format!(" {id}"),
    ]
}
