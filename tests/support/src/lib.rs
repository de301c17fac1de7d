//! What several test binaries share: a store that counts, waits and fails on command, sources
//! of events, database servers, a stand-in for Polar, a proxy, running examples.

#[cfg(unix)]
pub mod certificates;
mod events;
#[cfg(unix)]
mod example;
pub mod model;
pub mod polar;
#[cfg(unix)]
pub mod proxy;
pub mod rng;
#[cfg(unix)]
pub mod servers;
pub mod wire;
mod wrapper;

use std::{
    sync::{Arc, Mutex},
    time::Duration,
};

use customer_session::{
    Customer, CustomerData, CustomerId, CustomerSession, CustomerSessions, Inserted, Keeps, Page,
    Revocation, Revoked, SessionId, SessionLimit, SessionPage, SessionRegistry, SessionStore,
    SessionSummary, SessionToken, SessionUse, StoreError, TokenFormat, async_trait,
    store::MemoryStore, testing::ManualClock,
};
use tokio::sync::watch;

pub use events::{ChannelSource, receive};
#[cfg(unix)]
pub use example::{RunningExample, example};
pub use wrapper::{StoreWrapper, Wrapped};

pub const HOUR: Duration = Duration::from_secs(3600);

pub fn clock() -> ManualClock {
    ManualClock::new("2030-01-01T00:00:00Z".parse().expect("a time"))
}

pub fn customer(id: &str) -> Customer {
    CustomerData::new(id, "org_1").into()
}

pub type Sessions = CustomerSessions<Arc<ProbeStore>>;

/// Creates a store with one live session, which has not been looked up.
pub async fn one_session() -> (Arc<ProbeStore>, Sessions, CustomerSession) {
    let store = Arc::new(ProbeStore::default());
    let sessions = CustomerSessions::builder(Arc::clone(&store)).build();
    let session = sessions.issue(customer("cus_1"), HOUR).await;
    (store, sessions, session.expect("issued"))
}

/// The behaviour of a store that does not answer.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Fault {
    Fail,
    Hang,
    Panic,
    /// Lookups find a record that cannot be read.
    Corrupt,
}

/// Waits until `count` reaches `lookups`, and fails after 20 seconds.
async fn reaches(count: &watch::Sender<usize>, lookups: usize) {
    let mut count = count.subscribe();
    let reached = count.wait_for(|count| *count >= lookups);
    let reached = tokio::time::timeout(Duration::from_secs(20), reached).await;
    reached.expect("enough lookups").expect("the store lives");
}

/// A memory store that counts its lookups, holds their answers back while its gate is shut,
/// and fails on command.
pub struct ProbeStore {
    pub inner: MemoryStore,
    format: TokenFormat,
    asked: watch::Sender<usize>,
    read: watch::Sender<usize>,
    open: watch::Sender<bool>,
    fault: Mutex<Option<Fault>>,
    mistaken_for: Mutex<Option<SessionToken>>,
}

impl Default for ProbeStore {
    fn default() -> Self {
        Self::with_format(TokenFormat::new("cst_"))
    }
}

impl ProbeStore {
    pub fn with_format(format: TokenFormat) -> Self {
        Self {
            inner: MemoryStore::new(),
            format,
            asked: watch::Sender::new(0),
            read: watch::Sender::new(0),
            open: watch::Sender::new(true),
            fault: Mutex::new(None),
            mistaken_for: Mutex::new(None),
        }
    }

    /// Returns the number of lookups so far.
    pub fn lookups(&self) -> usize {
        *self.asked.borrow()
    }

    /// Holds the answers of lookups back from now on, after they were read.
    pub fn shut(&self) {
        self.open.send_replace(false);
    }

    /// Lets the answers go that were held back, and all later ones.
    pub fn open(&self) {
        self.open.send_replace(true);
    }

    /// Waits until this number of lookups have read, counted from the beginning.
    pub async fn has_read(&self, lookups: usize) {
        reaches(&self.read, lookups).await;
    }

    /// Waits until this number of lookups have begun, counted from the beginning.
    pub async fn was_asked(&self, lookups: usize) {
        reaches(&self.asked, lookups).await;
    }

    /// Finds the session of this token from now on, whichever token is looked up.
    pub fn mistake_all_for(&self, token: &SessionToken) {
        *self.mistaken_for.lock().expect("no panic") = Some(token.clone());
    }

    /// Behaves like this from now on; `None` ends the fault.
    pub fn fault(&self, fault: impl Into<Option<Fault>>) {
        *self.fault.lock().expect("no panic") = fault.into();
    }
}

