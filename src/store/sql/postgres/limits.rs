//! How PostgreSQL adds sessions whose number is limited: in a transaction that first makes room. The
//! customer's lock keeps other sign-ins and rotations out from the counting to the commit.

use sqlx::{
    Connection, Error, PgConnection, Postgres, Transaction,
    postgres::{PgArguments, PgRow},
};

use super::{
    PostgresStore,
    registry::Refusal,
    statements::{ADD_EPOCH, INSERT_CUSTOMER_IF_NEW, LOCK_CUSTOMER, REPLACE},
};
use crate::{
    registry::{Inserted, SessionLimit},
    session::{CustomerSession, SessionId, SessionSummary},
    store::{
        error::StoreError,
        sql::{self, limits, rows, trees},
    },
};

/// The outcome of a transaction: a row, and the sessions that were ended; `None` if the session to be
/// replaced is gone.
type Outcome = Result<Option<(PgRow, Vec<SessionSummary>)>, StoreError>;

impl PostgresStore {
    /// Adds a session.
    pub(super) async fn insert_limited(
        &self,
        session: &CustomerSession,
        limit: &SessionLimit,
    ) -> Result<Result<Inserted, Refusal>, StoreError> {
        let pool = self.pool().await?;
        let customer: PgArguments = rows::customer_params(&session.customer)?;
        let (insert, parameters) = self.insertion(session)?;
        let id = session.customer_id.as_str();
        let inserting = async {
            let mut connection = self.sql.acquire(pool).await?;
            let mut transaction = connection.as_mut().begin().await?;
            let mut add_epoch = sql::ADD_EPOCH;
            if !self.external_customers {
                let put = self.sql.query(INSERT_CUSTOMER_IF_NEW, customer);
                put.execute(&mut *transaction).await?;
                add_epoch = ADD_EPOCH;
            }
            let add_epoch = self.sql.query(add_epoch, rows::text_params(&[id]));
            add_epoch.execute(&mut *transaction).await?;
            self.lock_customer(&mut transaction, id).await?;
            let added = self.add_limited(transaction, session, None, limit, (insert, parameters));
            let added = added.await?;
            connection.return_to_pool();
            Ok(added)
        };
        let context = || format!("inserting session {}", session.id);
        let outcome: Outcome = self.sql.change(context, inserting).await?;
        let inserted = self.limited(outcome?, session, context)?;
        Ok(inserted.unwrap_or(Err(Refusal::CameInBetween)))
    }

    /// Puts a session in the place of another. `None` if that one is gone.
    pub(super) async fn replace_limited(
        &self,
        old: &SessionId,
        new: &CustomerSession,
        limit: &SessionLimit,
    ) -> Result<Option<Result<Inserted, Refusal>>, StoreError> {
        let pool = self.pool().await?;
        let parameters = self.replacement(old, new)?;
        let id = new.customer_id.as_str();
        let replacing = async {
            let mut connection = self.sql.acquire(pool).await?;
            let mut transaction = connection.as_mut().begin().await?;
            self.lock_customer(&mut transaction, id).await?;
            let family: PgArguments = rows::text_params(&[old.as_str(), id]);
            let family = self.sql.query(sql::FAMILY, family);
            if family.fetch_optional(&mut *transaction).await?.is_none() {
                transaction.rollback().await?;
                connection.return_to_pool();
                return Ok(Ok(None));
            }
            let replace = (REPLACE, parameters);
            let replaced = self.add_limited(transaction, new, Some(old), limit, replace);
            let replaced = replaced.await?;
            connection.return_to_pool();
            Ok(replaced)
        };
        let context = || format!("replacing session {old} with {}", new.id);
        let outcome: Outcome = self.sql.change(context, replacing).await?;
        self.limited(outcome?, new, context)
    }

    /// Ends sessions until `new` fits in the place of `replaced`, and adds it, in the transaction of a locked
    /// customer.
    async fn add_limited(
        &self,
        mut transaction: Transaction<'_, Postgres>,
        new: &CustomerSession,
        replaced: Option<&SessionId>,
        limit: &SessionLimit,
        (statement, parameters): (&'static str, PgArguments),
    ) -> Result<Outcome, Error> {
        let room = self.make_room(&mut transaction, new, replaced, limit);
        let ended = match room.await? {
            Ok(ended) => ended,
            Err(refused) => {
                transaction.rollback().await?;
                return Ok(Err(refused));
            }
        };
        let add = self.sql.query(statement, parameters);
        let row = add.fetch_optional(&mut *transaction).await?;
        match &row {
            Some(row) if self.refusal(row)?.is_none() => transaction.commit().await?,
            _ => transaction.rollback().await?,
        }
        Ok(Ok(row.map(|row| (row, ended))))
    }

    async fn lock_customer(
        &self,
        connection: &mut PgConnection,
        customer: &str,
    ) -> Result<(), Error> {
        let lock = self
            .sql
            .query(LOCK_CUSTOMER, rows::text_params(&[customer]));
        lock.execute(connection).await?;
        Ok(())
    }

    /// Ends sessions of a locked customer until `new` fits in the place of `replaced`.
    async fn make_room(
        &self,
        connection: &mut PgConnection,
        new: &CustomerSession,
        replaced: Option<&SessionId>,
        limit: &SessionLimit,
    ) -> Result<Result<Vec<SessionSummary>, StoreError>, Error> {
        let live: PgArguments = limits::live_params(new, limit);
        let live = self.sql.query(sql::LIVE, live);
        let live = live.fetch_all(&mut *connection).await?;
        let ended = match limits::surplus(&live, new, replaced, limit) {
            Ok(ended) => ended,
            Err(refused) => return Ok(Err(refused)),
        };
        let mut trees = Vec::new();
        for session in ended {
            let id = trees::end_tree_params(&session.id);
            let end = self.sql.query(trees::END_TREE, id);
            let rows = end.fetch_all(&mut *connection).await?;
            match trees::ended_by_limit(session, &rows) {
                Ok(ended) => trees.extend(ended),
                Err(corrupt) => return Ok(Err(corrupt)),
            }
        }
        Ok(Ok(trees))
    }

    /// Reads what a transaction has added, and adds the sessions that it has ended.
    fn limited(
        &self,
        outcome: Option<(PgRow, Vec<SessionSummary>)>,
        session: &CustomerSession,
        context: impl FnOnce() -> String,
    ) -> Result<Option<Result<Inserted, Refusal>>, StoreError> {
        let Some((row, ended)) = outcome else {
            return Ok(None);
        };
        let added = self.added(&row, session, context)?;
        Ok(Some(added.map(|mut inserted| {
            inserted.ended = ended;
            inserted
        })))
    }
}
