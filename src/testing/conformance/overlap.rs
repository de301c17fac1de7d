//! The rules of overlaps: replaced sessions whose tokens are still accepted, for a registry that keeps them.

use std::sync::Arc;

use chrono::{DateTime, TimeDelta};
use tokio::task::JoinSet;

use super::{
    harness::{
        CONTENDERS, Harness, RuleResult, Violation, conflict, ensure, joined, names, new_id,
    },
    report::Conformance,
};
use crate::{
    registry::{Revocation, SessionLimit},
    session::CustomerSession,
    store::{SessionRegistry, StoreErrorKind},
};

impl<S: SessionRegistry> Harness<S> {
    /// Checks overlapping sessions, if the registry keeps them.
    pub(super) async fn check_overlap(&self, report: &mut Conformance) {
        if !self.store.keeps().details || !self.keeps_replaced().await {
            return;
        }
        report.add(
            "an overlapping session has its new end",
            self.replaced_as_given().await,
        );
        report.add(
            "an overlapping session is not replaced again",
            self.replaced_once().await,
        );
        report.add(
            "a replacement without an overlap ends every overlapping session",
            self.replacements_end_overlaps().await,
        );
        report.add(
            "revoking one of two overlapping sessions ends both",
            self.overlaps_end_together().await,
        );
        report.add(
            "keeping one of two overlapping sessions keeps both",
            self.overlaps_are_kept().await,
        );
        report.add(
            "an overlapping session counts for no limit, and ends with its successor by it",
            self.limits_end_overlaps().await,
        );
        report.add(
            "no overlap outlives a revocation of the session",
            self.overlaps_end(|session| Revocation::Session(session.id.clone()))
                .await,
        );
        report.add(
            "no overlap outlives a revocation of the customer",
            self.overlaps_end(|session| Revocation::Customer(session.customer_id.clone()))
                .await,
        );
    }

    async fn keeps_replaced(&self) -> bool {
        let (old, new) = (self.session("kit_none"), self.session("kit_none"));
        let kept = self
            .store
            .replace_overlapping(&overlapping(&old), &new)
            .await;
        kept.map_or_else(|error| error.kind() != StoreErrorKind::Invalid, |_| true)
    }

    /// Puts a new session in the place of a live one, and returns the two as they are kept.
    async fn overlap(
        &self,
        old: &CustomerSession,
    ) -> Result<(CustomerSession, CustomerSession), Violation> {
        let (old, new) = (overlapping(old), self.session(old.customer_id.as_str()));
        let replaced = self.store.replace_overlapping(&old, &new).await?;
        ensure(
            replaced.as_ref() == Some(&new),
            format!("{new:?} was added, the answer is {replaced:?}"),
        )?;
        Ok((old, new))
    }

    async fn inserted(&self, customer: &str) -> Result<CustomerSession, Violation> {
        let session = self.session(customer);
        self.insert(&session).await?;
        Ok(session)
    }

    async fn replaced_as_given(&self) -> RuleResult {
        let first = self.inserted(&new_id()).await?;
        let (old, new) = self.overlap(&first).await?;
        for session in [&old, &new] {
            self.is_found(session).await?;
        }
        let list = self.list(&old.customer_id).await?;
        for kept in [&old, &new] {
            let is_listed = list.iter().any(|listed| {
                (&listed.id, listed.expires_at, &listed.details)
                    == (&kept.id, kept.expires_at, &kept.details)
            });
            ensure(is_listed, format!("{kept:?} is kept, the list is {list:?}"))?;
        }
        let (second, third) = self.overlap(&new).await?;
        for session in [&old, &second, &third] {
            self.is_found(session).await?;
        }
        self.forget(&[&third]).await?;
        let list = self.list(&old.customer_id).await?;
        ensure(list.is_empty(), format!("{list:?} is left"))
    }

    async fn replacements_end_overlaps(&self) -> RuleResult {
        for limit in [None, Some(SessionLimit::end_oldest(5))] {
            let first = self.inserted(&new_id()).await?;
            let (first, second) = self.overlap(&first).await?;
            let (second, third) = self.overlap(&second).await?;
            let fourth = self.session(first.customer_id.as_str());
            let replaced = self.store.replace(&third.id, &fourth, limit.as_ref());
            ensure(replaced.await?.is_some(), "a live session was not replaced")?;
            self.is_found(&fourth).await?;
            for session in [&first, &second, &third] {
                self.is_gone(session, "it was replaced, without an overlap in the end")
                    .await?;
            }
            self.forget(&[&fourth]).await?;
            let list = self.list(&first.customer_id).await?;
            ensure(list.is_empty(), format!("{list:?} is left"))?;
        }
        Ok(())
    }

