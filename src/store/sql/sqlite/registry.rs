//! How an SQLite file keeps sessions. Changes are transactions of several statements.

use async_trait::async_trait;
use chrono::{DateTime, Utc};
use sqlx::sqlite::SqliteArguments;
use tokio::time::timeout;

use super::{
    SqliteStore,
    insertion::{END_OVERLAPS, KEEP_OVERLAPPING, Place, SET_PARENT},
};
use crate::{
    customer::{Customer, CustomerId},
    page::{Page, SessionPage},
    registry::{Inserted, Keeps, Revocation, Revoked, SessionLimit, SessionUse},
    session::{CustomerSession, SessionId},
    shared_caches::SharedCaches,
    store::{
        error::{StoreError, child_does_not_overlap, customer_is_deleted, parent_is_child},
        sql::{
            self,
            rows::{self, Parameters as _},
            store::{REHASH_TIMEOUT, Rehash},
        },
        traits::{SessionRegistry, SessionStore},
        validation::{
            check_customer, check_is_child, check_is_current, check_is_no_child, check_overlap,
            check_session,
        },
    },
    token::{SessionToken, TokenFormat},
};

macro_rules! customer_values {
    () => {
        "$1, $2, $3, $4, $5, $6, $7, $8, $9, $10, $11, $12, $13, $14, $15, $16, $17, $18"
    };
}

pub(super) const INSERT_CUSTOMER_IF_NEW: &str = concat!(
    "INSERT INTO customer_session_customers (",
    customer_columns!(),
    ") VALUES (",
    customer_values!(),
    ") ON CONFLICT (id) DO NOTHING"
);

pub(super) const UPDATE_CUSTOMER: &str = concat!(
    "UPDATE customer_session_customers SET (",
    customer_columns!(),
    ") = (",
    customer_values!(),
    ") WHERE id = $1"
);

pub(super) const IS_DELETED: &str =
    "SELECT count(*) FROM customer_session_customers WHERE id = $1 AND deleted_at IS NOT NULL";

/// Keeps a session under the current pepper.
pub(super) const REHASH: &str =
    "UPDATE customer_sessions SET token_hash = $1 WHERE id = $2 AND token_hash = $3";

/// The clock of one process may be hours ahead of the machine's, which is an upper bound.
macro_rules! by_now {
    () => {
        "min($1, unixepoch() * 1000000)"
    };
}

pub(super) const PURGE: &str = concat!(
    "DELETE FROM customer_sessions WHERE id IN \
     (SELECT id FROM customer_sessions WHERE expires_at <= ",
    by_now!(),
    " ORDER BY expires_at LIMIT $2)"
);

/// Removes replaced sessions whose family has ended.
pub(super) const PURGE_ROTATIONS: &str = concat!(
    "DELETE FROM customer_session_rotations WHERE id IN \
     (SELECT r.id FROM customer_session_rotations r WHERE r.ends_at <= ",
    by_now!(),
    " AND NOT EXISTS (SELECT 1 FROM customer_sessions s WHERE s.family = r.family) \
     ORDER BY r.ends_at LIMIT $2)"
);

/// Removes sessions that ended with their customer's epoch.
pub(super) const PURGE_REMAINS: &str = "DELETE FROM customer_sessions WHERE id IN (SELECT s.id \
     FROM customer_session_epochs e CROSS JOIN customer_sessions s \
     ON s.customer_id = e.customer_id AND s.epoch < e.epoch \
     WHERE e.has_remains ORDER BY e.customer_id LIMIT $1)";

/// Customers in one step that notes where nothing is left of revocations.
const MAX_NOTED: u32 = 1000;

/// Notes which customers have no sessions of earlier epochs left.
pub(super) const NOTE_NO_REMAINS: &str = "UPDATE customer_session_epochs SET has_remains = 0 \
     WHERE customer_id IN (SELECT customer_id FROM customer_session_epochs \
     WHERE has_remains ORDER BY customer_id LIMIT $1) AND NOT EXISTS (SELECT 1 \
     FROM customer_sessions s WHERE s.customer_id = customer_session_epochs.customer_id \
     AND s.epoch < customer_session_epochs.epoch)";

impl SqliteStore {
    /// Keeps a session under the current pepper.
    async fn rehash(&self, rehash: &Rehash) -> Result<(), StoreError> {
        let context = "keeping a session under the current pepper";
        let mut transaction = self.begin(context).await?;
        transaction.execute(REHASH, rehash.parameters()).await?;
        transaction.commit().await
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
        let id = rows::text_params(&[customer_id]);
        transaction.execute(sql::ADD_EPOCH, id).await?;
        let ended = transaction.make_room(session, None, limit).await?;
        transaction.add(session, &hash, &Place::default()).await?;
        let mut inserted = Inserted::new(transaction.stored(&hash, &session.token).await?);
        inserted.ended = ended;
        transaction.commit().await?;
        Ok(inserted)
    }

