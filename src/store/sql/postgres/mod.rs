//! Sessions in PostgreSQL.

pub(in crate::store) mod builder;
mod changes;
mod columns;
mod connector;
mod external_customers;
pub(in crate::store) mod invalidations;
mod limits;
mod own_pool;
mod password;
mod pooler;
mod purge;
mod purge_progress;
mod questions;
mod registry;
mod revocation;
mod server;
mod statements;
mod tables;
mod transport;
mod triggers;
mod uses;

use std::{fmt, sync::Arc};

use sqlx::PgPool;

use self::{connector::Connector, pooler::PoolerCheck, purge_progress::PurgeProgress};
use super::{schema::Migrations, statements::StatementMode, store::SqlStore};
use crate::store::error::StoreError;

/// Keeps sessions in PostgreSQL 13 or newer, for several machines.
///
/// Call [`migrate`](Self::migrate) when the service starts, or apply
/// [`MIGRATIONS`](Self::MIGRATIONS) yourself. Before its first answer, and every ten seconds, the
/// store checks the server, the tables, their triggers and the [`Peppers`](crate::store::Peppers);
/// while something is wrong with them, every method fails and says what to do.
/// [`check`](Self::check) checks at once. Clones share their connections.
///
/// Uses of sessions ([`touch`](crate::SessionRegistry::touch)) are kept in a table of their own. They wait for
/// no revocation or rotation, and are never later than the server's clock.
///
/// ```no_run
/// use customer_session::{CustomerSessions, store::{Peppers, PostgresStore}};
///
/// # async fn start() -> Result<(), Box<dyn std::error::Error>> {
/// let peppers = Peppers::new(std::env::var("SESSION_PEPPER")?);
/// let store = PostgresStore::connect("postgres://app@localhost/app", peppers).await?;
/// store.migrate().await?;
/// let sessions = CustomerSessions::builder(store).build();
/// # Ok(())
/// # }
/// ```
#[derive(Clone)]
pub struct PostgresStore {
    sql: Arc<SqlStore<sqlx::Postgres>>,
    pooler: Arc<PoolerCheck>,
    connector: Connector,
    purge_progress: Arc<PurgeProgress>,
    /// The customers are the application's, and are read by a view.
    external_customers: bool,
}

impl PostgresStore {
    /// The SQL that [`migrate`](Self::migrate) applies, oldest first. Names in it are not qualified.
    pub const MIGRATIONS: &[&str] = &[concat!(
        include_str!("0001.sql"),
        include_str!("0001_customers.sql")
    )];

    /// The SQL of [`migrate`](Self::migrate) for a store with
    /// [`external_customers`](crate::store::PostgresStoreBuilder::external_customers): no table of
    /// customers, and two functions for the application's triggers.
    pub const MIGRATIONS_FOR_EXTERNAL_CUSTOMERS: &[&str] = &[concat!(
        include_str!("0001.sql"),
        include_str!("0001_external_customers.sql")
    )];

    /// Returns the SQL that [`migrate`](Self::migrate) applies.
    fn migrations(&self) -> Migrations {
        if self.external_customers {
            Migrations {
                name: "MIGRATIONS_FOR_EXTERNAL_CUSTOMERS",
                sql: Self::MIGRATIONS_FOR_EXTERNAL_CUSTOMERS,
            }
        } else {
            Migrations {
                name: "MIGRATIONS",
                sql: Self::MIGRATIONS,
            }
        }
    }

    /// Returns the pool once server, tables and peppers were found to be right.
    async fn pool(&self) -> Result<&PgPool, StoreError> {
        let check = || {
            let store = self.clone();
            async move { store.run_check().await }
        };
        self.sql.checked_pool(check).await
    }

    /// Refuses plain text over a network and a pooler in transaction mode, unless the store is set up for
    /// them.
    async fn check_route(&self) -> Result<(), StoreError> {
        let options = self.connector.options()?;
        match self.sql.statement_mode {
            StatementMode::Prepared => self.pooler.run(&options).await,
            StatementMode::Unnamed => Ok(()),
        }
    }

    /// Refuses a connection whose process has changed, unless the store is set up for it.
    fn compare_processes(&self, processes: &[String]) -> Result<(), StoreError> {
        match self.sql.statement_mode {
            StatementMode::Prepared => self.pooler.compare(processes),
            StatementMode::Unnamed => Ok(()),
        }
    }
}

impl fmt::Debug for PostgresStore {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("PostgresStore")
            .field("connections", &self.sql.pool.size())
            .field("peppers", &self.sql.peppers)
            .finish_non_exhaustive()
    }
}
