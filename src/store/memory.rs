//! Sessions in this process's memory.

use std::{
    collections::{BTreeSet, HashMap},
    fmt,
    sync::{Arc, PoisonError, RwLock, RwLockReadGuard, RwLockWriteGuard},
};

use async_trait::async_trait;
use chrono::{DateTime, Utc};
use sha2::{Digest, Sha256};

use super::{
    error::StoreError,
    traits::{SessionRegistry, SessionStore},
};
use crate::{
    customer::{Customer, CustomerId},
    session::{CustomerSession, SessionId, SessionSummary},
    token::{SessionToken, TokenFormat},
};

/// Keeps sessions in memory: for trying things out, for tests, for a service that is one
/// process and may forget everybody when it restarts.
///
/// Clones share their sessions. Tokens themselves are not kept, only their SHA-256.
#[derive(Clone, Default)]
pub struct MemoryStore {
    /// Guards all of the tables together, so that every method is atomic. No method awaits
    /// while it holds the lock.
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
    /// An empty store.
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
    async fn insert(&self, session: &CustomerSession) -> Result<(), StoreError> {
        let hash = hash(&session.token);
        let mut tables = self.write();
        tables.check_new(session, &hash)?;
        tables.insert(session, hash);
        Ok(())
    }

    async fn replace(&self, old: &SessionId, new: &CustomerSession) -> Result<bool, StoreError> {
        let hash = hash(&new.token);
        let mut tables = self.write();
        if !tables.sessions.contains_key(old) {
            return Ok(false);
        }
        tables.check_new(new, &hash)?;
        let account = tables.customers.get(&new.customer_id);
        let known = account.map(|account| account.customer.clone());
        tables.remove(old);
        tables.insert(new, hash);
        if let (Some(known), Some(account)) = (known, tables.customers.get_mut(&new.customer_id)) {
            account.customer = known;
        }
        Ok(true)
    }

    async fn revoke(&self, id: &SessionId) -> Result<bool, StoreError> {
        Ok(self.write().remove(id))
    }

    async fn revoke_customer(&self, customer: &CustomerId) -> Result<u64, StoreError> {
        let mut tables = self.write();
        let sessions = match tables.customers.get(customer) {
            Some(account) => account.sessions.clone(),
            None => return Ok(0),
        };
        for (_, id) in &sessions {
            tables.remove(id);
        }
        Ok(sessions.len() as u64)
    }

    async fn list(&self, customer: &CustomerId) -> Result<Vec<SessionSummary>, StoreError> {
        let tables = self.read();
        let sessions = tables.customers.get(customer).map(|it| &it.sessions);
        Ok(sessions
            .into_iter()
            .flatten()
            .filter_map(|(_, id)| tables.sessions.get(id))
            .map(|row| row.summary.clone())
            .collect())
    }

    async fn update_customer(&self, customer: &Customer) -> Result<u64, StoreError> {
        let mut tables = self.write();
        Ok(match tables.customers.get_mut(&customer.id) {
            Some(account) => {
                account.customer = customer.clone();
                account.sessions.len() as u64
            }
            None => 0,
        })
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

    fn insert(&mut self, session: &CustomerSession, token_hash: TokenHash) {
        let summary = SessionSummary::from(session);
        let account = self
            .customers
            .entry(session.customer_id.clone())
            .or_insert_with(|| Account {
                customer: session.customer.clone(),
                sessions: BTreeSet::new(),
            });
        account.customer = session.customer.clone();
        account
            .sessions
            .insert((session.created_at, session.id.clone()));
        self.by_token.insert(token_hash, session.id.clone());
        self.by_expiry
            .insert((session.expires_at, session.id.clone()));
        self.sessions.insert(
            session.id.clone(),
            Row {
                token_hash,
                summary,
            },
        );
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
