//! The tables of a store in memory.

use std::{
    collections::{BTreeSet, HashMap},
    ops::Bound,
};

use chrono::{DateTime, Utc};

use super::{children::Children, families::Families};
use crate::{
    customer::{Customer, CustomerData, CustomerId},
    page::Page,
    registry::{SessionLimit, SessionUse},
    session::{CustomerSession, SessionId, SessionSummary},
    store::error::{StoreError, id_is_taken, limit_is_reached},
};

pub(super) type TokenHash = [u8; 32];

#[derive(Default)]
pub(super) struct Tables {
    pub(super) sessions: HashMap<SessionId, Row>,
    by_token: HashMap<TokenHash, SessionId>,
    by_expiry: BTreeSet<(DateTime<Utc>, SessionId)>,
    pub(super) customers: HashMap<CustomerId, Account>,
    pub(super) families: Families,
    pub(super) children: Children,
}

pub(super) struct Row {
    token_hash: TokenHash,
    pub(super) summary: SessionSummary,
}

/// A customer with at least one session, or one that is deleted.
pub(super) struct Account {
    customer: Customer,
    pub(super) sessions: BTreeSet<(DateTime<Utc>, SessionId)>,
}

impl Tables {
    pub(super) fn find(&self, hash: &TokenHash) -> Option<(&SessionSummary, &Customer)> {
        let row = self.sessions.get(self.by_token.get(hash)?)?;
        let account = self.customers.get(&row.summary.customer_id)?;
        Some((&row.summary, &account.customer))
    }

    /// Returns the sessions of a page, and one more if there is one, oldest first.
    pub(super) fn list(&self, customer: &CustomerId, page: &Page) -> Vec<SessionSummary> {
        let Some(account) = self.customers.get(customer) else {
            return Vec::new();
        };
        let begin = page.cursor().cloned().map_or(Bound::Unbounded, |cursor| {
            Bound::Excluded((cursor.created_at, cursor.id))
        });
        let one_more = usize::try_from(page.size()).unwrap_or(usize::MAX);
        account
            .sessions
            .range((begin, Bound::Unbounded))
            .filter_map(|(_, id)| self.sessions.get(id))
            .map(|row| row.summary.clone())
            .take(one_more.saturating_add(1))
            .collect()
    }

    pub(super) fn check_new(
        &self,
        session: &CustomerSession,
        hash: &TokenHash,
    ) -> Result<(), StoreError> {
        // An id that leads to a family leads to no other session.
        if self.sessions.contains_key(&session.id) || self.families.of(&session.id).is_some() {
            return Err(id_is_taken(&session.id));
        }
        if self.by_token.contains_key(hash) {
            return Err(StoreError::conflict(format!(
                "the token of session {} is taken",
                session.id
            )));
        }
        Ok(())
    }

    /// Returns the customer of a new session as it is known, or else as given.
    pub(super) fn known(&self, session: &CustomerSession) -> Customer {
        let account = self.customers.get(&session.customer_id);
        account
            .map_or(&session.customer, |account| &account.customer)
            .detached()
    }

    /// Returns the sessions that must end before `new` is added in the place of `replaced`, oldest
    /// first, and behind each its children.
    pub(super) fn surplus(
        &self,
        new: &CustomerSession,
        replaced: Option<&SessionId>,
        limit: Option<&SessionLimit>,
    ) -> Result<Vec<SessionSummary>, StoreError> {
        let Some(limit) = limit.filter(|_| new.details.parent.is_none()) else {
            return Ok(Vec::new());
        };
        let account = self.customers.get(&new.customer_id);
        let sessions = account.into_iter().flat_map(|account| &account.sessions);
        let live: Vec<_> = sessions
            .filter_map(|(_, id)| self.sessions.get(id))
            .map(|row| &row.summary)
            .filter(|live| live.expires_at > new.created_at)
            .filter(|live| live.details.counts_for_limits() && Some(&live.id) != replaced)
            .filter(|live| limit.used_since.is_none_or(|time| live.last_use() > time))
            .collect();
        let surplus = limit
            .surplus(live.len())
            .ok_or_else(|| limit_is_reached(&new.id))?;
        let ended = live.into_iter().take(surplus);
        Ok(ended
            .flat_map(|ended| [ended].into_iter().chain(self.derived_from(&ended.id)))
            .cloned()
            .collect())
    }

    /// Adds a session of `customer`, and returns it as stored.
    pub(super) fn add(
        &mut self,
        session: &CustomerSession,
        token_hash: TokenHash,
        customer: Customer,
    ) -> CustomerSession {
        let mut summary = SessionSummary::from(session);
        summary.details.last_used_at = None;
        let account = self
            .customers
            .entry(session.customer_id.clone())
            .or_insert_with(|| Account {
                customer: customer.clone(),
                sessions: BTreeSet::new(),
            });
        account
            .sessions
            .insert((session.created_at, session.id.clone()));
        self.by_token.insert(token_hash, session.id.clone());
        self.by_expiry
            .insert((session.expires_at, session.id.clone()));
        let stored = summary
            .clone()
            .into_session(session.token.clone(), customer);
        self.sessions.insert(
            session.id.clone(),
            Row {
                token_hash,
                summary,
            },
        );
        stored
    }

