//! The kit for stores that only look sessions up.

use std::sync::{Arc, Mutex};

use chrono::{SubsecRound as _, TimeDelta, Utc};
use customer_session::{
    CustomerData, CustomerSession, Revocation, SessionRegistry as _, SessionStore, SessionToken,
    StoreError, TokenFormat, async_trait,
    store::{MemoryStore, Revocable},
    testing::{Conformance, LookupTokens, conformance_of_lookups},
};

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
async fn a_table_whose_sessions_are_ended_by_a_list_keeps_the_contract() {
    let (table, tokens) = Table::new(LookupMistake::Nothing);
    let store = Revocable::new(Arc::new(table), MemoryStore::new());
    let revoke = async |token: SessionToken| {
        let session = store.find(&token).await?.expect("it is live");
        store.revoke(&Revocation::Session(session.id)).await?;
        Ok(())
    };
    let report = conformance_of_lookups(store.clone(), tokens, revoke).await;
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
