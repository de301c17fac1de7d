//! A model of the revocation protocol, checked in every order in which two threads can meet.
//!
//! The table is the crate's own source, on loom's atomics in place of the standard ones. The store is
//! an atomic: a reader that sees the deletion sees what came before it.
#![allow(clippy::unwrap_used)]

/// The atomics that `src/engine/revocations/table.rs` takes from its crate.
mod sync {
    pub(crate) use loom::sync::atomic::{AtomicU64, Ordering};
}

#[path = "../src/engine/revocations/table.rs"]
#[allow(
    dead_code,
    unreachable_pub,
    reason = "the model uses a part of the file"
)]
mod table;

use loom::{
    sync::{
        Arc, Mutex,
        atomic::{AtomicBool, Ordering::SeqCst},
    },
    thread,
};

use table::{Epoch, RevocationTable, Target};

/// The protocol as it is, and four ways to get it wrong.
#[derive(Clone, Copy, PartialEq)]
enum Protocol {
    Whole,
    WithoutCheck,
    EpochAfterQuery,
    RecordBeforeDelete,
    RecordWithoutAdvance,
}

struct Model {
    protocol: Protocol,
    target: Target<'static>,
    table: RevocationTable,
    deleted: AtomicBool,
    cached: Mutex<Option<Epoch>>,
}

impl Model {
    /// Looks up, and caches what was found. Returns `true` if the session may be used.
    fn lookup(&self) -> bool {
        let mut epoch = self.table.current_epoch();
        let found = !self.deleted.load(SeqCst);
        if self.protocol == Protocol::EpochAfterQuery {
            epoch = self.table.current_epoch();
        }
        if !found {
            return false;
        }
        let usable = self.is_current(epoch);
        if usable {
            *self.cached.lock().unwrap() = Some(epoch);
        }
        usable
    }

    fn hit(&self) -> bool {
        let cached = *self.cached.lock().unwrap();
        cached.is_some_and(|epoch| self.is_current(epoch))
    }

    fn is_current(&self, epoch: Epoch) -> bool {
        let stripes = self.table.stripes("ses_1", "cus_1");
        self.protocol == Protocol::WithoutCheck || self.table.is_current(epoch, Some(stripes))
    }

    fn revoke(&self) {
        if self.protocol == Protocol::RecordBeforeDelete {
            self.table.record(self.target);
            self.deleted.store(true, SeqCst);
            return;
        }
        self.deleted.store(true, SeqCst);
        if self.protocol == Protocol::RecordWithoutAdvance {
            let now = self.table.current_epoch();
            self.table.publish(self.target, now);
        } else {
            self.table.record(self.target);
        }
    }
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
            cached: Mutex::new(None),
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
    check(Protocol::Whole, Target::Session("ses_1"));
    check(Protocol::Whole, Target::Customer("cus_1"));
    check(Protocol::Whole, Target::All);
}

#[test]
#[should_panic(expected = "let a revoked session in")]
fn the_model_finds_a_missing_check() {
    check(Protocol::WithoutCheck, Target::Session("ses_1"));
}

#[test]
#[should_panic(expected = "let a revoked session in")]
fn the_model_finds_an_epoch_that_is_read_after_the_query() {
    check(Protocol::EpochAfterQuery, Target::Session("ses_1"));
}

#[test]
#[should_panic(expected = "let a revoked session in")]
fn the_model_finds_a_record_that_comes_before_the_deletion() {
    check(Protocol::RecordBeforeDelete, Target::Session("ses_1"));
}

#[test]
#[should_panic(expected = "let a revoked session in")]
fn the_model_finds_a_record_that_does_not_advance_the_epoch() {
    check(Protocol::RecordWithoutAdvance, Target::Session("ses_1"));
}
