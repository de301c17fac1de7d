//! The kit finds nothing wrong with a right store, and in a wrong one finds what is wrong.

use std::sync::{Arc, Mutex};

use chrono::{DateTime, SubsecRound as _, TimeDelta, Utc};
use customer_session::{
    Customer, CustomerId, CustomerSession, SessionId, SessionRegistry, SessionStore,
    SessionSummary, SessionToken, StoreError, TokenFormat, async_trait,
    store::MemoryStore,
    testing::{Fault, FaultyStore, conformance},
};

/// Ways to get a store wrong.
#[derive(Clone, Copy, Debug, PartialEq)]
enum Mistake {
    ForgetsExpiry,
    RevokesLazily,
    LosesConcurrentInsertions,
    ReplacesTheCustomer,
    MixesUpCustomers,
    ReplaysAfterRotation,
    LetsManyRotationsWin,
    RotationUndoesUpdate,
    TruncatesMicroseconds,
    SwallowsErrors,
    ForgetsTheToken,
    IgnoresCase,
    PurgesWithoutLimit,
    PurgesTooLate,
    RevokesOneOfACustomer,
    UpdatesOneSession,
    ListsNewestFirst,
    LeaksTokensThroughList,
    StripsText,
}

/// A right store with one mistake.
#[derive(Clone)]
struct Wrong {
    inner: MemoryStore,
    mistake: Mistake,
    last: Arc<Mutex<Option<CustomerSession>>>,
    replaced: Arc<Mutex<Vec<CustomerSession>>>,
    all: Arc<Mutex<Vec<CustomerSession>>>,
}

impl Wrong {
    fn new(mistake: Mistake) -> Self {
        Self {
            inner: MemoryStore::new(),
            mistake,
            last: Arc::default(),
            replaced: Arc::default(),
            all: Arc::default(),
        }
    }

    fn is(&self, mistake: Mistake) -> bool {
        self.mistake == mistake
    }
}

#[async_trait]
impl SessionStore for Wrong {
    async fn find(&self, token: &SessionToken) -> Result<Option<CustomerSession>, StoreError> {
        use Mistake::*;
        let mut found = self.inner.find(token).await?;
        if found.is_none() && self.is(IgnoresCase) {
            let all = self.all.lock().expect("no panic").clone();
            let same =
                |it: &&CustomerSession| it.token.expose().eq_ignore_ascii_case(token.expose());
            if let Some(other) = all.iter().find(same) {
                found = self.inner.find(&other.token).await?;
            }
        }
        if found.is_none() && self.is(ReplaysAfterRotation) {
            let replaced = self.replaced.lock().expect("no panic");
            found = replaced.iter().find(|it| it.token == *token).cloned();
        }
        if let Some(session) = &mut found {
            match self.mistake {
                ForgetsExpiry => session.expires_at = Utc::now() + TimeDelta::days(365),
                TruncatesMicroseconds => {
                    session.created_at = session.created_at.trunc_subsecs(3);
                    session.expires_at = session.expires_at.trunc_subsecs(3);
                }
                ForgetsTheToken => session.token = SessionToken::new("forgotten"),
                MixesUpCustomers => {
                    if let Some(last) = &*self.last.lock().expect("no panic") {
                        session.customer = last.customer.clone();
                        session.customer_id = last.customer_id.clone();
                    }
                }
                StripsText => {
                    let mut data = (*session.customer).clone();
                    data.name = data.name.map(|name| name.trim().replace('\n', " "));
                    session.customer = data.into();
                }
                _ => {}
            }
        }
        Ok(found)
    }

    fn token_format(&self) -> TokenFormat {
        self.inner.token_format()
    }
}

#[async_trait]
impl SessionRegistry for Wrong {
    async fn insert(&self, session: &CustomerSession) -> Result<(), StoreError> {
        let mut session = session.clone();
        if self.is(Mistake::LosesConcurrentInsertions) {
            // Reads, awaits, writes back what it has read.
            let before = self.all.lock().expect("no panic").len();
            tokio::task::yield_now().await;
            let mut all = self.all.lock().expect("no panic");
            if all.len() != before {
                return Ok(());
            }
            all.push(session.clone());
        } else {
            self.all.lock().expect("no panic").push(session.clone());
        }
        *self.last.lock().expect("no panic") = Some(session.clone());
        if self.is(Mistake::ReplacesTheCustomer) {
            session.customer =
                customer_session::CustomerData::new(session.customer_id.clone(), "org").into();
        }
        let inserted = self.inner.insert(&session).await;
        if self.is(Mistake::SwallowsErrors) {
            Ok(())
        } else {
            inserted
        }
    }

    async fn replace(&self, old: &SessionId, new: &CustomerSession) -> Result<bool, StoreError> {
        let all = self.all.lock().expect("no panic").clone();
        let replaced = all.into_iter().find(|it| it.id == *old);
        self.replaced.lock().expect("no panic").extend(replaced);
        if self.is(Mistake::LetsManyRotationsWin) {
            // Two statements where one transaction was needed.
            let list = self.inner.list(&new.customer_id).await?;
            let there = list.iter().any(|it| it.id == *old);
            tokio::task::yield_now().await;
            if there {
                self.inner.insert(new).await?;
                self.inner.revoke(old).await?;
            }
            return Ok(there);
        }
        let replaced = self.inner.replace(old, new).await?;
        if self.is(Mistake::RotationUndoesUpdate) {
            self.inner.update_customer(&new.customer).await?;
        }
        Ok(replaced)
    }

