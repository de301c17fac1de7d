//! The behaviour that every store in a database must have.

use std::{
    collections::BTreeSet,
    error::Error,
    sync::{
        Arc,
        atomic::{AtomicBool, AtomicU32, Ordering},
    },
    time::{Duration, Instant},
};

use chrono::{SubsecRound as _, TimeDelta, Utc};
use customer_session::{
    Customer, CustomerData, CustomerId, CustomerSession, CustomerSessions, Device, MetadataValue,
    Revocation, SessionRegistry, SessionStore as _, SessionToken, StoreError, StoreErrorKind,
    store::Peppers, testing::conformance,
};
use tokio::task::JoinSet;

use test_support::{
    RegistryExt as _,
    model::agrees_with_the_model,
    rng::{Rng, env, seed},
    servers::Server,
};

pub(crate) const PEPPER: [u8; 32] = *b"a pepper of the tests, 32 bytes.";

pub(crate) fn peppers() -> Peppers {
    Peppers::new(PEPPER)
}

/// Returns an identifier that no other test has.
pub(crate) fn unique(prefix: &str) -> String {
    static NEXT: AtomicU32 = AtomicU32::new(0);
    let number = NEXT.fetch_add(1, Ordering::Relaxed);
    format!("{prefix}_{}_{number}", std::process::id())
}

pub(crate) fn session(store: &impl SessionRegistry, customer: &str) -> CustomerSession {
    let now = Utc::now().trunc_subsecs(6);
    let mut data = CustomerData::new(customer, "org_1");
    data.name = Some("Jane".to_owned());
    let token = store.token_format().generate();
    CustomerSession::new(unique("ses"), token, data, now + TimeDelta::hours(1))
}

pub(crate) async fn inserted(store: &impl SessionRegistry) -> CustomerSession {
    let session = session(store, &unique("cus"));
    store.add(&session).await.expect("inserted");
    session
}

/// Returns the texts of an error and its sources, as a log would show them.
pub(crate) fn text(error: &dyn Error) -> String {
    let mut text = error.to_string();
    let mut source = error.source();
    while let Some(error) = source {
        text = format!("{text}: {error}");
        source = error.source();
    }
    text
}

/// Fails unless the outcome is an error of this kind whose text contains all of `says`.
pub(crate) fn assert_error<T: std::fmt::Debug>(
    outcome: Result<T, StoreError>,
    kind: StoreErrorKind,
    says: &[&str],
) {
    let error = outcome.expect_err("an error");
    let text = text(&error);
    assert_eq!(error.kind(), kind, "{text}");
    for says in says {
        assert!(text.contains(says), "{says:?} is not in {text:?}");
    }
}

/// Fails unless the error's text contains `part`.
pub(crate) fn assert_says(error: &StoreError, part: &str) {
    let text = text(error);
    assert!(text.contains(part), "{part:?} is not in {text:?}");
}

pub(crate) async fn keeps_the_contract(store: impl SessionRegistry + Clone) {
    reaches_the_caches_of_its_clones(store.clone()).await;
    refuses_invalid_details(&store).await;
    if store.keeps().uses {
        ends_sessions_as_in_the_model(Arc::new(store.clone())).await;
        records_uses(store.clone()).await;
    }
    let report = conformance(store).await;
    println!("{report}");
    report.assert_passed();
    let mut rules = report.rules();
    assert!(rules.any(|(rule, _)| rule == "a derived session ends with its parent"));
}

/// A revocation reaches every cache in front of a clone of the store.
async fn reaches_the_caches_of_its_clones(store: impl SessionRegistry + Clone) {
    let session = inserted(&store).await;
    let layer = CustomerSessions::builder(store.clone()).build();
    let sessions = CustomerSessions::builder(store).build();
    layer.authenticate(&session.token).await.expect("live");
    assert!(sessions.revoke(&session.id).await.expect("an answer"));
    assert!(layer.authenticate(&session.token).await.is_err());
}

/// Details out of bounds are refused by name, and nothing is kept of them.
async fn refuses_invalid_details(store: &impl SessionRegistry) {
    let mut session = session(store, &unique("cus"));
    session.details.device = Some(Device::new("phone\u{1b}[2J"));
    assert_error(
        store.insert(&session, None).await,
        StoreErrorKind::Invalid,
        &[session.id.as_str(), "label of a device"],
    );
    let found = store.find(&session.token).await.expect("an answer");
    assert!(found.is_none());
}

