//! How PostgreSQL keeps sessions.

use async_trait::async_trait;
use chrono::{DateTime, Utc};
use sqlx::{
    Connection,
    postgres::{PgArguments, PgRow},
};
use tokio::time::timeout;

use super::{PostgresStore, changes};
use crate::{
    customer::{Customer, CustomerId},
    invalidation::Invalidation,
    registry::{Inserted, Page, Revocation, Revoked, SessionLimit, SessionPage},
    session::{CustomerSession, SessionId},
    shared_caches::SharedCaches,
    store::{
        error::{StoreError, customer_is_deleted, id_is_taken},
        sql::{
            self,
            error::store_error,
            rows::{self, Columns, Parameters},
            store::REHASH_TIMEOUT,
        },
        traits::{SessionRegistry, SessionStore},
        validation::{check_customer, check_session, is_storable},
    },
    token::{SessionToken, TokenFormat},
};

// Each change is one statement, so that it is atomic and takes one round trip. A subquery in a
// condition is evaluated first: all statements thus lock the customer's row before a session's, with
// the same kind of lock, so that they cannot deadlock.

/// The parameters of a customer, with casts for JSON.
macro_rules! customer_values {
    () => {
        "$1, $2, $3, $4, CAST($5 AS json), $6, $7, $8, $9, $10, $11, CAST($12 AS json), \
         CAST($13 AS json), $14, $15, $16, $17, $18"
    };
}

/// The columns that an insertion of a session of a family returns.
macro_rules! insert_session {
    ($family:literal, $from:literal) => {
        concat!(
            "INSERT INTO customer_sessions \
             (id, token_hash, customer_id, created_at, modified_at, expires_at, ends_at, family) \
             SELECT $19, $20, $1, $21, $22, $23, $24, ",
            $family,
            " FROM ",
            $from,
            " RETURNING id, token_hash, created_at, modified_at, expires_at, ends_at"
        )
    };
}

/// An id that leads to a family leads to no other session.
macro_rules! taken {
    () => {
        "WITH taken AS MATERIALIZED (SELECT 1 FROM customer_session_rotations WHERE id = $19), "
    };
}

/// Returns the session and the customer, and `true` if the id is that of a session that was replaced;
/// [`refusal`] tells why the session is null.
const INSERT: &str = concat!(
    taken!(),
    "known AS MATERIALIZED (SELECT ",
    customer_columns!(),
    " FROM customer_session_customers WHERE id = $1 FOR NO KEY UPDATE), \
     fresh AS (INSERT INTO customer_session_customers (",
    customer_columns!(),
    ") SELECT ",
    customer_values!(),
    " WHERE NOT EXISTS (SELECT 1 FROM known) AND NOT EXISTS (SELECT 1 FROM taken) AND $16 IS NULL \
     ON CONFLICT (id) DO NOTHING RETURNING ",
    customer_columns!(),
    "), c AS (SELECT * FROM known UNION ALL SELECT * FROM fresh), s AS (",
    insert_session!(
        "NULL",
        "c WHERE c.deleted_at IS NULL AND NOT EXISTS (SELECT 1 FROM taken)"
    ),
    ") SELECT ",
    session_columns!(),
    ", t.taken FROM (SELECT EXISTS (SELECT 1 FROM taken) AS taken) t \
     LEFT JOIN c ON true LEFT JOIN s ON true"
);

/// Returns what [`INSERT`] does, or no row if the old session is gone.
const REPLACE: &str = concat!(
    taken!(),
    "known AS MATERIALIZED (SELECT ",
    customer_columns!(),
    " FROM customer_session_customers WHERE id = $1 FOR NO KEY UPDATE), \
     old AS MATERIALIZED (SELECT id, coalesce(family, id) AS family FROM customer_sessions \
     WHERE id = $25 AND (SELECT count(*) FROM known) >= 0 FOR UPDATE), \
     fresh AS (INSERT INTO customer_session_customers (",
    customer_columns!(),
    ") SELECT ",
    customer_values!(),
    " FROM old WHERE NOT EXISTS (SELECT 1 FROM known) ON CONFLICT (id) DO NOTHING RETURNING ",
    customer_columns!(),
    "), c AS (SELECT * FROM known UNION ALL SELECT * FROM fresh), s AS (",
    insert_session!(
        "old.family",
        "old CROSS JOIN c WHERE NOT EXISTS (SELECT 1 FROM taken)"
    ),
    "), rotated AS (INSERT INTO customer_session_rotations (id, family, customer_id, ends_at) \
     SELECT old.id, old.family, $1, greatest($23, $24) FROM old CROSS JOIN s), \
     gone AS (DELETE FROM customer_sessions WHERE id = $25 AND EXISTS (SELECT 1 FROM s)) SELECT ",
    session_columns!(),
    ", EXISTS (SELECT 1 FROM taken) FROM old LEFT JOIN c ON true LEFT JOIN s ON true"
);

