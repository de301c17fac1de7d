//! The rules of rotated sessions: where they end, and which ids lead to them.

use std::sync::Arc;

use chrono::{DateTime, TimeDelta};
use tokio::task::JoinSet;

use super::{
    harness::{Harness, RuleResult, Violation, conflict, ensure, joined, names, new_id},
    report::Conformance,
};
use crate::{
    registry::{Revocation, SessionLimit},
    session::{CustomerSession, SessionSummary},
    store::SessionRegistry,
};

/// Sessions of a family, the first one included.
const GENERATIONS: usize = 4;

impl<S: SessionRegistry> Harness<S> {
    /// Checks what is kept of sessions and of those that they have replaced.
    pub(super) async fn check_families(&self, report: &mut Conformance) {
        report.add("a session's end is kept", self.end_is_kept().await);
        report.add(
            "revoking a replaced session ends its successor",
            self.successors_end().await,
        );
        report.add(
            "a replaced session of another customer is not revoked",
            self.foreign_successor_stays().await,
        );
        report.add(
            "keeping a replaced session keeps its successor",
            self.successor_is_kept().await,
        );
        report.add(
            "the id of a replaced session stays taken",
            self.replaced_ids_stay_taken().await,
        );
        report.add(
            "no rotation carries a session over a revocation",
            self.rotations_end(|session| Revocation::Session(session.id.clone()))
                .await,
        );
        report.add(
            "no rotation carries a session over the revocation of its customer",
            self.rotations_end(|session| Revocation::Customer(session.customer_id.clone()))
                .await,
        );
        report.add(
            "purging leaves what leads to a live session",
            self.purging_spares_families().await,
        );
    }

    /// Inserts a session and replaces it again and again. The last session of the answer is live.
    async fn family(&self) -> Result<Vec<CustomerSession>, Violation> {
        let customer = new_id();
        let mut family = vec![self.session(&customer)];
        self.insert(&family[0]).await?;
        while family.len() < GENERATIONS {
            let (old, new) = (&family[family.len() - 1], self.session(&customer));
            let replaced = self.replace(&old.id, &new).await?;
            ensure(replaced.is_some(), "a live session was not replaced")?;
            family.push(new);
        }
        Ok(family)
    }

    async fn end_is_kept(&self) -> RuleResult {
        let customer = new_id();
        let mut old = self.session(&customer);
        let end = old.expires_at + TimeDelta::days(30) + TimeDelta::microseconds(7);
        old.details.ends_at = Some(end);
        let inserted = self.insert(&old).await?.session;
        let kept = inserted.details.ends_at;
        ensure(
            kept == Some(end),
            format!("{end} was inserted, the answer is {kept:?}"),
        )?;
        self.is_found(&old).await?;
        let list = self.list(&old.customer_id).await?;
        ensure(
            list == [SessionSummary::from(&old)],
            format!("{end} is the end, the list is {list:?}"),
        )?;
        let mut new = self.session(&customer);
        new.details.ends_at = Some(end);
        let stored = self.replace(&old.id, &new).await?;
        ensure(
            stored.as_ref() == Some(&new),
            format!("{new:?} was added, the answer is {stored:?}"),
        )?;
        self.is_found(&new).await?;
        self.forget(&[&new]).await
    }

    async fn successors_end(&self) -> RuleResult {
        for by_owner in [false, true] {
            for named in 0..GENERATIONS {
                let family = self.family().await?;
                let (session, last) = (family[named].id.clone(), &family[GENERATIONS - 1]);
                let customer = last.customer_id.clone();
                let what = match by_owner {
                    true => Revocation::Owned { customer, session },
                    false => Revocation::Session(session),
                };
                let revoked = self.store.revoke(&what).await?;
                ensure(
                    revoked.any && names(&revoked, last) && names(&revoked, &family[named]),
                    format!("{what:?} should have ended {}, not {revoked:?}", last.id),
                )?;
                self.is_gone(last, "a session that it has replaced was revoked")
                    .await?;
                let list = self.list(&last.customer_id).await?;
                ensure(list.is_empty(), format!("{list:?} is left"))?;
                // The same again, for a caller who does not know whether it has happened.
                let again = self.store.revoke(&what).await?;
                ensure(
                    !again.any && names(&again, last),
                    format!("{} was gone already; {what:?} named {again:?}", last.id),
                )?;
            }
        }
        Ok(())
    }