/// Floats keep every bit, and a value that cannot be kept is refused by name.
async fn ends_sessions_as_in_the_model(store: Arc<impl SessionRegistry>) {
    let seed = seed("IDLENESS_SEED");
    println!("IDLENESS_SEED={seed}");
    let rng = Rng::new(seed);
    for _ in 0..env("IDLENESS_WALKS", 20) {
        agrees_with_the_model(Arc::clone(&store), &unique("cus"), 1, 40, &rng).await;
    }
}

/// A use is in the database a moment later, for all nodes.
async fn records_uses(store: impl SessionRegistry + Clone) {
    let sessions = CustomerSessions::builder(store.clone()).record_uses();
    let sessions = sessions.expect("it keeps uses").build();
    let customer = CustomerData::new(unique("cus"), "org_1");
    let issued = sessions.issue(customer, Duration::from_secs(3600)).await;
    let (session, begun) = (issued.expect("issued"), Instant::now());
    sessions.authenticate(&session.token).await.expect("live");
    let used_at = loop {
        let found = store.find(&session.token).await.expect("an answer");
        if let Some(used_at) = found.expect("live").details.last_used_at {
            break used_at;
        }
        assert!(
            begun.elapsed() < Duration::from_secs(20),
            "it is not recorded"
        );
        tokio::time::sleep(Duration::from_millis(10)).await;
    };
    // The database's clock may be another one.
    let late = (used_at - session.created_at).num_seconds().abs();
    assert!(late < 30, "{late}");
}

pub(crate) async fn keeps_or_refuses_metadata(store: &impl SessionRegistry) {
    let with = |metadata: Vec<(&str, MetadataValue)>| {
        let mut session = session(store, &unique("cus"));
        let mut data = CustomerData::clone(&session.customer);
        data.metadata = metadata
            .into_iter()
            .map(|(key, value)| (key.to_owned(), value))
            .collect();
        session.customer = data.into();
        session
    };
    let mut bits = 0x3FB9_9999_9999_999A_u64;
    for _ in 0..200 {
        bits = bits
            .wrapping_mul(6_364_136_223_846_793_005)
            .wrapping_add(1_442_695_040_888_963_407);
        let number = f64::from_bits(bits);
        if !number.is_finite() {
            continue;
        }
        let kept = with(vec![("number", number.into())]);
        store.add(&kept).await.expect("inserted");
        let found = store.find(&kept.token).await.expect("found");
        assert_eq!(found, Some(kept));
    }
    for (value, says) in [
        (MetadataValue::Float(f64::NAN), "not finite"),
        (MetadataValue::Integer(i128::from(u64::MAX) + 1), "64 bits"),
        ("a\0b".into(), "NUL"),
    ] {
        let refused = with(vec![("the key", value)]);
        let says = [says, "the key", refused.id.as_str()];
        assert_error(store.add(&refused).await, StoreErrorKind::Invalid, &says);
        assert_eq!(store.find(&refused.token).await.expect("an answer"), None);
    }
}

/// A field with a NUL is refused by name, and no identifier with a NUL is found.
pub(crate) async fn refuses_nul(store: &impl SessionRegistry) {
    let refused = |customer: Customer| async move {
        let mut session = session(store, customer.id.as_str());
        session.customer = customer;
        let outcome = store.add(&session).await;
        assert_eq!(store.find(&session.token).await.expect("an answer"), None);
        outcome
    };
    let mut data = CustomerData::new(unique("cus"), "org_1");
    data.email = Some("a\0b".to_owned());
    let outcome = refused(data.into()).await;
    assert_error(outcome, StoreErrorKind::Invalid, &["customer.email", "NUL"]);

    let outcome = refused(CustomerData::new("cus\0", "org_1").into()).await;
    assert_error(outcome, StoreErrorKind::Invalid, &["customer.id", "NUL"]);
    assert!(!store.end(&"ses\0".into()).await.expect("an answer"));
    let ended = store.end_customer(&"cus\0".into()).await;
    assert!(!ended.expect("an answer"));
    assert_eq!(
        store.summaries(&"cus\0".into()).await.expect("an answer"),
        []
    );
    assert_eq!(
        store
            .find(&SessionToken::new("cst\0"))
            .await
            .expect("an answer"),
        None
    );

    let mut stray = session(store, &unique("cus"));
    stray.customer_id = unique("cus").into();
    let outcome = store.add(&stray).await;
    assert_error(
        outcome,
        StoreErrorKind::Invalid,
        &[stray.id.as_str(), "customer_id"],
    );
}

