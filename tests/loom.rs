//! Models of the revocation protocol, checked in every order in which two threads can meet.
//!
//! The table and the front cache are the crate's own source, on loom's atomics in place of the standard
//! ones. The store is an atomic: a reader that sees the deletion sees what came before it. The slots of
//! the front cache are arc-swap's, which loom cannot see into; here each is a mutex around an `Arc`, of
//! which arc-swap promises the same: a load returns what one of the stores has put there, and none from
//! before the last store that the reader knows of.
#![allow(clippy::unwrap_used)]

/// What the sources below take from their crate.
mod sync {
    use std::sync::Arc;

    use loom::sync::Mutex;
    pub(crate) use loom::sync::atomic::{AtomicU64, Ordering};

    pub(crate) struct Slot<T>(Mutex<Option<Arc<T>>>);

    impl<T> Slot<T> {
        pub(crate) fn empty() -> Self {
            Self(Mutex::new(None))
        }

        pub(crate) fn load(&self) -> Option<Arc<T>> {
            self.0.lock().unwrap().clone()
        }

        pub(crate) fn store(&self, value: Option<Arc<T>>) {
            *self.0.lock().unwrap() = value;
        }
    }
}

/// The part of a cached session that the front cache reads, and the epoch of its lookup.
mod entry {
    pub(crate) struct CachedSession {
        pub(crate) hash: super::key::TokenHash64,
        pub(crate) epoch: super::table::Epoch,
    }
}

#[path = "../src/engine/cache/front.rs"]
#[allow(
    dead_code,
    unreachable_pub,
    reason = "the model uses a part of the file"
)]
mod front;

#[path = "../src/engine/cache/key.rs"]
#[allow(
    dead_code,
    unreachable_pub,
    reason = "the model uses a part of the file"
)]
mod key;

#[path = "../src/engine/revocations/table.rs"]
#[allow(
    dead_code,
    unreachable_pub,
    reason = "the model uses a part of the file"
)]
mod table;

use entry::CachedSession;
use front::FrontCache;
use key::TokenHash64;
use loom::{
    sync::{
        Arc, Mutex,
        atomic::{AtomicBool, Ordering::SeqCst},
    },
    thread,
};
use table::{Epoch, RevocationTable, Target};

const HASH: TokenHash64 = TokenHash64(7);

/// The protocol as it is, and six ways to get it wrong.
#[derive(Clone, Copy, PartialEq)]
enum Protocol {
    Whole,
    WithoutCheck,
    EpochAfterQuery,
    RecordBeforeDelete,
    RecordWithoutAdvance,
    NoRecentRecord,
    RecentRecordBeforeAdvance,
}

struct Model {
    protocol: Protocol,
    target: Target<'static>,
    table: RevocationTable,
    deleted: AtomicBool,
    cached: FrontCache,
}

impl Model {
    /// Looks up, and caches the result. Returns `true` if the session may be used.
    fn lookup(&self) -> bool {
        let mut epoch = self.table.current_epoch();
        let found = !self.deleted.load(SeqCst);
        if self.protocol == Protocol::EpochAfterQuery {
            epoch = self.table.current_epoch();
        }
        if !found {
            self.cached.remove(HASH);
            return false;
        }
        let usable = self.is_current(epoch);
        if usable {
            self.cached.put(cached(HASH, epoch), |_| true, false);
        }
        usable
    }

    fn hit(&self) -> bool {
        let read =
            |cached: &std::sync::Arc<CachedSession>| self.is_current(cached.epoch).then_some(());
        self.cached.get(HASH, read).is_some()
    }

    fn is_current(&self, epoch: Epoch) -> bool {
        let stripes = self.table.stripes(1, "cus_1", epoch);
        self.protocol == Protocol::WithoutCheck || self.table.is_current(epoch, Some(stripes))
    }

    fn revoke(&self) {
        if self.protocol == Protocol::RecordBeforeDelete {
            self.table.record(self.target);
            self.deleted.store(true, SeqCst);
            return;
        }
        self.deleted.store(true, SeqCst);
        match self.protocol {
            Protocol::RecordWithoutAdvance => {
                let now = self.table.current_epoch();
                let _ = self.table.publish(self.target, now);
                self.table.publish_recent(self.target, now);
            }
            Protocol::NoRecentRecord => {
                let now = self.table.advance();
                let _ = self.table.publish(self.target, now);
            }
            Protocol::RecentRecordBeforeAdvance => {
                let old = self.table.current_epoch();
                self.table.publish_recent(self.target, old);
                let now = self.table.advance();
                let _ = self.table.publish(self.target, now);
            }
            _ => self.table.record(self.target),
        }
    }
}

