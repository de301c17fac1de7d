//! How sessions in memory are ended.

use std::collections::HashSet;

use super::tables::Tables;
use crate::{
    customer::CustomerId,
    registry::{Revocation, Revoked},
    session::{SessionId, SessionSummary},
};

impl Tables {
    /// Ends the sessions that `what` describes.
    pub(super) fn revoke(&mut self, what: &Revocation) -> Revoked {
        let ids = match what {
            Revocation::Session(id) => return self.revoke_one(id, None),
            Revocation::Owned { customer, session } => {
                return self.revoke_one(session, Some(customer));
            }
            Revocation::Others { customer, keep } => self.of_customer(customer, &self.tree(keep)),
            Revocation::Customer(customer) => self.of_customer(customer, &HashSet::new()),
            Revocation::CreatedBefore(time) => self.of_all(|summary| summary.created_at < *time),
            Revocation::All => self.of_all(|_| true),
        };
        for id in &ids {
            self.remove(id);
        }
        Revoked::new(!ids.is_empty(), [what.invalidation()])
    }

    /// Ends the session that `id` leads to, with its children, if it belongs to `customer`.
    fn revoke_one(&mut self, id: &SessionId, customer: Option<&CustomerId>) -> Revoked {
        let family = self.families.of(id);
        let current = self.families.current(id).clone();
        let children: Vec<_> = self.derived_from(id).cloned().collect();
        let owner = match self.sessions.get(&current) {
            Some(row) => Some(&row.summary.customer_id),
            None => family.map(|family| &family.customer),
        };
        let owner = owner.or(children.first().map(|child| &child.customer_id));
        if owner
            .zip(customer)
            .is_some_and(|(owner, customer)| owner != customer)
        {
            return Revoked::default();
        }
        let owner = owner.filter(|_| current != *id).cloned();
        let ended = self.remove(&current).then_some(current);
        for child in &children {
            self.remove(&child.id);
        }
        let children = children.into_iter().map(|child| child.id);
        Revoked::of_session(id, ended, owner).with_derived(children)
    }

    /// Returns the live sessions of the tree that `id` belongs to.
    fn tree(&self, id: &SessionId) -> HashSet<SessionId> {
        let current = self.families.current(id);
        let root = self.children.parent(current).unwrap_or(current);
        let children = self.derived_from(root).map(|child| &child.id);
        children
            .chain([self.families.current(root)])
            .cloned()
            .collect()
    }

    fn of_customer(&self, customer: &CustomerId, keep: &HashSet<SessionId>) -> Vec<SessionId> {
        let account = self.customers.get(customer);
        let sessions = account.into_iter().flat_map(|account| &account.sessions);
        let ids = sessions.map(|(_, id)| id);
        ids.filter(|id| !keep.contains(id)).cloned().collect()
    }

    /// Returns the sessions that are covered, and their children.
    fn of_all(&self, is_covered: impl Fn(&SessionSummary) -> bool) -> Vec<SessionId> {
        let rows = self.sessions.iter();
        let covered = rows.filter(|(_, row)| is_covered(&row.summary));
        let ids = covered.flat_map(|(id, _)| {
            // An overlapping one has none of its own.
            let children = self.is_current(id).then(|| self.derived_from(id));
            let children = children.into_iter().flatten().map(|child| &child.id);
            [id].into_iter().chain(children)
        });
        ids.cloned().collect()
    }
}