/// Rotations under way do not outlive a revocation of many sessions, whatever its form.
pub(crate) async fn revoking_a_customer_ends_rotations(store: Arc<impl SessionRegistry>) {
    for round in 0..60 {
        let customer = unique("cus");
        let id = CustomerId::from(customer.as_str());
        let what = match round % 6 {
            0..3 => Revocation::Customer(id.clone()),
            3 => Revocation::Others {
                customer: id.clone(),
                keep: unique("ses").into(),
            },
            4 => Revocation::All,
            _ => Revocation::CreatedBefore(Utc::now() + TimeDelta::hours(1)),
        };
        let mut rotations = JoinSet::new();
        for _ in 0..4 {
            let (store, first) = (Arc::clone(&store), session(&*store, &customer));
            store.add(&first).await.expect("inserted");
            rotations.spawn(async move {
                let mut current = first;
                loop {
                    let mut next = session(&*store, current.customer_id.as_str());
                    next.customer = current.customer.clone();
                    if store
                        .swap(&current.id, &next)
                        .await
                        .expect("rotated")
                        .is_none()
                    {
                        return current;
                    }
                    current = next;
                }
            });
        }
        tokio::task::yield_now().await;
        let revoked = store.revoke(&what).await.expect("revoked");
        assert!(revoked.any);
        let named = [what.invalidation()];
        assert_eq!(revoked.invalidations, named);
        let left = store.summaries(&id).await.expect("a list");
        assert_eq!(left, [], "a rotation survived {what:?}");
        while let Some(last) = rotations.join_next().await {
            let last = last.expect("no panic");
            assert_eq!(store.find(&last.token).await.expect("an answer"), None);
        }
    }
}

/// One of many concurrent rotations of a session wins, also with open connections.
pub(crate) async fn rotations_have_one_winner(store: Arc<impl SessionRegistry>) {
    for _ in 0..40 {
        let old = inserted(&*store).await;
        let mut rotations = JoinSet::new();
        for _ in 0..16 {
            let (store, id) = (Arc::clone(&store), old.id.clone());
            let new = session(&*store, old.customer_id.as_str());
            rotations.spawn(async move { store.swap(&id, &new).await });
        }
        let won = rotations.join_all().await;
        let won = won.into_iter().map(|outcome| outcome.expect("an answer"));
        assert_eq!(won.flatten().count(), 1);
        let left = store.summaries(&old.customer_id).await.expect("a list");
        assert_eq!(left.len(), 1, "one session became several");
    }
}

/// Concurrent changes all succeed: there is no deadlock.
pub(crate) async fn changes_do_not_hinder_each_other(store: Arc<impl SessionRegistry>) {
    let customers: Vec<_> = (0..3).map(|_| unique("cus")).collect();
    let mut tasks = JoinSet::new();
    for task in 0..12 {
        let (store, customer) = (Arc::clone(&store), customers[task % 3].clone());
        tasks.spawn(async move {
            for turn in 0..40 {
                let (one, two) = (session(&*store, &customer), session(&*store, &customer));
                store.add(&one).await?;
                match (task + turn) % 4 {
                    0 => drop(store.end_customer(&customer.as_str().into()).await?),
                    1 => drop(store.update_customer(&two.customer).await?),
                    2 => drop(store.end(&one.id).await?),
                    _ => drop(store.purge_expired(one.expires_at, 1).await?),
                }
                store.swap(&one.id, &two).await?;
            }
            Ok::<_, StoreError>(())
        });
    }
    while let Some(done) = tasks.join_next().await {
        let done = done.expect("no panic");
        assert!(done.is_ok(), "{}", text(&done.expect_err("an error")));
    }
}

/// A database of its own for one test.
pub(crate) trait Database: Sized {
    type Store: SessionRegistry;

    /// Creates one. Returns `None`, and says so, if there is no server.
    async fn new() -> Option<Self>;

    /// Opens it with [`peppers`].
    async fn open(&self) -> Self::Store;

