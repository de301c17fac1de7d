//! The rules of sessions that are derived from others, for a registry that derives them.

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
    session::{CustomerSession, SessionId},
    store::{SessionRegistry, StoreErrorKind},
};

impl<S: SessionRegistry> Harness<S> {
    /// Checks what is derived, if the registry derives sessions.
    pub(super) async fn check_derivation(&self, report: &mut Conformance) {
        if !self.store.keeps().details || !self.derives().await {
            return;
        }
        report.add(
            "a session is derived from a live one",
            self.derived_as_given().await,
        );
        report.add(
            "a derived session ends with its parent",
            self.children_end_with_their_parent().await,
        );
        report.add(
            "a derived session ends alone",
            self.children_end_alone().await,
        );
        report.add(
            "keeping a session keeps its tree",
            self.trees_are_kept().await,
        );
        report.add(
            "replacing leaves parents and children together",
            self.replaced_trees_hold().await,
        );
        report.add(
            "derived sessions do not count for a limit, and end with their parent by it",
            self.limits_end_trees().await,
        );
        report.add(
            "no derivation outlives a revocation of its parent",
            self.derivations_end(|session| Revocation::Session(session.id.clone()))
                .await,
        );
        report.add(
            "no derivation outlives a revocation of its customer",
            self.derivations_end(|session| Revocation::Customer(session.customer_id.clone()))
                .await,
        );
    }

    async fn derives(&self) -> bool {
        let parent = SessionId::from(new_id());
        let child = self.child_of(&parent, &new_id());
        let derived = self.store.derive(&parent, &child).await;
        derived.map_or_else(|error| error.kind() != StoreErrorKind::Invalid, |_| true)
    }

    /// Creates a child that is not stored yet.
    fn child_of(&self, parent: &SessionId, customer: &str) -> CustomerSession {
        let mut child = self.session(customer);
        child.expires_at -= TimeDelta::minutes(1);
        child.details.parent = Some(parent.clone());
        child
    }

    /// Inserts a session.
    async fn parent(&self, customer: &str) -> Result<CustomerSession, Violation> {
        let parent = self.session(customer);
        self.insert(&parent).await?;
        Ok(parent)
    }

    /// Derives a session.
    async fn derive(&self, parent: &CustomerSession) -> Result<CustomerSession, Violation> {
        let child = self.child_of(&parent.id, parent.customer_id.as_str());
        let derived = self.store.derive(&parent.id, &child).await?;
        ensure(
            derived.as_ref() == Some(&child),
            format!("{child:?} was derived, the answer is {derived:?}"),
        )?;
        Ok(child)
    }

    async fn derived_as_given(&self) -> RuleResult {
        let customer = new_id();
        let parent = self.parent(&customer).await?;
        let child = self.derive(&parent).await?;
        for session in [&parent, &child] {
            self.is_found(session).await?;
        }
        let listed = self.list(&parent.customer_id).await?;
        ensure(
            listed.iter().any(|listed| listed.details == child.details),
            format!("{child:?} was derived, the list is {listed:?}"),
        )?;
        let mut taken = self.child_of(&parent.id, &customer);
        taken.id = child.id.clone();
        conflict(
            self.store.derive(&parent.id, &taken).await,
            "an id that is taken",
        )?;
        self.is_gone(&taken, "its derivation failed").await?;
        // From a child, and by an insertion, none is added.
        let grandchild = self.child_of(&child.id, &customer);
        let refused = self.store.derive(&child.id, &grandchild).await;
        ensure(refused.is_err(), "a session was derived from a child")?;
        self.is_gone(&grandchild, "its derivation failed").await?;
        let inserted = self.insert(&self.child_of(&parent.id, &customer)).await;
        ensure(inserted.is_err(), "a session with a parent was inserted")?;
        // From one that is not there, none either.
        let next = self.session(&customer);
        self.replace(&parent.id, &next).await?;
        let unknown = SessionId::from(new_id());
        for parent in [&unknown, &parent.id] {
            let child = self.child_of(parent, &customer);
            let derived = self.store.derive(parent, &child).await?;
            ensure(derived.is_none(), format!("{derived:?} came of nothing"))?;
            self.is_gone(&child, "its parent was not there").await?;
        }
        let foreign = self.child_of(&next.id, &new_id());
        let derived = self.store.derive(&next.id, &foreign).await?;
        ensure(
            derived.is_none(),
            "a session of another customer was derived",
        )?;
        self.forget(&[&next]).await
    }

