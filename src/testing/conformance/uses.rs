//! The rules of a registry that says that it keeps when sessions were last used.

use chrono::{DateTime, TimeDelta, Utc};

use super::{
    harness::{Harness, RuleResult, Violation, ensure, new_id},
    report::Conformance,
};
use crate::{
    registry::{SessionLimit, SessionUse},
    session::CustomerSession,
    store::SessionRegistry,
};

impl<S: SessionRegistry> Harness<S> {
    /// Checks what is kept of uses, if the registry says that it keeps them.
    pub(super) async fn check_uses(&self, report: &mut Conformance) {
        if !self.store.keeps().uses {
            return;
        }
        report.add("the last use is kept", self.last_use_is_kept().await);
        report.add(
            "uses end with their session",
            self.uses_end_with_their_session().await,
        );
        report.add(
            "sessions that are not used do not count for a limit",
            self.unused_sessions_do_not_count().await,
        );
    }

    /// Creates a session from an hour ago, so that its uses are in the past.
    fn old_session(&self, customer: &str) -> CustomerSession {
        let mut session = self.session(customer);
        session.created_at -= TimeDelta::hours(1);
        session
    }

    /// Records a use, and returns it as it should be found.
    async fn use_at(
        &self,
        session: &CustomerSession,
        at: DateTime<Utc>,
    ) -> Result<CustomerSession, Violation> {
        let used = SessionUse::new(session.id.clone(), session.customer_id.clone(), at);
        self.store.touch(&[used]).await?;
        let mut session = session.clone();
        session.details.last_used_at = Some(at);
        Ok(session)
    }

    async fn last_use_is_kept(&self) -> RuleResult {
        let customer = new_id();
        let (one, other) = (self.old_session(&customer), self.old_session(&customer));
        for session in [&one, &other] {
            self.insert(session).await?;
        }
        let early = one.created_at + TimeDelta::microseconds(60_000_001);
        let late = early + TimeDelta::minutes(1);
        let used = self.use_at(&one, late).await?;
        self.is_found(&used).await?;
        self.is_found(&other).await?;
        // Two nodes may write in any order.
        self.use_at(&one, early).await?;
        self.is_found(&used).await?;

        let mut many: Vec<_> = (0..100)
            .map(|number| {
                SessionUse::new(format!("{}_{number}", new_id()), customer.as_str(), late)
            })
            .collect();
        let later = late + TimeDelta::minutes(1);
        for session in [&other, &one] {
            many.push(SessionUse::new(
                session.id.clone(),
                customer.as_str(),
                later,
            ));
        }
        self.store.touch(&many).await?;
        self.store.touch(&[]).await?;
        let mut listed = self.list(&one.customer_id).await?;
        listed.retain(|summary| summary.details.last_used_at == Some(later));
        ensure(
            listed.len() == 2,
            format!("two sessions were used at {later}, the list has {listed:?}"),
        )?;
        self.forget(&[&one, &other]).await
    }

    async fn uses_end_with_their_session(&self) -> RuleResult {
        let customer = new_id();
        let old = self.old_session(&customer);
        self.insert(&old).await?;
        let used = self
            .use_at(&old, old.created_at + TimeDelta::minutes(1))
            .await?;
        let mut new = self.old_session(&customer);
        new.details = used.details.clone();
        self.replace(&old.id, &new).await?;
        new.details.last_used_at = None;
        // A use of the old one that was on its way.
        self.use_at(&old, old.created_at + TimeDelta::minutes(2))
            .await?;
        self.is_gone(&old, "it was replaced").await?;
        self.is_found(&new).await?;

        self.forget(&[&new]).await?;
        self.use_at(&new, new.created_at + TimeDelta::minutes(3))
            .await?;
        self.is_gone(&new, "it was revoked before it was used")
            .await?;
        let listed = self.list(&new.customer_id).await?;
        ensure(
            listed.is_empty(),
            format!("a use has brought {listed:?} back"),
        )
    }

    async fn unused_sessions_do_not_count(&self) -> RuleResult {
        let customer = new_id();
        let mut sessions = Vec::new();
        for number in 0..4 {
            let mut session = self.old_session(&customer);
            session.created_at += TimeDelta::microseconds(number);
            self.insert(&session).await?;
            sessions.push(session);
        }
        let since = sessions[0].created_at + TimeDelta::minutes(1);
        // Of four, the second and the last have been used since; the third was used right then.
        self.use_at(&sessions[1], since + TimeDelta::microseconds(1))
            .await?;
        self.use_at(&sessions[2], since).await?;
        self.use_at(&sessions[3], since + TimeDelta::minutes(1))
            .await?;
        let mut limit = SessionLimit::end_oldest(2);
        limit.used_since = Some(since);
        let new = self.session(&customer);
        let inserted = self.store.insert(&new, Some(&limit)).await?;
        let ended: Vec<_> = inserted.ended.iter().map(|ended| &ended.id).collect();
        ensure(
            ended == [&sessions[1].id],
            format!(
                "the limit should have ended {}, it ended {ended:?}",
                sessions[1].id
            ),
        )?;
        let left = self.revoke_customer(&new.customer_id).await?;
        ensure(
            left == 4,
            format!("four sessions should be left, not {left}"),
        )
    }
}