    /// Opens it with other peppers, or without.
    async fn reopen(&self, peppers: Peppers) -> Self::Store;

    /// Connects to it, without its first use.
    async fn connect(&self, peppers: Peppers) -> Self::Store;

    /// Removes the fingerprints of all peppers.
    async fn forget_peppers(&self);
}

/// Makes the tests that every database must pass a part of its module.
macro_rules! shared_tests {
    ($database:ty) => {
        #[tokio::test]
        async fn metadata_is_kept_or_refused() {
            let Some(database) = <$database>::new().await else {
                return;
            };
            let store = database.open().await;
            persistent_store::keeps_or_refuses_metadata(&store).await;
            persistent_store::refuses_nul(&store).await;
        }

        #[tokio::test(flavor = "multi_thread")]
        async fn sessions_that_are_kept_elsewhere_are_ended() {
            let Some(database) = <$database>::new().await else {
                return;
            };
            crate::revocable::ends_sessions_that_are_kept_elsewhere(&database).await;
        }

        #[tokio::test]
        async fn peppers_form_a_ring() {
            let Some(database) = <$database>::new().await else {
                return;
            };
            persistent_store::peppers_form_a_ring(&database).await;
        }

        #[tokio::test]
        async fn a_retired_pepper_is_refused() {
            let Some(database) = <$database>::new().await else {
                return;
            };
            persistent_store::a_retired_pepper_is_refused(&database).await;
        }

        #[tokio::test]
        async fn a_running_machine_notices_that_its_pepper_is_retired() {
            let Some(database) = <$database>::new().await else {
                return;
            };
            persistent_store::a_running_machine_notices_that_its_pepper_is_retired(&database).await;
        }

        #[tokio::test(flavor = "multi_thread")]
        async fn one_new_pepper_of_several_wins() {
            let Some(database) = <$database>::new().await else {
                return;
            };
            persistent_store::one_new_pepper_of_several_wins(&database).await;
        }

        shared_tests!($database, revoking_a_customer_ends_rotations);
        shared_tests!($database, rotations_have_one_winner);
        shared_tests!($database, changes_do_not_hinder_each_other);
        shared_tests!($database, purging_spares_lookups);
        shared_tests!($database, no_request_is_refused_by_a_rotation_that_overlaps);
    };
    ($database:ty, $test:ident) => {
        #[tokio::test(flavor = "multi_thread")]
        async fn $test() {
            let Some(database) = <$database>::new().await else {
                return;
            };
            persistent_store::$test(Arc::new(database.open().await)).await;
        }
    };
}
pub(crate) use shared_tests;

/// Requests with the old token go on while another rotates it, and until the overlap is over.
pub(crate) async fn no_request_is_refused_by_a_rotation_that_overlaps(
    store: Arc<impl SessionRegistry>,
) {
    for _ in 0..20 {
        let first = inserted(&*store).await;
        let is_done = Arc::new(AtomicBool::new(false));
        let asking = {
            let (store, token, is_done) = (
                Arc::clone(&store),
                first.token.clone(),
                Arc::clone(&is_done),
            );
            tokio::spawn(async move {
                let (mut found, mut ends) = (0, BTreeSet::new());
                while !is_done.load(Ordering::Relaxed) || found == 0 {
                    let session = store.find(&token).await.expect("an answer");
                    let session = session.expect("it goes on");
                    ends.insert((session.details.is_replaced, session.expires_at));
                    found += 1;
                }
                ends
            })
        };
        let (old, mut current) = (overlapping(&first), first.clone());
        for _ in 0..3 {
            let new = session(&*store, first.customer_id.as_str());
            let replaced = store
                .replace_overlapping(&overlapping(&current), &new)
                .await;
            let replaced = replaced.expect("an answer").expect("live");
            assert_eq!(
                (&replaced.id, replaced.expires_at),
                (&new.id, new.expires_at)
            );
            current = new;
            tokio::task::yield_now().await;
        }
        is_done.store(true, Ordering::Relaxed);
        let ends = asking.await.expect("no panic");
        let either = [(false, first.expires_at), (true, old.expires_at)];
        assert!(ends.iter().all(|end| either.contains(end)), "{ends:?}");
        let found = store.find(&first.token).await.expect("an answer");
        let found = found.expect("it goes on");
        assert_eq!(found, old, "as it was given");
        assert!(store.end(&first.id).await.expect("an answer"));
        for session in [&first, &current] {
            let found = store.find(&session.token).await.expect("an answer");
            assert_eq!(found, None);
        }
    }
}

