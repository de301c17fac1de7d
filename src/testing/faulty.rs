//! A store that fails on command.

use std::{
    fmt,
    sync::{Arc, Mutex, PoisonError},
};

use async_trait::async_trait;
use chrono::{DateTime, Utc};

use crate::{
    customer::{Customer, CustomerId},
    invalidation::Invalidation,
    page::{Page, SessionPage},
    registry::{Inserted, Keeps, Revocation, Revoked, SessionLimit, SessionUse},
    session::{CustomerSession, SessionId},
    shared_caches::SharedCaches,
    store::{SessionRegistry, SessionStore, StoreError},
    token::{SessionToken, TokenFormat},
};

/// The way in which a [`FaultyStore`] fails.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
#[non_exhaustive]
pub enum Fault {
    /// Each call answers [`Unavailable`](crate::StoreErrorKind::Unavailable).
    Error,
    /// No call ever answers.
    Hang,
    /// Each call panics.
    Panic,
}

/// A store around another, which fails when a test tells it to. Clones share the fault.
///
/// ```
/// use std::time::Duration;
///
/// use customer_session::{
///     CustomerData, CustomerSessions,
///     store::MemoryStore, testing::{Fault, FaultyStore},
/// };
///
/// # #[tokio::main(flavor = "current_thread")]
/// # async fn main() -> Result<(), Box<dyn std::error::Error>> {
/// let store = FaultyStore::new(MemoryStore::new());
/// let sessions = CustomerSessions::builder(store.clone()).build();
/// let customer = CustomerData::new("cus_1", "org_1");
/// let session = sessions.issue(customer, Duration::from_secs(60)).await?;
///
/// store.fail_with(Fault::Error);
/// assert!(sessions.authenticate(&session.token).await.is_err());
/// store.recover();
/// assert!(sessions.authenticate(&session.token).await.is_ok());
/// # Ok(())
/// # }
/// ```
#[derive(Clone)]
pub struct FaultyStore<S> {
    inner: S,
    /// Held for one read or write.
    fault: Arc<Mutex<Option<Fault>>>,
}

impl<S> FaultyStore<S> {
    /// Creates a store that works until [`fail_with`](Self::fail_with) is called.
    pub fn new(inner: S) -> Self {
        Self {
            inner,
            fault: Arc::default(),
        }
    }

    /// Makes every later call fail in this way.
    pub fn fail_with(&self, fault: Fault) {
        self.set(Some(fault));
    }

    /// Makes later calls work. A call that hangs goes on hanging.
    pub fn recover(&self) {
        self.set(None);
    }

    fn set(&self, fault: Option<Fault>) {
        *self.fault.lock().unwrap_or_else(PoisonError::into_inner) = fault;
    }

    async fn inner(&self) -> Result<&S, StoreError> {
        let fault = *self.fault.lock().unwrap_or_else(PoisonError::into_inner);
        match fault {
            None => Ok(&self.inner),
            Some(Fault::Error) => Err(StoreError::unavailable("told to fail")),
            Some(Fault::Hang) => std::future::pending().await,
            Some(Fault::Panic) => panic!("told to panic"),
        }
    }
}

impl<S> fmt::Debug for FaultyStore<S> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("FaultyStore")
            .field("fault", &self.fault)
            .finish_non_exhaustive()
    }
}

#[deny(clippy::missing_trait_methods)]
#[async_trait]
impl<S: SessionStore> SessionStore for FaultyStore<S> {
    async fn find(&self, token: &SessionToken) -> Result<Option<CustomerSession>, StoreError> {
        self.inner().await?.find(token).await
    }

    fn token_format(&self) -> TokenFormat {
        self.inner.token_format()
    }

    fn shared_caches(&self) -> Option<&SharedCaches> {
        self.inner.shared_caches()
    }

    fn has_invalidation_source(&self) -> bool {
        self.inner.has_invalidation_source()
    }
}

#[deny(clippy::missing_trait_methods)]
#[async_trait]
impl<S: SessionRegistry> SessionRegistry for FaultyStore<S> {
    async fn insert(
        &self,
        session: &CustomerSession,
        limit: Option<&SessionLimit>,
    ) -> Result<Inserted, StoreError> {
        self.inner().await?.insert(session, limit).await
    }

    async fn replace(
        &self,
        old: &SessionId,
        new: &CustomerSession,
        limit: Option<&SessionLimit>,
    ) -> Result<Option<Inserted>, StoreError> {
        self.inner().await?.replace(old, new, limit).await
    }

    async fn replace_overlapping(
        &self,
        old: &CustomerSession,
        new: &CustomerSession,
    ) -> Result<Option<CustomerSession>, StoreError> {
        self.inner().await?.replace_overlapping(old, new).await
    }

    async fn derive(
        &self,
        parent: &SessionId,
        child: &CustomerSession,
    ) -> Result<Option<CustomerSession>, StoreError> {
        self.inner().await?.derive(parent, child).await
    }

    async fn revoke(&self, what: &Revocation) -> Result<Revoked, StoreError> {
        self.inner().await?.revoke(what).await
    }

    async fn list(&self, customer: &CustomerId, page: &Page) -> Result<SessionPage, StoreError> {
        self.inner().await?.list(customer, page).await
    }

    async fn update_customer(&self, customer: &Customer) -> Result<bool, StoreError> {
        self.inner().await?.update_customer(customer).await
    }

    async fn purge_expired(&self, before: DateTime<Utc>, limit: u32) -> Result<u64, StoreError> {
        self.inner().await?.purge_expired(before, limit).await
    }

    async fn purge_customers(
        &self,
        after: Option<&CustomerId>,
        limit: u32,
    ) -> Result<Option<CustomerId>, StoreError> {
        self.inner().await?.purge_customers(after, limit).await
    }

    fn keeps(&self) -> Keeps {
        self.inner.keeps()
    }

    async fn touch(&self, uses: &[SessionUse]) -> Result<(), StoreError> {
        self.inner().await?.touch(uses).await
    }

    async fn announce(&self, invalidation: &Invalidation) -> Result<(), StoreError> {
        self.inner().await?.announce(invalidation).await
    }

    async fn check(&self) -> Result<(), StoreError> {
        self.inner().await?.check().await
    }
}
