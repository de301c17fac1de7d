//! Sessions in an SQLite file.

pub(in crate::store) mod builder;
mod columns;
mod customers;
mod file;
mod insertion;
#[cfg(test)]
mod plans;
mod registry;
mod revocation;
mod tables;
mod transaction;
mod uses;

use std::{fmt, sync::Arc};

use sqlx::{Sqlite, SqlitePool};
use tokio::sync::Semaphore;

use super::{
    idle_connections::IdleConnections, schema_name::SchemaName, statements::StatementMode,
    store::SqlStore,
};
use crate::store::{error::StoreError, pepper::Peppers};

/// Keeps sessions in an SQLite file: for a service that is one machine, or one process.
///
/// Call [`migrate`](Self::migrate) when the service starts, or apply
/// [`MIGRATIONS`](Self::MIGRATIONS) yourself. Before its first answer, and every ten seconds, the
/// store checks the tables and the [`Peppers`]; while something is wrong with them, every method
/// fails and says what to do. [`check`](Self::check) checks at once. Clones share their connections.
///
/// Uses of sessions ([`touch`](crate::SessionRegistry::touch)) are kept in a table of their own; those of one
/// call are one transaction.
///
/// ```
/// use customer_session::{CustomerSessions, store::{Peppers, SqliteStore}};
///
/// # #[tokio::main(flavor = "current_thread")]
/// # async fn main() -> Result<(), Box<dyn std::error::Error>> {
/// # let folder = std::env::temp_dir().join(format!("doc-{}", std::process::id()));
/// # std::fs::create_dir_all(&folder)?;
/// # let url = format!("sqlite:{}/sessions.db", folder.display());
/// # let url = url.as_str();
/// # let secret = [7; 32];
/// // url: "sqlite:sessions.db", secret: from your secret manager
/// let store = SqliteStore::connect(url, Peppers::new(secret)).await?;
/// store.migrate().await?;
/// let sessions = CustomerSessions::builder(store).build();
/// # std::fs::remove_dir_all(&folder)?;
/// # Ok(())
/// # }
/// ```
#[derive(Clone)]
pub struct SqliteStore {
    shared: Arc<Shared>,
}

struct Shared {
    sql: SqlStore<Sqlite>,
    /// One write at a time in this process. SQLite allows no more anyway, but those who wait for
    /// its own lock wait in no order, and each holds a connection meanwhile.
    writer: Semaphore,
}

impl SqliteStore {
    /// The SQL that [`migrate`](Self::migrate) applies, oldest first.
    pub const MIGRATIONS: &[&str] = &[include_str!("0001.sql")];

    fn with_idle(pool: SqlitePool, idle: IdleConnections<Sqlite>, peppers: Peppers) -> Self {
        Self {
            shared: Arc::new(Shared {
                sql: SqlStore::new(
                    pool,
                    idle,
                    peppers,
                    SchemaName::default(),
                    StatementMode::Prepared,
                ),
                writer: Semaphore::new(1),
            }),
        }
    }

    /// Returns the pool once the tables and the peppers were found to be right.
    async fn pool(&self) -> Result<&SqlitePool, StoreError> {
        let check = || {
            let store = self.clone();
            async move { store.run_check().await }
        };
        self.shared.sql.checked_pool(check).await
    }
}

impl fmt::Debug for SqliteStore {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("SqliteStore")
            .field("connections", &self.shared.sql.pool.size())
            .field("peppers", &self.shared.sql.peppers)
            .finish_non_exhaustive()
    }
}
