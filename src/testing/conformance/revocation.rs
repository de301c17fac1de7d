//! The rules of ending sessions.

use chrono::{DateTime, TimeDelta};

use super::{
    harness::{Harness, RuleResult, ensure, names, new_id},
    report::Conformance,
};
use crate::{
    customer::CustomerId, registry::Revocation, session::CustomerSession, store::SessionRegistry,
};

impl<S: SessionRegistry> Harness<S> {
    /// Checks what revocations end, and what they leave.
    pub(super) async fn check_revocation(&self, report: &mut Conformance) {
        report.add(
            "a revoked session is gone at once",
            self.revoked_is_gone().await,
        );
        report.add(
            "revoking an unknown session is not an error",
            self.revoking_unknown().await,
        );
        report.add(
            "a session of another customer is not revoked",
            self.foreign_stays().await,
        );
        report.add(
            "revoking the others keeps one",
            self.others_are_revoked().await,
        );
        report.add(
            "revoking a customer ends all their sessions",
            self.customer_is_revoked().await,
        );
        report.add(
            "sessions are revoked by the time of their creation",
            self.created_before_are_revoked().await,
        );
        report.add(
            "a revocation names what it ended",
            self.revocations_are_named().await,
        );
        report.add(
            "purging removes what has expired, in batches",
            self.purging().await,
        );
    }

    async fn revoked_is_gone(&self) -> RuleResult {
        let customer = new_id();
        let (one, two) = (self.session(&customer), self.session(&customer));
        self.insert(&one).await?;
        self.insert(&two).await?;
        ensure(
            self.revoke(&one.id).await?,
            "revoking a session said `false`",
        )?;
        self.is_gone(&one, "it was revoked").await?;
        ensure(
            !self.revoke(&one.id).await?,
            "revoking it again said `true`",
        )?;
        let list = self.list(&one.customer_id).await?;
        ensure(
            list.iter().all(|session| session.id != one.id),
            "a revoked session is listed",
        )?;
        self.is_found(&two).await?;
        self.forget(&[&two]).await
    }

    async fn revoking_unknown(&self) -> RuleResult {
        let unknown = new_id();
        ensure(
            !self.revoke(&unknown.as_str().into()).await?,
            "it said `true`",
        )?;
        let customer = CustomerId::from(unknown);
        let revoked = self
            .store
            .revoke(&Revocation::Customer(customer.clone()))
            .await?;
        ensure(!revoked.any, "an unknown customer had sessions to revoke")?;
        let list = self.list(&customer).await?;
        ensure(list.is_empty(), "an unknown customer has sessions")
    }

    async fn foreign_stays(&self) -> RuleResult {
        let (own, foreign) = (self.session(&new_id()), self.session(&new_id()));
        self.insert(&own).await?;
        self.insert(&foreign).await?;
        let owned = |session: &CustomerSession| Revocation::Owned {
            customer: own.customer_id.clone(),
            session: session.id.clone(),
        };
        let revoked = self.store.revoke(&owned(&foreign)).await?;
        ensure(!revoked.any, "revoking it said `true`")?;
        self.is_found(&foreign).await?;
        self.is_found(&own).await?;
        let revoked = self.store.revoke(&owned(&own)).await?;
        ensure(
            revoked.any,
            "revoking a session of the same customer returned `false`",
        )?;
        self.is_gone(&own, "its customer revoked it").await?;
        let revoked = self.store.revoke(&owned(&own)).await?;
        ensure(!revoked.any, "revoking it again said `true`")?;
        self.forget(&[&foreign]).await
    }

    async fn others_are_revoked(&self) -> RuleResult {
        let (customer, other) = (new_id(), self.session(&new_id()));
        let sessions: Vec<_> = (0..3).map(|_| self.session(&customer)).collect();
        for session in sessions.iter().chain([&other]) {
            self.insert(session).await?;
        }
        let others = Revocation::Others {
            customer: customer.as_str().into(),
            keep: sessions[1].id.clone(),
        };
        let revoked = self.store.revoke(&others).await?;
        ensure(revoked.any, "revoking 2 of 3 sessions said `false`")?;
        self.is_found(&sessions[1]).await?;
        for session in [&sessions[0], &sessions[2]] {
            self.is_gone(session, "it was one of the others").await?;
        }
        let revoked = self.store.revoke(&others).await?;
        ensure(!revoked.any, "revoking the others again said `true`")?;
        // What is kept is one of the customer's own.
        let foreign = Revocation::Others {
            customer: customer.into(),
            keep: other.id.clone(),
        };
        self.store.revoke(&foreign).await?;
        self.is_gone(
            &sessions[1],
            "another customer's session is not one to keep",
        )
        .await?;
        self.is_found(&other).await?;
        self.forget(&[&other]).await
    }

