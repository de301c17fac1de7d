//! The tables of a store in memory.

use std::collections::{BTreeSet, HashMap};

use chrono::{DateTime, Utc};

use crate::{
    customer::{Customer, CustomerId},
    registry::{Revocation, SessionLimit},
    session::{CustomerSession, SessionId, SessionSummary},
    store::error::{StoreError, limit_is_reached},
};

pub(super) type TokenHash = [u8; 32];

#[derive(Default)]
pub(super) struct Tables {
    pub(super) sessions: HashMap<SessionId, Row>,
    pub(super) by_token: HashMap<TokenHash, SessionId>,
    pub(super) by_expiry: BTreeSet<(DateTime<Utc>, SessionId)>,
    pub(super) customers: HashMap<CustomerId, Account>,
}

pub(super) struct Row {
    pub(super) token_hash: TokenHash,
    pub(super) summary: SessionSummary,
}

/// A customer with at least one session.
pub(super) struct Account {
    pub(super) customer: Customer,
    pub(super) sessions: BTreeSet<(DateTime<Utc>, SessionId)>,
}

impl Tables {
    pub(super) fn find(&self, hash: &TokenHash) -> Option<(&SessionSummary, &Customer)> {
        let row = self.sessions.get(self.by_token.get(hash)?)?;
        let account = self.customers.get(&row.summary.customer_id)?;
        Some((&row.summary, &account.customer))
    }

    pub(super) fn check_new(
        &self,
        session: &CustomerSession,
        hash: &TokenHash,
    ) -> Result<(), StoreError> {
        if self.sessions.contains_key(&session.id) {
            return Err(StoreError::conflict(format!(
                "session id {} is taken",
                session.id
            )));
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
            .clone()
    }

    /// Returns the sessions that must end before `new` is added, oldest first.
    pub(super) fn surplus(
        &self,
        new: &CustomerSession,
        limit: Option<&SessionLimit>,
    ) -> Result<Vec<SessionSummary>, StoreError> {
        let Some(limit) = limit else {
            return Ok(Vec::new());
        };
        let account = self.customers.get(&new.customer_id);
        let sessions = account.into_iter().flat_map(|account| &account.sessions);
        let live: Vec<_> = sessions
            .filter_map(|(_, id)| self.sessions.get(id))
            .filter(|row| row.summary.expires_at > new.created_at)
            .map(|row| &row.summary)
            .collect();
        let surplus = limit
            .surplus(live.len())
            .ok_or_else(|| limit_is_reached(&new.id))?;
        Ok(live.into_iter().take(surplus).cloned().collect())
    }

    /// Returns the sessions that a revocation ends, and `true` if it is for a session of another
    /// customer.
    pub(super) fn covered(&self, what: &Revocation) -> (Vec<SessionId>, bool) {
        let of_customer = |customer, keep: Option<&SessionId>| {
            let account = self.customers.get(customer);
            let sessions = account.into_iter().flat_map(|account| &account.sessions);
            let ids = sessions.map(|(_, id)| id);
            ids.filter(|id| Some(*id) != keep).cloned().collect()
        };
        let of_all = |is_covered: &dyn Fn(&SessionSummary) -> bool| {
            let rows = self.sessions.iter();
            let rows = rows.filter(|(_, row)| is_covered(&row.summary));
            rows.map(|(id, _)| id.clone()).collect()
        };
        match what {
            Revocation::Session(id) => (
                self.sessions
                    .get(id)
                    .map(|_| id.clone())
                    .into_iter()
                    .collect(),
                false,
            ),
            Revocation::Owned { customer, session } => match self.sessions.get(session) {
                Some(row) if row.summary.customer_id != *customer => (Vec::new(), true),
                row => (row.map(|_| session.clone()).into_iter().collect(), false),
            },
            Revocation::Others { customer, keep } => (of_customer(customer, Some(keep)), false),
            Revocation::Customer(customer) => (of_customer(customer, None), false),
            Revocation::CreatedBefore(time) => {
                (of_all(&|summary| summary.created_at < *time), false)
            }
            Revocation::All => (of_all(&|_| true), false),
        }
    }

    /// Adds a session of `customer`, and returns it as stored.
    pub(super) fn add(
        &mut self,
        session: &CustomerSession,
        token_hash: TokenHash,
        customer: Customer,
    ) -> CustomerSession {
        let summary = SessionSummary::from(session);
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
            if account.sessions.is_empty() {
                self.customers.remove(&customer_id);
            }
        }
        true
    }
}
