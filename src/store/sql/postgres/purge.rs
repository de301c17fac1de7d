//! How PostgreSQL removes expired sessions, and forgets customers without any.

use chrono::{DateTime, Utc};
use sqlx::{Connection, PgConnection, postgres::PgArguments};

use super::{PostgresStore, changes, columns::bind};
use crate::{
    customer::CustomerId,
    store::{
        error::StoreError,
        sql::{
            CUSTOMERS,
            customers::CustomerPage,
            error::store_error,
            rows::{Columns as _, Parameters as _},
            store::SqlStore,
        },
        validation::is_storable,
    },
};

/// The array makes the planner look rows up by id. Several may purge at once. The clock of one node
/// may be hours ahead, so the server's is an upper bound.
const PURGE: &str = "DELETE FROM customer_sessions WHERE id = ANY (ARRAY(\
     SELECT id FROM customer_sessions WHERE expires_at <= least($1, now()) \
     ORDER BY expires_at LIMIT $2 FOR UPDATE SKIP LOCKED))";

/// Removes replaced sessions whose family has ended.
const PURGE_ROTATIONS: &str = "DELETE FROM customer_session_rotations WHERE id = ANY (ARRAY(\
     SELECT r.id FROM customer_session_rotations r WHERE r.ends_at <= least($1, now()) \
     AND NOT EXISTS (SELECT 1 FROM customer_sessions s WHERE s.family = r.family) \
     ORDER BY r.ends_at LIMIT $2 FOR UPDATE SKIP LOCKED))";

// A sign-in may be under way for a customer who had no session a moment ago. So the customers are
// locked first, those of sign-ins under way left out, and judged again by a statement that begins
// behind the lock: one statement would judge by what it saw at its beginning.

const LOCK: &str = "SELECT id FROM customer_session_customers WHERE id = ANY($1) \
     ORDER BY id FOR UPDATE SKIP LOCKED";

const FORGET: &str = concat!(
    "DELETE FROM customer_session_customers WHERE deleted_at IS NULL AND ",
    without_sessions!(),
    " AND id = ANY($1)"
);

const ERASE: &str = concat!(erase_customers!("'{}'", "false"), " AND id = ANY($1)");

/// Until the end of the transaction, the triggers announce nothing: no session of these customers is
/// left that could be cached.
const BE_SILENT: &str = "SELECT set_config('customer_session.silent', 'on', true)";

impl PostgresStore {
    /// Removes sessions that expired before a time, and what is kept of families that have ended.
    pub(super) async fn purge_sessions(
        &self,
        before: DateTime<Utc>,
        limit: u32,
    ) -> Result<u64, StoreError> {
        let context = || "purging expired sessions".to_owned();
        let mut purged = 0;
        let mut left = limit;
        for statement in [PURGE, PURGE_ROTATIONS] {
            if left > 0 {
                let mut parameters = PgArguments::default();
                parameters.time(Some(before));
                parameters.count(left);
                let removed = self.execute(statement, parameters, context).await?;
                purged += removed;
                left = left.saturating_sub(u32::try_from(removed).unwrap_or(left));
            }
        }
        self.prune_changes().await?;
        Ok(purged)
    }

    /// Deletes what was announced long ago, for a service of which no node listens.
    async fn prune_changes(&self) -> Result<(), StoreError> {
        let pool = self.pool().await?;
        let pruning = async {
            let mut connection = self.sql.acquire(pool).await?;
            let schema = &self.sql.schema;
            if changes::mark_prunable(connection.as_mut(), schema).await? {
                let mut from = Some(0);
                while let Some(xid) = from {
                    from = changes::prune(connection.as_mut(), schema, xid).await?;
                }
            }
            connection.return_to_pool();
            Ok(())
        };
        let context = || "purging announced changes".to_owned();
        self.sql.change(context, pruning).await
    }

    /// Forgets those of the next customers who have no session.
    pub(super) async fn forget_customers(
        &self,
        after: Option<&CustomerId>,
        limit: u32,
    ) -> Result<Option<CustomerId>, StoreError> {
        let context = || "purging customers".to_owned();
        let after = after.filter(|after| is_storable(after.as_str()));
        let parameters: PgArguments = CustomerPage::parameters(after, limit);
        let rows = self.fetch_all(CUSTOMERS, parameters, context).await?;
        let page = CustomerPage::read(&rows, limit);
        let page = page.map_err(|error| store_error(context(), error))?;
        if page.idle.is_empty() {
            return Ok(page.next);
        }
        let pool = self.pool().await?;
        let forgetting = async {
            let mut connection = self.sql.acquire(pool).await?;
            let mut transaction = connection.as_mut().begin().await?;
            forget(&mut transaction, &self.sql, page.idle).await?;
            transaction.commit().await?;
            connection.return_to_pool();
            Ok(page.next)
        };
        self.sql.change(context, forgetting).await
    }
}

async fn forget(
    transaction: &mut PgConnection,
    sql: &SqlStore<sqlx::Postgres>,
    idle: Vec<String>,
) -> Result<(), sqlx::Error> {
    let mut ids = PgArguments::default();
    bind(&mut ids, idle);
    let locked = sql.query(LOCK, ids).fetch_all(&mut *transaction).await?;
    let locked: Result<Vec<_>, _> = locked.iter().map(|row| row.text(0)).collect();
    let locked: Vec<_> = locked?.into_iter().flatten().collect();
    sqlx::raw_sql(BE_SILENT).execute(&mut *transaction).await?;
    for statement in [FORGET, ERASE] {
        let mut parameters = PgArguments::default();
        bind(&mut parameters, &locked);
        let done = sql.query(statement, parameters);
        done.execute(&mut *transaction).await?;
    }
    Ok(())
}
