//! How an SQLite file keeps sessions. Changes are transactions of several statements.

use async_trait::async_trait;
use chrono::{DateTime, Utc};
use sqlx::sqlite::SqliteArguments;
use tokio::time::timeout;

use super::{SqliteStore, columns::bind, transaction::WriteTransaction};
use crate::{
    customer::{Customer, CustomerId},
    registry::{Inserted, Page, Revocation, Revoked, SessionLimit, SessionPage},
    session::{CustomerSession, SessionId, SessionSummary},
    shared_caches::SharedCaches,
    store::{
        error::{StoreError, customer_is_deleted},
        pepper::TokenHash,
        sql::{
            self,
            rows::{self, Parameters as _},
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

pub(super) const INSERT_CUSTOMER_IF_NEW: &str = concat!(
    "INSERT INTO customers (",
    customer_columns!(),
    ") VALUES (",
    customer_values!(),
    ") ON CONFLICT (id) DO NOTHING"
);

pub(super) const UPDATE_CUSTOMER: &str = concat!(
    "UPDATE customers SET (",
    customer_columns!(),
    ") = (",
    customer_values!(),
    ") WHERE id = $1"
);

pub(super) const INSERT: &str = "INSERT INTO customer_sessions \
     (customer_id, id, token_hash, created_at, modified_at, expires_at) \
     VALUES ($1, $2, $3, $4, $5, $6)";

pub(super) const COUNT_BY_ID: &str = "SELECT count(*) FROM customer_sessions WHERE id = $1";

/// The statement that selects the session of one hash.
pub(super) const FIND_BY_HASH: &str = concat!(
    "SELECT ",
    session_columns!(),
    " FROM customer_sessions s JOIN customers c ON c.id = s.customer_id WHERE s.token_hash = $1"
);

pub(super) const IS_ANOTHERS: &str =
    "SELECT count(*) FROM customer_sessions WHERE id = $1 AND customer_id <> $2";

pub(super) const IS_DELETED: &str =
    "SELECT count(*) FROM customers WHERE id = $1 AND deleted_at IS NOT NULL";

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

    /// Ends sessions of a customer until `new` fits, and returns them, oldest first.
    async fn make_room(
        &mut self,
        new: &CustomerSession,
        limit: &SessionLimit,
    ) -> Result<Vec<SessionSummary>, StoreError> {
        let mut parameters: SqliteArguments = rows::text_params(&[new.customer_id.as_str()]);
        parameters.time(Some(new.created_at));
        let live = self.fetch_all(sql::LIVE, parameters).await?;
        let ended = sql::surplus(&live, new, limit)?;
        for session in &ended {
            let id = rows::text_params(&[session.id.as_str()]);
            self.execute(sql::REVOKE, id).await?;
        }
        Ok(ended)
    }

    /// Reads back what was added under `hash`.
    async fn stored(
        &mut self,
        hash: &TokenHash,
        token: &SessionToken,
    ) -> Result<CustomerSession, StoreError> {
        let parameters: SqliteArguments = rows::text_params(&[hash]);
        let rows = self.fetch_all(FIND_BY_HASH, parameters).await?;
        let row = rows.first();
        let row = row.ok_or_else(|| StoreError::corrupt("what was inserted is not there"))?;
        Ok(rows::session(row, token)?.0)
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

    fn shared_caches(&self) -> Option<&SharedCaches> {
        Some(&self.shared.sql.caches)
    }
}

#[async_trait]
impl SessionRegistry for SqliteStore {
    async fn insert(
        &self,
        session: &CustomerSession,
        limit: Option<&SessionLimit>,
    ) -> Result<Inserted, StoreError> {
        check_session(session)?;
        let customer = rows::customer_params(&session.customer)?;
        let hash = self.shared.sql.peppers.hash(&session.token);
        let mut transaction = self
            .begin(format!("inserting session {}", session.id))
            .await?;
        let customer_id = session.customer_id.as_str();
        transaction
            .execute(INSERT_CUSTOMER_IF_NEW, customer)
            .await?;
        if transaction.count(IS_DELETED, &[customer_id]).await? > 0 {
            return Err(customer_is_deleted(&session.id));
        }
        let ended = match limit {
            Some(limit) => transaction.make_room(session, limit).await?,
            None => Vec::new(),
        };
        transaction.add(session, &hash).await?;
        let mut inserted = Inserted::new(transaction.stored(&hash, &session.token).await?);
        inserted.ended = ended;
        transaction.commit().await?;
        Ok(inserted)
    }

    async fn replace(
        &self,
        old: &SessionId,
        new: &CustomerSession,
    ) -> Result<Option<CustomerSession>, StoreError> {
        check_session(new)?;
        let customer = rows::customer_params(&new.customer)?;
        let hash = self.shared.sql.peppers.hash(&new.token);
        let context = format!("replacing session {old} with {}", new.id);
        let mut transaction = self.begin(context).await?;
        if transaction.count(COUNT_BY_ID, &[old.as_str()]).await? == 0 {
            return Ok(None);
        }
        transaction
            .execute(INSERT_CUSTOMER_IF_NEW, customer)
            .await?;
        transaction.add(new, &hash).await?;
        let old = rows::text_params(&[old.as_str()]);
        transaction.execute(sql::REVOKE, old).await?;
        let stored = transaction.stored(&hash, &new.token).await?;
        transaction.commit().await?;
        Ok(Some(stored))
    }

    async fn revoke(&self, what: &Revocation) -> Result<Revoked, StoreError> {
        let mut transaction = self.begin(sql::revoking(what)).await?;
        let mut is_anothers = false;
        if let Revocation::Owned { customer, session } = what {
            let ids = [session.as_str(), customer.as_str()];
            is_anothers = transaction.count(IS_ANOTHERS, &ids).await? > 0;
        }
        let (statement, parameters) = sql::revocation(what);
        let ended = transaction.execute(statement, parameters).await?;
        transaction.commit().await?;
        let invalidation = (!is_anothers).then(|| what.invalidation());
        Ok(Revoked::new(ended > 0, invalidation))
    }

    async fn list(&self, customer: &CustomerId, page: &Page) -> Result<SessionPage, StoreError> {
        let pool = self.pool().await?;
        self.shared.sql.list(pool, customer, page).await
    }

    async fn update_customer(&self, customer: &Customer) -> Result<bool, StoreError> {
        check_customer(customer)?;
        let parameters = rows::customer_params(customer)?;
        let mut transaction = self
            .begin(format!("updating customer {}", customer.id))
            .await?;
        let updated = transaction.execute(UPDATE_CUSTOMER, parameters).await?;
        transaction.commit().await?;
        Ok(updated > 0)
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

    async fn check(&self) -> Result<(), StoreError> {
        Self::check(self).await
    }
}
