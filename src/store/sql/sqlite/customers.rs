//! How an SQLite file forgets customers without sessions.

use super::SqliteStore;
use crate::{
    customer::CustomerId,
    store::{
        error::StoreError,
        sql::{CUSTOMERS, customers::CustomerPage, error::store_error, rows::text_params},
    },
};

// There is one writer at a time, so that both judge by what is there at that moment.

pub(super) const FORGET: &str = concat!(
    "DELETE FROM customer_session_customers WHERE deleted_at IS NULL AND ",
    without_sessions!(),
    " AND id = $1"
);

pub(super) const ERASE: &str = concat!(erase_customers!("'{}'", "0"), " AND id = $1");

impl SqliteStore {
    /// Forgets those of the next customers who have no session.
    pub(super) async fn forget_customers(
        &self,
        after: Option<&CustomerId>,
        limit: u32,
    ) -> Result<Option<CustomerId>, StoreError> {
        let context = || "purging customers".to_owned();
        let pool = self.pool().await?;
        let parameters = CustomerPage::parameters(after, limit);
        let rows = self
            .shared
            .sql
            .fetch_all(pool, CUSTOMERS, parameters, context);
        let page = CustomerPage::read(&rows.await?, limit);
        let page = page.map_err(|error| store_error(context(), error))?;
        if page.idle.is_empty() {
            return Ok(page.next);
        }
        let mut transaction = self.begin(context()).await?;
        for customer in &page.idle {
            for statement in [FORGET, ERASE] {
                let id = text_params(&[customer]);
                transaction.execute(statement, id).await?;
            }
        }
        transaction.commit().await?;
        Ok(page.next)
    }
}