    async fn replaced_once(&self) -> RuleResult {
        let customer = new_id();
        let first = self.inserted(&customer).await?;
        let mut taken = self.session(&customer);
        taken.id = first.id.clone();
        conflict(
            self.store
                .replace_overlapping(&overlapping(&first), &taken)
                .await,
            "an id that is taken",
        )?;
        self.is_found(&first).await?;
        let (old, new) = self.overlap(&first).await?;

        let another = self.session(&customer);
        let refused = self.replace(&old.id, &another).await?;
        ensure(refused.is_none(), "a replaced session was replaced")?;
        let refused = self.store.replace_overlapping(&old, &another).await?;
        ensure(refused.is_none(), "a replaced session was replaced")?;
        let mut child = self.session(&customer);
        child.details.parent = Some(old.id.clone());
        let derived = self.store.derive(&old.id, &child).await.ok().flatten();
        ensure(
            derived.is_none(),
            "a session was derived from a replaced one",
        )?;
        for session in [&another, &child] {
            self.is_gone(session, "it was not added").await?;
        }
        let unknown = overlapping(&self.session(&customer));
        let refused = self.store.replace_overlapping(&unknown, &another).await?;
        ensure(refused.is_none(), "an unknown session was replaced")?;
        self.forget(&[&new]).await?;

        let first = self.inserted(&customer).await?;
        let mut calls = JoinSet::new();
        for _ in 0..CONTENDERS {
            let (store, old) = (Arc::clone(&self.store), overlapping(&first));
            let new = self.session(&customer);
            calls.spawn(async move { store.replace_overlapping(&old, &new).await });
        }
        let mut winners = Vec::new();
        while let Some(answer) = calls.join_next().await {
            winners.extend(joined(answer)?);
        }
        ensure(
            winners.len() == 1,
            format!("{} calls won, not one", winners.len()),
        )?;
        let list = self.list(&first.customer_id).await?;
        ensure(
            list.len() == 2,
            format!("two are live, the list is {list:?}"),
        )?;
        self.forget(&[&first]).await
    }

    async fn overlaps_end_together(&self) -> RuleResult {
        for named in 0..3 {
            for by_owner in [false, true] {
                let first = self.inserted(&new_id()).await?;
                let (first, second) = self.overlap(&first).await?;
                let (second, third) = self.overlap(&second).await?;
                let session = [&first, &second, &third][named].id.clone();
                let customer = first.customer_id.clone();
                let what = match by_owner {
                    true => Revocation::Owned { customer, session },
                    false => Revocation::Session(session),
                };
                let revoked = self.store.revoke(&what).await?;
                for ended in [&first, &second, &third] {
                    self.is_gone(ended, "one that overlaps with it was revoked")
                        .await?;
                    ensure(
                        revoked.any && names(&revoked, ended),
                        format!("{what:?} should have named {}, not {revoked:?}", ended.id),
                    )?;
                }
            }
        }
        self.overlaps_end_by_time().await
    }

    /// Only the old one is old enough to be revoked.
    async fn overlaps_end_by_time(&self) -> RuleResult {
        let day = DateTime::UNIX_EPOCH + TimeDelta::days(1);
        let mut first = self.session(&new_id());
        first.created_at = day - TimeDelta::seconds(1);
        self.insert(&first).await?;
        let (old, new) = self.overlap(&first).await?;
        self.store.revoke(&Revocation::CreatedBefore(day)).await?;
        self.is_gone(&old, "it was revoked by the time of its creation")
            .await?;
        self.is_found(&new).await?;
        self.forget(&[&old]).await?;
        self.is_gone(&new, "its id of before was revoked").await
    }

    async fn overlaps_are_kept(&self) -> RuleResult {
        for keeps_old in [false, true] {
            let customer = new_id();
            let first = self.inserted(&customer).await?;
            let (old, new) = self.overlap(&first).await?;
            let other = self.inserted(&customer).await?;
            let others = Revocation::Others {
                customer: old.customer_id.clone(),
                keep: [&new, &old][usize::from(keeps_old)].id.clone(),
            };
            self.store.revoke(&others).await?;
            self.is_gone(&other, "it was one of the others").await?;
            for session in [&old, &new] {
                self.is_found(session).await?;
            }
            self.forget(&[&new]).await?;
            self.is_gone(&old, "one that overlaps with it was revoked")
                .await?;
        }
        Ok(())
    }

    async fn limits_end_overlaps(&self) -> RuleResult {
        let customer = new_id();
        let mut first = self.session(&customer);
        first.created_at -= TimeDelta::seconds(10);
        self.insert(&first).await?;
        let (old, new) = self.overlap(&first).await?;
        let second = self.session(&customer);
        let limit = SessionLimit::refuse(2);
        self.store.insert(&second, Some(&limit)).await?;
        let mut third = self.session(&customer);
        third.created_at += TimeDelta::seconds(1);
        let limit = SessionLimit::end_oldest(1);
        let inserted = self.store.insert(&third, Some(&limit)).await?;
        for ended in [&old, &new, &second] {
            self.is_gone(ended, "the limit ended it").await?;
            let is_named = inserted.ended.iter().any(|named| named.id == ended.id);
            ensure(
                is_named,
                format!("{} has ended, and {:?} was named", ended.id, inserted.ended),
            )?;
        }
        self.forget(&[&third]).await
    }

    async fn overlaps_end(&self, form: fn(&CustomerSession) -> Revocation) -> RuleResult {
        for _ in 0..CONTENDERS {
            let first = self.inserted(&new_id()).await?;
            let (old, new) = (
                overlapping(&first),
                self.session(first.customer_id.as_str()),
            );
            let replacing = {
                let (store, old, new) = (Arc::clone(&self.store), old.clone(), new.clone());
                tokio::spawn(async move { store.replace_overlapping(&old, &new).await })
            };
            tokio::task::yield_now().await;
            self.store.revoke(&form(&first)).await?;
            joined(replacing.await)?;
            for session in [&first, &new] {
                self.is_gone(session, "a revocation began before it was replaced")
                    .await?;
            }
        }
        Ok(())
    }
}

/// Returns a live session as it is kept when another takes its place.
fn overlapping(session: &CustomerSession) -> CustomerSession {
    let mut session = session.clone();
    session.expires_at -= TimeDelta::minutes(59);
    session.details.ends_at = Some(session.expires_at);
    session.details.is_replaced = true;
    session
}
