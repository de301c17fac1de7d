//! The rules of a registry that says that it keeps details.

use std::net::Ipv6Addr;

use chrono::TimeDelta;

use super::{
    harness::{Harness, RuleResult, Violation, ensure, new_id},
    report::Conformance,
};
use crate::{
    details::{Actor, Device, Member, MemberRole, Scopes, SessionDetails},
    registry::Revocation,
    session::{CustomerSession, SessionSummary},
    store::SessionRegistry,
};

impl<S: SessionRegistry> Harness<S> {
    /// Checks what is kept of a session beyond its times, if the registry says that it keeps it.
    pub(super) async fn check_details(&self, report: &mut Conformance) {
        if !self.store.keeps().details {
            return;
        }
        report.add("details are kept", self.details_are_kept().await);
        report.add(
            "details stay with a session that replaces another",
            self.details_are_replaced().await,
        );
    }

    /// Returns a session with each detail, as large as it may be.
    fn detailed_session(&self, customer: &str) -> Result<CustomerSession, Violation> {
        let mut session = self.session(customer);
        let text = |len: usize| "\"\\".chars().cycle().take(len).collect::<String>();
        let details = &mut session.details;
        details.ends_at = Some(session.expires_at + TimeDelta::microseconds(1));
        details.authenticated_at = Some(session.created_at - TimeDelta::microseconds(1));
        let scopes = (0..Scopes::MAX).map(|number| format!("{number:x<128}"));
        let scopes = Scopes::new(scopes);
        details.scopes = scopes.map_err(|error| Violation(error.to_string()))?;
        let device = Device::new("顧客 عميل".repeat(6)).ip(Ipv6Addr::LOCALHOST);
        details.device = Some(device.user_agent(text(Device::MAX_USER_AGENT_LEN)));
        let actor = Actor::new(text(Actor::MAX_ID_LEN));
        details.actor = Some(actor.because(text(Actor::MAX_REASON_LEN)));
        let role = MemberRole::Other(text(Member::MAX_ID_LEN));
        let mut member = Member::new(text(Member::MAX_ID_LEN), role);
        member.name = Some(text(Member::MAX_NAME_LEN));
        member.email = Some(text(Member::MAX_NAME_LEN));
        details.member = Some(member);
        Ok(session)
    }

    async fn details_are_kept(&self) -> RuleResult {
        let customer = new_id();
        let all = self.detailed_session(&customer)?;
        let mut kept = Vec::new();
        // Each detail alone, none, and all.
        for number in 0..9 {
            let mut session = self.session(&customer);
            let details = &mut session.details;
            match number {
                0 => details.authenticated_at = all.details.authenticated_at,
                1 => details.authenticated_at = Some(session.created_at),
                2 => details.scopes = all.details.scopes.clone(),
                3 => details.device = all.details.device.clone(),
                4 => details.actor = all.details.actor.clone(),
                5 => *details = all.details.clone(),
                6 => details.is_link = true,
                7 => details.member = all.details.member.clone(),
                _ => {}
            }
            let inserted = self.insert(&session).await?.session;
            ensure(
                inserted == session,
                format!("{session:?} was inserted, the answer is {inserted:?}"),
            )?;
            kept.push(session);
        }
        for session in &kept {
            self.is_found(session).await?;
        }
        let listed = self.list(&kept[0].customer_id).await?;
        for session in &kept {
            let summary = SessionSummary::from(session);
            ensure(
                listed.contains(&summary),
                format!("{summary:?} was inserted, the list is {listed:?}"),
            )?;
        }
        let what = Revocation::Customer(kept[0].customer_id.clone());
        self.store.revoke(&what).await?;
        Ok(())
    }

    async fn details_are_replaced(&self) -> RuleResult {
        let customer = new_id();
        let (old, mut new) = (self.detailed_session(&customer)?, self.session(&customer));
        self.insert(&old).await?;
        new.details = old.details.clone();
        let replaced = self.replace(&old.id, &new).await?;
        ensure(
            replaced.as_ref() == Some(&new),
            format!("{new:?} was added, the answer is {replaced:?}"),
        )?;
        self.is_found(&new).await?;
        // The details are those of the new session, not those of the old one.
        let bare = self.session(&customer);
        self.replace(&new.id, &bare).await?;
        let found = self.find(&bare).await?.details;
        ensure(
            found == SessionDetails::default(),
            format!("a session without details was added, with {found:?} it is found"),
        )?;
        self.forget(&[&bare]).await
    }
}
