//! The rules of replacing sessions.

use std::sync::Arc;

use tokio::task::JoinSet;

use super::{
    harness::{CONTENDERS, Harness, RuleResult, conflict, ensure, joined, new_id, rich_customer},
    report::Conformance,
};
use crate::{
    customer::{Customer, CustomerData},
    store::SessionRegistry,
};

impl<S: SessionRegistry> Harness<S> {
    /// Checks what a replacement ends, adds and keeps.
    pub(super) async fn check_replacement(&self, report: &mut Conformance) {
        report.add(
            "replacing ends the old session",
            self.replaced_is_gone().await,
        );
        report.add(
            "replacing keeps the customer that the store knows",
            self.replacing_keeps_the_customer().await,
        );
        report.add(
            "replacing a session brings no deleted customer back",
            self.deleted_customer_stays_deleted().await,
        );
        report.add("replacing has one winner", self.one_winner().await);
        report.add(
            "a failed replacement changes nothing",
            self.failed_replacement().await,
        );
    }

    async fn replaced_is_gone(&self) -> RuleResult {
        let customer = new_id();
        let (old, new) = (self.session(&customer), self.session(&customer));
        self.insert(&old).await?;
        let stored = self.replace(&old.id, &new).await?;
        ensure(
            stored.as_ref() == Some(&new),
            format!("{new:?} was added, the answer is {stored:?}"),
        )?;
        self.is_gone(&old, "it was replaced").await?;
        self.is_found(&new).await?;
        let again = self.session(&customer);
        ensure(
            self.replace(&old.id, &again).await?.is_none(),
            "it was replaced twice",
        )?;
        self.is_gone(&again, "what it should replace was gone")
            .await?;
        self.forget(&[&new]).await
    }

    async fn replacing_keeps_the_customer(&self) -> RuleResult {
        let customer = new_id();
        let (old, mut new) = (self.session(&customer), self.session(&customer));
        self.insert(&old).await?;
        // `new` was made of what was read before this update.
        let updated = rich_customer(&old.customer_id);
        self.store.update_customer(&updated).await?;
        let stored = self.replace(&old.id, &new).await?;
        new.customer = updated;
        ensure(
            stored.as_ref() == Some(&new),
            format!("{new:?} was added, the answer is {stored:?}"),
        )?;
        self.is_found(&new).await?;
        self.forget(&[&new]).await
    }

    async fn deleted_customer_stays_deleted(&self) -> RuleResult {
        let customer = new_id();
        let (old, mut new) = (self.session(&customer), self.session(&customer));
        self.insert(&old).await?;
        let mut deleted = CustomerData::clone(&rich_customer(&old.customer_id));
        deleted.deleted_at = deleted.modified_at;
        let deleted = Customer::from(deleted);
        self.store.update_customer(&deleted).await?;
        // The customer's only session; `new` was made of what was read before.
        let stored = self.replace(&old.id, &new).await?;
        let undeleted = new.customer.clone();
        new.customer = deleted;
        ensure(
            stored.as_ref() == Some(&new),
            format!("{new:?} was added, the answer is {stored:?}"),
        )?;
        self.is_found(&new).await?;
        let another = self.session(&customer);
        conflict(self.insert(&another).await, "a customer who is deleted")?;
        self.revoke(&new.id).await?;
        conflict(self.insert(&another).await, "a customer who is deleted")?;
        let is_known = self.store.update_customer(&undeleted).await?;
        ensure(is_known, "a deleted customer could not be restored")
    }

    async fn one_winner(&self) -> RuleResult {
        let customer = new_id();
        let old = self.session(&customer);
        self.insert(&old).await?;
        let mut contenders = JoinSet::new();
        for _ in 0..CONTENDERS {
            let (store, old, new) = (
                Arc::clone(&self.store),
                old.id.clone(),
                self.session(&customer),
            );
            contenders.spawn(async move { store.replace(&old, &new, None).await });
        }
        let mut winners = 0;
        while let Some(replaced) = contenders.join_next().await {
            winners += usize::from(joined(replaced)?.is_some());
        }
        ensure(
            winners == 1,
            format!("of {CONTENDERS} replacements {winners} won"),
        )?;
        let left = self.revoke_customer(&customer.into()).await?;
        ensure(left == 1, format!("{left} sessions came of one"))
    }

    async fn failed_replacement(&self) -> RuleResult {
        let (old, taken) = (self.session(&new_id()), self.session(&new_id()));
        self.insert(&old).await?;
        self.insert(&taken).await?;
        let mut new = self.session(old.customer_id.as_str());
        new.id = taken.id.clone();
        conflict(self.replace(&old.id, &new).await, "an id that is taken")?;
        self.is_found(&old).await?;
        self.is_found(&taken).await?;
        self.is_gone(&new, "its insertion failed").await?;
        // A token that is rotated for itself would go on opening what it was rotated to end.
        let mut same = self.session(old.customer_id.as_str());
        same.token = old.token.clone();
        conflict(
            self.replace(&old.id, &same).await,
            "the token of the session that it replaces",
        )?;
        self.is_found(&old).await?;
        self.forget(&[&old, &taken]).await
    }
}
