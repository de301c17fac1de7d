//! How an SQLite file records uses of sessions.

use sqlx::sqlite::SqliteArguments;

use super::SqliteStore;
use crate::{
    registry::SessionUse,
    store::{
        error::StoreError,
        sql::rows::{Parameters as _, text_params},
    },
};

/// Records a use of a session that is there.
pub(super) const TOUCH: &str = "INSERT INTO customer_session_uses (session_id, used_at) \
     SELECT id, $2 FROM customer_sessions WHERE id = $1 \
     ON CONFLICT (session_id) DO UPDATE SET used_at = excluded.used_at \
     WHERE used_at < excluded.used_at";

impl SqliteStore {
    /// Records when sessions were last used. The clock is that of this machine, as the application's is.
    pub(super) async fn record_uses(&self, uses: &[SessionUse]) -> Result<(), StoreError> {
        if uses.is_empty() {
            return Ok(());
        }
        let mut transaction = self.begin("recording uses of sessions").await?;
        for used in uses {
            let mut parameters: SqliteArguments = text_params(&[used.session.as_str()]);
            parameters.time(Some(used.at));
            transaction.execute(TOUCH, parameters).await?;
        }
        transaction.commit().await
    }
}
