//! SQLite: ours, and the raw driver.

use std::{path::Path, sync::Arc, time::Instant};

use chrono::{DateTime, Utc};
use customer_session::store::{Peppers, SqliteStore};
use customer_session_benches::measure::tasks::{Task, medians, task};
use sqlx::{
    AssertSqlSafe, Connection as _, Row as _, SqliteConnection, SqlitePool,
    sqlite::{SqliteConnectOptions, SqliteJournalMode, SqlitePoolOptions},
};
use tokio::runtime::Runtime;

use crate::{
    columns::{FIND, bind_customer, read, upsert},
    contents::{BATCH, Known, PEPPER, ROUNDS, batch, known, new_ones, our_find, our_insert, some},
    cores::run_on,
    purging::report,
};

const INSERT: &str = "INSERT INTO customer_sessions (customer_id, id, token_hash, created_at, \
     modified_at, expires_at) VALUES ($1, $2, $3, $4, $5, $6)";

const EPOCH: &str = "INSERT INTO customer_session_epochs (customer_id) VALUES ($1)";

const FILLS: [&str; 4] = [
    "WITH RECURSIVE r (n) AS (SELECT 1 UNION ALL SELECT n + 1 FROM r WHERE n < $1) \
     INSERT INTO customer_session_customers (id, organization_id, created_at, email, name, metadata) \
     SELECT 'c' || n, 'org_1', 1, 'jane@example.com', 'Jane Doe', '{\"plan\":\"pro\"}' FROM r",
    "INSERT OR IGNORE INTO customer_session_epochs (customer_id) \
     SELECT id FROM customer_session_customers WHERE $1 > 0",
    "WITH RECURSIVE r (n) AS (SELECT 1 UNION ALL SELECT n + 1 FROM r WHERE n < $1) \
     INSERT INTO customer_sessions (id, token_hash, customer_id, created_at, expires_at) \
     SELECT 's' || n, randomblob(32), 'c' || n, 1, \
     iif(n % 10 = 0, n, 4102444800000000) FROM r",
    "ANALYZE",
];

/// Measures the store and the raw driver, and prints a row.
pub fn measure(runtime: &Runtime, rows: u64) {
    let folder = std::env::temp_dir().join(format!("cst-bench-{}-{rows}", std::process::id()));
    std::fs::create_dir_all(&folder).expect("a folder");
    let file = folder.join("sessions.db");
    let options = SqliteConnectOptions::new()
        .filename(&file)
        .create_if_missing(true)
        .journal_mode(SqliteJournalMode::Wal);
    let (pool, store, known) = runtime.block_on(filled(&file, &options, rows));
    let held = runtime
        .block_on(SqliteConnection::connect_with(&options))
        .expect("opened");
    run_on("0", None);
    let find = vec![
        find_on_held(runtime, held, &known),
        find_on_pool(runtime, &pool, &known),
        our_find(runtime, &store, &known),
    ];
    let find = medians(find, ROUNDS);
    let insert = vec![raw_insert(runtime, &pool), our_insert(runtime, &store)];
    let insert = medians(insert, ROUNDS);
    report(
        runtime,
        "SQLite",
        rows,
        &store,
        &known,
        (find, insert),
        None,
    );
    runtime.block_on(pool.close());
    let _ = std::fs::remove_dir_all(&folder);
}

/// Returns a pool and a store on the same file, with this many rows, and the known sessions.
async fn filled(
    file: &Path,
    options: &SqliteConnectOptions,
    rows: u64,
) -> (SqlitePool, SqliteStore, Vec<Known>) {
    let pool = SqlitePoolOptions::new()
        .max_connections(5)
        .min_connections(1)
        .test_before_acquire(false)
        .connect_with(options.clone())
        .await
        .expect("opened");
    let url = format!("sqlite:{}", file.display());
    let store = SqliteStore::connect(&url, Peppers::new(PEPPER)).await;
    let store = store.expect("opened");
    store.migrate().await.expect("migrated");
    let known = known(&store).await;
    for fill in FILLS {
        let fill = sqlx::query(fill).bind(rows as i64);
        fill.execute(&pool).await.expect("filled");
    }
    (pool, store, known)
}

fn find_on_held<'a>(
    runtime: &'a Runtime,
    mut held: SqliteConnection,
    known: &'a [Known],
) -> Task<'a> {
    let hashes = some(known);
    task("held", move || {
        let hashes = hashes();
        let begun = Instant::now();
        runtime.block_on(async {
            for (_, hash) in hashes {
                let row = sqlx::query(FIND).bind(hash).fetch_one(&mut held).await;
                read!(row.expect("found"), i64);
            }
        });
        begun.elapsed().as_secs_f64() * 1e6 / BATCH as f64
    })
}

fn find_on_pool<'a>(runtime: &'a Runtime, pool: &'a SqlitePool, known: &'a [Known]) -> Task<'a> {
    let find = move |(_, hash): Known| async move {
        let row = sqlx::query(FIND).bind(hash).fetch_one(pool).await;
        read!(row.expect("found"), i64);
    };
    task("pool", batch(runtime, some(known), find))
}

fn raw_insert<'a>(runtime: &'a Runtime, pool: &'a SqlitePool) -> Task<'a> {
    let micros = |time: DateTime<Utc>| time.timestamp_micros();
    let upsert = Arc::<str>::from(upsert("text"));
    let insert = move |(session, hash): Known| {
        let upsert = Arc::clone(&upsert);
        async move {
            let mut transaction = pool.begin_with("BEGIN IMMEDIATE").await.expect("begun");
            let customer = sqlx::query(AssertSqlSafe(&*upsert));
            let customer = bind_customer!(customer, session, micros);
            customer.execute(&mut *transaction).await.expect("inserted");
            let epoch = sqlx::query(EPOCH).bind(session.customer_id.as_str());
            epoch.execute(&mut *transaction).await.expect("inserted");
            let insert = sqlx::query(INSERT)
                .bind(session.customer_id.as_str())
                .bind(session.id.as_str())
                .bind(hash)
                .bind(micros(session.created_at))
                .bind(session.modified_at.map(micros))
                .bind(micros(session.expires_at));
            insert.execute(&mut *transaction).await.expect("inserted");
            transaction.commit().await.expect("committed");
        }
    };
    task("raw", batch(runtime, new_ones, insert))
}
