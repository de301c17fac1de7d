//! Connections to PostgreSQL that were lost, or whose statements no longer fit, since their last use.

use std::time::{Duration, Instant};

use customer_session::{
    CustomerSession, SessionStore as _,
    store::{PostgresStore, SqliteStore},
};
use futures_util::future::join_all;
use sqlx::{
    Executor as _, PgPool,
    postgres::{PgConnectOptions, PgPoolOptions},
};
use tokio::runtime::Runtime;

use crate::persistent_store::{inserted, peppers, unique};
use test_support::{
    RegistryExt as _,
    servers::{self, Server},
};

fn postgres() -> Option<Server> {
    let server = Server::postgres();
    if server.is_none() {
        servers::missing("PostgreSQL");
    }
    server
}

/// A store whose connections can be counted, and closed by the server.
struct Watched {
    store: PostgresStore,
    name: String,
    /// Connections of an administrator.
    admin: PgPool,
    session: CustomerSession,
}

impl Watched {
    /// Connects by the store's own pool, or by one of an application that tests no connection.
    async fn connect(server: &Server, by_own_pool: bool) -> Self {
        let (url, name) = (server.url(), unique("app"));
        let store = if by_own_pool {
            let builder = PostgresStore::builder(peppers()).application_name(&name);
            builder.connect(&url).await.expect("connected")
        } else {
            let options: PgConnectOptions = url.parse().expect("a URL");
            let pool = PgPoolOptions::new().test_before_acquire(false);
            let pool = pool.connect_with(options.application_name(&name)).await;
            PostgresStore::new(pool.expect("connected"), peppers())
        };
        store.migrate().await.expect("migrated");
        let session = inserted(&store).await;
        Self {
            store,
            name,
            admin: PgPool::connect(&url).await.expect("connected"),
            session,
        }
    }

    /// Uses several connections for all that reads.
    async fn warm_up(&self) {
        let deadline = Instant::now() + Duration::from_secs(20);
        loop {
            let both = (0..30).map(|_| async {
                assert!(self.finds().await && self.lists().await);
            });
            join_all(both).await;
            if self.connections().await > 4 {
                return;
            }
            assert!(Instant::now() < deadline, "they are not shared out");
        }
    }

    async fn finds(&self) -> bool {
        let found = self.store.find(&self.session.token).await;
        found.expect("an answer").as_ref() == Some(&self.session)
    }

    async fn lists(&self) -> bool {
        let listed = self.store.summaries(&self.session.customer_id).await;
        listed.expect("a list").len() == 1
    }

    async fn connections(&self) -> i64 {
        let count = "SELECT count(*) FROM pg_stat_activity WHERE application_name = $1";
        let count = sqlx::query_scalar(count).bind(&self.name);
        count.fetch_one(&self.admin).await.expect("a count")
    }

    /// Ends all connections, and waits until the server has none left.
    async fn lose_connections(&self) {
        let end = "SELECT pg_terminate_backend(pid) FROM pg_stat_activity \
             WHERE application_name = $1";
        let end = sqlx::query(end).bind(&self.name);
        end.execute(&self.admin).await.expect("ended");
        let deadline = Instant::now() + Duration::from_secs(20);
        while self.connections().await > 0 {
            assert!(Instant::now() < deadline, "they do not end");
        }
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn lookups_and_lists_survive_the_loss_of_all_connections() {
    let Some(server) = postgres() else { return };
    for by_own_pool in [true, false] {
        let watched = Watched::connect(&server, by_own_pool).await;
        for round in 0..6 {
            watched.warm_up().await;
            watched.lose_connections().await;
            match round % 3 {
                0 => assert!(watched.finds().await),
                1 => assert!(watched.lists().await),
                _ => {
                    let all = (0..20).map(|_| async { watched.finds().await });
                    assert!(join_all(all).await.into_iter().all(|found| found));
                }
            }
        }
    }
}

/// A change is not repeated, since it may have happened; those that follow find new connections.
#[tokio::test(flavor = "multi_thread")]
async fn one_change_at_most_fails_when_all_connections_are_lost() {
    let Some(server) = postgres() else { return };
    for by_own_pool in [true, false] {
        let watched = Watched::connect(&server, by_own_pool).await;
        for _ in 0..3 {
            watched.warm_up().await;
            watched.lose_connections().await;
            let _ = watched.store.end(&unique("ses").into()).await;
            for _ in 0..5 {
                let ended = watched.store.end(&unique("ses").into()).await;
                assert!(!ended.expect("an answer"));
            }
        }
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn lookups_and_lists_survive_a_table_that_is_altered() {
    let Some(server) = postgres() else { return };
    for by_own_pool in [true, false] {
        let watched = Watched::connect(&server, by_own_pool).await;
        for alter in [
            "ALTER TABLE customer_session_customers ALTER COLUMN name TYPE varchar(200)",
            "ALTER TABLE customer_sessions ALTER COLUMN modified_at TYPE timestamptz(3)",
            "ALTER TABLE customer_sessions ADD COLUMN note text",
            "ALTER TABLE customer_session_customers ADD COLUMN note text DEFAULT 'none'",
            "ALTER TABLE customer_session_customers ALTER COLUMN name TYPE text",
            "ALTER TABLE customer_sessions ALTER COLUMN modified_at TYPE timestamptz",
            "ALTER TABLE customer_sessions DROP COLUMN note",
            "ALTER TABLE customer_session_customers DROP COLUMN note",
        ] {
            watched.warm_up().await;
            watched.admin.execute(alter).await.expect(alter);
            let lists = (0..20).map(|_| async { watched.lists().await });
            assert!(join_all(lists).await.into_iter().all(|listed| listed));
            watched.warm_up().await;
            assert!(watched.finds().await, "{alter}");
        }
    }
}

#[test]
fn a_store_outlives_the_runtime_that_it_was_first_used_in() {
    let Some(server) = postgres() else { return };
    for by_own_pool in [true, false] {
        let first = Runtime::new().expect("a runtime");
        let watched = first.block_on(async {
            let watched = Watched::connect(&server, by_own_pool).await;
            watched.warm_up().await;
            watched
        });
        drop(first);
        let second = Runtime::new().expect("a runtime");
        second.block_on(async {
            assert!(watched.lists().await);
            let finds = (0..20).map(|_| async { watched.finds().await });
            assert!(join_all(finds).await.into_iter().all(|found| found));
            let ended = watched.store.end(&watched.session.id).await;
            assert!(ended.expect("new connections"));
        });
    }
}

/// Closing a database in memory would lose it.
#[tokio::test]
async fn a_database_in_memory_stays_whatever_fails() {
    let store = SqliteStore::connect("sqlite::memory:", peppers()).await;
    let store = store.expect("opened");
    store.migrate().await.expect("migrated");
    let session = inserted(&store).await;
    store.add(&session).await.expect_err("its id is taken");
    let found = store.find(&session.token).await.expect("an answer");
    assert_eq!(found, Some(session));
}
