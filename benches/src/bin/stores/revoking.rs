//! The time to end all sessions of a customer, by how many there are.

use std::time::Instant;

use customer_session::{
    Revocation, SessionRegistry,
    store::{Peppers, PostgresStore, SqliteStore},
};
use customer_session_benches::{
    full_or_quick,
    measure::tasks::{medians, task},
};
use sqlx::{AssertSqlSafe, Executor as _, PgPool, SqlitePool};
use test_support::servers::Server;
use tokio::runtime::Runtime;

use crate::contents::{PEPPER, ROUNDS};

const FEW: &str = "c1";
const MANY: &str = "c2";

/// One session of one customer, and as many of another as `$1` says.
const FILLS: [&str; 3] = [
    "INSERT INTO customer_session_customers (id, organization_id, created_at) \
     VALUES ('c1', 'org_1', {now}), ('c2', 'org_1', {now})",
    "INSERT INTO customer_session_epochs (customer_id) VALUES ('c1'), ('c2')",
    "INSERT INTO customer_sessions (id, token_hash, customer_id, created_at, expires_at) \
     SELECT 's' || n, {hash}, CASE WHEN n = 0 THEN 'c1' ELSE 'c2' END, {now}, {later} FROM {numbers}",
];

/// Begins again: all sessions are live.
const RESTORE: &str = "UPDATE customer_session_epochs SET epoch = 1";

pub fn measure(runtime: &Runtime) {
    let many = full_or_quick(100_000, 5_000);
    if let Some(server) = Server::postgres_with(&["fsync=on"], &[]) {
        let (store, pool) = runtime.block_on(async {
            let store = PostgresStore::connect(&server.url(), Peppers::new(PEPPER)).await;
            let store = store.expect("connected");
            store.migrate().await.expect("migrated");
            let pool = PgPool::connect(&server.url()).await.expect("connected");
            for fill in FILLS {
                let fill = fill
                    .replace("{now}", "now()")
                    .replace("{later}", "now() + interval '1 day'")
                    .replace("{hash}", "sha256(n::text::bytea)")
                    .replace("{numbers}", &format!("generate_series(0, {many}) n"));
                pool.execute(AssertSqlSafe(fill)).await.expect("filled");
            }
            pool.execute("VACUUM ANALYZE").await.expect("vacuumed");
            (store, pool)
        });
        let restore = || async {
            let _ = pool.execute(RESTORE).await.expect("restored");
        };
        compare(runtime, "PostgreSQL", many, &store, restore);
    }
    let folder = std::env::temp_dir().join(format!("revoking-{}", std::process::id()));
    std::fs::create_dir(&folder).expect("a new folder");
    let url = format!("sqlite:{}?mode=rwc", folder.join("sessions").display());
    let (store, pool) = runtime.block_on(async {
        let store = SqliteStore::connect(&url, Peppers::new(PEPPER)).await;
        let store = store.expect("opened");
        store.migrate().await.expect("migrated");
        let pool = SqlitePool::connect(&url).await.expect("opened");
        for fill in FILLS {
            let numbers = format!(
                "(WITH RECURSIVE numbers (n) AS (SELECT 0 UNION ALL SELECT n + 1 FROM numbers \
                 WHERE n < {many}) SELECT n FROM numbers)"
            );
            let fill = fill
                .replace("{now}", "1600000000000000")
                .replace("{later}", "4000000000000000")
                .replace("{hash}", "randomblob(32)")
                .replace("{numbers}", &numbers);
            pool.execute(AssertSqlSafe(fill)).await.expect("filled");
        }
        (store, pool)
    });
    let restore = || async {
        let _ = pool.execute(RESTORE).await.expect("restored");
    };
    compare(runtime, "SQLite", many, &store, restore);
    let _ = std::fs::remove_dir_all(folder);
}

fn compare<F: Future<Output = ()>>(
    runtime: &Runtime,
    name: &str,
    many: u64,
    store: &impl SessionRegistry,
    restore: impl Fn() -> F,
) {
    let revoke = |customer: &'static str| {
        let restore = &restore;
        move || {
            runtime.block_on(restore());
            let begun = Instant::now();
            let what = Revocation::Customer(customer.into());
            let revoked = runtime.block_on(store.revoke(&what)).expect("revoked");
            let took = begun.elapsed().as_secs_f64() * 1e6;
            assert!(revoked.any, "all were live");
            took
        }
    };
    let tasks = vec![task("one", revoke(FEW)), task("many", revoke(MANY))];
    let took = medians(tasks, full_or_quick(ROUNDS, 5));
    println!(
        "\n{name}: ending the only session of a customer takes {:.0} µs, ending {many} takes {:.0} µs: \
         {:.2} x",
        took("one"),
        took("many"),
        took("many") / took("one")
    );
}