const INSERT_CUSTOMER_IF_NEW: &str = concat!(
    "INSERT INTO customer_session_customers (",
    customer_columns!(),
    ") VALUES (",
    customer_values!(),
    ") ON CONFLICT (id) DO NOTHING"
);

const UPDATE_CUSTOMER: &str = concat!(
    "UPDATE customer_session_customers SET (",
    customer_columns!(),
    ") = (",
    customer_values!(),
    ") WHERE id = $1"
);

const ANNOUNCE: &str = "INSERT INTO customer_session_changes (message) VALUES ($1)";

/// Waits for rotations and insertions under way, so that the statement that follows sees what
/// they have added.
pub(super) const LOCK_CUSTOMER: &str =
    "SELECT 1 FROM customer_session_customers WHERE id = $1 FOR UPDATE";

impl PostgresStore {
    /// Runs a statement that changes something, and returns how many rows it changed.
    pub(super) async fn execute(
        &self,
        statement: &'static str,
        parameters: PgArguments,
        context: impl FnOnce() -> String,
    ) -> Result<u64, StoreError> {
        let pool = self.pool().await?;
        let done = async {
            let mut connection = self.sql.acquire(pool).await?;
            let mut scope = self.sql.begin(connection.as_mut()).await?;
            let query = self.sql.query(statement, parameters);
            let done = query.execute(scope.as_mut()).await?;
            scope.end().await?;
            connection.return_to_pool();
            Ok(done.rows_affected())
        };
        self.sql.change(context, done).await
    }

    /// Runs a statement that returns rows.
    pub(super) async fn fetch_all(
        &self,
        statement: &'static str,
        parameters: PgArguments,
        context: impl FnOnce() -> String,
    ) -> Result<Vec<PgRow>, StoreError> {
        let pool = self.pool().await?;
        let rows = self.sql.fetch_all(pool, statement, parameters, context);
        rows.await
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

    fn shared_caches(&self) -> Option<&SharedCaches> {
        Some(&self.sql.caches)
    }

    fn has_invalidation_source(&self) -> bool {
        true
    }
}

/// Attempts at adding a session while other requests add the same customer for the first time.
const MAX_ATTEMPTS: u32 = 3;

impl PostgresStore {
    /// Binds a session and its customer.
    fn parameters(&self, session: &CustomerSession) -> Result<PgArguments, StoreError> {
        let hash = self.sql.peppers.hash(&session.token);
        let mut parameters = rows::customer_params(&session.customer)?;
        rows::bind_session(&mut parameters, session, &hash);
        Ok(parameters)
    }

    /// Adds a session in a transaction that first makes room for it. The customer's lock keeps
    /// other insertions out from the counting to the commit.
    async fn insert_limited(
        &self,
        session: &CustomerSession,
        limit: &SessionLimit,
    ) -> Result<Inserted, StoreError> {
        let pool = self.pool().await?;
        let customer: PgArguments = rows::customer_params(&session.customer)?;
        let parameters = self.parameters(session)?;
        let mut live: PgArguments = rows::text_params(&[session.customer_id.as_str()]);
        live.time(Some(session.created_at));
        let inserting = async {
            let mut connection = self.sql.acquire(pool).await?;
            let mut transaction = connection.as_mut().begin().await?;
            let put = self.sql.query(INSERT_CUSTOMER_IF_NEW, customer);
            put.execute(&mut *transaction).await?;
            let id = rows::text_params(&[session.customer_id.as_str()]);
            let lock = self.sql.query(LOCK_CUSTOMER, id);
            lock.execute(&mut *transaction).await?;
            let live = self.sql.query(sql::LIVE, live);
            let live = live.fetch_all(&mut *transaction).await?;
            let ended = match sql::surplus(&live, session, limit) {
                Ok(ended) => ended,
                Err(refused) => {
                    transaction.rollback().await?;
                    connection.return_to_pool();
                    return Ok(Err(refused));
                }
            };
            for session in &ended {
                let id = rows::text_params(&[session.id.as_str()]);
                let revoke = self.sql.query(sql::REVOKE, id);
                revoke.execute(&mut *transaction).await?;
            }
            let insert = self.sql.query(INSERT, parameters);
            let row = insert.fetch_one(&mut *transaction).await?;
            if let Some(refusal) = refusal(&row)? {
                transaction.rollback().await?;
                connection.return_to_pool();
                return Ok(Err(refusal.error(&session.id)));
            }
            transaction.commit().await?;
            connection.return_to_pool();
            Ok(Ok((row, ended)))
        };
        let (row, ended) = self
            .sql
            .change(|| format!("inserting session {}", session.id), inserting)
            .await??;
        let mut inserted = Inserted::new(rows::session(&row, &session.token)?.0);
        inserted.ended = ended;
        Ok(inserted)
    }
}

#[async_trait]
impl SessionRegistry for PostgresStore {
    async fn insert(
        &self,
        session: &CustomerSession,
        limit: Option<&SessionLimit>,
    ) -> Result<Inserted, StoreError> {
        check_session(session)?;
        if let Some(limit) = limit {
            return self.insert_limited(session, limit).await;
        }
        let context = || format!("inserting session {}", session.id);
        for _ in 0..MAX_ATTEMPTS {
            let rows = self
                .fetch_all(INSERT, self.parameters(session)?, context)
                .await?;
            let Some(row) = rows.first() else {
                continue;
            };
            match refusal(row).map_err(|error| store_error(context(), error))? {
                None => return Ok(Inserted::new(rows::session(row, &session.token)?.0)),
                Some(Refusal::CameInBetween) => {}
                Some(refusal) => return Err(refusal.error(&session.id)),
            }
        }
        Err(match session.customer.deleted_at {
            Some(_) => customer_is_deleted(&session.id),
            None => Refusal::CameInBetween.error(&session.id),
        })
    }