/// Returns a session as it is kept when another takes its place.
pub(crate) fn overlapping(session: &CustomerSession) -> CustomerSession {
    let mut session = session.clone();
    session.expires_at -= TimeDelta::minutes(59);
    session.details.ends_at = Some(session.expires_at);
    session.details.is_replaced = true;
    session
}

/// A pepper is changed without ending sessions; a wrong one is noticed.
pub(crate) async fn peppers_form_a_ring(database: &impl Database) {
    let plain = database.reopen(Peppers::none()).await;
    let kept = inserted(&plain).await;
    let find = async |peppers| database.reopen(peppers).await.find(&kept.token).await;

    // A pepper does not match what was stored without one: that is an error, not an unknown token.
    let outcome = find(Peppers::new([1; 32])).await;
    assert_error(outcome, StoreErrorKind::Unavailable, &["another pepper"]);

    for peppers in [
        Peppers::new([1; 32]).or_none(),
        // The lookup has rewritten the record: the old setting is not needed any more.
        Peppers::new([1; 32]),
        Peppers::new([2; 32]).or([9; 32]).or([1; 32]),
        Peppers::new([2; 32]),
    ] {
        let found = find(peppers.clone()).await.map_err(|error| text(&error));
        assert_eq!(found, Ok(Some(kept.clone())), "{peppers:?}");
    }

    let last = database.reopen(Peppers::new([2; 32])).await;
    assert!(last.end(&kept.id).await.expect("revoked"));
    assert_eq!(last.find(&kept.token).await.expect("an answer"), None);

    let outcome = find(Peppers::new("")).await;
    assert_error(outcome, StoreErrorKind::Unavailable, &["16 bytes"]);
}

/// After a whole rotation, a machine that has only the old pepper neither answers nor writes.
pub(crate) async fn a_retired_pepper_is_refused(database: &impl Database) {
    let (old, new) = (Peppers::new([1; 32]), Peppers::new([2; 32]));
    for peppers in [
        old.clone(),
        old.clone().or([2; 32]),
        new.clone().or([1; 32]),
        new.clone(),
    ] {
        let store = database.reopen(peppers).await;
        inserted(&store).await;
    }
    let current = database.reopen(new.clone()).await;
    let session = inserted(&current).await;

    let retired = database.reopen(old.clone()).await;
    let unavailable = StoreErrorKind::Unavailable;
    let says = ["retired at", "newer one", "Peppers::new(this).or(newer)"];
    assert_error(retired.check().await, unavailable, &says);
    assert_error(retired.find(&session.token).await, unavailable, &says);
    assert_error(retired.add(&session).await, unavailable, &says);
    let stranger = database.reopen(Peppers::new([3; 32]).or([4; 32])).await;
    let outcome = stranger.find(&session.token).await;
    assert_error(outcome, unavailable, &["another pepper than those given"]);

    // A machine that was rolled back by a step has both.
    let back = database.reopen(old.or([2; 32])).await;
    let found = back.find(&session.token).await.expect("an answer");
    assert_eq!(found.as_ref(), Some(&session));
    let written = inserted(&back).await;
    for peppers in [new.clone().or([1; 32]), new] {
        let store = database.reopen(peppers).await;
        let found = store.find(&written.token).await.expect("an answer");
        assert_eq!(found.as_ref(), Some(&written));
    }
    current.check().await.expect("nothing has changed for it");
}

/// Also a store that was right when it started. The test holds the time that passes between.
pub(crate) async fn a_running_machine_notices_that_its_pepper_is_retired(database: &impl Database) {
    let both = Peppers::new([1; 32]).or([2; 32]);
    let (skipped, ready) = (
        database.reopen(Peppers::new([1; 32])).await,
        database.reopen(both).await,
    );
    let session = inserted(&skipped).await;
    let rotated = database.reopen(Peppers::new([2; 32]).or([1; 32])).await;
    rotated.check().await.expect("a rotation");
    ready.find(&session.token).await.expect("its last check");

    tokio::time::pause();
    tokio::time::advance(Duration::from_secs(11)).await;
    tokio::time::resume();
    let unavailable = StoreErrorKind::Unavailable;
    let outcome = skipped.find(&session.token).await;
    assert_error(outcome, unavailable, &["retired at"]);
    assert_error(skipped.add(&session).await, unavailable, &["retired at"]);
    let found = ready.find(&session.token).await.expect("it has both");
    assert_eq!(found.as_ref(), Some(&session));
}

