//! A store between a node and its database. It panics on command, and in some runs it has a
//! defect on purpose, which the checker must find.

use std::{
    collections::HashMap,
    sync::{
        Arc, Mutex,
        atomic::{AtomicBool, AtomicU64, Ordering::Relaxed},
    },
};

use customer_session::{
    Customer, CustomerSession, Inserted, Revocation, Revoked, SessionId, SessionLimit,
    SessionRegistry, SessionToken, SessionUse, StoreError, async_trait,
};

use test_support::StoreWrapper;
use test_support::rng::Rng;

/// The message of a store's panics, which tells them from a test's.
pub(crate) const FAULT: &str = "a fault";

/// A defect that a node has on purpose.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Defect {
    None,
    /// The store has a cache of its own, which ignores revocations.
    StaleCache,
    /// The store reports an outage as "no such session".
    OutageAsNotFound,
    /// Some requests are delayed after their answer.
    SlowRequests,
    /// The node does not listen to invalidations.
    NotListening,
    /// The store knows no parents of derived sessions.
    NoParents,
}

pub(crate) struct NodeStore {
    inner: Arc<dyn SessionRegistry>,
    defect: Defect,
    rng: Rng,
    /// Set while lookups and changes panic now and then.
    pub(crate) panics: AtomicBool,
    pub(crate) panicked: AtomicU64,
    /// Guards the cache of [`Defect::StaleCache`].
    cached: Mutex<HashMap<String, CustomerSession>>,
}

impl NodeStore {
    pub(crate) fn new(inner: Arc<dyn SessionRegistry>, defect: Defect, rng: Rng) -> Self {
        Self {
            inner,
            defect,
            rng,
            panics: AtomicBool::new(false),
            panicked: AtomicU64::new(0),
            cached: Mutex::default(),
        }
    }

    fn maybe_panic(&self) {
        if self.panics.load(Relaxed) && self.rng.below(4) == 0 {
            self.panicked.fetch_add(1, Relaxed);
            panic!("{FAULT}");
        }
    }

    fn cached(&self, token: &SessionToken) -> Option<CustomerSession> {
        let cached = self.cached.lock().expect("no panic");
        cached.get(token.expose()).cloned()
    }
}

#[async_trait]
impl StoreWrapper for NodeStore {
    fn inner(&self) -> &dyn SessionRegistry {
        &*self.inner
    }

    async fn find(&self, token: &SessionToken) -> Result<Option<CustomerSession>, StoreError> {
        self.maybe_panic();
        match self.defect {
            Defect::StaleCache => {
                if let Some(session) = self.cached(token) {
                    return Ok(Some(session));
                }
                let found = self.inner.find(token).await?;
                if let Some(session) = &found {
                    let token = token.expose().to_owned();
                    let mut cached = self.cached.lock().expect("no panic");
                    cached.insert(token, session.clone());
                }
                Ok(found)
            }
            Defect::OutageAsNotFound => Ok(self.inner.find(token).await.unwrap_or_default()),
            _ => {
                let found = self.inner.find(token).await;
                // After the query, too: its answer is lost.
                self.maybe_panic();
                found
            }
        }
    }

    async fn insert(
        &self,
        session: &CustomerSession,
        limit: Option<&SessionLimit>,
    ) -> Result<Inserted, StoreError> {
        let inserted = self.inner.insert(session, limit).await?;
        self.maybe_panic();
        Ok(inserted)
    }

    async fn replace(
        &self,
        old: &SessionId,
        new: &CustomerSession,
        limit: Option<&SessionLimit>,
    ) -> Result<Option<Inserted>, StoreError> {
        let replaced = self.inner.replace(old, new, limit).await?;
        self.maybe_panic();
        Ok(replaced)
    }

    async fn derive(
        &self,
        parent: &SessionId,
        child: &CustomerSession,
    ) -> Result<Option<CustomerSession>, StoreError> {
        let derived = match self.defect {
            Defect::NoParents => {
                let mut child = child.clone();
                child.details.parent = None;
                Some(self.inner.insert(&child, None).await?.session)
            }
            _ => self.inner.derive(parent, child).await?,
        };
        self.maybe_panic();
        Ok(derived)
    }

    async fn revoke(&self, what: &Revocation) -> Result<Revoked, StoreError> {
        let revoked = self.inner.revoke(what).await?;
        self.maybe_panic();
        Ok(revoked)
    }

    async fn touch(&self, uses: &[SessionUse]) -> Result<(), StoreError> {
        self.maybe_panic();
        self.inner.touch(uses).await?;
        self.maybe_panic();
        Ok(())
    }

    async fn update_customer(&self, customer: &Customer) -> Result<bool, StoreError> {
        let updated = self.inner.update_customer(customer).await?;
        self.maybe_panic();
        Ok(updated)
    }
}
