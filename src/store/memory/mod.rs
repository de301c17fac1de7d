//! Sessions in this process's memory.

mod children;
mod families;
mod revocation;
mod tables;

use std::{
    fmt,
    sync::{Arc, PoisonError, RwLock, RwLockReadGuard, RwLockWriteGuard},
};

use async_trait::async_trait;
use chrono::{DateTime, Utc};
use sha2::{Digest, Sha256};

use self::tables::{Tables, TokenHash};
use super::{
    error::{StoreError, child_does_not_overlap, customer_is_deleted, parent_is_child},
    traits::{SessionRegistry, SessionStore},
    validation::{
        check_customer, check_is_child, check_is_current, check_is_no_child, check_overlap,
        check_session,
    },
};
use crate::{
    customer::{Customer, CustomerId},
    page::{Page, SessionPage},
    registry::{Inserted, Keeps, Revocation, Revoked, SessionLimit, SessionUse},
    session::{CustomerSession, SessionId},
    shared_caches::SharedCaches,
    token::{SessionToken, TokenFormat},
};

/// Keeps sessions in memory: for first steps, for tests, and for a service that is one
/// process and may lose all sessions when it restarts.
///
/// Clones share their sessions. Tokens themselves are not kept, only their SHA-256. A customer is
/// forgotten with the last of their sessions, unless it is deleted: identifiers of deleted
/// customers are kept as long as the store.
#[derive(Clone, Default)]
pub struct MemoryStore {
    /// Guards all tables together, so that every method is atomic. Never held across an await.
    tables: Arc<RwLock<Tables>>,
    caches: SharedCaches,
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

    fn shared_caches(&self) -> Option<&SharedCaches> {
        Some(&self.caches)
    }
}

#[async_trait]
impl SessionRegistry for MemoryStore {
    fn keeps(&self) -> Keeps {
        Keeps::details_and_uses()
    }

    async fn insert(
        &self,
        session: &CustomerSession,
        limit: Option<&SessionLimit>,
    ) -> Result<Inserted, StoreError> {
        check_session(session)?;
        check_is_no_child(session)?;
        check_is_current(session)?;
        let hash = hash(&session.token);
        let mut tables = self.write();
        tables.check_new(session, &hash)?;
        let customer = tables.known(session);
        if customer.deleted_at.is_some() {
            return Err(customer_is_deleted(&session.id));
        }
        let ended = tables.surplus(session, None, limit)?;
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
        limit: Option<&SessionLimit>,
    ) -> Result<Option<Inserted>, StoreError> {
        check_session(new)?;
        check_is_current(new)?;
        let hash = hash(&new.token);
        let mut tables = self.write();
        if !tables.is_current(old) {
            return Ok(None);
        }
        tables.check_new(new, &hash)?;
        let ended = tables.surplus(new, Some(old), limit)?;
        for summary in &ended {
            tables.remove(&summary.id);
        }
        let mut replaced = Inserted::new(tables.replace(old, new, hash));
        replaced.ended = ended;
        Ok(Some(replaced))
    }

    async fn replace_overlapping(
        &self,
        old: &CustomerSession,
        new: &CustomerSession,
    ) -> Result<Option<CustomerSession>, StoreError> {
        check_overlap(old, new)?;
        let hash = hash(&new.token);
        let mut tables = self.write();
        if !tables.is_current(&old.id) || !tables.is_of_customer(&old.id, &new.customer_id) {
            return Ok(None);
        }
        if tables.is_child(&old.id) {
            return Err(child_does_not_overlap(&old.id));
        }
        tables.check_new(new, &hash)?;
        Ok(Some(tables.replace_overlapping(old, new, hash)))
    }

    async fn derive(
        &self,
        parent: &SessionId,
        child: &CustomerSession,
    ) -> Result<Option<CustomerSession>, StoreError> {
        check_is_child(child, parent)?;
        let hash = hash(&child.token);
        let mut tables = self.write();
        if !tables.is_current(parent) || !tables.is_of_customer(parent, &child.customer_id) {
            return Ok(None);
        }
        if tables.is_child(parent) {
            return Err(parent_is_child(parent));
        }
        tables.check_new(child, &hash)?;
        Ok(Some(tables.derive(parent, child, hash)))
    }

    async fn revoke(&self, what: &Revocation) -> Result<Revoked, StoreError> {
        Ok(self.write().revoke(what))
    }

    async fn list(&self, customer: &CustomerId, page: &Page) -> Result<SessionPage, StoreError> {
        Ok(SessionPage::cut(self.read().list(customer, page), page))
    }

    async fn update_customer(&self, customer: &Customer) -> Result<bool, StoreError> {
        check_customer(customer)?;
        Ok(self.write().update_customer(customer))
    }

    async fn touch(&self, uses: &[SessionUse]) -> Result<(), StoreError> {
        self.write().touch(uses);
        Ok(())
    }

    async fn purge_expired(&self, before: DateTime<Utc>, limit: u32) -> Result<u64, StoreError> {
        Ok(self.write().purge(before, limit))
    }
}

fn hash(token: &SessionToken) -> TokenHash {
    Sha256::digest(token.expose()).into()
}
