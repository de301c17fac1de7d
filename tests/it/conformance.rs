//! The conformance kit finds nothing wrong with a right store, and in a wrong one what is wrong.

use std::sync::{Arc, Mutex};

use chrono::{DateTime, SubsecRound as _, TimeDelta, Utc};
use customer_session::{
    Customer, CustomerData, CustomerId, CustomerSession, Inserted, Page, Revocation, Revoked,
    SessionId, SessionLimit, SessionPage, SessionRegistry, SessionStore, SessionSummary,
    SessionToken, StoreError, TokenFormat, async_trait,
    store::MemoryStore,
    testing::{Conformance, Fault, FaultyStore, LookupTokens, conformance, conformance_of_lookups},
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
    UpdatesNobody,
    ListsNewestFirst,
    LeaksTokensThroughList,
    StripsText,
    RevokesForeignSessions,
    RevokesTheKeptSession,
    RevokesTooMuchByTime,
    HidesWhatItEnded,
    IgnoresTheLimit,
    CountsBeforeItWaits,
    RepeatsItself,
    ChangesTheCustomer,
    AcceptsDeletedCustomers,
    FoldsIdentifiers,
    AddsCustomers,
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

/// As a database compares text whose collation ignores case.
fn folded(id: &str) -> String {
    id.trim_end().to_lowercase()
}

impl Wrong {
    /// Whether the customer of a session is deleted.
    async fn is_deleted(&self, session: &CustomerSession) -> Result<bool, StoreError> {
        let of_customer = |other: &&CustomerSession| other.customer_id == session.customer_id;
        let all = self.all.lock().expect("no panic").clone();
        let Some(first) = all.iter().find(of_customer) else {
            return Ok(false);
        };
        let found = self.inner.find(&first.token).await?;
        Ok(found.is_some_and(|found| found.customer.deleted_at.is_some()))
    }

    /// The sessions of a customer.
    async fn of(&self, customer: &CustomerId) -> Result<Vec<SessionSummary>, StoreError> {
        let page = Page::default().with_size(Page::MAX_SIZE);
        Ok(self.inner.list(customer, &page).await?.sessions)
    }

    /// Writes down what is inserted. `false`: another insertion came in between.
    async fn note(&self, session: &CustomerSession) -> bool {
        if self.is(Mistake::LosesConcurrentInsertions) {
            // Reads, awaits, writes back what it has read.
            let before = self.all.lock().expect("no panic").len();
            tokio::task::yield_now().await;
            if self.all.lock().expect("no panic").len() != before {
                return false;
            }
        }
        self.all.lock().expect("no panic").push(session.clone());
        *self.last.lock().expect("no panic") = Some(session.clone());
        true
    }

    /// Makes room in one step, and inserts in another.
    async fn insert_racily(
        &self,
        session: &CustomerSession,
        limit: &SessionLimit,
    ) -> Result<Inserted, StoreError> {
        let live = self.of(&session.customer_id).await?;
        tokio::task::yield_now().await;
        let Some(surplus) = limit.surplus(live.len()) else {
            return Err(StoreError::conflict("the limit is reached"));
        };
        let mut ended = live;
        ended.truncate(surplus);
        for summary in &ended {
            let what = Revocation::Session(summary.id.clone());
            self.inner.revoke(&what).await?;
        }
        let mut inserted = self.inner.insert(session, None).await?;
        inserted.ended = ended;
        Ok(inserted)
    }
}

#[async_trait]
impl SessionRegistry for Wrong {
    async fn insert(
        &self,
        session: &CustomerSession,
        limit: Option<&SessionLimit>,
    ) -> Result<Inserted, StoreError> {
        let mut session = session.clone();
        if !self.note(&session).await {
            return Ok(Inserted::new(session));
        }
        let limit = limit.filter(|_| !self.is(Mistake::IgnoresTheLimit));
        match (self.mistake, limit) {
            (Mistake::CountsBeforeItWaits, Some(limit)) => {
                return self.insert_racily(&session, limit).await;
            }
            (Mistake::ReplacesTheCustomer, _) => {
                let id = session.customer_id.clone();
                session.customer = CustomerData::new(id, "org").into();
            }
            (Mistake::ChangesTheCustomer, _) => {
                self.inner.update_customer(&session.customer).await?;
            }
            (Mistake::FoldsIdentifiers, _) => {
                session.id = folded(session.id.as_str()).into();
            }
            _ => {}
        }
        let inserted = self.inner.insert(&session, limit).await;
        let is_swallowed = self.is(Mistake::SwallowsErrors)
            || self.is(Mistake::AcceptsDeletedCustomers) && self.is_deleted(&session).await?;
        if is_swallowed {
            Ok(inserted.unwrap_or_else(|_| Inserted::new(session)))
        } else {
            inserted
        }
    }

    async fn replace(
        &self,
        old: &SessionId,
        new: &CustomerSession,
    ) -> Result<Option<CustomerSession>, StoreError> {
        let all = self.all.lock().expect("no panic").clone();
        let replaced = all.into_iter().find(|session| session.id == *old);
        self.replaced.lock().expect("no panic").extend(replaced);
        if self.is(Mistake::LetsManyRotationsWin) {
            // Two statements where one transaction was needed.
            let list = self.of(&new.customer_id).await?;
            let there = list.iter().any(|session| session.id == *old);
            tokio::task::yield_now().await;
            if !there {
                return Ok(None);
            }
            let inserted = self.inner.insert(new, None).await?;
            self.inner.revoke(&Revocation::Session(old.clone())).await?;
            return Ok(Some(inserted.session));
        }
        let replaced = self.inner.replace(old, new).await?;
        if self.is(Mistake::RotationUndoesUpdate) {
            self.inner.update_customer(&new.customer).await?;
        }
        Ok(replaced)
    }

    async fn revoke(&self, what: &Revocation) -> Result<Revoked, StoreError> {
        let mut what = what.clone();
        match (self.mistake, &what) {
            (Mistake::RevokesLazily, _) => {
                let (inner, named) = (self.inner.clone(), what.invalidation());
                tokio::spawn(async move { inner.revoke(&what).await });
                return Ok(Revoked::new(true, [named]));
            }
            (Mistake::RevokesOneOfACustomer, Revocation::Customer(customer)) => {
                let list = self.of(customer).await?;
                for session in list.iter().take(1) {
                    let one = Revocation::Session(session.id.clone());
                    self.inner.revoke(&one).await?;
                }
                return Ok(Revoked::new(!list.is_empty(), [what.invalidation()]));
            }
            (Mistake::RevokesForeignSessions, Revocation::Owned { session, .. }) => {
                what = Revocation::Session(session.clone());
            }
            (Mistake::RevokesTheKeptSession, Revocation::Others { customer, .. }) => {
                what = Revocation::Customer(customer.clone());
            }
            (Mistake::RevokesTooMuchByTime, Revocation::CreatedBefore(time)) => {
                what = Revocation::CreatedBefore(*time + TimeDelta::microseconds(1));
            }
            (Mistake::FoldsIdentifiers, Revocation::Session(session)) => {
                what = Revocation::Session(folded(session.as_str()).into());
            }
            _ => {}
        }
        let mut revoked = self.inner.revoke(&what).await?;
        if self.is(Mistake::HidesWhatItEnded) {
            revoked.invalidations.clear();
        }
        Ok(revoked)
    }

    async fn list(&self, customer: &CustomerId, page: &Page) -> Result<SessionPage, StoreError> {
        let page = match self.mistake {
            Mistake::RepeatsItself => Page::default().with_size(page.size()),
            _ => page.clone(),
        };
        let mut list = self.inner.list(customer, &page).await?;
        if self.is(Mistake::ListsNewestFirst) {
            list.sessions.reverse();
        }
        if self.is(Mistake::LeaksTokensThroughList) {
            let all = self.all.lock().expect("no panic");
            for summary in &mut list.sessions {
                if let Some(session) = all.iter().find(|session| session.id == summary.id) {
                    summary.id = session.token.expose().into();
                }
            }
        }
        Ok(list)
    }

    async fn update_customer(&self, customer: &Customer) -> Result<bool, StoreError> {
        let is_known = self.inner.update_customer(customer).await?;
        if !is_known && self.is(Mistake::AddsCustomers) {
            // An upsert where an update was needed.
            let end = Utc::now() + TimeDelta::hours(1);
            let token = self.token_format().generate();
            let id = format!("of {}", customer.id);
            let added = CustomerSession::new(id, token, customer.clone(), end);
            self.inner.insert(&added, None).await?;
        }
        Ok(match self.mistake {
            Mistake::UpdatesNobody => false,
            _ => is_known,
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
    report.assert_passed();
    conformance(Arc::new(MemoryStore::new()))
        .await
        .assert_passed();
    assert!(report.rules().count() >= 31);
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
            UpdatesNobody,
            "an update reaches all sessions of the customer",
        ),
        (LeaksTokensThroughList, "a list shows no token"),
        (ListsNewestFirst, "a list is of one customer, oldest first"),
        (StripsText, "text is kept or refused, never changed"),
        (
            RevokesForeignSessions,
            "a session of another customer is not revoked",
        ),
        (RevokesTheKeptSession, "revoking the others keeps one"),
        (
            RevokesTooMuchByTime,
            "sessions are revoked by the time of their creation",
        ),
        (HidesWhatItEnded, "a revocation names what it ended"),
        (IgnoresTheLimit, "a limit ends the oldest sessions"),
        (IgnoresTheLimit, "a limit refuses a new session"),
        (
            CountsBeforeItWaits,
            "a limit holds for concurrent insertions",
        ),
        (RepeatsItself, "pages hold every session once, oldest first"),
        (
            ChangesTheCustomer,
            "inserting a session changes no customer",
        ),
        (AcceptsDeletedCustomers, "a deleted customer is refused"),
        (FoldsIdentifiers, "identifiers are told apart by every byte"),
        (AddsCustomers, "an update adds no customer"),
    ] {
        let report = conformance(Wrong::new(mistake)).await;
        assert!(
            report.failures().contains(&rule),
            "{mistake:?} slipped through\n{report}"
        );
    }
}

#[tokio::test]
async fn a_report_names_what_is_broken_and_shows_no_token() {
    let wrong = Wrong::new(Mistake::TruncatesMicroseconds);
    let report = conformance(wrong.clone()).await;
    let text = format!("{report}{report:?}");
    assert!(text.contains("FAILED  times are kept to the microsecond: created_at was"));
    for session in &*wrong.all.lock().expect("no panic") {
        assert!(!text.contains(session.token.expose()), "{text}");
    }
}

#[tokio::test]
#[should_panic(expected = "the store breaks its contract")]
async fn a_broken_store_fails_its_test() {
    conformance(Wrong::new(Mistake::IgnoresCase))
        .await
        .assert_passed();
}

#[tokio::test]
async fn a_store_that_does_not_work_at_all_breaks_every_rule() {
    let store = FaultyStore::new(MemoryStore::new());
    store.fail_with(Fault::Error);
    let report = conformance(store).await;
    assert_eq!(report.failures().len(), report.rules().count(), "{report}");
}

/// Ways to get a store wrong that only looks sessions up.
#[derive(Clone, Copy, Debug, PartialEq)]
enum LookupMistake {
    Nothing,
    FindsNothing,
    ForgetsTheToken,
    MixesUpCustomers,
    OpensOneSession,
    IgnoresCase,
    InventsSessions,
    BreaksWhenDropped,
    AnswersFromBefore,
    RevivesTheDead,
    HasAnotherFormat,
    MixesUpConcurrentLookups,
}

/// A table that another program fills: no rules of ours for its identifiers or its times.
struct Table {
    rows: Mutex<Vec<(String, CustomerSession)>>,
    mistake: LookupMistake,
    under_way: Mutex<Vec<String>>,
    cache: Mutex<Vec<CustomerSession>>,
}

impl Table {
    fn new(mistake: LookupMistake) -> (Self, LookupTokens) {
        let mut rows = Vec::new();
        for (number, hours) in [(1, 1), (2, 1), (3, 1), (4, -1)] {
            let token = SessionToken::new(format!("legacy-Token-{number}"));
            let customer = CustomerData::new(format!("{number}00"), "org");
            let end = Utc::now() + TimeDelta::hours(hours);
            let mut session =
                CustomerSession::new(number.to_string(), token.clone(), customer, end);
            session.created_at = session.created_at.trunc_subsecs(0);
            rows.push((token.expose().to_owned(), session));
        }
        let token = |number| SessionToken::new(format!("legacy-Token-{number}"));
        let tokens = LookupTokens::live([token(1), token(2), token(3)])
            .expired([token(4)])
            .revoked([token(5)]);
        let table = Self {
            rows: Mutex::new(rows),
            mistake,
            under_way: Mutex::default(),
            cache: Mutex::default(),
        };
        (table, tokens)
    }

    fn row(&self, token: &str) -> Option<CustomerSession> {
        use LookupMistake::*;
        let rows = self.rows.lock().expect("no panic");
        let row = |wanted: &str| {
            let row = rows.iter().find(|(token, _)| token.as_str() == wanted);
            row.map(|(_, session)| session.clone())
        };
        match self.mistake {
            FindsNothing => None,
            OpensOneSession => rows.first().map(|(_, session)| session.clone()),
            IgnoresCase => {
                let is_same =
                    |(other, _): &&(String, CustomerSession)| other.eq_ignore_ascii_case(token);
                rows.iter()
                    .find(is_same)
                    .map(|(_, session)| session.clone())
            }
            InventsSessions => {
                let customer = CustomerData::new("1", "org");
                let end = Utc::now() + TimeDelta::hours(1);
                row(token).or_else(|| {
                    let token = SessionToken::new(token);
                    Some(CustomerSession::new("1", token, customer, end))
                })
            }
            AnswersFromBefore => {
                let mut cache = self.cache.lock().expect("no panic");
                if let Some(session) = cache.iter().find(|old| old.token.expose() == token) {
                    return Some(session.clone());
                }
                let found = row(token);
                cache.extend(found.clone());
                found
            }
            _ => row(token),
        }
    }
}

#[async_trait]
impl SessionStore for Table {
    async fn find(&self, token: &SessionToken) -> Result<Option<CustomerSession>, StoreError> {
        use LookupMistake::*;
        let mut wanted = token.expose().to_owned();
        if matches!(self.mistake, BreaksWhenDropped | MixesUpConcurrentLookups) {
            self.under_way
                .lock()
                .expect("no panic")
                .push(wanted.clone());
            tokio::task::yield_now().await;
            let mut under_way = self.under_way.lock().expect("no panic");
            // Answers come in the order of the questions, unless one was dropped or overtaken.
            if self.mistake == BreaksWhenDropped {
                wanted = under_way.remove(0);
            } else {
                wanted = under_way.pop().expect("ours is there");
            }
        }
        let mut found = self.row(&wanted);
        if let Some(session) = &mut found {
            match self.mistake {
                ForgetsTheToken => session.token = SessionToken::new("forgotten"),
                MixesUpCustomers => session.customer_id = "100".into(),
                RevivesTheDead => session.expires_at = Utc::now() + TimeDelta::hours(1),
                _ => session.token = token.clone(),
            }
        }
        Ok(found)
    }

    fn token_format(&self) -> TokenFormat {
        match self.mistake {
            LookupMistake::HasAnotherFormat => TokenFormat::new("cst_"),
            _ => TokenFormat::any(),
        }
    }
}

async fn check_lookups(mistake: LookupMistake) -> Conformance {
    let (table, tokens) = Table::new(mistake);
    let table = Arc::new(table);
    conformance_of_lookups(Arc::clone(&table), tokens, async |token: SessionToken| {
        let mut rows = table.rows.lock().expect("no panic");
        rows.retain(|(row, _)| row != token.expose());
        Ok(())
    })
    .await
}

#[tokio::test]
async fn a_store_over_an_existing_table_keeps_the_contract() {
    let report = check_lookups(LookupMistake::Nothing).await;
    report.assert_passed();
    assert_eq!(report.rules().count(), 9);
}

#[tokio::test]
async fn each_mistake_of_a_lookup_is_caught_by_the_rule_meant_for_it() {
    use LookupMistake::*;
    for (mistake, rule) in [
        (FindsNothing, "a live token opens its session"),
        (ForgetsTheToken, "a live token opens its session"),
        (MixesUpCustomers, "a live token opens its session"),
        (HasAnotherFormat, "a live token opens its session"),
        (OpensOneSession, "each token opens a session of its own"),
        (
            MixesUpConcurrentLookups,
            "concurrent lookups are not mixed up",
        ),
        (InventsSessions, "an unknown token opens nothing"),
        (IgnoresCase, "tokens are told apart by every character"),
        (BreaksWhenDropped, "a lookup that is dropped does no harm"),
        (RevivesTheDead, "an expired token opens nothing live"),
        (InventsSessions, "a revoked token opens nothing live"),
        (AnswersFromBefore, "a revoked session is gone at once"),
    ] {
        let report = check_lookups(mistake).await;
        assert!(
            report.failures().contains(&rule),
            "{mistake:?} slipped through\n{report}"
        );
        assert!(!format!("{report}").contains("legacy-Token"), "{report}");
    }
}
