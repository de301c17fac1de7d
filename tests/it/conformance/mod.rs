//! The conformance kit finds nothing wrong with a right store, and in a wrong one what is wrong.

mod lookups;
mod wrong_store;

use std::sync::Arc;

use customer_session::{
    store::MemoryStore,
    testing::{Fault, FaultyStore, conformance},
};

use wrong_store::{Method, Mistake, Wrong};

#[tokio::test]
async fn the_memory_store_keeps_the_contract() {
    let report = conformance(MemoryStore::new()).await;
    println!("{report}");
    report.assert_passed();
    conformance(Arc::new(MemoryStore::new()))
        .await
        .assert_passed();
    assert!(report.rules().count() >= 64);
}

/// Stores of which one method compares identifiers as a column of type `uuid` does.
const LOOSE: [Mistake; 7] = [
    Mistake::ComparesLoosely(Method::Revoke),
    Mistake::ComparesLoosely(Method::RevokeOwned),
    Mistake::ComparesLoosely(Method::RevokeOthers),
    Mistake::ComparesLoosely(Method::RevokeCustomer),
    Mistake::ComparesLoosely(Method::Replace),
    Mistake::ComparesLoosely(Method::List),
    Mistake::ComparesLoosely(Method::Update),
];

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
        (LosesDetails, "details are kept"),
        (
            ReplacesWithoutDetails,
            "details stay with a session that replaces another",
        ),
        (
            KeepsTheOldDetails,
            "details stay with a session that replaces another",
        ),
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
        (ForgetsDeletedCustomers, "a deleted customer stays deleted"),
        (ForgetsTheEnd, "a session's end is kept"),
        (
            IgnoresFamilies,
            "revoking a replaced session ends its successor",
        ),
        (
            HidesTheSuccessor,
            "revoking a replaced session ends its successor",
        ),
        (
            EndsForeignSuccessors,
            "a replaced session of another customer is not revoked",
        ),
        (
            KeepsNoSuccessor,
            "keeping a replaced session keeps its successor",
        ),
        (
            RotatesPastRevocations,
            "no rotation carries a session over a revocation",
        ),
        (
            RotatesIntoTheNewEpoch,
            "no rotation carries a session over the revocation of its customer",
        ),
        (
            ForgetsFamiliesTooEarly,
            "purging leaves what leads to a live session",
        ),
        (
            ReusesReplacedIds,
            "the id of a replaced session stays taken",
        ),
        (
            RevivesByReplacing,
            "replacing a session brings no deleted customer back",
        ),
        (UsesGoBack, "the last use is kept"),
        (LosesUsesInBatches, "the last use is kept"),
        (UsesReviveSessions, "uses end with their session"),
        (InheritsUses, "uses end with their session"),
        (
            CountsUnusedSessions,
            "sessions that are not used do not count for a limit",
        ),
        (CountsLinks, "links do not count for a limit"),
        (
            IgnoresTheLimitOfReplacements,
            "a replacement keeps to a limit",
        ),
        (CountsWhatIsReplaced, "a replacement keeps to a limit"),
        (
            ReplacesWhatIsRefused,
            "a limit that refuses a replacement changes nothing",
        ),
        (
            ReplacesBeforeItCounts,
            "a limit holds for concurrent replacements",
        ),
        (DerivesFromNothing, "a session is derived from a live one"),
        (LeavesChildren, "a derived session ends with its parent"),
        (HidesChildren, "a derived session ends with its parent"),
        (EndsParentsToo, "a derived session ends alone"),
        (KeepsNoTree, "keeping a session keeps its tree"),
        (
            EndsChildrenOfReplaced,
            "replacing leaves parents and children together",
        ),
        (
            CountsChildren,
            "derived sessions do not count for a limit, and end with their parent by it",
        ),
        (
            DerivesPastRevocations,
            "no derivation outlives a revocation of its parent",
        ),
        (
            DerivesPastRevocations,
            "no derivation outlives a revocation of its customer",
        ),
        (EndsReplacedAtOnce, "an overlapping session has its new end"),
        (
            KeepsTheEndOfReplaced,
            "an overlapping session has its new end",
        ),
        (
            ReplacesOverlapping,
            "an overlapping session is not replaced again",
        ),
        (
            EndsOverlapsAlone,
            "revoking one of two overlapping sessions ends both",
        ),
        (
            KeepsNoOverlap,
            "keeping one of two overlapping sessions keeps both",
        ),
        (
            CountsOverlaps,
            "an overlapping session counts for no limit, and ends with its successor by it",
        ),
        (
            OverlapsPastRevocations,
            "no overlap outlives a revocation of the session",
        ),
        (
            OverlapsPastRevocations,
            "no overlap outlives a revocation of the customer",
        ),
        (
            ReplacesWithoutEndingOverlaps,
            "a replacement without an overlap ends every overlapping session",
        ),
        (
            ForgetsCustomersInUse,
            "purging customers takes no session away",
        ),
        (LOOSE[0], "identifiers compare byte for byte"),
        (LOOSE[1], "identifiers compare byte for byte"),
        (LOOSE[2], "identifiers compare byte for byte"),
        (LOOSE[3], "identifiers compare byte for byte"),
        (LOOSE[4], "identifiers compare byte for byte"),
        (LOOSE[5], "identifiers compare byte for byte"),
        (LOOSE[6], "identifiers compare byte for byte"),
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
