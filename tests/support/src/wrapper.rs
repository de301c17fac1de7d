//! A store around another, for a test that changes some of its methods.

use std::ops::Deref;

use chrono::{DateTime, Utc};
use customer_session::{
    Customer, CustomerId, CustomerSession, Inserted, Invalidation, Keeps, Page, Revocation,
    Revoked, SessionId, SessionLimit, SessionPage, SessionRegistry, SessionStore, SessionToken,
    SessionUse, StoreError, TokenFormat, async_trait,
};

/// The methods of a store, each of which passes the call on by default. [`Wrapped`] is the store.
#[async_trait]
pub trait StoreWrapper: Send + Sync + 'static {
    /// Returns the store that calls are passed on to.
    fn inner(&self) -> &dyn SessionRegistry;

    fn keeps(&self) -> Keeps {
        self.inner().keeps()
    }

    async fn find(&self, token: &SessionToken) -> Result<Option<CustomerSession>, StoreError> {
        self.inner().find(token).await
    }

    async fn insert(
        &self,
        session: &CustomerSession,
        limit: Option<&SessionLimit>,
    ) -> Result<Inserted, StoreError> {
        self.inner().insert(session, limit).await
    }

    async fn replace(
        &self,
        old: &SessionId,
        new: &CustomerSession,
        limit: Option<&SessionLimit>,
    ) -> Result<Option<Inserted>, StoreError> {
        self.inner().replace(old, new, limit).await
    }

    async fn replace_overlapping(
        &self,
        old: &CustomerSession,
        new: &CustomerSession,
    ) -> Result<Option<CustomerSession>, StoreError> {
        self.inner().replace_overlapping(old, new).await
    }

    async fn derive(
        &self,
        parent: &SessionId,
        child: &CustomerSession,
    ) -> Result<Option<CustomerSession>, StoreError> {
        self.inner().derive(parent, child).await
    }

    async fn revoke(&self, what: &Revocation) -> Result<Revoked, StoreError> {
        self.inner().revoke(what).await
    }

    async fn list(&self, customer: &CustomerId, page: &Page) -> Result<SessionPage, StoreError> {
        self.inner().list(customer, page).await
    }

    async fn announce(&self, invalidation: &Invalidation) -> Result<(), StoreError> {
        self.inner().announce(invalidation).await
    }

    async fn update_customer(&self, customer: &Customer) -> Result<bool, StoreError> {
        self.inner().update_customer(customer).await
    }

    async fn purge_customers(
        &self,
        after: Option<&CustomerId>,
        limit: u32,
    ) -> Result<Option<CustomerId>, StoreError> {
        self.inner().purge_customers(after, limit).await
    }

    async fn touch(&self, uses: &[SessionUse]) -> Result<(), StoreError> {
        self.inner().touch(uses).await
    }
}

/// The store that a [`StoreWrapper`] describes. It does not share the caches of the inner store.
pub struct Wrapped<W>(pub W);

impl<W> Deref for Wrapped<W> {
    type Target = W;

    fn deref(&self) -> &W {
        &self.0
    }
}

#[async_trait]
impl<W: StoreWrapper> SessionStore for Wrapped<W> {
    async fn find(&self, token: &SessionToken) -> Result<Option<CustomerSession>, StoreError> {
        self.0.find(token).await
    }

    fn token_format(&self) -> TokenFormat {
        self.0.inner().token_format()
    }
}

#[async_trait]
impl<W: StoreWrapper> SessionRegistry for Wrapped<W> {
    fn keeps(&self) -> Keeps {
        self.0.keeps()
    }

    async fn insert(
        &self,
        session: &CustomerSession,
        limit: Option<&SessionLimit>,
    ) -> Result<Inserted, StoreError> {
        self.0.insert(session, limit).await
    }

    async fn replace(
        &self,
        old: &SessionId,
        new: &CustomerSession,
        limit: Option<&SessionLimit>,
    ) -> Result<Option<Inserted>, StoreError> {
        self.0.replace(old, new, limit).await
    }

    async fn replace_overlapping(
        &self,
        old: &CustomerSession,
        new: &CustomerSession,
    ) -> Result<Option<CustomerSession>, StoreError> {
        self.0.replace_overlapping(old, new).await
    }

    async fn derive(
        &self,
        parent: &SessionId,
        child: &CustomerSession,
    ) -> Result<Option<CustomerSession>, StoreError> {
        self.0.derive(parent, child).await
    }

    async fn revoke(&self, what: &Revocation) -> Result<Revoked, StoreError> {
        self.0.revoke(what).await
    }

    async fn list(&self, customer: &CustomerId, page: &Page) -> Result<SessionPage, StoreError> {
        self.0.list(customer, page).await
    }

    async fn update_customer(&self, customer: &Customer) -> Result<bool, StoreError> {
        self.0.update_customer(customer).await
    }

    async fn purge_expired(&self, before: DateTime<Utc>, limit: u32) -> Result<u64, StoreError> {
        self.0.inner().purge_expired(before, limit).await
    }

    async fn purge_customers(
        &self,
        after: Option<&CustomerId>,
        limit: u32,
    ) -> Result<Option<CustomerId>, StoreError> {
        self.0.purge_customers(after, limit).await
    }

    async fn touch(&self, uses: &[SessionUse]) -> Result<(), StoreError> {
        self.0.touch(uses).await
    }

    async fn announce(&self, invalidation: &Invalidation) -> Result<(), StoreError> {
        self.0.announce(invalidation).await
    }
}