    async fn replace(
        &self,
        old: &SessionId,
        new: &CustomerSession,
    ) -> Result<Option<CustomerSession>, StoreError> {
        check_session(new)?;
        if !is_storable(old.as_str()) {
            return Ok(None);
        }
        let context = || format!("replacing session {old} with {}", new.id);
        for _ in 0..MAX_ATTEMPTS {
            let mut parameters = self.parameters(new)?;
            parameters.text(Some(old.as_str()));
            let rows = self.fetch_all(REPLACE, parameters, context).await?;
            let Some(row) = rows.first() else {
                return Ok(None);
            };
            match refusal(row).map_err(|error| store_error(context(), error))? {
                None => return Ok(Some(rows::session(row, &new.token)?.0)),
                Some(Refusal::IdIsTaken) => return Err(id_is_taken(&new.id)),
                Some(_) => {}
            }
        }
        Err(Refusal::CameInBetween.error(&new.id))
    }

    async fn revoke(&self, what: &Revocation) -> Result<Revoked, StoreError> {
        self.end_sessions(what).await
    }

    async fn list(&self, customer: &CustomerId, page: &Page) -> Result<SessionPage, StoreError> {
        self.sql.list(self.pool().await?, customer, page).await
    }

    async fn update_customer(&self, customer: &Customer) -> Result<bool, StoreError> {
        check_customer(customer)?;
        let context = || format!("updating customer {}", customer.id);
        let parameters = rows::customer_params(customer)?;
        Ok(self.execute(UPDATE_CUSTOMER, parameters, context).await? > 0)
    }

    async fn purge_expired(&self, before: DateTime<Utc>, limit: u32) -> Result<u64, StoreError> {
        self.purge_sessions(before, limit).await
    }

    async fn purge_customers(
        &self,
        after: Option<&CustomerId>,
        limit: u32,
    ) -> Result<Option<CustomerId>, StoreError> {
        self.forget_customers(after, limit).await
    }

    async fn announce(&self, invalidation: &Invalidation) -> Result<(), StoreError> {
        let context = || "announcing a change".to_owned();
        let message = rows::text_params(&[&changes::message(invalidation)]);
        self.execute(ANNOUNCE, message, context).await?;
        Ok(())
    }

    async fn check(&self) -> Result<(), StoreError> {
        Self::check(self).await
    }
}

/// The reason why a session was not added.
#[derive(Clone, Copy)]
enum Refusal {
    IdIsTaken,
    CustomerIsDeleted,
    /// Another insertion of the same customer.
    CameInBetween,
}

impl Refusal {
    fn error(self, session: &SessionId) -> StoreError {
        match self {
            Self::IdIsTaken => id_is_taken(session),
            Self::CustomerIsDeleted => customer_is_deleted(session),
            Self::CameInBetween => StoreError::unavailable(format!(
                "inserting session {session}: other changes of its customer came in between"
            )),
        }
    }
}

/// Reads why a row of [`INSERT`] or [`REPLACE`] holds no session, if it holds none.
fn refusal(row: &PgRow) -> Result<Option<Refusal>, sqlx::Error> {
    if row.text(0)?.is_some() {
        return Ok(None);
    }
    Ok(Some(if row.flag(24)? {
        Refusal::IdIsTaken
    } else if row.text(5)?.is_some() {
        Refusal::CustomerIsDeleted
    } else {
        Refusal::CameInBetween
    }))
}
