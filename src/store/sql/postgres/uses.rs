//! How PostgreSQL records uses of sessions.

use sqlx::postgres::PgArguments;

use super::{
    PostgresStore,
    columns::{bind, bind_times},
};
use crate::{
    registry::SessionUse,
    store::{error::StoreError, validation::is_storable},
};

/// Records the uses `$2` of the sessions `$1`, none of them later than the server's clock.
///
/// A session that another transaction has locked is being ended, replaced, or kept under another pepper:
/// its use is left out, so that nothing here waits for that transaction. The lock does not conflict with
/// those of customers and epochs. It keeps the sessions of these uses from being ended before they are
/// written: the only transactions that change the same rows are others of this statement, in the same
/// order.
const TOUCH: &str = "WITH locked AS MATERIALIZED (SELECT id FROM customer_sessions \
     WHERE id = ANY($1) ORDER BY id FOR KEY SHARE SKIP LOCKED) \
     INSERT INTO customer_session_uses AS known (session_id, used_at) \
     SELECT locked.id, least(max(used.at), clock_timestamp()) \
     FROM unnest($1, $2) AS used (id, at) JOIN locked ON locked.id = used.id \
     GROUP BY locked.id ORDER BY locked.id \
     ON CONFLICT (session_id) DO UPDATE SET used_at = excluded.used_at \
     WHERE known.used_at < excluded.used_at";

impl PostgresStore {
    /// Records when sessions were last used.
    pub(super) async fn record_uses(&self, uses: &[SessionUse]) -> Result<(), StoreError> {
        let is_possible = |used: &&SessionUse| is_storable(used.session.as_str());
        let possible = || uses.iter().filter(is_possible);
        let ids: Vec<_> = possible().map(|used| used.session.as_str()).collect();
        if ids.is_empty() {
            return Ok(());
        }
        let mut parameters = PgArguments::default();
        bind(&mut parameters, ids);
        bind_times(&mut parameters, possible().map(|used| used.at));
        let context = || "recording uses of sessions".to_owned();
        self.execute(TOUCH, parameters, context).await?;
        Ok(())
    }
}
