//! Pointers to stores, which are stores too.

use std::sync::Arc;

use async_trait::async_trait;
use chrono::{DateTime, Utc};

use super::{
    error::StoreError,
    traits::{SessionRegistry, SessionStore},
};
use crate::{
    customer::{Customer, CustomerId},
    invalidation::Invalidation,
    page::{Page, SessionPage},
    registry::{Inserted, Keeps, Revocation, Revoked, SessionLimit, SessionUse},
    session::{CustomerSession, SessionId},
    shared_caches::SharedCaches,
    token::{SessionToken, TokenFormat},
};

/// Implements both traits for a pointer to a store.
macro_rules! through_pointer {
    ($pointer:ident) => {
        #[deny(clippy::missing_trait_methods)]
        #[async_trait]
        impl<S: SessionStore + ?Sized> SessionStore for $pointer<S> {
            async fn find(
                &self,
                token: &SessionToken,
            ) -> Result<Option<CustomerSession>, StoreError> {
                (**self).find(token).await
            }

            fn token_format(&self) -> TokenFormat {
                (**self).token_format()
            }

            fn shared_caches(&self) -> Option<&SharedCaches> {
                (**self).shared_caches()
            }

            fn has_invalidation_source(&self) -> bool {
                (**self).has_invalidation_source()
            }
        }

        #[deny(clippy::missing_trait_methods)]
        #[async_trait]
        impl<S: SessionRegistry + ?Sized> SessionRegistry for $pointer<S> {
            async fn insert(
                &self,
                session: &CustomerSession,
                limit: Option<&SessionLimit>,
            ) -> Result<Inserted, StoreError> {
                (**self).insert(session, limit).await
            }

            async fn replace(
                &self,
                old: &SessionId,
                new: &CustomerSession,
                limit: Option<&SessionLimit>,
            ) -> Result<Option<Inserted>, StoreError> {
                (**self).replace(old, new, limit).await
            }

            async fn replace_overlapping(
                &self,
                old: &CustomerSession,
                new: &CustomerSession,
            ) -> Result<Option<CustomerSession>, StoreError> {
                (**self).replace_overlapping(old, new).await
            }

            async fn derive(
                &self,
                parent: &SessionId,
                child: &CustomerSession,
            ) -> Result<Option<CustomerSession>, StoreError> {
                (**self).derive(parent, child).await
            }

            async fn revoke(&self, what: &Revocation) -> Result<Revoked, StoreError> {
                (**self).revoke(what).await
            }

            async fn list(
                &self,
                customer: &CustomerId,
                page: &Page,
            ) -> Result<SessionPage, StoreError> {
                (**self).list(customer, page).await
            }

            async fn update_customer(&self, customer: &Customer) -> Result<bool, StoreError> {
                (**self).update_customer(customer).await
            }

            async fn purge_expired(
                &self,
                before: DateTime<Utc>,
                limit: u32,
            ) -> Result<u64, StoreError> {
                (**self).purge_expired(before, limit).await
            }

            async fn purge_customers(
                &self,
                after: Option<&CustomerId>,
                limit: u32,
            ) -> Result<Option<CustomerId>, StoreError> {
                (**self).purge_customers(after, limit).await
            }

            fn keeps(&self) -> Keeps {
                (**self).keeps()
            }

            async fn touch(&self, uses: &[SessionUse]) -> Result<(), StoreError> {
                (**self).touch(uses).await
            }

            async fn announce(&self, invalidation: &Invalidation) -> Result<(), StoreError> {
                (**self).announce(invalidation).await
            }

            async fn check(&self) -> Result<(), StoreError> {
                (**self).check().await
            }
        }
    };
}

through_pointer!(Arc);
through_pointer!(Box);