    async fn children_end_with_their_parent(&self) -> RuleResult {
        // By the first id, by the current one, and by that in between, which the child names.
        for named in 0..3 {
            for by_owner in [false, true] {
                let customer = new_id();
                let first = self.parent(&customer).await?;
                let (second, third) = (self.session(&customer), self.session(&customer));
                self.replace(&first.id, &second).await?;
                let children = [self.derive(&second).await?, self.derive(&second).await?];
                self.replace(&second.id, &third).await?;
                let other = self.parent(&customer).await?;
                let session = [&first, &second, &third][named].id.clone();
                let customer = third.customer_id.clone();
                let what = match by_owner {
                    true => Revocation::Owned { customer, session },
                    false => Revocation::Session(session),
                };
                let revoked = self.store.revoke(&what).await?;
                for ended in children.iter().chain([&third]) {
                    self.is_gone(ended, "its parent was revoked").await?;
                    ensure(
                        revoked.any && names(&revoked, ended),
                        format!("{what:?} should have named {}, not {revoked:?}", ended.id),
                    )?;
                }
                self.is_found(&other).await?;
                ensure(
                    !self.store.revoke(&what).await?.any,
                    "revoking a parent again said `true`",
                )?;
                self.forget(&[&other]).await?;
            }
        }
        self.children_end_by_time().await
    }

    /// Only the parent is old enough to be revoked.
    async fn children_end_by_time(&self) -> RuleResult {
        let day = DateTime::UNIX_EPOCH + TimeDelta::days(1);
        let mut parent = self.session(&new_id());
        parent.created_at = day - TimeDelta::seconds(1);
        self.insert(&parent).await?;
        let child = self.derive(&parent).await?;
        self.store.revoke(&Revocation::CreatedBefore(day)).await?;
        for session in [&parent, &child] {
            self.is_gone(
                session,
                "its parent was revoked by the time of its creation",
            )
            .await?;
        }
        Ok(())
    }

    async fn children_end_alone(&self) -> RuleResult {
        let parent = self.parent(&new_id()).await?;
        let (one, two) = (self.derive(&parent).await?, self.derive(&parent).await?);
        let next = self.session(parent.customer_id.as_str());
        ensure(self.revoke(&one.id).await?, "revoking a child said `false`")?;
        self.is_gone(&one, "it was revoked").await?;
        for session in [&parent, &two] {
            self.is_found(session).await?;
        }
        // It leaves nothing behind that a revocation of the parent ends once more.
        self.replace(&parent.id, &next).await?;
        self.forget(&[&next]).await?;
        self.is_gone(&two, "its parent was revoked").await?;
        let list = self.list(&parent.customer_id).await?;
        ensure(list.is_empty(), format!("{list:?} is left"))
    }

    async fn trees_are_kept(&self) -> RuleResult {
        for keeps_child in [false, true] {
            let customer = new_id();
            let first = self.parent(&customer).await?;
            let children = [self.derive(&first).await?, self.derive(&first).await?];
            let parent = self.session(&customer);
            self.replace(&first.id, &parent).await?;
            let other = self.parent(&customer).await?;
            let of_other = self.derive(&other).await?;
            let keep = match keeps_child {
                true => &children[0].id,
                false => &first.id,
            };
            let others = Revocation::Others {
                customer: parent.customer_id.clone(),
                keep: keep.clone(),
            };
            let revoked = self.store.revoke(&others).await?;
            ensure(revoked.any, "revoking the others said `false`")?;
            for session in [&other, &of_other] {
                self.is_gone(session, "it was one of the others").await?;
            }
            for session in children.iter().chain([&parent]) {
                self.is_found(session).await?;
            }
            let revoked = self.store.revoke(&others).await?;
            ensure(!revoked.any, "revoking the others again said `true`")?;
            // What was kept still ends together.
            self.forget(&[&parent]).await?;
            for child in &children {
                self.is_gone(child, "its parent was revoked").await?;
            }
        }
        Ok(())
    }