#[async_trait]
impl SessionStore for ProbeStore {
    async fn find(&self, token: &SessionToken) -> Result<Option<CustomerSession>, StoreError> {
        self.asked.send_modify(|asked| *asked += 1);
        let fault = *self.fault.lock().expect("no panic");
        match fault {
            Some(Fault::Fail) => return Err(StoreError::unavailable("the probe fails")),
            Some(Fault::Corrupt) => return Err(StoreError::corrupt("the record is damaged")),
            Some(Fault::Hang) => std::future::pending().await,
            Some(Fault::Panic) => panic!("the probe panics"),
            None => {}
        }
        let mistaken_for = self.mistaken_for.lock().expect("no panic").clone();
        let found = self
            .inner
            .find(mistaken_for.as_ref().unwrap_or(token))
            .await;
        self.read.send_modify(|read| *read += 1);
        let _ = self.open.subscribe().wait_for(|open| *open).await;
        found
    }

    fn token_format(&self) -> TokenFormat {
        self.format.clone()
    }
}

#[async_trait]
impl SessionRegistry for ProbeStore {
    fn keeps(&self) -> Keeps {
        self.inner.keeps()
    }

    async fn insert(
        &self,
        session: &CustomerSession,
        limit: Option<&SessionLimit>,
    ) -> Result<Inserted, StoreError> {
        self.inner.insert(session, limit).await
    }

    async fn replace(
        &self,
        old: &SessionId,
        new: &CustomerSession,
        limit: Option<&SessionLimit>,
    ) -> Result<Option<Inserted>, StoreError> {
        self.inner.replace(old, new, limit).await
    }

    async fn replace_overlapping(
        &self,
        old: &CustomerSession,
        new: &CustomerSession,
    ) -> Result<Option<CustomerSession>, StoreError> {
        self.inner.replace_overlapping(old, new).await
    }

    async fn derive(
        &self,
        parent: &SessionId,
        child: &CustomerSession,
    ) -> Result<Option<CustomerSession>, StoreError> {
        self.inner.derive(parent, child).await
    }

    async fn revoke(&self, what: &Revocation) -> Result<Revoked, StoreError> {
        self.inner.revoke(what).await
    }

    async fn list(&self, customer: &CustomerId, page: &Page) -> Result<SessionPage, StoreError> {
        self.inner.list(customer, page).await
    }

    async fn update_customer(&self, customer: &Customer) -> Result<bool, StoreError> {
        self.inner.update_customer(customer).await
    }

    async fn purge_expired(
        &self,
        before: chrono::DateTime<chrono::Utc>,
        limit: u32,
    ) -> Result<u64, StoreError> {
        self.inner.purge_expired(before, limit).await
    }

    async fn touch(&self, uses: &[SessionUse]) -> Result<(), StoreError> {
        self.inner.touch(uses).await
    }
}

/// The calls that tests make most, in short.
#[async_trait]
pub trait RegistryExt: SessionRegistry {
    /// Inserts a session without a limit, and returns it as stored.
    async fn add(&self, session: &CustomerSession) -> Result<CustomerSession, StoreError> {
        Ok(self.insert(session, None).await?.session)
    }

    /// Replaces a session without a limit, and returns the new one as stored.
    async fn swap(
        &self,
        old: &SessionId,
        new: &CustomerSession,
    ) -> Result<Option<CustomerSession>, StoreError> {
        let replaced = self.replace(old, new, None).await?;
        Ok(replaced.map(|replaced| replaced.session))
    }

    /// Revokes one session.
    async fn end(&self, session: &SessionId) -> Result<bool, StoreError> {
        let what = Revocation::Session(session.clone());
        Ok(self.revoke(&what).await?.any)
    }

    /// Revokes all sessions of a customer.
    async fn end_customer(&self, customer: &CustomerId) -> Result<bool, StoreError> {
        let what = Revocation::Customer(customer.clone());
        Ok(self.revoke(&what).await?.any)
    }

    /// Returns all sessions of a customer.
    async fn summaries(&self, customer: &CustomerId) -> Result<Vec<SessionSummary>, StoreError> {
        let mut sessions = Vec::new();
        let mut page = Page::default();
        loop {
            let read = self.list(customer, &page).await?;
            sessions.extend(read.sessions);
            match read.next {
                Some(cursor) => page = Page::after(cursor).with_size(Page::MAX_SIZE),
                None => return Ok(sessions),
            }
        }
    }
}

impl<S: SessionRegistry + ?Sized> RegistryExt for S {}