    /// Puts `new` in the place of `old`, and returns it as stored.
    pub(super) fn replace(
        &mut self,
        old: &SessionId,
        new: &CustomerSession,
        token_hash: TokenHash,
    ) -> CustomerSession {
        let customer = self.known(new);
        let is_overlapping = |session: &&SessionSummary| session.details.is_replaced;
        let overlapping = self.derived_from(old).filter(is_overlapping);
        let overlapping: Vec<_> = overlapping.map(|session| session.id.clone()).collect();
        for id in &overlapping {
            self.remove(id);
        }
        if let Some(parent) = self.children.parent(old).cloned() {
            self.children.insert(parent, new.id.clone());
        }
        self.families.replace(old, &SessionSummary::from(new));
        let stored = self.add(new, token_hash, customer);
        // Afterwards, since a customer without a session is forgotten.
        self.remove(old);
        stored
    }

    /// Puts `new` in the place of `old`, which is kept as given, and returns `new` as stored.
    pub(super) fn replace_overlapping(
        &mut self,
        old: &CustomerSession,
        new: &CustomerSession,
        token_hash: TokenHash,
    ) -> CustomerSession {
        let customer = self.known(new);
        self.families.replace(&old.id, &SessionSummary::from(new));
        let family = self.families.first(&old.id).clone();
        self.children.insert(family, old.id.clone());
        if let Some(row) = self.sessions.get_mut(&old.id) {
            let last_used_at = row.summary.details.last_used_at;
            self.by_expiry
                .remove(&(row.summary.expires_at, old.id.clone()));
            self.by_expiry.insert((old.expires_at, old.id.clone()));
            row.summary.expires_at = old.expires_at;
            row.summary.details = old.details.clone();
            row.summary.details.last_used_at = last_used_at;
        }
        self.add(new, token_hash, customer)
    }

    /// Returns `true` if the session is there, and no other has taken its place.
    pub(super) fn is_current(&self, id: &SessionId) -> bool {
        self.sessions.contains_key(id) && self.families.current(id) == id
    }

    /// Returns `true` if the session is there and was derived.
    pub(super) fn is_child(&self, id: &SessionId) -> bool {
        self.children.parent(id).is_some()
    }

    /// Returns `true` if the session is there and belongs to `customer`.
    pub(super) fn is_of_customer(&self, id: &SessionId, customer: &CustomerId) -> bool {
        let session = self.sessions.get(id);
        session.is_some_and(|row| row.summary.customer_id == *customer)
    }

    /// Adds a child of the session `parent`, which is there, and returns it as stored.
    pub(super) fn derive(
        &mut self,
        parent: &SessionId,
        child: &CustomerSession,
        token_hash: TokenHash,
    ) -> CustomerSession {
        let family = self.families.first(parent).clone();
        self.children.insert(family, child.id.clone());
        let customer = self.known(child);
        self.add(child, token_hash, customer)
    }

    /// Returns the children of the family that `id` leads to.
    pub(super) fn derived_from<'a>(
        &'a self,
        id: &SessionId,
    ) -> impl Iterator<Item = &'a SessionSummary> + use<'a> {
        let children = self.children.of(self.families.first(id));
        children.filter_map(|id| Some(&self.sessions.get(id)?.summary))
    }

    /// Records uses that are later than those it knows.
    pub(super) fn touch(&mut self, uses: &[SessionUse]) {
        for SessionUse { session, at, .. } in uses {
            if let Some(row) = self.sessions.get_mut(session) {
                let used_at = &mut row.summary.details.last_used_at;
                *used_at = (*used_at).max(Some(*at));
            }
        }
    }

    /// Replaces a customer. Returns `false` if it is not known.
    pub(super) fn update_customer(&mut self, customer: &Customer) -> bool {
        let Some(account) = self.customers.get_mut(&customer.id) else {
            return false;
        };
        account.customer = customer.detached();
        self.forget_without_sessions(&customer.id);
        true
    }

    pub(super) fn remove(&mut self, id: &SessionId) -> bool {
        let Some((id, row)) = self.sessions.remove_entry(id) else {
            return false;
        };
        self.by_token.remove(&row.token_hash);
        self.children.remove(&id);
        let SessionSummary {
            customer_id,
            created_at,
            expires_at,
            ..
        } = row.summary;
        self.by_expiry.remove(&(expires_at, id.clone()));
        if let Some(account) = self.customers.get_mut(&customer_id) {
            account.sessions.remove(&(created_at, id));
            self.forget_without_sessions(&customer_id);
        }
        true
    }

    /// Forgets a customer that has no session. Of a deleted one it remembers that it is deleted:
    /// otherwise a sign-in that read it before would bring it back.
    fn forget_without_sessions(&mut self, id: &CustomerId) {
        let Some(account) = self.customers.get_mut(id) else {
            return;
        };
        if !account.sessions.is_empty() {
            return;
        }
        let customer = &account.customer;
        let Some(deleted_at) = customer.deleted_at else {
            self.customers.remove(id);
            return;
        };
        let mut tombstone = CustomerData::new(id.clone(), customer.organization_id.clone());
        tombstone.deleted_at = Some(deleted_at);
        account.customer = tombstone.into();
    }

    /// Removes up to `limit` sessions and families that have ended by `before`.
    pub(super) fn purge(&mut self, before: DateTime<Utc>, limit: u32) -> u64 {
        let limit = u64::from(limit);
        let mut purged = 0;
        while purged < limit {
            match self.by_expiry.first() {
                Some((expires_at, id)) if *expires_at <= before => {
                    let id = id.clone();
                    self.remove(&id);
                    purged += 1;
                }
                _ => break,
            }
        }
        // A family does not end before its last session expires, which is gone by now.
        while purged < limit && self.families.remove_ended(before) {
            purged += 1;
        }
        purged
    }
}
