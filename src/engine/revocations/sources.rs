//! The sources of invalidations that this engine listens to, and what each allows.

use std::collections::BTreeMap;

use crate::clock::MonotonicTime;

/// The sources that are listened to now.
#[derive(Debug, Default)]
pub(super) struct Sources {
    listening: BTreeMap<SourceId, Source>,
    next_id: u64,
}

/// Tells a source from the others.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) struct SourceId(u64);

/// The state of one source, by what it has said of itself.
#[derive(Clone, Copy, Debug, Default)]
struct Source {
    /// The source has vouched for itself at least once.
    is_heard: bool,
    is_disconnected: bool,
    /// End of the time for which its last answer vouches; `None` for a source that never answers
    /// questions, and so has no lease.
    lease_end: Option<MonotonicTime>,
}

impl Source {
    fn is_silent(&self, now: MonotonicTime) -> bool {
        self.is_disconnected || self.lease_end.is_some_and(|end| now >= end)
    }
}

impl Sources {
    pub(super) fn add(&mut self) -> SourceId {
        let id = SourceId(self.next_id);
        self.next_id += 1;
        self.listening.insert(id, Source::default());
        id
    }

    pub(super) fn remove(&mut self, id: SourceId) {
        self.listening.remove(&id);
    }

    /// Returns `true` if the source is disconnected, or its lease is over.
    pub(super) fn is_silent(&self, id: SourceId, now: MonotonicTime) -> bool {
        let source = self.listening.get(&id);
        source.is_some_and(|source| source.is_silent(now))
    }

    pub(super) fn set_heard(&mut self, id: SourceId) {
        self.change(id, |source| source.is_heard = true);
    }

    pub(super) fn set_disconnected(&mut self, id: SourceId, is_disconnected: bool) {
        self.change(id, |source| source.is_disconnected = is_disconnected);
    }

    /// Extends the lease of a source. An older answer does not shorten it.
    pub(super) fn extend_lease(&mut self, id: SourceId, end: MonotonicTime) {
        self.change(id, |source| {
            source.lease_end = source.lease_end.max(Some(end))
        });
    }

    /// Returns `true` if one of the sources is disconnected.
    pub(super) fn is_any_disconnected(&self) -> bool {
        self.listening.values().any(|source| source.is_disconnected)
    }

    /// Returns `true` if one of the sources is heard.
    pub(super) fn is_any_heard(&self) -> bool {
        self.listening.values().any(|source| source.is_heard)
    }

    /// Returns the end of the first lease to end; `None` if no source has one.
    pub(super) fn lease_end(&self) -> Option<MonotonicTime> {
        let sources = self.listening.values();
        sources.filter_map(|source| source.lease_end).min()
    }

    pub(super) fn len(&self) -> u64 {
        self.listening.len() as u64
    }

    /// Returns the number of sources that are disconnected, or whose lease is over.
    pub(super) fn silent(&self, now: MonotonicTime) -> u64 {
        let sources = self.listening.values();
        sources.filter(|source| source.is_silent(now)).count() as u64
    }

    fn change(&mut self, id: SourceId, change: impl FnOnce(&mut Source)) {
        if let Some(source) = self.listening.get_mut(&id) {
            change(source);
        }
    }
}
