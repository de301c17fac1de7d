//! The rules of limits beyond insertion: what does not count, and replacements.

use std::{collections::HashSet, sync::Arc};

use chrono::TimeDelta;
use tokio::task::JoinSet;

use super::{
    harness::{CONTENDERS, Harness, RuleResult, Violation, conflict, ensure, joined, new_id},
    report::Conformance,
};
use crate::{
    registry::{Inserted, SessionLimit},
    session::{CustomerSession, SessionId},
    store::{SessionRegistry, StoreErrorKind},
};

impl<S: SessionRegistry> Harness<S> {
    /// Checks what counts for a limit, and replacements under one.
    pub(super) async fn check_limits(&self, report: &mut Conformance) {
        report.add(
            "a replacement keeps to a limit",
            self.replacement_keeps_to_limits().await,
        );
        report.add(
            "a limit that refuses a replacement changes nothing",
            self.limit_refuses_replacement().await,
        );
        report.add(
            "a limit holds for concurrent replacements",
            self.limit_holds_for_replacements().await,
        );
        if self.store.keeps().details {
            report.add(
                "links do not count for a limit",
                self.links_do_not_count().await,
            );
        }
    }

    /// Inserts sessions of a customer, each created a second after the one before.
    async fn sessions_in_order(
        &self,
        customer: &str,
        number: i64,
    ) -> Result<Vec<CustomerSession>, Violation> {
        let mut sessions = Vec::new();
        for second in 0..number {
            let mut session = self.session(customer);
            session.created_at += TimeDelta::seconds(second);
            self.insert(&session).await?;
            sessions.push(session);
        }
        Ok(sessions)
    }

    async fn replacement_keeps_to_limits(&self) -> RuleResult {
        let customer = new_id();
        let sessions = self.sessions_in_order(&customer, 4).await?;
        // Three are left without the one that is replaced, which is neither the oldest nor the newest.
        let limit = SessionLimit::end_oldest(3);
        let new = self.session(&customer);
        let replaced = self
            .store
            .replace(&sessions[1].id, &new, Some(&limit))
            .await?;
        let ended = ended(replaced.as_ref());
        ensure(
            ended == [&sessions[0].id],
            format!(
                "the limit should have ended {}, it ended {ended:?}",
                sessions[0].id
            ),
        )?;
        for session in &sessions[..2] {
            self.is_gone(session, "it was replaced, or the limit ended it")
                .await?;
        }
        for session in sessions[2..].iter().chain([&new]) {
            self.is_found(session).await?;
        }
        // The one that is replaced does not count, so that all of them stay.
        let next = self.session(&customer);
        let replaced = self.store.replace(&new.id, &next, Some(&limit)).await?;
        ensure(
            replaced.is_some_and(|replaced| replaced.ended.is_empty()),
            "replacing one of three sessions under a limit of three ended another, or failed",
        )?;
        // What is gone ends nothing.
        let late = self.session(&customer);
        let limit = SessionLimit::end_oldest(1);
        let replaced = self.store.replace(&new.id, &late, Some(&limit)).await?;
        ensure(replaced.is_none(), "a session was replaced twice")?;
        let left = self.revoke_customer(&customer.into()).await?;
        ensure(
            left == 3,
            format!("three sessions should be left, not {left}"),
        )
    }

    async fn limit_refuses_replacement(&self) -> RuleResult {
        let customer = new_id();
        let sessions = self.sessions_in_order(&customer, 3).await?;
        let new = self.session(&customer);
        let limit = SessionLimit::refuse(2);
        let refused = self.store.replace(&sessions[2].id, &new, Some(&limit));
        conflict(refused.await, "a session beyond the limit")?;
        self.is_gone(&new, "the limit refused it").await?;
        for session in &sessions {
            self.is_found(session).await?;
        }
        // The same one is replaced once there is room.
        self.forget(&[&sessions[0]]).await?;
        let replaced = self.store.replace(&sessions[2].id, &new, Some(&limit));
        ensure(
            replaced.await?.is_some(),
            "the session that a limit has refused to replace was gone",
        )?;
        self.is_found(&new).await?;
        self.forget(&[&sessions[1], &new]).await
    }

    async fn limit_holds_for_replacements(&self) -> RuleResult {
        for limit in [SessionLimit::end_oldest(3), SessionLimit::refuse(3)] {
            let customer = new_id();
            let mut replacements = JoinSet::new();
            let mut links = HashSet::new();
            for _ in 0..CONTENDERS {
                let (mut link, new) = (self.session(&customer), self.session(&customer));
                // As an expired one, it does not count in a store without details either.
                link.expires_at = link.created_at - TimeDelta::seconds(1);
                link.details.is_link = self.store.keeps().details;
                self.insert(&link).await?;
                links.insert(link.id.clone());
                let store = Arc::clone(&self.store);
                replacements.spawn(async move {
                    match store.replace(&link.id, &new, Some(&limit)).await {
                        Ok(replaced) => Ok(replaced),
                        Err(error) if error.kind() == StoreErrorKind::Conflict => Ok(None),
                        Err(error) => Err(error),
                    }
                });
            }
            let (mut added, mut ended) = (HashSet::new(), HashSet::new());
            while let Some(replaced) = replacements.join_next().await {
                let Some(replaced) = joined(replaced)? else {
                    continue;
                };
                added.insert(replaced.session.id);
                ended.extend(replaced.ended.into_iter().map(|session| session.id));
            }
            let left = self.list(&customer.as_str().into()).await?;
            let left = left.into_iter().map(|session| session.id);
            let left: HashSet<_> = left.filter(|id| !links.contains(id)).collect();
            let expected: HashSet<_> = added.difference(&ended).cloned().collect();
            ensure(
                left.len() == 3 && left == expected,
                format!("{limit:?} left {} sessions of {CONTENDERS}", left.len()),
            )?;
            self.revoke_customer(&customer.into()).await?;
        }
        Ok(())
    }

    async fn links_do_not_count(&self) -> RuleResult {
        let customer = new_id();
        let mut links = Vec::new();
        for second in 0..3 {
            let mut link = self.session(&customer);
            link.created_at += TimeDelta::seconds(second);
            link.details.is_link = true;
            self.insert(&link).await?;
            links.push(link);
        }
        let refuses = SessionLimit::refuse(1);
        let one = self.session(&customer);
        self.store.insert(&one, Some(&refuses)).await?;
        let two = self.session(&customer);
        let refused = self.store.insert(&two, Some(&refuses)).await;
        conflict(refused, "a session beyond the limit")?;
        // A link that is exchanged counts from then on, and the session before it ends.
        let ends = SessionLimit::end_oldest(1);
        let exchanged = self.store.replace(&links[1].id, &two, Some(&ends)).await?;
        let ended = ended(exchanged.as_ref());
        ensure(
            ended == [&one.id],
            format!("the limit should have ended {}, it ended {ended:?}", one.id),
        )?;
        self.is_gone(&one, "the limit ended it").await?;
        for session in [&links[0], &links[2], &two] {
            self.is_found(session).await?;
        }
        let listed = self.list(&two.customer_id).await?;
        let listed: Vec<_> = listed.iter().map(|listed| &listed.id).collect();
        ensure(
            listed.len() == 3,
            format!("two links and a session should be listed, not {listed:?}"),
        )?;
        self.revoke_customer(&customer.into()).await?;
        Ok(())
    }
}

/// Returns the ids of the sessions that a limit has ended.
fn ended(inserted: Option<&Inserted>) -> Vec<&SessionId> {
    let ended = inserted.into_iter().flat_map(|inserted| &inserted.ended);
    ended.map(|ended| &ended.id).collect()
}
