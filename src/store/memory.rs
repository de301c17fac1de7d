//! Sessions in this process's memory.

use std::{
    collections::{BTreeSet, HashMap},
    fmt,
    ops::Bound,
    sync::{Arc, PoisonError, RwLock, RwLockReadGuard, RwLockWriteGuard},
};

use async_trait::async_trait;
use chrono::{DateTime, Utc};
use sha2::{Digest, Sha256};

use super::{
    error::{StoreError, customer_is_deleted, limit_is_reached},
    traits::{SessionRegistry, SessionStore},
};
use crate::{
    customer::{Customer, CustomerId},
    registry::{Inserted, Page, Revocation, Revoked, SessionLimit, SessionPage},
    session::{CustomerSession, SessionId, SessionSummary},
    token::{SessionToken, TokenFormat},
};

/// Keeps sessions in memory: for first steps, for tests, and for a service that is one
/// process and may lose all sessions when it restarts.
///
/// Clones share their sessions. Tokens themselves are not kept, only their SHA-256.
#[derive(Clone, Default)]
pub struct MemoryStore {
    /// Guards all tables together, so that every method is atomic. Never held across an await.
    tables: Arc<RwLock<Tables>>,
}

type TokenHash = [u8; 32];

#[derive(Default)]
struct Tables {
    sessions: HashMap<SessionId, Row>,
    by_token: HashMap<TokenHash, SessionId>,
    by_expiry: BTreeSet<(DateTime<Utc>, SessionId)>,
    customers: HashMap<CustomerId, Account>,
}

struct Row {
    token_hash: TokenHash,
    summary: SessionSummary,
}

/// A customer with at least one session.
struct Account {
    customer: Customer,
    sessions: BTreeSet<(DateTime<Utc>, SessionId)>,
}

impl MemoryStore {
    /// Creates an empty store.
    pub fn new() -> Self {
        Self::default()
    }

    // The tables are whole at every point where code could panic, so a poisoned lock is sound.
    fn read(&self) -> RwLockReadGuard<'_, Tables> {
        self.tables.read().unwrap_or_else(PoisonError::into_inner)
    }

    fn write(&self) -> RwLockWriteGuard<'_, Tables> {
        self.tables.write().unwrap_or_else(PoisonError::into_inner)
    }
}

impl fmt::Debug for MemoryStore {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("MemoryStore")
            .field("sessions", &self.read().sessions.len())
            .finish()
    }
}

#[async_trait]
impl SessionStore for MemoryStore {
    async fn find(&self, token: &SessionToken) -> Result<Option<CustomerSession>, StoreError> {
        let hash = hash(token);
        let tables = self.read();
        Ok(tables.find(&hash).map(|(summary, customer)| {
            let (token, customer) = (token.clone(), customer.clone());
            summary.clone().into_session(token, customer)
        }))
    }

    fn token_format(&self) -> TokenFormat {
        TokenFormat::new("cst_")
    }
}

#[async_trait]
impl SessionRegistry for MemoryStore {
    async fn insert(
        &self,
        session: &CustomerSession,
        limit: Option<&SessionLimit>,
    ) -> Result<Inserted, StoreError> {
        let hash = hash(&session.token);
        let mut tables = self.write();
        tables.check_new(session, &hash)?;
        let customer = tables.known(session);
        if customer.deleted_at.is_some() {
            return Err(customer_is_deleted(&session.id));
        }
        let ended = tables.surplus(session, limit)?;
        for summary in &ended {
            tables.remove(&summary.id);
        }
        let mut inserted = Inserted::new(tables.add(session, hash, customer));
        inserted.ended = ended;
        Ok(inserted)
    }

    async fn replace(
        &self,
        old: &SessionId,
        new: &CustomerSession,
    ) -> Result<Option<CustomerSession>, StoreError> {
        let hash = hash(&new.token);
        let mut tables = self.write();
        if !tables.sessions.contains_key(old) {
            return Ok(None);
        }
        tables.check_new(new, &hash)?;
        let customer = tables.known(new);
        tables.remove(old);
        Ok(Some(tables.add(new, hash, customer)))
    }

    async fn revoke(&self, what: &Revocation) -> Result<Revoked, StoreError> {
        let mut tables = self.write();
        let (ids, is_foreign) = tables.covered(what);
        for id in &ids {
            tables.remove(id);
        }
        let invalidation = (!is_foreign).then(|| what.invalidation());
        Ok(Revoked::new(!ids.is_empty(), invalidation))
    }

    async fn list(&self, customer: &CustomerId, page: &Page) -> Result<SessionPage, StoreError> {
        let tables = self.read();
        let sessions = tables.customers.get(customer);
        let sessions = sessions.map(|account| {
            let cursor = page.cursor().cloned();
            let begin = cursor.map_or(Bound::Unbounded, |cursor| {
                Bound::Excluded((cursor.created_at, cursor.id))
            });
            account.sessions.range((begin, Bound::Unbounded))
        });
        let sessions = sessions
            .into_iter()
            .flatten()
            .filter_map(|(_, id)| tables.sessions.get(id))
            .map(|row| row.summary.clone());
        let one_more = usize::try_from(page.size()).unwrap_or(usize::MAX);
        let sessions = sessions.take(one_more.saturating_add(1)).collect();
        Ok(SessionPage::cut(sessions, page))
    }

    async fn update_customer(&self, customer: &Customer) -> Result<bool, StoreError> {
        let mut tables = self.write();
        let account = tables.customers.get_mut(&customer.id);
        let is_known = account.is_some();
        if let Some(account) = account {
            account.customer = customer.clone();
        }
        Ok(is_known)
    }

    async fn purge_expired(&self, before: DateTime<Utc>, limit: u32) -> Result<u64, StoreError> {
        let mut tables = self.write();
        let mut purged = 0;
        while purged < u64::from(limit) {
            match tables.by_expiry.first() {
                Some((expires_at, id)) if *expires_at <= before => {
                    let id = id.clone();
                    tables.remove(&id);
                    purged += 1;
                }
                _ => break,
            }
        }
        Ok(purged)
    }
}

impl Tables {
    fn find(&self, hash: &TokenHash) -> Option<(&SessionSummary, &Customer)> {
        let row = self.sessions.get(self.by_token.get(hash)?)?;
        let account = self.customers.get(&row.summary.customer_id)?;
        Some((&row.summary, &account.customer))
    }

    fn check_new(&self, session: &CustomerSession, hash: &TokenHash) -> Result<(), StoreError> {
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
    fn known(&self, session: &CustomerSession) -> Customer {
        let account = self.customers.get(&session.customer_id);
        account
            .map_or(&session.customer, |account| &account.customer)
            .clone()
    }

    /// Returns the sessions that must end before `new` is added, oldest first.
    fn surplus(
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
    fn covered(&self, what: &Revocation) -> (Vec<SessionId>, bool) {
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
    fn add(
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

    fn remove(&mut self, id: &SessionId) -> bool {
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

fn hash(token: &SessionToken) -> TokenHash {
    Sha256::digest(token.expose()).into()
}