    async fn replace(
        &self,
        old: &SessionId,
        new: &CustomerSession,
        limit: Option<&SessionLimit>,
    ) -> Result<Option<Inserted>, StoreError> {
        check_session(new)?;
        check_is_current(new)?;
        let hash = self.shared.sql.peppers.hash(&new.token);
        let context = format!("replacing session {old} with {}", new.id);
        let mut transaction = self.begin(context).await?;
        let Some(place) = transaction.place(old, &new.customer_id).await? else {
            return Ok(None);
        };
        let ended = transaction.make_room(new, Some(old), limit).await?;
        transaction.add(new, &hash, &place).await?;
        transaction.add_rotation(old, &place, new).await?;
        let old = rows::text_params(&[old.as_str()]);
        transaction.execute(sql::DELETE, old).await?;
        if let Some(family) = place.family.as_deref().filter(|_| place.is_parent) {
            let family = rows::text_params(&[family]);
            transaction.execute(END_OVERLAPS, family).await?;
        }
        let mut replaced = Inserted::new(transaction.stored(&hash, &new.token).await?);
        replaced.ended = ended;
        transaction.commit().await?;
        Ok(Some(replaced))
    }

    async fn replace_overlapping(
        &self,
        old: &CustomerSession,
        new: &CustomerSession,
    ) -> Result<Option<CustomerSession>, StoreError> {
        check_overlap(old, new)?;
        let hash = self.shared.sql.peppers.hash(&new.token);
        let context = format!("replacing session {} with {}", old.id, new.id);
        let mut transaction = self.begin(context).await?;
        let Some(mut place) = transaction.place(&old.id, &new.customer_id).await? else {
            return Ok(None);
        };
        if place.parent.is_some() {
            return Err(child_does_not_overlap(&old.id));
        }
        place.is_parent = true;
        transaction.add(new, &hash, &place).await?;
        transaction.add_rotation(&old.id, &place, new).await?;
        let mut parameters = SqliteArguments::default();
        rows::bind_end(&mut parameters, old)?;
        parameters.text(Some(old.id.as_str()));
        transaction.execute(KEEP_OVERLAPPING, parameters).await?;
        let stored = transaction.stored(&hash, &new.token).await?;
        transaction.commit().await?;
        Ok(Some(stored))
    }

    async fn derive(
        &self,
        parent: &SessionId,
        child: &CustomerSession,
    ) -> Result<Option<CustomerSession>, StoreError> {
        check_is_child(child, parent)?;
        let hash = self.shared.sql.peppers.hash(&child.token);
        let context = format!("deriving session {} from {parent}", child.id);
        let mut transaction = self.begin(context).await?;
        let Some(place) = transaction.place(parent, &child.customer_id).await? else {
            return Ok(None);
        };
        if place.parent.is_some() {
            return Err(parent_is_child(parent));
        }
        let of_child = Place {
            parent: place.family,
            ..Place::default()
        };
        transaction.add(child, &hash, &of_child).await?;
        let id = rows::text_params(&[parent.as_str()]);
        transaction.execute(SET_PARENT, id).await?;
        let stored = transaction.stored(&hash, &child.token).await?;
        transaction.commit().await?;
        Ok(Some(stored))
    }

    async fn revoke(&self, what: &Revocation) -> Result<Revoked, StoreError> {
        self.end_sessions(what).await
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

    async fn touch(&self, uses: &[SessionUse]) -> Result<(), StoreError> {
        self.record_uses(uses).await
    }

    async fn purge_expired(&self, before: DateTime<Utc>, limit: u32) -> Result<u64, StoreError> {
        let mut transaction = self.begin("purging expired sessions").await?;
        let mut left = limit;
        for statement in [PURGE, PURGE_ROTATIONS, PURGE_REMAINS] {
            let mut parameters = SqliteArguments::default();
            if statement != PURGE_REMAINS {
                parameters.time(Some(before));
            }
            parameters.count(left);
            let removed = transaction.execute(statement, parameters).await?;
            left = left.saturating_sub(u32::try_from(removed).unwrap_or(left));
        }
        // Otherwise remains may be left, and to look at all customers who have some takes time.
        if left > 0 {
            let mut parameters = SqliteArguments::default();
            parameters.count(MAX_NOTED);
            transaction.execute(NOTE_NO_REMAINS, parameters).await?;
        }
        transaction.commit().await?;
        Ok((limit - left).into())
    }

    async fn purge_customers(
        &self,
        after: Option<&CustomerId>,
        limit: u32,
    ) -> Result<Option<CustomerId>, StoreError> {
        self.forget_customers(after, limit).await
    }

    async fn check(&self) -> Result<(), StoreError> {
        Self::check(self).await
    }
}
