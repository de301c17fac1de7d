//! How PostgreSQL removes expired sessions, and forgets customers without any.

use chrono::{DateTime, Utc};
use sqlx::{
    Connection, PgConnection,
    postgres::{PgArguments, PgRow},
};

use super::{
    PostgresStore, changes,
    columns::bind,
    external_customers::{EPOCHS, FORGET_EPOCHS},
    statements::{NOTE_NO_REMAINS, PURGE, PURGE_REMAINS, PURGE_ROTATIONS},
};
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

/// Customers in one step that notes where nothing is left of revocations.
const MAX_NOTED: u32 = 1000;

// A sign-in may be under way for a customer who had no session a moment ago. So the customers are
// locked first, those of sign-ins under way left out, and judged again by statements that begin
// behind the locks: one statement would judge by what it saw at its beginning. A sign-in locks the
// epoch, or the customer if there is no epoch; none of the two locks is waited for.

const LOCK: &str = "SELECT id FROM customer_session_customers WHERE id = ANY($1) \
     ORDER BY id FOR UPDATE SKIP LOCKED";

const LOCK_EPOCHS: &str = "SELECT customer_id FROM customer_session_epochs \
     WHERE customer_id = ANY($1) ORDER BY customer_id FOR UPDATE SKIP LOCKED";

/// True for the customers that are locked (`$1`), and their epochs (`$2`) as well, if they have one.
macro_rules! is_locked {
    () => {
        " AND id = ANY($1) AND (id = ANY($2) OR NOT EXISTS (SELECT 1 \
         FROM customer_session_epochs e WHERE e.customer_id = customer_session_customers.id))"
    };
}

const FORGET: &str = concat!(
    "DELETE FROM customer_session_customers WHERE deleted_at IS NULL AND ",
    without_sessions!(),
    is_locked!()
);

const ERASE: &str = concat!(erase_customers!("'{}'", "false"), is_locked!());

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
        let progress = &self.purge_progress;
        let mut left = limit;
        for (statement, cursor) in [
            (PURGE, progress.sessions()),
            (PURGE_ROTATIONS, progress.rotations()),
        ] {
            if left == 0 {
                return Ok(limit.into());
            }
            let mut parameters = PgArguments::default();
            parameters.time(Some(before));
            parameters.count(left);
            parameters.time(cursor.place(before));
            let rows = self.fetch_all(statement, parameters, context).await?;
            let read = |row: &PgRow| Ok((row.number(0)?, row.time(1)?));
            let removed = rows.first().map(read).transpose();
            let removed = removed.map_err(|error| store_error(context(), error))?;
            let (removed, reached) = removed.unwrap_or_default();
            cursor.advance(reached);
            left = left.saturating_sub(removed);
        }
        if left > 0 {
            left = left.saturating_sub(self.purge_remains(left).await?);
        }
        self.prune_changes().await?;
        Ok((limit - left).into())
    }

    /// Removes sessions that ended with their customer's epoch, and returns their number.
    async fn purge_remains(&self, limit: u32) -> Result<u32, StoreError> {
        let context = || "purging sessions of revoked customers".to_owned();
        let cursor = self.purge_progress.remains();
        let (customer, epoch, created_at) = cursor.place().unwrap_or_default();
        let mut parameters = PgArguments::default();
        parameters.count(limit);
        parameters.text(Some(&customer));
        parameters.count(epoch);
        parameters.time(created_at);
        let rows = self.fetch_all(PURGE_REMAINS, parameters, context).await?;
        let read = |row: &PgRow| {
            let place = (
                row.text(0)?.unwrap_or_default(),
                row.number(1)?,
                row.time(2)?,
            );
            Ok((Some(place), row.number(3)?))
        };
        let removed = rows.first().map(read).transpose();
        let removed = removed.map_err(|error| store_error(context(), error))?;
        let (reached, removed) = removed.unwrap_or_default();
        cursor.advance(reached, removed >= limit);
        if removed < limit {
            let mut parameters = PgArguments::default();
            parameters.count(MAX_NOTED);
            self.execute(NOTE_NO_REMAINS, parameters, context).await?;
        }
        Ok(removed)
    }

    /// Deletes what was announced long ago, for a service of which no node listens.
    async fn prune_changes(&self) -> Result<(), StoreError> {
        let pool = self.pool().await?;
        let pruning = async {
            let mut connection = self.sql.acquire(pool).await?;
            let schema = &self.sql.schema;
            let marked = changes::mark_prunable(connection.as_mut(), schema).await?;
            if marked.is_some() {
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

    /// Forgets those of the next customers who have no session; of external customers their epochs.
    pub(super) async fn forget_customers(
        &self,
        after: Option<&CustomerId>,
        limit: u32,
    ) -> Result<Option<CustomerId>, StoreError> {
        let context = || "purging customers".to_owned();
        let after = after.filter(|after| is_storable(after.as_str()));
        let parameters: PgArguments = CustomerPage::parameters(after, limit);
        let customers = match self.external_customers {
            true => EPOCHS,
            false => CUSTOMERS,
        };
        let rows = self.fetch_all(customers, parameters, context).await?;
        let page = CustomerPage::read(&rows, limit);
        let page = page.map_err(|error| store_error(context(), error))?;
        if page.idle.is_empty() {
            return Ok(page.next);
        }
        let pool = self.pool().await?;
        let forgetting = async {
            let mut connection = self.sql.acquire(pool).await?;
            let mut transaction = connection.as_mut().begin().await?;
            match self.external_customers {
                true => forget_epochs(&mut transaction, &self.sql, page.idle).await?,
                false => forget(&mut transaction, &self.sql, page.idle).await?,
            }
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
    let customers = locked(&mut *transaction, sql, LOCK, &idle).await?;
    let epochs = locked(&mut *transaction, sql, LOCK_EPOCHS, &customers).await?;
    sqlx::raw_sql(BE_SILENT).execute(&mut *transaction).await?;
    for statement in [FORGET, ERASE] {
        let mut parameters = PgArguments::default();
        bind(&mut parameters, &customers);
        bind(&mut parameters, &epochs);
        let done = sql.query(statement, parameters);
        done.execute(&mut *transaction).await?;
    }
    Ok(())
}

async fn forget_epochs(
    transaction: &mut PgConnection,
    sql: &SqlStore<sqlx::Postgres>,
    idle: Vec<String>,
) -> Result<(), sqlx::Error> {
    let epochs = locked(&mut *transaction, sql, LOCK_EPOCHS, &idle).await?;
    sqlx::raw_sql(BE_SILENT).execute(&mut *transaction).await?;
    let mut parameters = PgArguments::default();
    bind(&mut parameters, &epochs);
    let forget = sql.query(FORGET_EPOCHS, parameters);
    forget.execute(&mut *transaction).await?;
    Ok(())
}

/// Locks those of the rows with these ids that no other transaction has locked, and returns their ids.
async fn locked(
    transaction: &mut PgConnection,
    sql: &SqlStore<sqlx::Postgres>,
    lock: &'static str,
    ids: &[String],
) -> Result<Vec<String>, sqlx::Error> {
    let mut parameters = PgArguments::default();
    bind(&mut parameters, ids);
    let rows = sql.query(lock, parameters).fetch_all(transaction).await?;
    let ids: Result<Vec<_>, _> = rows.iter().map(|row| row.text(0)).collect();
    Ok(ids?.into_iter().flatten().collect())
}
