//! How an SQLite file keeps sessions. Changes are transactions of several statements.

use async_trait::async_trait;
use chrono::{DateTime, Utc};
use sqlx::sqlite::SqliteArguments;
use tokio::time::timeout;

use super::{SqliteStore, columns::bind};
use crate::{
    customer::{Customer, CustomerId},
    session::{CustomerSession, SessionId, SessionSummary},
    store::{
        error::StoreError,
        parts::Parts,
        pepper::TokenHash,
        sql::{self, failed, rows},
        traits::{SessionRegistry, SessionStore},
        validation::{check_customer, check_session},
    },
    token::{SessionToken, TokenFormat},
};

/// So many are purged in one transaction: it lasts for a few milliseconds.
const PURGED_AT_ONCE: u32 = 50;

macro_rules! customer_values {
    () => {
        "$1, $2, $3, $4, $5, $6, $7, $8, $9, $10, $11, $12, $13, $14, $15, $16, $17, $18"
    };
}

pub(super) const PUT_CUSTOMER: &str = concat!(
    "INSERT INTO customers (",
    customer_columns!(),
    ") VALUES (",
    customer_values!(),
    ") ON CONFLICT (id) DO ",
    replace_customer!()
);

pub(super) const PUT_CUSTOMER_IF_NEW: &str = concat!(
    "INSERT INTO customers (",
    customer_columns!(),
    ") VALUES (",
    customer_values!(),
    ") ON CONFLICT (id) DO NOTHING"
);

pub(super) const PUT_CUSTOMER_IF_KNOWN: &str = concat!(
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

pub(super) const IS_THERE: &str = "SELECT count(*) FROM customer_sessions WHERE id = $1";

pub(super) const COUNT: &str = "SELECT count(*) FROM customer_sessions WHERE customer_id = $1";

pub(super) const PURGE: &str = "DELETE FROM customer_sessions WHERE id IN \
     (SELECT id FROM customer_sessions WHERE expires_at <= $1 ORDER BY expires_at LIMIT $2)";

impl SqliteStore {
    async fn rewrite(
        &self,
        id: &SessionId,
        from: &TokenHash,
        to: &TokenHash,
    ) -> Result<(), StoreError> {
        let mut turn = self.begin("keeping a session under another pepper").await?;
        let parameters = rows::texts(&[to, id.as_str(), from]);
        turn.execute(sql::REWRITE, parameters).await?;
        turn.commit().await
    }
}

#[async_trait]
impl SessionStore for SqliteStore {
    async fn find(&self, token: &SessionToken) -> Result<Option<CustomerSession>, StoreError> {
        let pool = self.pool().await?;
        let shared = &self.shared;
        let hashes: Vec<_> = shared.peppers.hashes(token).collect();
        let row = sql::find(&shared.at_hand, pool, &shared.find, &hashes).await?;
        let Some(row) = row else {
            return Ok(None);
        };
        let (session, hash) = rows::session(&row, token)?;
        if hash != hashes[0] {
            // Should it fail, the next lookup tries again.
            let rewrite = self.rewrite(&session.id, &hash, &hashes[0]);
            let _ = timeout(sql::REWRITE_TIMEOUT, rewrite).await;
        }
        Ok(Some(session))
    }

    fn token_format(&self) -> TokenFormat {
        TokenFormat::new("cst_")
    }
}

#[async_trait]
impl SessionRegistry for SqliteStore {
    async fn insert(&self, session: &CustomerSession) -> Result<(), StoreError> {
        check_session(session)?;
        let customer = rows::customer(&session.customer)?;
        let hash = self.shared.peppers.hash(&session.token);
        let mut turn = self
            .begin(format!("inserting session {}", session.id))
            .await?;
        turn.execute(PUT_CUSTOMER, customer).await?;
        turn.add(session, &hash).await?;
        turn.commit().await
    }

    async fn replace(&self, old: &SessionId, new: &CustomerSession) -> Result<bool, StoreError> {
        check_session(new)?;
        let customer = rows::customer(&new.customer)?;
        let hash = self.shared.peppers.hash(&new.token);
        let tried = format!("replacing session {old} with {}", new.id);
        let mut turn = self.begin(tried).await?;
        if turn.count(IS_THERE, old.as_str()).await? == 0 {
            return Ok(false);
        }
        turn.execute(PUT_CUSTOMER_IF_NEW, customer).await?;
        turn.add(new, &hash).await?;
        let old = rows::texts(&[old.as_str()]);
        turn.execute(sql::REVOKE, old).await?;
        turn.commit().await?;
        Ok(true)
    }

    async fn revoke(&self, id: &SessionId) -> Result<bool, StoreError> {
        let mut turn = self.begin(format!("revoking session {id}")).await?;
        let id = rows::texts(&[id.as_str()]);
        let revoked = turn.execute(sql::REVOKE, id).await?;
        turn.commit().await?;
        Ok(revoked > 0)
    }

    async fn revoke_customer(&self, customer: &CustomerId) -> Result<u64, StoreError> {
        let mut turn = self.begin(format!("revoking customer {customer}")).await?;
        let customer = rows::texts(&[customer.as_str()]);
        let revoked = turn.execute(sql::REVOKE_CUSTOMER, customer).await?;
        turn.commit().await?;
        Ok(revoked)
    }

    async fn list(&self, customer: &CustomerId) -> Result<Vec<SessionSummary>, StoreError> {
        let rows = sqlx::query(sql::LIST)
            .bind(customer.as_str())
            .fetch_all(self.pool().await?)
            .await
            .map_err(|error| failed(format!("listing customer {customer}"), error))?;
        rows.iter().map(rows::summary).collect()
    }

    async fn update_customer(&self, customer: &Customer) -> Result<u64, StoreError> {
        check_customer(customer)?;
        let parameters = rows::customer(customer)?;
        let mut turn = self
            .begin(format!("updating customer {}", customer.id))
            .await?;
        turn.execute(PUT_CUSTOMER_IF_KNOWN, parameters).await?;
        let sessions = turn.count(COUNT, customer.id.as_str()).await?;
        turn.commit().await?;
        Ok(sessions)
    }

    async fn purge_expired(&self, before: DateTime<Utc>, limit: u32) -> Result<u64, StoreError> {
        let mut parts = Parts::new(limit, PURGED_AT_ONCE);
        while let Some(part) = parts.next().await {
            let mut turn = self.begin("purging expired sessions").await?;
            let mut parameters = SqliteArguments::default();
            bind(&mut parameters, before.timestamp_micros());
            bind(&mut parameters, part);
            let gone = turn.execute(PURGE, parameters).await?;
            turn.commit().await?;
            parts.add(gone, gone);
        }
        Ok(parts.deleted())
    }
}
