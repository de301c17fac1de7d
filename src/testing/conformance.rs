//! A store's contract as one call.

use std::{fmt, sync::Arc};

use super::kit::{Checked, Kit};
use crate::store::SessionRegistry;

/// Runs the whole contract of [`SessionStore`](crate::SessionStore) and
/// [`SessionRegistry`] against a store, and says what became of each rule.
///
/// The store may hold other sessions: the checks use identifiers and tokens of their own, made
/// at random, and remove what they have added. Only the rule about purging counts what it
/// finds, so nothing else should be expired, or purge, meanwhile.
///
/// ```
/// use customer_session::{store::MemoryStore, testing::conformance};
///
/// # #[tokio::main(flavor = "current_thread")]
/// # async fn main() {
/// conformance(MemoryStore::new()).await.assert_kept();
/// # }
/// ```
pub async fn conformance<S: SessionRegistry>(store: S) -> Conformance {
    let kit = Kit {
        store: Arc::new(store),
    };
    let mut report = Conformance { rules: Vec::new() };
    report.add(
        "a session is found as it was inserted",
        kit.found_as_inserted().await,
    );
    report.add(
        "an unknown token opens nothing",
        kit.unknown_opens_nothing().await,
    );
    report.add(
        "tokens are told apart by every character",
        kit.tokens_are_exact().await,
    );
    report.add(
        "times are kept to the microsecond",
        kit.times_are_exact().await,
    );
    report.add(
        "an expired session keeps its end",
        kit.expired_keeps_its_end().await,
    );
    report.add(
        "each session has its own customer",
        kit.customers_are_kept_apart().await,
    );
    report.add(
        "concurrent insertions are all kept",
        kit.insertions_are_kept().await,
    );
    report.add(
        "a taken id or token is a conflict",
        kit.taken_is_a_conflict().await,
    );
    report.add(
        "text is kept or refused, never changed",
        kit.text_is_kept().await,
    );
    report.add(
        "a revoked session is gone at once",
        kit.revoked_is_gone().await,
    );
    report.add(
        "revoking an unknown session is no error",
        kit.revoking_unknown().await,
    );
    report.add(
        "revoking a customer ends all their sessions",
        kit.customer_is_revoked().await,
    );
    report.add(
        "replacing ends the old session",
        kit.replaced_is_gone().await,
    );
    report.add(
        "replacing keeps the customer that the store knows",
        kit.replacing_keeps_the_customer().await,
    );
    report.add("replacing has one winner", kit.one_winner().await);
    report.add(
        "a failed replacement changes nothing",
        kit.failed_replacement().await,
    );
    report.add(
        "a list is of one customer, oldest first",
        kit.list_is_right().await,
    );
    report.add("a list shows no token", kit.list_shows_no_token().await);
    report.add(
        "an update reaches all sessions of the customer",
        kit.update_reaches_all().await,
    );
    report.add(
        "purging removes what has expired, in batches",
        kit.purging().await,
    );
    report
}

/// What became of each rule of the contract.
#[derive(Clone, Debug)]
#[must_use = "call `assert_kept`, or look at `broken`"]
pub struct Conformance {
    rules: Vec<(&'static str, Result<(), String>)>,
}

impl Conformance {
    /// Every rule by name, in the order in which they were checked; with what went wrong.
    pub fn rules(&self) -> impl Iterator<Item = (&'static str, Result<(), &str>)> {
        self.rules
            .iter()
            .map(|(rule, outcome)| (*rule, outcome.as_ref().copied().map_err(String::as_str)))
    }

    /// The names of the rules that the store breaks.
    pub fn broken(&self) -> Vec<&'static str> {
        self.rules()
            .filter(|(_, outcome)| outcome.is_err())
            .map(|(rule, _)| rule)
            .collect()
    }

    /// For use in a test.
    ///
    /// # Panics
    ///
    /// If a rule is broken, with the whole report.
    pub fn assert_kept(&self) {
        assert!(
            self.broken().is_empty(),
            "the store breaks its contract\n{self}"
        );
    }

    fn add(&mut self, rule: &'static str, outcome: Checked) {
        self.rules.push((rule, outcome.map_err(|broken| broken.0)));
    }
}

impl fmt::Display for Conformance {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        for (rule, outcome) in self.rules() {
            match outcome {
                Ok(()) => writeln!(f, "kept    {rule}")?,
                Err(why) => writeln!(f, "BROKEN  {rule}: {why}")?,
            }
        }
        Ok(())
    }
}
