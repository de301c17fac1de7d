//! How PostgreSQL keeps sessions.

use async_trait::async_trait;
use chrono::{DateTime, Utc};
use sqlx::{Connection, Row, postgres::PgArguments};
use tokio::time::timeout;

use super::{PostgresStore, columns::bind};
use crate::{
    customer::{Customer, CustomerId},
    session::{CustomerSession, SessionId, SessionSummary},
    store::{
        error::StoreError,
        sql::{
            self,
            error::store_error,
            rows::{self, Parameters},
            store::{REHASH_TIMEOUT, within_time_limit},
        },
        traits::{SessionRegistry, SessionStore},
        validation::{check_customer, check_session, is_storable},
    },
    token::{SessionToken, TokenFormat},
};

// Changes are one statement each, so that each is atomic and one round trip. A subquery in a
// condition is evaluated first: that is how the customer's row is locked before a session's, by
// the same sort of lock in all of them, so that none waits for another in a circle.

/// The customer as given, with JSON told from text.
macro_rules! customer_values {
    () => {
        "$1, $2, $3, $4, CAST($5 AS json), $6, $7, $8, $9, $10, $11, CAST($12 AS json), \
         CAST($13 AS json), $14, $15, $16, $17, $18"
    };
}

pub(super) const INSERT: &str = concat!(
    "WITH known AS (INSERT INTO customers (",
    customer_columns!(),
    ") VALUES (",
    customer_values!(),
    ") ON CONFLICT (id) DO ",
    replace_customer!(),
    // No new version of a row that stays as it is. `json` has no equality, but its text has.
    " WHERE customers::text <> excluded::text RETURNING id) \
     INSERT INTO customer_sessions \
     (id, token_hash, customer_id, created_at, modified_at, expires_at) \
     SELECT $19, $20, $1, $21, $22, $23 WHERE (SELECT count(*) FROM known) >= 0"
);

pub(super) const REPLACE: &str = concat!(
    "WITH known AS MATERIALIZED (SELECT id FROM customers WHERE id = $1 FOR NO KEY UPDATE), \
     old AS MATERIALIZED (SELECT id FROM customer_sessions \
     WHERE id = $24 AND (SELECT count(*) FROM known) >= 0 FOR UPDATE), \
     fresh AS (INSERT INTO customers (",
    customer_columns!(),
    ") SELECT ",
    customer_values!(),
    " FROM old ON CONFLICT (id) DO NOTHING), \
     new AS (INSERT INTO customer_sessions \
     (id, token_hash, customer_id, created_at, modified_at, expires_at) \
     SELECT $19, $20, $1, $21, $22, $23 FROM old RETURNING id) \
     DELETE FROM customer_sessions WHERE id = $24 AND EXISTS (SELECT 1 FROM new)"
);

pub(super) const UPDATE_CUSTOMER: &str = concat!(
    "WITH known AS (INSERT INTO customers (",
    customer_columns!(),
    ") SELECT ",
    customer_values!(),
    " WHERE EXISTS (SELECT 1 FROM customers WHERE id = $1) ON CONFLICT (id) DO ",
    replace_customer!(),
    " RETURNING id) SELECT count(*) FROM customer_sessions WHERE customer_id = $1"
);

/// Waits for rotations and insertions under way, so that the deletion that follows sees what
/// they have added.
pub(super) const LOCK_CUSTOMER: &str = "SELECT 1 FROM customers WHERE id = $1 FOR UPDATE";

/// The array makes the planner look rows up by id. Several may purge at once.
pub(super) const PURGE: &str = "DELETE FROM customer_sessions WHERE id = ANY (ARRAY(\
     SELECT id FROM customer_sessions WHERE expires_at <= $1 ORDER BY expires_at LIMIT $2 \
     FOR UPDATE SKIP LOCKED))";

impl PostgresStore {
    /// Runs a statement that changes something, and returns how many rows it changed.
    async fn execute(
        &self,
        statement: &'static str,
        parameters: PgArguments,
        context: impl FnOnce() -> String,
    ) -> Result<u64, StoreError> {
        let pool = self.pool().await?;
        let done = async {
            let mut connection = self.sql.acquire(pool).await?;
            let done = sqlx::query_with(statement, parameters)
                .execute(connection.as_mut())
                .await?;
            connection.return_to_pool();
            Ok(done.rows_affected())
        };
        within_time_limit(context, done).await
    }
}