    async fn foreign_successor_stays(&self) -> RuleResult {
        let family = self.family().await?;
        let last = &family[GENERATIONS - 1];
        for session in &family {
            let what = Revocation::Owned {
                customer: new_id().into(),
                session: session.id.clone(),
            };
            let revoked = self.store.revoke(&what).await?;
            ensure(
                !revoked.any && !names(&revoked, last),
                format!("{what:?} is answered with {revoked:?}"),
            )?;
        }
        self.is_found(last).await?;
        self.forget(&[last]).await
    }

    async fn successor_is_kept(&self) -> RuleResult {
        let family = self.family().await?;
        let last = &family[GENERATIONS - 1];
        for keep in &family {
            let other = self.session(last.customer_id.as_str());
            self.insert(&other).await?;
            let others = Revocation::Others {
                customer: last.customer_id.clone(),
                keep: keep.id.clone(),
            };
            self.store.revoke(&others).await?;
            self.is_gone(&other, "it was one of the others").await?;
            self.is_found(last).await?;
        }
        self.forget(&[last]).await
    }

    async fn replaced_ids_stay_taken(&self) -> RuleResult {
        let family = self.family().await?;
        let last = &family[GENERATIONS - 1];
        let other = self.session(&new_id());
        self.insert(&other).await?;
        for replaced in &family[..GENERATIONS - 1] {
            let what = "the id of a session that was replaced";
            // Of another customer, whom a failed insertion does not add.
            let mut new = self.session(&new_id());
            new.id = replaced.id.clone();
            conflict(self.insert(&new).await, what)?;
            let limit = SessionLimit::end_oldest(1);
            conflict(self.store.insert(&new, Some(&limit)).await, what)?;
            let is_known = self.store.update_customer(&new.customer).await?;
            ensure(!is_known, "a failed insertion added its customer")?;
            let mut new = self.session(other.customer_id.as_str());
            new.id = replaced.id.clone();
            conflict(self.replace(&other.id, &new).await, what)?;
            self.is_gone(&new, "its insertion failed").await?;
        }
        self.is_found(&other).await?;
        self.is_found(last).await?;
        self.forget(&[&other, last]).await
    }

    async fn rotations_end(&self, form: fn(&CustomerSession) -> Revocation) -> RuleResult {
        for _ in 0..4 {
            let customer = new_id();
            let first = self.session(&customer);
            self.insert(&first).await?;
            let (store, mut current) = (Arc::clone(&self.store), first.id.clone());
            let next: Vec<_> = (0..32).map(|_| self.session(&customer)).collect();
            let mut rotations = JoinSet::new();
            rotations.spawn(async move {
                for new in next {
                    if store.replace(&current, &new, None).await?.is_none() {
                        break;
                    }
                    current = new.id;
                    tokio::task::yield_now().await;
                }
                Ok(())
            });
            tokio::task::yield_now().await;
            let revoked = self.store.revoke(&form(&first)).await?;
            ensure(
                revoked.any,
                "revoking a session that is being rotated said `false`",
            )?;
            let list = self.list(&first.customer_id).await?;
            ensure(list.is_empty(), format!("{list:?} is left"))?;
            while let Some(rotated) = rotations.join_next().await {
                joined(rotated)?;
            }
            let list = self.list(&first.customer_id).await?;
            ensure(
                list.is_empty(),
                format!("{list:?} came after the revocation"),
            )?;
        }
        Ok(())
    }

    async fn purging_spares_families(&self) -> RuleResult {
        let long_ago = DateTime::UNIX_EPOCH + TimeDelta::days(1);
        let customer = new_id();
        let (mut first, second) = (self.session(&customer), self.session(&customer));
        first.expires_at = long_ago;
        self.insert(&first).await?;
        self.replace(&first.id, &second).await?;
        self.store.purge_expired(long_ago, 100).await?;
        self.is_found(&second).await?;
        ensure(
            self.revoke(&first.id).await?,
            "revoking a replaced session whose successor is live said `false`",
        )?;
        self.is_gone(&second, "the session that it has replaced was revoked")
            .await
    }
}
