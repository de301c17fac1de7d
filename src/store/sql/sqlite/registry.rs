//! How an SQLite file keeps sessions. Changes are transactions of several statements.

use async_trait::async_trait;
use chrono::{DateTime, Utc};
use sqlx::sqlite::SqliteArguments;
use tokio::time::timeout;

use super::{SqliteStore, columns::bind, transaction::WriteTransaction};
use crate::{
    customer::{Customer, CustomerId},
    session::{CustomerSession, SessionId, SessionSummary},
    store::{
        error::StoreError,
        pepper::TokenHash,
        sql::{
            self, rows,
            store::{REHASH_TIMEOUT, Rehash},
        },
        traits::{SessionRegistry, SessionStore},
        validation::{check_customer, check_session},
    },
    token::{SessionToken, TokenFormat},
};

macro_rules! customer_values {
    () => {
        "$1, $2, $3, $4, $5, $6, $7, $8, $9, $10, $11, $12, $13, $14, $15, $16, $17, $18"
    };
}

pub(super) const UPSERT_CUSTOMER: &str = concat!(
    "INSERT INTO customers (",
    customer_columns!(),
    ") VALUES (",
    customer_values!(),
    ") ON CONFLICT (id) DO ",
    replace_customer!()
);

pub(super) const INSERT_CUSTOMER_IF_NEW: &str = concat!(
    "INSERT INTO customers (",
    customer_columns!(),
    ") VALUES (",
    customer_values!(),
    ") ON CONFLICT (id) DO NOTHING"
);

pub(super) const UPDATE_CUSTOMER: &str = concat!(
    "INSERT INTO customers (",
    customer_columns!(),
    ") SELECT ",
    customer_values!(),
    " WHERE EXISTS (SELECT 1 FROM customers WHERE id = $1) ON CONFLICT (id) DO ",
    replace_customer!()
);

pub(super) const INSERT: &str = "INSERT INTO customer_sessions \
     (customer_id, id, token_hash, created_at, modified_at, expires_at) \
     VALUES ($1, $2, $3, $4, $5, $6)";

pub(super) const COUNT_BY_ID: &str = "SELECT count(*) FROM customer_sessions WHERE id = $1";

pub(super) const COUNT_BY_CUSTOMER: &str =
    "SELECT count(*) FROM customer_sessions WHERE customer_id = $1";

pub(super) const PURGE: &str = "DELETE FROM customer_sessions WHERE id IN \
     (SELECT id FROM customer_sessions WHERE expires_at <= $1 ORDER BY expires_at LIMIT $2)";

impl SqliteStore {
    /// Keeps a session under the current pepper.
    async fn rehash(&self, rehash: &Rehash) -> Result<(), StoreError> {
        let context = "keeping a session under the current pepper";
        let mut transaction = self.begin(context).await?;
        transaction
            .execute(sql::REHASH, rehash.parameters())
            .await?;
        transaction.commit().await
    }
}

impl WriteTransaction<'_> {
    async fn add(&mut self, session: &CustomerSession, hash: &TokenHash) -> Result<(), StoreError> {
        let mut parameters: SqliteArguments = rows::text_params(&[session.customer_id.as_str()]);
        rows::bind_session(&mut parameters, session, hash);
        self.execute(INSERT, parameters).await?;
        Ok(())
    }
}

#[async_trait]
impl SessionStore for SqliteStore {
    async fn find(&self, token: &SessionToken) -> Result<Option<CustomerSession>, StoreError> {
        let found = self.shared.sql.find(self.pool().await?, token).await?;
        if let Some((_, Some(rehash))) = &found {
            // If this fails, the next lookup tries again.
            let _ = timeout(REHASH_TIMEOUT, self.rehash(rehash)).await;
        }
        Ok(found.map(|(session, _)| session))
    }

    fn token_format(&self) -> TokenFormat {
        TokenFormat::new("cst_")
    }
}

#[async_trait]
impl SessionRegistry for SqliteStore {
    async fn insert(&self, session: &CustomerSession) -> Result<(), StoreError> {
        check_session(session)?;
        let customer = rows::customer_params(&session.customer)?;
        let hash = self.shared.sql.peppers.hash(&session.token);
        let mut transaction = self
            .begin(format!("inserting session {}", session.id))
            .await?;
        transaction.execute(UPSERT_CUSTOMER, customer).await?;
        transaction.add(session, &hash).await?;
        transaction.commit().await
    }

    async fn replace(&self, old: &SessionId, new: &CustomerSession) -> Result<bool, StoreError> {
        check_session(new)?;
        let customer = rows::customer_params(&new.customer)?;
        let hash = self.shared.sql.peppers.hash(&new.token);
        let context = format!("replacing session {old} with {}", new.id);
        let mut transaction = self.begin(context).await?;
        if transaction.count(COUNT_BY_ID, old.as_str()).await? == 0 {
            return Ok(false);
        }
        transaction
            .execute(INSERT_CUSTOMER_IF_NEW, customer)
            .await?;
        transaction.add(new, &hash).await?;
        let old = rows::text_params(&[old.as_str()]);
        transaction.execute(sql::REVOKE, old).await?;
        transaction.commit().await?;
        Ok(true)
    }

    async fn revoke(&self, id: &SessionId) -> Result<bool, StoreError> {
        let mut transaction = self.begin(format!("revoking session {id}")).await?;
        let id = rows::text_params(&[id.as_str()]);
        let revoked = transaction.execute(sql::REVOKE, id).await?;
        transaction.commit().await?;
        Ok(revoked > 0)
    }

    async fn revoke_customer(&self, customer: &CustomerId) -> Result<u64, StoreError> {
        let mut transaction = self.begin(format!("revoking customer {customer}")).await?;
        let customer = rows::text_params(&[customer.as_str()]);
        let revoked = transaction.execute(sql::REVOKE_CUSTOMER, customer).await?;
        transaction.commit().await?;
        Ok(revoked)
    }

    async fn list(&self, customer: &CustomerId) -> Result<Vec<SessionSummary>, StoreError> {
        self.shared.sql.list(self.pool().await?, customer).await
    }

    async fn update_customer(&self, customer: &Customer) -> Result<u64, StoreError> {
        check_customer(customer)?;
        let parameters = rows::customer_params(customer)?;
        let mut transaction = self
            .begin(format!("updating customer {}", customer.id))
            .await?;
        transaction.execute(UPDATE_CUSTOMER, parameters).await?;
        let sessions = transaction
            .count(COUNT_BY_CUSTOMER, customer.id.as_str())
            .await?;
        transaction.commit().await?;
        Ok(sessions)
    }

    async fn purge_expired(&self, before: DateTime<Utc>, limit: u32) -> Result<u64, StoreError> {
        let mut parameters = SqliteArguments::default();
        bind(&mut parameters, before.timestamp_micros());
        bind(&mut parameters, limit);
        let mut transaction = self.begin("purging expired sessions").await?;
        let purged = transaction.execute(PURGE, parameters).await?;
        transaction.commit().await?;
        Ok(purged)
    }
}
