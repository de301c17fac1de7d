//! The families of rotated sessions: which session has taken the place of which.

use std::collections::{BTreeSet, HashMap};

use chrono::{DateTime, Utc};

use crate::{
    customer::CustomerId,
    session::{SessionId, SessionSummary},
};

/// Families of two sessions or more, by the id of their first session.
#[derive(Default)]
pub(super) struct Families {
    families: HashMap<SessionId, Family>,
    /// The family of each session, the current ones included.
    members: HashMap<SessionId, SessionId>,
    by_end: BTreeSet<(DateTime<Utc>, SessionId)>,
}

/// Sessions of which each has taken the place of the one before.
pub(super) struct Family {
    pub(super) customer: CustomerId,
    /// The last session, which may have ended.
    pub(super) current: SessionId,
    members: Vec<SessionId>,
    end: DateTime<Utc>,
}

impl Families {
    /// Returns the family of a session, or `None` if it was never replaced and replaced none.
    pub(super) fn of(&self, id: &SessionId) -> Option<&Family> {
        self.families.get(self.members.get(id)?)
    }

    /// Returns the first session of the family of `id`.
    pub(super) fn first<'a>(&'a self, id: &'a SessionId) -> &'a SessionId {
        self.members.get(id).unwrap_or(id)
    }

    /// Returns the last session of the family of `id`.
    pub(super) fn current<'a>(&'a self, id: &'a SessionId) -> &'a SessionId {
        self.of(id).map_or(id, |family| &family.current)
    }

    /// Records that `new` has taken the place of `old`.
    pub(super) fn replace(&mut self, old: &SessionId, new: &SessionSummary) {
        let first = self.members.get(old).unwrap_or(old).clone();
        let end = new.family_end();
        let family = self
            .families
            .entry(first.clone())
            .or_insert_with(|| Family {
                customer: new.customer_id.clone(),
                current: old.clone(),
                members: vec![old.clone()],
                end,
            });
        self.by_end.remove(&(family.end, first.clone()));
        family.current = new.id.clone();
        family.members.push(new.id.clone());
        family.end = family.end.max(end);
        self.by_end.insert((family.end, first.clone()));
        self.members.insert(old.clone(), first.clone());
        self.members.insert(new.id.clone(), first);
    }

    /// Removes a family that has ended by `before`. Returns `false` if there is none.
    pub(super) fn remove_ended(&mut self, before: DateTime<Utc>) -> bool {
        let Some((end, first)) = self.by_end.pop_first() else {
            return false;
        };
        if end > before {
            self.by_end.insert((end, first));
            return false;
        }
        if let Some(family) = self.families.remove(&first) {
            for id in family.members {
                self.members.remove(&id);
            }
        }
        true
    }
}
