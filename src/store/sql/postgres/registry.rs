//! How PostgreSQL keeps sessions.

use async_trait::async_trait;
use chrono::{DateTime, Utc};
use sqlx::postgres::{PgArguments, PgRow};
use tokio::time::timeout;

use super::{
    PostgresStore,
    statements::{
        ANNOUNCE, DERIVE, INSERT, INSERT_FOR_EXTERNAL, REHASH, REPLACE, REPLACE_OVERLAPPING,
        UPDATE_CUSTOMER,
    },
};
use crate::{
    customer::{Customer, CustomerId},
    invalidation::Invalidation,
    page::{Page, SessionPage},
    registry::{Inserted, Keeps, Revocation, Revoked, SessionLimit, SessionUse},
    session::{CustomerSession, SessionId},
    shared_caches::SharedCaches,
    store::{
        error::{
            StoreError, child_does_not_overlap, customer_is_deleted, id_is_taken, parent_is_child,
        },
        messages::message,
        sql::{
            error::store_error,
            rows::{self, Columns, Parameters},
            store::REHASH_TIMEOUT,
        },
        traits::{SessionRegistry, SessionStore},
        validation::{
            check_customer, check_is_child, check_is_current, check_is_no_child, check_overlap,
            check_session, is_storable,
        },
    },
    token::{SessionToken, TokenFormat},
};

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
            let rehash = self.execute(REHASH, rehash.parameters(), context);
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
    /// Returns `$1` to `$9`: the customer's id, and a session.
    fn session_params(&self, session: &CustomerSession) -> Result<PgArguments, StoreError> {
        let hash = self.sql.peppers.hash(&session.token);
        let mut parameters = rows::text_params(&[session.customer_id.as_str()]);
        rows::bind_session(&mut parameters, session, &hash)?;
        Ok(parameters)
    }

    /// Returns the statement that adds a session, and its parameters.
    pub(super) fn insertion(
        &self,
        session: &CustomerSession,
    ) -> Result<(&'static str, PgArguments), StoreError> {
        let mut parameters = self.session_params(session)?;
        if self.external_customers {
            return Ok((INSERT_FOR_EXTERNAL, parameters));
        }
        rows::bind_customer(&mut parameters, &session.customer)?;
        Ok((INSERT, parameters))
    }

    /// Reads why a row of [`INSERT`] or [`REPLACE`] holds no session, if it holds none.
    pub(super) fn refusal(&self, row: &PgRow) -> Result<Option<Refusal>, sqlx::Error> {
        if row.text(0)?.is_some() {
            return Ok(None);
        }
        Ok(Some(if row.flag(26)? {
            Refusal::IdIsTaken
        } else if row.time(20)?.is_some() {
            Refusal::CustomerIsDeleted
        } else if self.external_customers && row.text(5)?.is_none() {
            Refusal::CustomerIsNotShown
        } else {
            Refusal::CameInBetween
        }))
    }

    async fn insert_once(
        &self,
        session: &CustomerSession,
    ) -> Result<Result<Inserted, Refusal>, StoreError> {
        let context = || format!("inserting session {}", session.id);
        let (insert, parameters) = self.insertion(session)?;
        let rows = self.fetch_all(insert, parameters, context).await?;
        let Some(row) = rows.first() else {
            return Ok(Err(Refusal::CameInBetween));
        };
        self.added(row, session, context)
    }
}

impl PostgresStore {
    /// Returns the parameters of [`REPLACE`] and of [`DERIVE`].
    pub(super) fn replacement(
        &self,
        old: &SessionId,
        new: &CustomerSession,
    ) -> Result<PgArguments, StoreError> {
        let mut parameters = self.session_params(new)?;
        parameters.text(Some(old.as_str()));
        Ok(parameters)
    }

    async fn replace_once(
        &self,
        old: &SessionId,
        new: &CustomerSession,
    ) -> Result<Option<Result<Inserted, Refusal>>, StoreError> {
        let context = || format!("replacing session {old} with {}", new.id);
        let parameters = self.replacement(old, new)?;
        let rows = self.fetch_all(REPLACE, parameters, context).await?;
        let row = rows.first().map(|row| self.added(row, new, context));
        row.transpose()
    }

    /// Adds a session by [`DERIVE`] or [`REPLACE_OVERLAPPING`]. `is_child` is the error if the other session was
    /// derived.
    async fn add_relative(
        &self,
        statement: &'static str,
        parameters: PgArguments,
        new: &CustomerSession,
        is_child: impl FnOnce() -> StoreError + Send,
        context: impl Fn() -> String + Send,
    ) -> Result<Option<CustomerSession>, StoreError> {
        let rows = self.fetch_all(statement, parameters, &context).await?;
        let Some(row) = rows.first() else {
            return Ok(None);
        };
        let was_child = row.flag(27);
        if was_child.map_err(|error| store_error(context(), error))? {
            return Err(is_child());
        }
        match self.added(row, new, context)? {
            Ok(added) => Ok(Some(added.session)),
            Err(_) => Err(id_is_taken(&new.id)),
        }
    }

