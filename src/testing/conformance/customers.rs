//! The rules of customers: their lists, their data, and how many sessions they may have.

use std::{collections::HashSet, sync::Arc};

use chrono::{DateTime, SubsecRound as _, TimeDelta, Utc};
use tokio::task::JoinSet;

use super::{
    harness::{CONTENDERS, Harness, RuleResult, conflict, ensure, joined, new_id, rich_customer},
    report::Conformance,
};
use crate::{
    customer::{CustomerData, CustomerId},
    page::Page,
    registry::{Revocation, SessionLimit},
    session::SessionSummary,
    store::{SessionRegistry, StoreError, StoreErrorKind},
};

impl<S: SessionRegistry> Harness<S> {
    /// Checks lists, updates and limits.
    pub(super) async fn check_customers(&self, report: &mut Conformance) {
        report.add(
            "a list is of one customer, oldest first",
            self.list_is_right().await,
        );
        report.add("a list shows no token", self.list_shows_no_token().await);
        report.add(
            "pages hold every session once, oldest first",
            self.pages_are_right().await,
        );
        report.add(
            "an update reaches all sessions of the customer",
            self.update_reaches_all().await,
        );
        report.add(
            "an update adds no customer",
            self.update_adds_no_customer().await,
        );
        report.add(
            "inserting a session changes no customer",
            self.insertion_keeps_the_customer().await,
        );
        report.add(
            "a deleted customer is refused",
            self.deleted_is_refused().await,
        );
        report.add(
            "a deleted customer stays deleted",
            self.deleted_stays_deleted().await,
        );
        report.add(
            "purging customers takes no session away",
            self.purging_customers_is_harmless().await,
        );
        report.add(
            "a limit ends the oldest sessions",
            self.limit_ends_the_oldest().await,
        );
        report.add("a limit refuses a new session", self.limit_refuses().await);
        report.add(
            "a limit holds for concurrent insertions",
            self.limit_holds().await,
        );
    }

    async fn list_is_right(&self) -> RuleResult {
        let customer = new_id();
        let (mut young, old, other) = (
            self.session(&customer),
            self.session(&customer),
            self.session(&new_id()),
        );
        young.created_at += TimeDelta::seconds(1);
        for session in [&young, &old, &other] {
            self.insert(session).await?;
        }
        let list = self.list(&customer.into()).await?;
        let expected = [SessionSummary::from(&old), SessionSummary::from(&young)];
        ensure(
            list == expected,
            format!("{expected:?} was expected, not {list:?}"),
        )?;
        self.forget(&[&young, &old, &other]).await
    }

    async fn list_shows_no_token(&self) -> RuleResult {
        let session = self.session(&new_id());
        self.insert(&session).await?;
        let shown = format!("{:?}", self.list(&session.customer_id).await?);
        ensure(
            !shown.contains(session.token.expose()),
            "a token is in the list",
        )?;
        self.forget(&[&session]).await
    }

    async fn pages_are_right(&self) -> RuleResult {
        let customer = CustomerId::from(new_id());
        let mut sessions = Vec::new();
        for n in 0..7 {
            let mut session = self.session(customer.as_str());
            // Pairs of one time: then the id decides.
            session.created_at += TimeDelta::seconds(n / 2);
            self.insert(&session).await?;
            sessions.push(session);
        }
        let mut expected: Vec<_> = sessions.iter().map(SessionSummary::from).collect();
        expected.sort_by(|one, two| (one.created_at, &one.id).cmp(&(two.created_at, &two.id)));
        for size in [1, 2, 3, 7, 8] {
            let mut read = Vec::new();
            let mut page = Page::default().with_size(size);
            for _ in 0..=expected.len() {
                let part = self.store.list(&customer, &page).await?;
                ensure(
                    part.sessions.len() <= size as usize,
                    format!("{} sessions on a page of {size}", part.sessions.len()),
                )?;
                read.extend(part.sessions);
                match part.next {
                    Some(cursor) => page = Page::after(cursor).with_size(size),
                    None => break,
                }
            }
            ensure(
                read == expected,
                format!("pages of {size} hold {read:?}, not {expected:?}"),
            )?;
        }
        self.revoke_customer(&customer).await?;
        Ok(())
    }