fn cached(hash: TokenHash64, epoch: Epoch) -> std::sync::Arc<CachedSession> {
    std::sync::Arc::new(CachedSession { hash, epoch })
}

/// Checks that, while one thread looks up twice and another revokes, no request that starts after the
/// revocation has returned is let in.
fn check(protocol: Protocol, target: Target<'static>) {
    loom::model(move || {
        let model = Arc::new(Model {
            protocol,
            target,
            table: RevocationTable::new(1),
            deleted: AtomicBool::new(false),
            cached: FrontCache::new(1),
        });
        let looking = thread::spawn({
            let model = Arc::clone(&model);
            move || {
                model.lookup();
                model.lookup();
            }
        });
        model.revoke();
        // From here on every request has started after the revocation.
        assert!(!model.hit(), "a hit let a revoked session in");
        looking.join().unwrap();
        assert!(!model.hit(), "a late insertion let a revoked session in");
        assert!(!model.lookup(), "a lookup found a revoked session");
    });
}

#[test]
fn a_revoked_session_is_refused_in_every_order_of_events() {
    check(Protocol::Whole, Target::Session(1));
    check(Protocol::Whole, Target::Customer("cus_1"));
    check(Protocol::Whole, Target::All);
}

#[test]
#[should_panic(expected = "let a revoked session in")]
fn the_model_finds_a_missing_check() {
    check(Protocol::WithoutCheck, Target::Session(1));
}

#[test]
#[should_panic(expected = "let a revoked session in")]
fn the_model_finds_an_epoch_that_is_read_after_the_query() {
    check(Protocol::EpochAfterQuery, Target::Session(1));
}

#[test]
#[should_panic(expected = "let a revoked session in")]
fn the_model_finds_a_record_that_comes_before_the_deletion() {
    check(Protocol::RecordBeforeDelete, Target::Session(1));
}

#[test]
#[should_panic(expected = "let a revoked session in")]
fn the_model_finds_a_record_that_does_not_advance_the_epoch() {
    check(Protocol::RecordWithoutAdvance, Target::Session(1));
}

#[test]
#[should_panic(expected = "let a revoked session in")]
fn the_model_finds_a_record_that_is_not_among_the_recent_ones() {
    check(Protocol::NoRecentRecord, Target::Session(1));
}

#[test]
#[should_panic(expected = "let a revoked session in")]
fn the_model_finds_a_recent_record_that_comes_before_the_advance() {
    check(
        Protocol::RecentRecordBeforeAdvance,
        Target::Customer("cus_1"),
    );
}

/// A lookup finds that a session was changed without an announcement, and records it, while the
/// session is revoked. The answer that found the change must not outlive the revocation.
fn check_found_change(record: fn(&RevocationTable)) {
    loom::model(move || {
        let table = Arc::new(RevocationTable::new(1));
        let deleted = Arc::new(AtomicBool::new(false));
        let cached = Arc::new(Mutex::new(None));
        let looking = thread::spawn({
            let (table, deleted, cached) = (
                Arc::clone(&table),
                Arc::clone(&deleted),
                Arc::clone(&cached),
            );
            move || {
                let epoch = table.current_epoch();
                if deleted.load(SeqCst) {
                    return;
                }
                let answer = table.stripes(1, "cus_1", epoch);
                let Some(answer) = table.record_found(answer) else {
                    return;
                };
                let old = table.stripes(1, "cus_1", epoch);
                assert!(
                    !table.is_current(epoch, Some(old)),
                    "the old answer is used"
                );
                *cached.lock().unwrap() = Some((epoch, answer));
            }
        });
        deleted.store(true, SeqCst);
        record(&table);
        let is_let_in = || {
            let cached = *cached.lock().unwrap();
            cached.is_some_and(|(epoch, answer)| table.is_current(epoch, Some(answer)))
        };
        assert!(!is_let_in(), "a hit let a revoked session in");
        looking.join().unwrap();
        assert!(!is_let_in(), "a late insertion let a revoked session in");
    });
}

#[test]
fn an_answer_that_records_what_it_found_does_not_outlive_a_revocation() {
    check_found_change(|table| table.record(Target::Session(1)));
    check_found_change(|table| table.record(Target::Customer("cus_1")));
    check_found_change(|table| table.record(Target::All));
}

#[test]
#[should_panic(expected = "let a revoked session in")]
fn the_model_finds_a_revocation_that_keeps_an_older_epoch() {
    check_found_change(|table| {
        let now = table.advance();
        let _ = table.publish(Target::Session(1), now);
        table.publish_recent(Target::Session(1), now);
    });
}