    async fn revoke(&self, id: &SessionId) -> Result<bool, StoreError> {
        if self.is(Mistake::RevokesLazily) {
            let (inner, id) = (self.inner.clone(), id.clone());
            tokio::spawn(async move { inner.revoke(&id).await });
            return Ok(true);
        }
        self.inner.revoke(id).await
    }

    async fn revoke_customer(&self, customer: &CustomerId) -> Result<u64, StoreError> {
        if self.is(Mistake::RevokesOneOfACustomer) {
            let list = self.inner.list(customer).await?;
            for session in list.iter().take(1) {
                self.inner.revoke(&session.id).await?;
            }
            return Ok(list.len() as u64);
        }
        self.inner.revoke_customer(customer).await
    }

    async fn list(&self, customer: &CustomerId) -> Result<Vec<SessionSummary>, StoreError> {
        let mut list = self.inner.list(customer).await?;
        if self.is(Mistake::ListsNewestFirst) {
            list.reverse();
        }
        if self.is(Mistake::LeaksTokensThroughList) {
            let all = self.all.lock().expect("no panic");
            for summary in &mut list {
                if let Some(session) = all.iter().find(|it| it.id == summary.id) {
                    summary.id = session.token.expose().into();
                }
            }
        }
        Ok(list)
    }

    async fn update_customer(&self, customer: &Customer) -> Result<u64, StoreError> {
        let updated = self.inner.update_customer(customer).await?;
        Ok(if self.is(Mistake::UpdatesOneSession) {
            updated.min(1)
        } else {
            updated
        })
    }

    async fn purge_expired(&self, before: DateTime<Utc>, limit: u32) -> Result<u64, StoreError> {
        match self.mistake {
            Mistake::PurgesWithoutLimit => self.inner.purge_expired(before, u32::MAX).await,
            Mistake::PurgesTooLate => {
                let before = before - TimeDelta::microseconds(1);
                self.inner.purge_expired(before, limit).await
            }
            _ => self.inner.purge_expired(before, limit).await,
        }
    }
}

#[tokio::test]
async fn the_memory_store_keeps_the_contract() {
    let report = conformance(MemoryStore::new()).await;
    println!("{report}");
    report.assert_kept();
    conformance(Arc::new(MemoryStore::new()))
        .await
        .assert_kept();
    assert!(report.rules().count() >= 19);
}

#[tokio::test]
async fn each_mistake_is_caught_by_the_rule_meant_for_it() {
    use Mistake::*;
    for (mistake, rule) in [
        (ForgetsExpiry, "an expired session keeps its end"),
        (RevokesLazily, "a revoked session is gone at once"),
        (
            LosesConcurrentInsertions,
            "concurrent insertions are all kept",
        ),
        (ReplacesTheCustomer, "a session is found as it was inserted"),
        (MixesUpCustomers, "each session has its own customer"),
        (ReplaysAfterRotation, "replacing ends the old session"),
        (LetsManyRotationsWin, "replacing has one winner"),
        (
            RotationUndoesUpdate,
            "replacing keeps the customer that the store knows",
        ),
        (TruncatesMicroseconds, "times are kept to the microsecond"),
        (SwallowsErrors, "a taken id or token is a conflict"),
        (ForgetsTheToken, "a session is found as it was inserted"),
        (IgnoresCase, "tokens are told apart by every character"),
        (
            PurgesWithoutLimit,
            "purging removes what has expired, in batches",
        ),
        (
            PurgesTooLate,
            "purging removes what has expired, in batches",
        ),
        (
            RevokesOneOfACustomer,
            "revoking a customer ends all their sessions",
        ),
        (
            UpdatesOneSession,
            "an update reaches all sessions of the customer",
        ),
        (LeaksTokensThroughList, "a list shows no token"),
        (ListsNewestFirst, "a list is of one customer, oldest first"),
        (StripsText, "text is kept or refused, never changed"),
    ] {
        let report = conformance(Wrong::new(mistake)).await;
        assert!(
            report.broken().contains(&rule),
            "{mistake:?} slipped through\n{report}"
        );
    }
}

#[tokio::test]
async fn a_report_names_what_is_broken_and_shows_no_token() {
    let wrong = Wrong::new(Mistake::TruncatesMicroseconds);
    let report = conformance(wrong.clone()).await;
    let text = format!("{report}{report:?}");
    assert!(text.contains("BROKEN  times are kept to the microsecond: created_at was"));
    for session in &*wrong.all.lock().expect("no panic") {
        assert!(!text.contains(session.token.expose()), "{text}");
    }
}

#[tokio::test]
#[should_panic(expected = "the store breaks its contract")]
async fn a_broken_store_fails_its_test() {
    conformance(Wrong::new(Mistake::IgnoresCase))
        .await
        .assert_kept();
}

#[tokio::test]
async fn a_store_that_does_not_work_at_all_breaks_every_rule() {
    let store = FaultyStore::new(MemoryStore::new());
    store.fail_with(Fault::Error);
    let report = conformance(store).await;
    assert_eq!(report.broken().len(), report.rules().count(), "{report}");
}