    async fn update_reaches_all(&self) -> RuleResult {
        let customer = new_id();
        let mut sessions = [self.session(&customer), self.session(&customer)];
        let other = self.session(&new_id());
        for session in sessions.iter().chain([&other]) {
            self.insert(session).await?;
        }
        let updated = rich_customer(&sessions[0].customer_id);
        let is_known = self.store.update_customer(&updated).await?;
        ensure(is_known, "updating a customer with 2 sessions said `false`")?;
        for session in &mut sessions {
            session.customer = updated.clone();
            self.is_found(session).await?;
        }
        self.is_found(&other).await?;
        self.forget(&[&sessions[0], &sessions[1], &other]).await
    }

    async fn update_adds_no_customer(&self) -> RuleResult {
        let session = self.session(&new_id());
        let unknown = rich_customer(&session.customer_id);
        let is_known = self.store.update_customer(&unknown).await?;
        ensure(!is_known, "updating an unknown customer said `true`")?;
        self.insert(&session).await?;
        self.is_found(&session).await?;
        self.forget(&[&session]).await
    }

    async fn insertion_keeps_the_customer(&self) -> RuleResult {
        let customer = new_id();
        let (one, mut two) = (self.session(&customer), self.session(&customer));
        self.insert(&one).await?;
        two.customer = CustomerData::new(customer, "org_other").into();
        let inserted = self.insert(&two).await?;
        two.customer = one.customer.clone();
        ensure(
            inserted.session == two,
            format!("{two:?} is stored, the answer is {:?}", inserted.session),
        )?;
        self.is_found(&one).await?;
        self.is_found(&two).await?;
        self.forget(&[&one, &two]).await
    }

    async fn deleted_is_refused(&self) -> RuleResult {
        let customer = new_id();
        let (one, two) = (self.session(&customer), self.session(&customer));
        self.insert(&one).await?;
        let mut deleted = CustomerData::clone(&one.customer);
        deleted.deleted_at = Some(Utc::now());
        self.store.update_customer(&deleted.into()).await?;
        conflict(self.insert(&two).await, "a customer who is deleted")?;
        self.is_gone(&two, "its insertion failed").await?;
        self.store.update_customer(&one.customer).await?;
        self.forget(&[&one]).await
    }

    /// Also when the last session is gone, since a sign-in may have read the customer before.
    async fn deleted_stays_deleted(&self) -> RuleResult {
        let long_ago = DateTime::UNIX_EPOCH + TimeDelta::days(1);
        for is_purged in [false, true] {
            let customer = new_id();
            let mut last = self.session(&customer);
            last.expires_at = long_ago;
            self.insert(&last).await?;
            let mut deleted = CustomerData::clone(&last.customer);
            deleted.deleted_at = Some(Utc::now().trunc_subsecs(6));
            self.store.update_customer(&deleted.into()).await?;
            let how = if is_purged {
                self.store.purge_expired(long_ago, 100).await?;
                "the last session was purged"
            } else {
                self.revoke(&last.id).await?;
                "the last session was revoked"
            };
            self.purge_customers().await?;
            let new = self.session(&customer);
            conflict(self.insert(&new).await, how)?;
            self.is_gone(&new, "its insertion failed").await?;
            // Until an update says otherwise.
            let is_known = self.store.update_customer(&last.customer).await?;
            ensure(is_known, "a deleted customer could not be restored")?;
            if !is_purged {
                self.insert(&new).await?;
                self.forget(&[&new]).await?;
            }
        }
        Ok(())
    }

    /// Also not from a sign-in that is under way meanwhile.
    async fn purging_customers_is_harmless(&self) -> RuleResult {
        let live = self.session(&new_id());
        self.insert(&live).await?;
        let mut sign_ins = JoinSet::new();
        for _ in 0..CONTENDERS {
            let customer = new_id();
            let sessions: Vec<_> = (0..10).map(|_| self.session(&customer)).collect();
            let store = Arc::clone(&self.store);
            sign_ins.spawn(async move {
                for session in sessions {
                    store.insert(&session, None).await?;
                    // Two round trips, in which a customer may be forgotten.
                    store.find(&session.token).await?;
                    if store.find(&session.token).await?.is_none() {
                        return Ok(Some(session.id));
                    }
                    store.revoke(&Revocation::Session(session.id)).await?;
                }
                Ok(None)
            });
        }
        let mut lost = None;
        while !sign_ins.is_empty() {
            self.purge_customers().await?;
            // A store in memory never waits.
            tokio::task::yield_now().await;
            while let Some(outcome) = sign_ins.try_join_next() {
                lost = lost.or(joined(outcome)?);
            }
        }
        ensure(lost.is_none(), format!("session {lost:?} is gone"))?;
        self.is_found(&live).await?;
        self.forget(&[&live]).await?;
        self.purge_customers().await?;
        // Who is forgotten may sign in again.
        let again = self.session(live.customer_id.as_str());
        self.insert(&again).await?;
        self.is_found(&again).await?;
        self.forget(&[&again]).await
    }