    /// Reads a row of [`INSERT`], [`REPLACE`] or [`DERIVE`].
    pub(super) fn added(
        &self,
        row: &PgRow,
        session: &CustomerSession,
        context: impl FnOnce() -> String,
    ) -> Result<Result<Inserted, Refusal>, StoreError> {
        let refusal = self.refusal(row);
        match refusal.map_err(|error| store_error(context(), error))? {
            None => {
                let (stored, _) = rows::session(row, &session.token)?;
                Ok(Ok(Inserted::new(stored)))
            }
            Some(refusal) => Ok(Err(refusal)),
        }
    }
}

#[async_trait]
impl SessionRegistry for PostgresStore {
    fn keeps(&self) -> Keeps {
        Keeps::details_and_uses()
    }

    async fn insert(
        &self,
        session: &CustomerSession,
        limit: Option<&SessionLimit>,
    ) -> Result<Inserted, StoreError> {
        check_session(session)?;
        check_is_no_child(session)?;
        check_is_current(session)?;
        for _ in 0..MAX_ATTEMPTS {
            let outcome = match limit {
                Some(limit) => self.insert_limited(session, limit).await?,
                None => self.insert_once(session).await?,
            };
            match outcome {
                Ok(inserted) => return Ok(inserted),
                Err(Refusal::CameInBetween) => {}
                Err(refusal) => return Err(refusal.error(&session.id)),
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
        limit: Option<&SessionLimit>,
    ) -> Result<Option<Inserted>, StoreError> {
        check_session(new)?;
        check_is_current(new)?;
        if !is_storable(old.as_str()) {
            return Ok(None);
        }
        let replaced = match limit {
            Some(limit) => self.replace_limited(old, new, limit).await?,
            None => self.replace_once(old, new).await?,
        };
        match replaced {
            Some(Err(_)) => Err(id_is_taken(&new.id)),
            Some(Ok(replaced)) => Ok(Some(replaced)),
            None => Ok(None),
        }
    }

    async fn replace_overlapping(
        &self,
        old: &CustomerSession,
        new: &CustomerSession,
    ) -> Result<Option<CustomerSession>, StoreError> {
        check_overlap(old, new)?;
        let context = || format!("replacing session {} with {}", old.id, new.id);
        let mut parameters = self.replacement(&old.id, new)?;
        rows::bind_end(&mut parameters, old)?;
        let is_child = || child_does_not_overlap(&old.id);
        self.add_relative(REPLACE_OVERLAPPING, parameters, new, is_child, context)
            .await
    }

    async fn derive(
        &self,
        parent: &SessionId,
        child: &CustomerSession,
    ) -> Result<Option<CustomerSession>, StoreError> {
        check_is_child(child, parent)?;
        if !is_storable(parent.as_str()) {
            return Ok(None);
        }
        let context = || format!("deriving session {} from {parent}", child.id);
        let parameters = self.replacement(parent, child)?;
        let is_child = || parent_is_child(parent);
        self.add_relative(DERIVE, parameters, child, is_child, context)
            .await
    }

    async fn revoke(&self, what: &Revocation) -> Result<Revoked, StoreError> {
        self.end_sessions(what).await
    }

    async fn list(&self, customer: &CustomerId, page: &Page) -> Result<SessionPage, StoreError> {
        self.sql.list(self.pool().await?, customer, page).await
    }

    async fn update_customer(&self, customer: &Customer) -> Result<bool, StoreError> {
        check_customer(customer)?;
        if self.external_customers {
            return Err(StoreError::unavailable(format!(
                "updating customer {}: this store was built with `external_customers`, and writes \
                 none; change the application's own table, whose trigger announces it",
                customer.id
            )));
        }
        let context = || format!("updating customer {}", customer.id);
        let parameters = rows::customer_params(customer)?;
        Ok(self.execute(UPDATE_CUSTOMER, parameters, context).await? > 0)
    }

    async fn touch(&self, uses: &[SessionUse]) -> Result<(), StoreError> {
        self.record_uses(uses).await
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
        let message = rows::text_params(&[&message(invalidation)]);
        self.execute(ANNOUNCE, message, context).await?;
        Ok(())
    }

    async fn check(&self) -> Result<(), StoreError> {
        Self::check(self).await
    }
}

/// The reason why a session was not added.
#[derive(Clone, Copy)]
pub(super) enum Refusal {
    IdIsTaken,
    CustomerIsDeleted,
    CustomerIsNotShown,
    /// Another insertion of the same customer, or a purge of it.
    CameInBetween,
}

impl Refusal {
    fn error(self, session: &SessionId) -> StoreError {
        match self {
            Self::IdIsTaken => id_is_taken(session),
            Self::CustomerIsDeleted => customer_is_deleted(session),
            Self::CustomerIsNotShown => StoreError::conflict(format!(
                "inserting session {session}: the view customer_session_customers does not show its \
                 customer; add the customer to the application's own table first"
            )),
            Self::CameInBetween => StoreError::unavailable(format!(
                "inserting session {session}: other changes of its customer came in between"
            )),
        }
    }
}