    async fn customer_is_revoked(&self) -> RuleResult {
        let (customer, other) = (new_id(), self.session(&new_id()));
        self.insert(&other).await?;
        let sessions: Vec<_> = (0..3).map(|_| self.session(&customer)).collect();
        for session in &sessions {
            self.insert(session).await?;
        }
        let what = Revocation::Customer(customer.into());
        let revoked = self.store.revoke(&what).await?;
        ensure(
            revoked.any,
            "revoking a customer with 3 sessions said `false`",
        )?;
        for session in &sessions {
            self.is_gone(session, "its customer was revoked").await?;
        }
        self.is_found(&other).await?;
        self.forget(&[&other]).await
    }

    async fn created_before_are_revoked(&self) -> RuleResult {
        // Long ago, so that no session but these was created by then.
        let long_ago = DateTime::UNIX_EPOCH + TimeDelta::days(1);
        let mut sessions = [0, 1, 2].map(|_| self.session(&new_id()));
        for (session, second) in sessions.iter_mut().zip(0..) {
            session.created_at = long_ago + TimeDelta::seconds(second);
            self.insert(session).await?;
        }
        let [old, exact, young] = &sessions;
        let before = Revocation::CreatedBefore(exact.created_at);
        let revoked = self.store.revoke(&before).await?;
        ensure(revoked.any, "revoking a session said `false`")?;
        self.is_gone(old, "it was created before").await?;
        self.is_found(exact).await?;
        self.is_found(young).await?;
        let revoked = self.store.revoke(&before).await?;
        ensure(!revoked.any, "revoking it again said `true`")?;
        self.forget(&[exact, young]).await
    }

    async fn revocations_are_named(&self) -> RuleResult {
        let customer = new_id();
        let id = CustomerId::from(customer.as_str());
        let forms: [fn(CustomerId, CustomerSession) -> Revocation; 4] = [
            |_, session| Revocation::Session(session.id),
            |customer, session| Revocation::Owned {
                customer,
                session: session.id,
            },
            |customer, _| Revocation::Others {
                customer,
                keep: new_id().into(),
            },
            |customer, _| Revocation::Customer(customer),
        ];
        for form in forms {
            let session = self.session(&customer);
            self.insert(&session).await?;
            let what = form(id.clone(), session.clone());
            let revoked = self.store.revoke(&what).await?;
            ensure(
                names(&revoked, &session),
                format!("{what:?} ended {}, and named {revoked:?}", session.id),
            )?;
            // Another node may have ended it, and its message may still be on the way.
            let again = self.store.revoke(&what).await?;
            ensure(
                !again.any && names(&again, &session),
                format!("{} was gone already; {what:?} named {again:?}", session.id),
            )?;
        }
        let mut old = self.session(&customer);
        old.created_at = DateTime::UNIX_EPOCH + TimeDelta::hours(1);
        self.insert(&old).await?;
        let what = Revocation::CreatedBefore(old.created_at + TimeDelta::seconds(1));
        for _ in 0..2 {
            let revoked = self.store.revoke(&what).await?;
            ensure(
                names(&revoked, &old),
                format!("{what:?} ended {}, and named {revoked:?}", old.id),
            )?;
        }
        Ok(())
    }

    async fn purging(&self) -> RuleResult {
        // Long ago, so that no session but these has expired by then.
        let long_ago = DateTime::UNIX_EPOCH + TimeDelta::days(1);
        // What the other rules' revocations have left behind does not count.
        while self.store.purge_expired(DateTime::UNIX_EPOCH, 1000).await? >= 1000 {}
        let customer = new_id();
        let mut expired = Vec::new();
        for n in 0..5 {
            let mut session = self.session(&customer);
            session.expires_at = long_ago + TimeDelta::seconds(n);
            self.insert(&session).await?;
            expired.push(session);
        }
        // The fourth ends at that very moment, and counts; the fifth does not.
        let before = long_ago + TimeDelta::seconds(3);
        for (limit, expected) in [(0, 0), (3, 3), (3, 1), (3, 0)] {
            let purged = self.store.purge_expired(before, limit).await?;
            ensure(
                purged == expected,
                format!("{purged} were purged with a limit of {limit}, not {expected}"),
            )?;
        }
        for session in &expired[..4] {
            self.is_gone(session, "it was purged").await?;
        }
        let list = self.list(&customer.into()).await?;
        ensure(
            list.len() == 1,
            format!("1 session should be left, not {}", list.len()),
        )?;
        self.forget(&[&expired[4]]).await
    }
}
