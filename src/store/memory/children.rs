//! Sessions that were derived from others.

use std::collections::{BTreeSet, HashMap};

use crate::session::SessionId;

/// Live children, by the first session of their parent's family.
#[derive(Default)]
pub(super) struct Children {
    children: HashMap<SessionId, BTreeSet<SessionId>>,
    parents: HashMap<SessionId, SessionId>,
}

impl Children {
    /// Returns the family of the parent of a live child.
    pub(super) fn parent(&self, child: &SessionId) -> Option<&SessionId> {
        self.parents.get(child)
    }

    /// Returns the children of the family whose first session is `family`.
    pub(super) fn of<'a>(
        &'a self,
        family: &SessionId,
    ) -> impl Iterator<Item = &'a SessionId> + use<'a> {
        self.children.get(family).into_iter().flatten()
    }

    pub(super) fn insert(&mut self, family: SessionId, child: SessionId) {
        let children = self.children.entry(family.clone()).or_default();
        children.insert(child.clone());
        self.parents.insert(child, family);
    }

    /// Removes a session, if it is a child.
    pub(super) fn remove(&mut self, child: &SessionId) {
        let Some(family) = self.parents.remove(child) else {
            return;
        };
        if let Some(children) = self.children.get_mut(&family) {
            children.remove(child);
            if children.is_empty() {
                self.children.remove(&family);
            }
        }
    }
}