#[async_trait]
impl SessionStore for PostgresStore {
    async fn find(&self, token: &SessionToken) -> Result<Option<CustomerSession>, StoreError> {
        let found = self.sql.find(self.pool().await?, token).await?;
        if let Some((_, Some(rehash))) = &found {
            let context = || "keeping a session under the current pepper".to_owned();
            let rehash = self.execute(sql::REHASH, rehash.parameters(), context);
            // If this fails, the next lookup tries again.
            let _ = timeout(REHASH_TIMEOUT, rehash).await;
        }
        Ok(found.map(|(session, _)| session))
    }

    fn token_format(&self) -> TokenFormat {
        TokenFormat::new("cst_")
    }
}

#[async_trait]
impl SessionRegistry for PostgresStore {
    async fn insert(&self, session: &CustomerSession) -> Result<(), StoreError> {
        check_session(session)?;
        let hash = self.sql.peppers.hash(&session.token);
        let mut parameters = rows::customer_params(&session.customer)?;
        rows::bind_session(&mut parameters, session, &hash);
        let context = || format!("inserting session {}", session.id);
        self.execute(INSERT, parameters, context).await?;
        Ok(())
    }

    async fn replace(&self, old: &SessionId, new: &CustomerSession) -> Result<bool, StoreError> {
        check_session(new)?;
        if !is_storable(old.as_str()) {
            return Ok(false);
        }
        let hash = self.sql.peppers.hash(&new.token);
        let mut parameters: PgArguments = rows::customer_params(&new.customer)?;
        rows::bind_session(&mut parameters, new, &hash);
        parameters.text(Some(old.as_str()));
        let context = || format!("replacing session {old} with {}", new.id);
        Ok(self.execute(REPLACE, parameters, context).await? > 0)
    }

    async fn revoke(&self, id: &SessionId) -> Result<bool, StoreError> {
        if !is_storable(id.as_str()) {
            return Ok(false);
        }
        let context = || format!("revoking session {id}");
        let id = rows::text_params(&[id.as_str()]);
        Ok(self.execute(sql::REVOKE, id, context).await? > 0)
    }

    async fn revoke_customer(&self, customer: &CustomerId) -> Result<u64, StoreError> {
        let pool = self.pool().await?;
        if !is_storable(customer.as_str()) {
            return Ok(0);
        }
        let revoked = async {
            let mut connection = self.sql.acquire(pool).await?;
            let mut transaction = connection.as_mut().begin().await?;
            let lock = sqlx::query(LOCK_CUSTOMER).bind(customer.as_str());
            lock.execute(&mut *transaction).await?;
            let delete = sqlx::query(sql::REVOKE_CUSTOMER).bind(customer.as_str());
            let revoked = delete.execute(&mut *transaction).await?;
            transaction.commit().await?;
            connection.return_to_pool();
            Ok(revoked.rows_affected())
        };
        within_time_limit(|| format!("revoking customer {customer}"), revoked).await
    }

    async fn list(&self, customer: &CustomerId) -> Result<Vec<SessionSummary>, StoreError> {
        self.sql.list(self.pool().await?, customer).await
    }

    async fn update_customer(&self, customer: &Customer) -> Result<u64, StoreError> {
        check_customer(customer)?;
        let context = || format!("updating customer {}", customer.id);
        let parameters = rows::customer_params(customer)?;
        let pool = self.pool().await?;
        let rows = self
            .sql
            .fetch_all(pool, UPDATE_CUSTOMER, parameters, context);
        let rows = rows.await?;
        let sessions = rows.first().map_or(Ok(0), |row| row.try_get::<i64, _>(0));
        let sessions = sessions.map_err(|error| store_error(context(), error))?;
        Ok(sessions.unsigned_abs())
    }

    async fn purge_expired(&self, before: DateTime<Utc>, limit: u32) -> Result<u64, StoreError> {
        let mut parameters = PgArguments::default();
        bind(&mut parameters, before);
        bind(&mut parameters, i64::from(limit));
        let context = || "purging expired sessions".to_owned();
        self.execute(PURGE, parameters, context).await
    }
}