    /// Looks at every customer once.
    async fn purge_customers(&self) -> Result<(), StoreError> {
        let mut after = None;
        loop {
            after = self.store.purge_customers(after.as_ref(), 7).await?;
            if after.is_none() {
                return Ok(());
            }
        }
    }

    async fn limit_ends_the_oldest(&self) -> RuleResult {
        let customer = new_id();
        let mut sessions: Vec<_> = (0..5).map(|_| self.session(&customer)).collect();
        for (session, second) in sessions.iter_mut().zip(0..) {
            session.created_at += TimeDelta::seconds(second);
        }
        // Expired when the last is created, so that it does not count.
        sessions[0].expires_at = sessions[1].created_at;
        let limit = SessionLimit::end_oldest(2);
        for session in &sessions[..2] {
            self.insert(session).await?;
        }
        let mut ended = Vec::new();
        for session in &sessions[2..] {
            let inserted = self.store.insert(session, Some(&limit)).await?;
            ended.extend(inserted.ended);
        }
        let expected: Vec<_> = sessions[1..3].iter().map(SessionSummary::from).collect();
        ensure(
            ended == expected,
            format!("{expected:?} should have ended, not {ended:?}"),
        )?;
        for session in &sessions[1..3] {
            self.is_gone(session, "the limit ended it").await?;
        }
        for session in &sessions[3..] {
            self.is_found(session).await?;
        }
        self.revoke_customer(&customer.into()).await?;
        Ok(())
    }

    async fn limit_refuses(&self) -> RuleResult {
        let customer = new_id();
        let (one, two) = (self.session(&customer), self.session(&customer));
        let limit = SessionLimit::refuse(1);
        self.store.insert(&one, Some(&limit)).await?;
        let refused = self.store.insert(&two, Some(&limit)).await;
        conflict(refused, "a session beyond the limit")?;
        self.is_gone(&two, "the limit refused it").await?;
        self.is_found(&one).await?;
        let other = self.session(&new_id());
        self.store.insert(&other, Some(&limit)).await?;
        self.forget(&[&one, &other]).await
    }

    async fn limit_holds(&self) -> RuleResult {
        let limits = [SessionLimit::end_oldest(3), SessionLimit::refuse(3)];
        for limit in limits {
            let customer = new_id();
            let mut insertions = JoinSet::new();
            for _ in 0..CONTENDERS {
                let (store, session) = (Arc::clone(&self.store), self.session(&customer));
                insertions.spawn(async move {
                    match store.insert(&session, Some(&limit)).await {
                        Ok(inserted) => Ok(Some(inserted)),
                        Err(error) if error.kind() == StoreErrorKind::Conflict => Ok(None),
                        Err(error) => Err(error),
                    }
                });
            }
            let (mut added, mut ended) = (HashSet::new(), HashSet::new());
            while let Some(inserted) = insertions.join_next().await {
                let Some(inserted) = joined(inserted)? else {
                    continue;
                };
                added.insert(inserted.session.id);
                ended.extend(inserted.ended.into_iter().map(|session| session.id));
            }
            let left = self.list(&customer.as_str().into()).await?;
            let left: HashSet<_> = left.into_iter().map(|session| session.id).collect();
            let expected: HashSet<_> = added.difference(&ended).cloned().collect();
            ensure(
                left.len() == 3 && left == expected,
                format!("{limit:?} left {} sessions of {CONTENDERS}", left.len()),
            )?;
            self.revoke_customer(&customer.into()).await?;
        }
        Ok(())
    }
}
