//! A store that fails on command.

use std::{
    fmt,
    sync::{Arc, Mutex, PoisonError},
};

use async_trait::async_trait;
use chrono::{DateTime, Utc};

use crate::{
    customer::{Customer, CustomerId},
    session::{CustomerSession, SessionId, SessionSummary},
    store::{SessionRegistry, SessionStore, StoreError},
    token::{SessionToken, TokenFormat},
};

/// What a [`FaultyStore`] does instead of its work.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
#[non_exhaustive]
pub enum Fault {
    /// It answers [`Unavailable`](crate::StoreErrorKind::Unavailable).
    Error,
    /// It never answers.
    Hang,
    /// It panics.
    Panic,
}

/// Wraps a store, and fails when it is told to: to see what a service does in an outage.
/// Clones share the fault.
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
    /// A store that works until it is told otherwise.
    pub fn new(inner: S) -> Self {
        Self {
            inner,
            fault: Arc::default(),
        }
    }

    /// From now on every call fails like this.
    pub fn fail_with(&self, fault: Fault) {
        self.set(Some(fault));
    }

    /// From now on it works again. A call that hangs goes on hanging.
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

#[async_trait]
impl<S: SessionStore> SessionStore for FaultyStore<S> {
    async fn find(&self, token: &SessionToken) -> Result<Option<CustomerSession>, StoreError> {
        self.inner().await?.find(token).await
    }

    fn token_format(&self) -> TokenFormat {
        self.inner.token_format()
    }
}

#[async_trait]
impl<S: SessionRegistry> SessionRegistry for FaultyStore<S> {
    async fn insert(&self, session: &CustomerSession) -> Result<(), StoreError> {
        self.inner().await?.insert(session).await
    }

    async fn replace(&self, old: &SessionId, new: &CustomerSession) -> Result<bool, StoreError> {
        self.inner().await?.replace(old, new).await
    }

    async fn revoke(&self, id: &SessionId) -> Result<bool, StoreError> {
        self.inner().await?.revoke(id).await
    }

    async fn revoke_customer(&self, customer: &CustomerId) -> Result<u64, StoreError> {
        self.inner().await?.revoke_customer(customer).await
    }

    async fn list(&self, customer: &CustomerId) -> Result<Vec<SessionSummary>, StoreError> {
        self.inner().await?.list(customer).await
    }

    async fn update_customer(&self, customer: &Customer) -> Result<u64, StoreError> {
        self.inner().await?.update_customer(customer).await
    }

    async fn purge_expired(&self, before: DateTime<Utc>, limit: u32) -> Result<u64, StoreError> {
        self.inner().await?.purge_expired(before, limit).await
    }
}
