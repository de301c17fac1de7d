//! The store's methods.

use async_trait::async_trait;
use chrono::{DateTime, Utc};

use super::{RedisStore, connection::Request, keys::Packed, lookup::write_json};
use crate::{
    customer::{Customer, CustomerId},
    invalidation::Invalidation,
    page::{Page, SessionPage},
    registry::{Inserted, Keeps, Revocation, Revoked, SessionLimit, SessionUse},
    session::{CustomerSession, SessionId},
    shared_caches::SharedCaches,
    store::{
        error::StoreError,
        traits::{SessionRegistry, SessionStore},
        validation::check_customer,
    },
    token::{SessionToken, TokenFormat},
};

#[async_trait]
impl SessionStore for RedisStore {
    async fn find(&self, token: &SessionToken) -> Result<Option<CustomerSession>, StoreError> {
        self.find_session(token).await
    }

    fn token_format(&self) -> TokenFormat {
        TokenFormat::new("cst_")
    }

    fn shared_caches(&self) -> Option<&SharedCaches> {
        Some(&self.caches)
    }

    fn has_invalidation_source(&self) -> bool {
        true
    }
}

#[async_trait]
impl SessionRegistry for RedisStore {
    fn keeps(&self) -> Keeps {
        Keeps::details_and_uses()
    }

    async fn insert(
        &self,
        session: &CustomerSession,
        limit: Option<&SessionLimit>,
    ) -> Result<Inserted, StoreError> {
        let context = format!("inserting session {}", session.id);
        self.insert_session(session, limit, &context).await
    }

    async fn replace(
        &self,
        old: &SessionId,
        new: &CustomerSession,
        limit: Option<&SessionLimit>,
    ) -> Result<Option<Inserted>, StoreError> {
        let context = format!("replacing session {old} with {}", new.id);
        self.replace_session(old, new, limit, &context).await
    }

    async fn replace_overlapping(
        &self,
        old: &CustomerSession,
        new: &CustomerSession,
    ) -> Result<Option<CustomerSession>, StoreError> {
        let context = format!("replacing session {} with {}", old.id, new.id);
        self.replace_with_overlap(old, new, &context).await
    }

    async fn derive(
        &self,
        parent: &SessionId,
        child: &CustomerSession,
    ) -> Result<Option<CustomerSession>, StoreError> {
        let context = format!("deriving session {} from {parent}", child.id);
        self.derive_session(parent, child, &context).await
    }

    async fn revoke(&self, what: &Revocation) -> Result<Revoked, StoreError> {
        self.end_sessions(what).await
    }

    async fn list(&self, customer: &CustomerId, page: &Page) -> Result<SessionPage, StoreError> {
        self.list_sessions(customer, page).await
    }

    async fn update_customer(&self, customer: &Customer) -> Result<bool, StoreError> {
        check_customer(customer)?;
        self.ready().await?;
        let (id, json) = (Packed::from(&customer.id), write_json(customer)?);
        let mut update = self.scripts.update_customer.key(self.keys.customer(&id));
        update.key(self.keys.sessions(&id));
        update.arg(match customer.deleted_at {
            Some(_) => "d",
            None => "c",
        });
        update
            .arg(json)
            .arg(self.keys.channel())
            .arg(customer.id.as_str());
        let context = format!("updating customer {}", customer.id);
        let updated: u64 = self.send(Request::Script(&update), &context).await?;
        Ok(updated > 0)
    }

    async fn touch(&self, uses: &[SessionUse]) -> Result<(), StoreError> {
        self.record_uses(uses).await
    }

    async fn purge_expired(&self, before: DateTime<Utc>, limit: u32) -> Result<u64, StoreError> {
        self.purge(before, limit.into()).await
    }

    async fn announce(&self, invalidation: &Invalidation) -> Result<(), StoreError> {
        self.ready().await?;
        self.publish(invalidation, "announcing a change").await
    }

    async fn check(&self) -> Result<(), StoreError> {
        Self::check(self).await
    }
}