/// A revocation on another node is missed while trust is suspended. What was read before it is
/// trusted neither during the gap nor after it.
fn check_gap(resume: fn(&RevocationTable)) {
    loom::model(move || {
        let table = Arc::new(RevocationTable::new(1));
        let deleted = Arc::new(AtomicBool::new(false));
        let cached = Arc::new(Mutex::new(None));
        let looking = thread::spawn({
            let (table, deleted, cached) = (
                Arc::clone(&table),
                Arc::clone(&deleted),
                Arc::clone(&cached),
            );
            move || {
                let epoch = table.current_epoch();
                if !deleted.load(SeqCst) && table.oldest_usable() <= epoch {
                    *cached.lock().unwrap() = Some(epoch);
                }
            }
        });
        let is_hit = || {
            let cached = *cached.lock().unwrap();
            cached.is_some_and(|epoch| table.is_trusted(epoch))
        };
        table.suspend_trust();
        deleted.store(true, SeqCst);
        assert!(!is_hit(), "a hit trusted the cache during the gap");
        resume(&table);
        assert!(!is_hit(), "a hit trusted what was read before the gap");
        looking.join().unwrap();
        assert!(!is_hit(), "a late insertion is trusted after the gap");
    });
}

#[test]
fn nothing_that_was_read_before_a_gap_is_trusted_after_it() {
    check_gap(RevocationTable::resume_trust);
}

#[test]
#[should_panic(expected = "trusted")]
fn the_model_finds_a_gap_that_ends_without_a_new_epoch() {
    // As if trust had never been suspended.
    check_gap(|table| table.trust_from(Epoch::default()));
}

/// A request that starts after everything was invalidated joins a lookup that is in flight.
fn check_join(is_joinable: fn(&RevocationTable, Epoch) -> bool) {
    loom::model(move || {
        let table = Arc::new(RevocationTable::new(1));
        let deleted = Arc::new(AtomicBool::new(false));
        let in_flight = Arc::new(Mutex::new(None));
        let looking = thread::spawn({
            let (table, deleted, in_flight) = (
                Arc::clone(&table),
                Arc::clone(&deleted),
                Arc::clone(&in_flight),
            );
            move || {
                let epoch = table.current_epoch();
                *in_flight.lock().unwrap() = Some(epoch);
                !deleted.load(SeqCst)
            }
        });
        deleted.store(true, SeqCst);
        table.record(Target::All);
        let epoch: Option<Epoch> = *in_flight.lock().unwrap();
        let has_joined = epoch.is_some_and(|epoch| is_joinable(&table, epoch));
        let found = looking.join().unwrap();
        assert!(
            !(has_joined && found),
            "a request joined a lookup from before"
        );
    });
}

#[test]
fn a_lookup_that_began_before_everything_was_invalidated_is_not_joined() {
    check_join(|table, epoch| epoch >= table.oldest_usable());
}

#[test]
#[should_panic(expected = "joined a lookup from before")]
fn the_model_finds_a_lookup_that_is_joined_whenever_it_began() {
    check_join(|_, _| true);
}

/// Returns the hash of the session that a reader of `hash` gets.
fn found(cache: &FrontCache, hash: TokenHash64) -> Option<TokenHash64> {
    cache.get(hash, |session| Some(session.hash))
}

#[test]
fn writers_that_meet_in_a_bucket_give_nobody_a_session_of_another() {
    // One bucket, and one tag.
    const OTHER: TokenHash64 = TokenHash64(7 + 256);

    loom::model(|| {
        let cache = Arc::new(FrontCache::new(1));
        let writing = thread::spawn({
            let cache = Arc::clone(&cache);
            move || cache.put(cached(OTHER, Epoch::default()), |_| false, true)
        });
        cache.put(cached(HASH, Epoch::default()), |_| false, true);
        cache.remove(OTHER);
        assert!(found(&cache, HASH).is_none_or(|hash| hash == HASH));
        assert!(found(&cache, OTHER).is_none_or(|hash| hash == OTHER));
        writing.join().unwrap();
        for hash in [HASH, OTHER] {
            assert!(found(&cache, hash).is_none_or(|other| other == hash));
        }
        // Whatever they have left behind, the next one is found.
        cache.put(cached(HASH, Epoch::default()), |_| false, true);
        assert_eq!(found(&cache, HASH), Some(HASH));
        cache.remove(HASH);
        assert_eq!(found(&cache, HASH), None);
    });
}
