//! Sessions in this process's memory.

mod tables;

use std::{
    fmt,
    ops::Bound,
    sync::{Arc, PoisonError, RwLock, RwLockReadGuard, RwLockWriteGuard},
};

use async_trait::async_trait;
use chrono::{DateTime, Utc};
use sha2::{Digest, Sha256};

use self::tables::{Tables, TokenHash};
use super::{
    error::{StoreError, customer_is_deleted},
    traits::{SessionRegistry, SessionStore},
};
use crate::{
    customer::{Customer, CustomerId},
    registry::{Inserted, Page, Revocation, Revoked, SessionLimit, SessionPage},
    session::{CustomerSession, SessionId},
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

fn hash(token: &SessionToken) -> TokenHash {
    Sha256::digest(token.expose()).into()
}