    async fn replaced_trees_hold(&self) -> RuleResult {
        let customer = new_id();
        let mut parent = self.parent(&customer).await?;
        let child = self.derive(&parent).await?;
        for _ in 0..2 {
            let next = self.session(&customer);
            self.replace(&parent.id, &next).await?;
            self.is_found(&child).await?;
            parent = next;
        }
        let later = self.derive(&parent).await?;
        let mut next = self.session(&customer);
        next.details = child.details.clone();
        let replaced = self.replace(&child.id, &next).await?;
        ensure(
            replaced.as_ref() == Some(&next),
            format!("{next:?} was added, the answer is {replaced:?}"),
        )?;
        self.is_gone(&child, "it was replaced").await?;
        let limit = SessionLimit::refuse(2);
        let other = self.session(&customer);
        self.store.insert(&other, Some(&limit)).await?;
        let what = Revocation::Session(parent.id.clone());
        let revoked = self.store.revoke(&what).await?;
        for child in [&next, &later] {
            self.is_gone(child, "its parent was revoked").await?;
            ensure(
                names(&revoked, child),
                format!("{} has ended, and {revoked:?} was named", child.id),
            )?;
        }
        self.is_found(&other).await?;
        self.forget(&[&other]).await
    }

    async fn limits_end_trees(&self) -> RuleResult {
        let customer = new_id();
        let old = self.session(&customer);
        self.insert(&old).await?;
        let children = [self.derive(&old).await?, self.derive(&old).await?];
        let mut second = self.session(&customer);
        second.created_at += TimeDelta::seconds(1);
        let limit = SessionLimit::end_oldest(2);
        let inserted = self.store.insert(&second, Some(&limit)).await?;
        ensure(
            inserted.ended.is_empty(),
            format!("a limit of two ended {:?}", inserted.ended),
        )?;
        let third = self.session(&customer);
        let inserted = self.store.insert(&third, Some(&limit)).await?;
        for ended in children.iter().chain([&old]) {
            self.is_gone(ended, "the limit ended its tree").await?;
            let is_named = inserted.ended.iter().any(|named| named.id == ended.id);
            ensure(
                is_named,
                format!("{} has ended, and {:?} was named", ended.id, inserted.ended),
            )?;
        }
        ensure(
            inserted.ended.len() == 3,
            format!("a tree of three has ended, not {:?}", inserted.ended),
        )?;
        self.is_found(&second).await?;
        self.forget(&[&second, &third]).await
    }

    async fn derivations_end(&self, form: fn(&CustomerSession) -> Revocation) -> RuleResult {
        for _ in 0..4 {
            let parent = self.parent(&new_id()).await?;
            let mut derivations = JoinSet::new();
            for _ in 0..CONTENDERS {
                let child = self.child_of(&parent.id, parent.customer_id.as_str());
                let (store, parent) = (Arc::clone(&self.store), parent.id.clone());
                derivations.spawn(async move { store.derive(&parent, &child).await });
            }
            tokio::task::yield_now().await;
            let revoked = self.store.revoke(&form(&parent)).await?;
            ensure(revoked.any, "revoking a parent said `false`")?;
            let before = self.list(&parent.customer_id).await?;
            ensure(before.is_empty(), format!("{before:?} is left"))?;
            while let Some(derived) = derivations.join_next().await {
                joined(derived)?;
            }
            let after = self.list(&parent.customer_id).await?;
            ensure(
                after.is_empty(),
                format!("{after:?} came after the revocation"),
            )?;
        }
        Ok(())
    }
}