/// Of machines that start at once with different peppers one is right, whether the database is new
/// or they replace the same pepper.
pub(crate) async fn one_new_pepper_of_several_wins(database: &impl Database) {
    const OLD: [u8; 32] = [9; 32];
    let old = Arc::new(database.reopen(Peppers::new(OLD)).await);
    old.check().await.expect("the first");
    let mut first = Vec::new();
    let mut rotating = Vec::new();
    for number in 1..5 {
        let store = database.connect(Peppers::new([number; 32])).await;
        store.check().await.expect_err("another pepper");
        first.push(Arc::new(store));
        let peppers = Peppers::new([number; 32]).or(OLD);
        rotating.push(Arc::new(database.connect(peppers).await));
    }
    for round in 0..60 {
        database.forget_peppers().await;
        let machines = if round % 2 == 0 {
            &first
        } else {
            old.check().await.expect("the first");
            &rotating
        };
        let start = Arc::new(tokio::sync::Barrier::new(machines.len()));
        let checks = machines.iter().map(|store| {
            let (store, start) = (Arc::clone(store), Arc::clone(&start));
            tokio::spawn(async move {
                start.wait().await;
                store.check().await.is_ok()
            })
        });
        let mut won = Vec::new();
        for check in checks.collect::<Vec<_>>() {
            won.push(check.await.expect("no panic"));
        }
        assert_eq!(won.iter().filter(|won| **won).count(), 1, "{won:?}");
        for (store, won) in machines.iter().zip(won) {
            assert_eq!(store.check().await.is_ok(), won, "it stays so");
        }
    }
}

/// A node whose clock is ahead purges nothing that is live by the database's clock.
#[cfg(any(feature = "sqlite", feature = "postgres"))]
pub(crate) async fn purging_believes_the_databases_clock(store: &impl SessionRegistry) {
    let live = inserted(store).await;
    let mut next = session(store, live.customer_id.as_str());
    next.customer = live.customer.clone();
    let other = inserted(store).await;
    store.swap(&live.id, &next).await.expect("replaced");
    let ahead = Utc::now() + TimeDelta::days(1);
    assert_eq!(store.purge_expired(ahead, 100).await.expect("purged"), 0);
    for session in [&next, &other] {
        let found = store.find(&session.token).await.expect("an answer");
        assert_eq!(found.as_ref(), Some(session));
    }
    assert!(store.end(&live.id).await.expect("revoked"), "its successor");
}

/// What is kept of replaced sessions is purged once their family has ended.
#[cfg(any(feature = "sqlite", feature = "postgres"))]
pub(crate) async fn families_are_purged(store: &impl SessionRegistry) {
    let customer = unique("cus");
    let mut current = session(store, &customer);
    current.details.ends_at = Some(current.created_at - TimeDelta::minutes(1));
    current.expires_at = current.created_at - TimeDelta::minutes(2);
    store.add(&current).await.expect("inserted");
    for _ in 0..3 {
        let mut next = session(store, &customer);
        (next.expires_at, next.details) = (current.expires_at, current.details.clone());
        store.swap(&current.id, &next).await.expect("replaced");
        current = next;
    }
    // The session has expired, and the family has not ended.
    let purge = async |before, limit| store.purge_expired(before, limit).await.expect("purged");
    assert_eq!(purge(current.expires_at, 100).await, 1);
    assert_eq!(purge(current.expires_at, 100).await, 0);
    let end = current.details.ends_at.expect("an end");
    assert_eq!(purge(end, 2).await, 2);
    assert_eq!(purge(end, 2).await, 1);
    assert_eq!(purge(end, 2).await, 0);
}

