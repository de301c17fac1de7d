//! Revocations and other changes that this node knows of: its own, and those of other nodes.

pub(crate) mod sources;
pub(crate) mod table;

use std::{
    hash::Hash,
    sync::{
        Mutex, MutexGuard, PoisonError,
        atomic::{
            AtomicU64,
            Ordering::{Acquire, Release},
        },
    },
    time::Duration,
};

use tokio::sync::{Notify, futures::Notified};

use self::{
    sources::{SourceId, Sources},
    table::{Epoch, RevocationTable, Stripes, Target},
};
use crate::{
    clock::MonotonicTime, family::FamilyKey, invalidation::Invalidation, session::CustomerSession,
};

/// Time for which the answer of a source vouches that no invalidation was missed, counted from the
/// question.
const LEASE: Duration = Duration::from_secs(2);

/// The end of the lease if no source has one.
const WITHOUT_END: u64 = u64::MAX;

/// Shards of the notifications about sessions, and of those about customers; a power of two.
const NOTIFY_SHARDS: usize = 1024;

/// The revocation table, and the notifications for streams that watch their session.
pub(crate) struct Revocations {
    pub(crate) table: RevocationTable,
    session_changes: Box<[Notify]>,
    customer_changes: Box<[Notify]>,
    /// End of the first lease to end, in nanoseconds of the engine's clock.
    lease_end: AtomicU64,
    /// If `true`, the cache is used only while a source is heard.
    requires_source: bool,
    /// Guards the sources. Held to change them together with whether the cache is trusted; never
    /// across an await.
    sources: Mutex<Trust>,
}

/// The sources, and what follows from them.
#[derive(Default)]
struct Trust {
    sources: Sources,
    is_suspended: bool,
    /// What was trusted before the suspension.
    before: Epoch,
    /// Since the suspension began, something may have been missed for good.
    has_missed: bool,
}

impl Revocations {
    /// Creates a table with `stripes` entries. If `requires_source`, nothing cached is trusted before
    /// a source is heard.
    pub(crate) fn new(stripes: usize, requires_source: bool) -> Self {
        let shards = || (0..NOTIFY_SHARDS).map(|_| Notify::new()).collect();
        let revocations = Self {
            table: RevocationTable::new(stripes),
            session_changes: shards(),
            customer_changes: shards(),
            lease_end: AtomicU64::new(WITHOUT_END),
            requires_source,
            sources: Mutex::default(),
        };
        revocations.change_sources(|_| ());
        revocations
    }

    /// Records a change, and notifies the streams that it may concern. To be called when the change
    /// is visible to the store's readers, not earlier.
    pub(crate) fn record(&self, invalidation: &Invalidation) {
        match invalidation {
            Invalidation::Session(id) => {
                self.table
                    .record(Target::Session(FamilyKey::of(id.as_str()).as_u64()));
                self.notify_session(id.as_str());
            }
            Invalidation::Customer(id) | Invalidation::CustomerChanged { id, .. } => {
                self.table.record(Target::Customer(id.as_str()));
                self.shard(&self.customer_changes, id.as_str())
                    .notify_waiters();
            }
            Invalidation::All => {
                self.table.record(Target::All);
                self.notify_all();
            }
        }
    }

    /// Returns the places in the table of an answer of `epoch`.
    pub(crate) fn stripes(&self, session: &CustomerSession, epoch: Epoch) -> Stripes {
        let family = FamilyKey::of(session.id.as_str()).as_u64();
        let customer = session.customer_id.as_str();
        self.table.stripes(family, customer, epoch)
    }

    /// Returns futures that resolve at the next change that may concern this session or this
    /// customer, counted from when they are enabled or first polled.
    pub(crate) fn changes(&self, session: &str, customer: &str) -> [Notified<'_>; 2] {
        [
            self.shard(&self.session_changes, FamilyKey::of(session))
                .notified(),
            self.shard(&self.customer_changes, customer).notified(),
        ]
    }

    /// Returns `true` if no invalidation can have been missed since an answer of `epoch` was read.
    #[inline]
    pub(crate) fn is_trusted(&self, epoch: Epoch, now: MonotonicTime) -> bool {
        self.table.is_trusted(epoch) && now.as_nanos() < self.lease_end.load(Acquire)
    }

