//! The tables of a store in memory.

use std::{
    collections::{BTreeSet, HashMap},
    ops::Bound,
};

use chrono::{DateTime, Utc};

use super::families::Families;
use crate::{
    customer::{Customer, CustomerData, CustomerId},
    page::Page,
    registry::{Revocation, Revoked, SessionLimit, SessionUse},
    session::{CustomerSession, SessionId, SessionSummary},
    store::error::{StoreError, id_is_taken, limit_is_reached},
};

pub(super) type TokenHash = [u8; 32];

#[derive(Default)]
pub(super) struct Tables {
    pub(super) sessions: HashMap<SessionId, Row>,
    by_token: HashMap<TokenHash, SessionId>,
    by_expiry: BTreeSet<(DateTime<Utc>, SessionId)>,
    customers: HashMap<CustomerId, Account>,
    families: Families,
}

pub(super) struct Row {
    token_hash: TokenHash,
    summary: SessionSummary,
}

/// A customer with at least one session, or one that is deleted.
struct Account {
    customer: Customer,
    sessions: BTreeSet<(DateTime<Utc>, SessionId)>,
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
    /// first.
    pub(super) fn surplus(
        &self,
        new: &CustomerSession,
        replaced: Option<&SessionId>,
        limit: Option<&SessionLimit>,
    ) -> Result<Vec<SessionSummary>, StoreError> {
        let Some(limit) = limit else {
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
        Ok(live.into_iter().take(surplus).cloned().collect())
    }

    /// Ends the sessions that `what` describes.
    pub(super) fn revoke(&mut self, what: &Revocation) -> Revoked {
        let ids = match what {
            Revocation::Session(id) => return self.revoke_one(id, None),
            Revocation::Owned { customer, session } => {
                return self.revoke_one(session, Some(customer));
            }
            Revocation::Others { customer, keep } => {
                self.of_customer(customer, Some(self.families.current(keep)))
            }
            Revocation::Customer(customer) => self.of_customer(customer, None),
            Revocation::CreatedBefore(time) => self.of_all(|summary| summary.created_at < *time),
            Revocation::All => self.of_all(|_| true),
        };
        for id in &ids {
            self.remove(id);
        }
        Revoked::new(!ids.is_empty(), [what.invalidation()])
    }

    /// Ends the session that `id` leads to, if it belongs to `customer`.
    fn revoke_one(&mut self, id: &SessionId, customer: Option<&CustomerId>) -> Revoked {
        let family = self.families.of(id);
        let current = self.families.current(id).clone();
        let owner = match self.sessions.get(&current) {
            Some(row) => Some(&row.summary.customer_id),
            None => family.map(|family| &family.customer),
        };
        if owner
            .zip(customer)
            .is_some_and(|(owner, customer)| owner != customer)
        {
            return Revoked::default();
        }
        let owner = owner.filter(|_| current != *id).cloned();
        let ended = self.remove(&current).then_some(current);
        Revoked::of_session(id, ended, owner)
    }

    fn of_customer(&self, customer: &CustomerId, keep: Option<&SessionId>) -> Vec<SessionId> {
        let account = self.customers.get(customer);
        let sessions = account.into_iter().flat_map(|account| &account.sessions);
        let ids = sessions.map(|(_, id)| id);
        ids.filter(|id| Some(*id) != keep).cloned().collect()
    }

    fn of_all(&self, is_covered: impl Fn(&SessionSummary) -> bool) -> Vec<SessionId> {
        let rows = self.sessions.iter();
        let rows = rows.filter(|(_, row)| is_covered(&row.summary));
        rows.map(|(id, _)| id.clone()).collect()
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
        self.families.replace(old, &SessionSummary::from(new));
        let stored = self.add(new, token_hash, customer);
        // Afterwards, since a customer without a session is forgotten.
        self.remove(old);
        stored
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