/// Lookups go on while sessions are purged, live sessions stay, and all expired ones go.
pub(crate) async fn purging_spares_lookups(store: Arc<impl SessionRegistry>) {
    let live = inserted(&*store).await;
    let customer = unique("cus");
    let mut expired = Vec::new();
    let mut insertions = JoinSet::new();
    for _ in 0..300 {
        let mut session = session(&*store, &customer);
        session.expires_at = session.created_at - TimeDelta::hours(1);
        expired.push(session.clone());
        let store = Arc::clone(&store);
        insertions.spawn(async move { store.add(&session).await });
    }
    while let Some(inserted) = insertions.join_next().await {
        inserted.expect("no panic").expect("inserted");
    }
    let mut purgers = JoinSet::new();
    for _ in 0..2 {
        let store = Arc::clone(&store);
        purgers.spawn(async move {
            let mut purged = 0;
            loop {
                match store.purge_expired(Utc::now(), 20).await.expect("purged") {
                    0 => return purged,
                    some => purged += some,
                }
            }
        });
    }
    while !purgers.is_empty() {
        let lookup = store.find(&live.token);
        let found = tokio::time::timeout(Duration::from_secs(1), lookup).await;
        let found = found.expect("a lookup does not wait for a purge");
        assert_eq!(found.expect("an answer").as_ref(), Some(&live));
        if let Some(purged) = purgers.try_join_next() {
            purged.expect("no panic");
        }
    }
    for session in expired {
        assert_eq!(store.find(&session.token).await.expect("an answer"), None);
    }
    assert_eq!(store.summaries(&customer.into()).await.expect("a list"), []);
}

/// A store reports that the server is down, and works again as soon as the server does.
pub(crate) async fn heals(store: impl SessionRegistry, server: &mut Server) {
    let session = inserted(&store).await;
    for _ in 0..2 {
        server.kill();
        let asked = Instant::now();
        let outcome = store.find(&session.token).await;
        assert_error(outcome, StoreErrorKind::Unavailable, &[]);
        assert!(
            asked.elapsed() < Duration::from_secs(2),
            "{:?}",
            asked.elapsed()
        );
        let outcome = store.end(&session.id).await;
        assert_error(outcome, StoreErrorKind::Unavailable, &[]);

        server.start();
        let back = Instant::now();
        let found = loop {
            match store.find(&session.token).await {
                Ok(found) => break found,
                Err(error) => {
                    assert!(back.elapsed() < Duration::from_secs(1), "{}", text(&error));
                }
            }
        };
        assert_eq!(found.as_ref(), Some(&session), "no data is lost");
    }
}

/// A session is rotated again and again while the server is killed. One session is left then: the
/// last that was acknowledged, or its successor, complete.
pub(crate) async fn kills_leave_no_half(store: impl SessionRegistry + Clone, server: &mut Server) {
    let mut kills = 0;
    let mut current = inserted(&store).await;
    for round in 0..6 {
        let rotating = tokio::spawn(rotate_until_it_fails(store.clone(), current));
        // At a time that differs from round to round, between any two statements.
        tokio::time::sleep(Duration::from_millis(40 + 7 * round)).await;
        server.kill();
        let (last, next, rotations) = rotating.await.expect("no panic");
        assert!(rotations > 0, "it was killed before anything happened");
        server.start();
        let list = loop {
            match store.summaries(&last.customer_id).await {
                Ok(list) => break list,
                Err(_) => tokio::task::yield_now().await,
            }
        };
        let [left] = list.as_slice() else {
            panic!("{list:?} is left of one session");
        };
        let (here, gone) = if left.id == last.id {
            (last, next)
        } else {
            (next, last)
        };
        assert_eq!(left.id, here.id, "neither the old nor the new session");
        let found = store.find(&here.token).await.expect("an answer");
        assert_eq!(found.as_ref(), Some(&here));
        assert_eq!(store.find(&gone.token).await.expect("an answer"), None);
        current = here;
        kills += 1;
    }
    println!("{kills} kills survived");
}

/// Returns the last session that was acknowledged, its successor, and the number of rotations.
async fn rotate_until_it_fails(
    store: impl SessionRegistry,
    mut current: CustomerSession,
) -> (CustomerSession, CustomerSession, u32) {
    let mut rotations = 0;
    loop {
        let mut next = session(&store, current.customer_id.as_str());
        next.customer = current.customer.clone();
        match store.swap(&current.id, &next).await {
            Ok(replaced) => assert!(replaced.is_some(), "nothing else rotates"),
            Err(_) => return (current, next, rotations),
        }
        current = next;
        rotations += 1;
    }
}