    /// Adds a source, which has yet to be heard.
    pub(crate) fn add_source(&self) -> SourceId {
        self.change_sources(Sources::add)
    }

    /// Removes a source: what it would have reported goes unnoticed from now on. If it was not heard
    /// at `now`, what was read before is not trusted any more.
    pub(crate) fn remove_source(&self, id: SourceId, now: MonotonicTime) {
        let trust = self.lock_sources();
        if trust.sources.is_silent(id, now) && !trust.is_suspended {
            self.table.resume_trust();
        }
        drop(trust);
        self.change_sources_after_gap(|sources| sources.remove(id));
        self.notify_all();
    }

    /// Records that a source is heard.
    pub(crate) fn on_heard(&self, id: SourceId) {
        self.change_sources_after_gap(|sources| sources.set_heard(id));
    }

    /// Suspends the use of the cache: a source may be missing changes.
    pub(crate) fn on_disconnect(&self, id: SourceId) {
        self.change_sources(|sources| sources.set_disconnected(id, true));
    }

    /// Resumes the use of what is looked up from now on, if this was the last disconnected source.
    pub(crate) fn on_reconnect(&self, id: SourceId) {
        self.change_sources_after_gap(|sources| sources.set_disconnected(id, false));
        self.notify_all();
    }

    /// Resumes the use of what was looked up before, too, if this was the last disconnected source and
    /// no other has missed anything.
    pub(crate) fn on_resume(&self, id: SourceId) {
        self.change_sources(|sources| sources.set_disconnected(id, false));
    }

    /// Records that a question which was asked at `asked_at` has been answered, after everything
    /// that was announced before. `None`: it was asked too long ago to vouch for anything.
    pub(crate) fn on_answer(&self, id: SourceId, asked_at: Option<MonotonicTime>) {
        let end = asked_at.map_or(MonotonicTime::default(), |asked_at| asked_at + LEASE);
        self.change_sources(|sources| sources.extend_lease(id, end));
    }

    /// Returns the number of sources, and of those that are not heard at `now`.
    pub(crate) fn sources(&self, now: MonotonicTime) -> (u64, u64) {
        let trust = self.lock_sources();
        (trust.sources.len(), trust.sources.silent(now))
    }

    /// Changes the sources after something may have been missed.
    fn change_sources_after_gap<T>(&self, change: impl FnOnce(&mut Sources) -> T) -> T {
        let mut trust = self.lock_sources();
        trust.has_missed = true;
        self.change_trust(&mut trust, change)
    }

    /// Changes the sources, and suspends or resumes the use of the cache as they demand.
    fn change_sources<T>(&self, change: impl FnOnce(&mut Sources) -> T) -> T {
        self.change_trust(&mut self.lock_sources(), change)
    }

    fn change_trust<T>(&self, trust: &mut Trust, change: impl FnOnce(&mut Sources) -> T) -> T {
        let changed = change(&mut trust.sources);
        let sources = &trust.sources;
        let lease_end = sources
            .lease_end()
            .map_or(WITHOUT_END, MonotonicTime::as_nanos);
        self.lease_end.store(lease_end, Release);
        let is_unheard = self.requires_source && !sources.is_any_heard();
        let must_suspend = is_unheard || sources.is_any_disconnected();
        if must_suspend && !trust.is_suspended {
            trust.before = self.table.suspend_trust();
            trust.has_missed = false;
        } else if trust.is_suspended && !must_suspend {
            if trust.has_missed {
                self.table.resume_trust();
            } else {
                self.table.trust_from(trust.before);
            }
        }
        trust.is_suspended = must_suspend;
        changed
    }

    /// Notifies the streams of a session and of its family.
    pub(crate) fn notify_session(&self, id: &str) {
        self.shard(&self.session_changes, FamilyKey::of(id))
            .notify_waiters();
    }

    fn notify_all(&self) {
        self.session_changes.iter().for_each(Notify::notify_waiters);
    }

    fn shard<'a>(&self, shards: &'a [Notify], id: impl Hash) -> &'a Notify {
        &shards[self.table.hash(id) & (NOTIFY_SHARDS - 1)]
    }

    fn lock_sources(&self) -> MutexGuard<'_, Trust> {
        let sources = self.sources.lock();
        sources.unwrap_or_else(PoisonError::into_inner)
    }
}
