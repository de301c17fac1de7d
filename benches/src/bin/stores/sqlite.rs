//! SQLite: ours, and the raw driver.

use std::time::Instant;

use chrono::Utc;
use customer_session::{
    CustomerSession,
    store::{Peppers, SqliteStore},
};
use customer_session_benches::measure::tasks::{medians, task};
use sqlx::{
    AssertSqlSafe, Connection as _, Row as _, SqliteConnection, SqlitePool,
    sqlite::{SqliteConnectOptions, SqliteJournalMode, SqlitePoolOptions},
};
use tokio::runtime::Runtime;

use crate::{
    columns::{FIND, bind_customer, read, upsert},
    contents::{BATCH, PEPPER, ROUNDS, batch, known, new_ones, our_find, our_insert, some},
    cores::run_on,
    purging::report,
};

/// Measures the store and the raw driver, and prints a row.
pub fn measure(runtime: &Runtime, rows: u64) {
    let folder = std::env::temp_dir().join(format!("cst-bench-{}-{rows}", std::process::id()));
    std::fs::create_dir_all(&folder).expect("a folder");
    let options = SqliteConnectOptions::new()
        .filename(folder.join("sessions.db"))
        .create_if_missing(true)
        .journal_mode(SqliteJournalMode::Wal);
    let micros = |time: chrono::DateTime<Utc>| time.timestamp_micros();
    let (pool, store, known): (SqlitePool, _, _) = runtime.block_on(async {
        let pool = SqlitePoolOptions::new()
            .max_connections(5)
            .min_connections(1)
            .test_before_acquire(false)
            .connect_with(options.clone())
            .await
            .expect("opened");
        let url = format!("sqlite:{}/sessions.db", folder.display());
        let store = SqliteStore::connect(&url, Peppers::new(PEPPER)).await;
        let store = store.expect("opened");
        store.migrate().await.expect("migrated");
        let known = known(&store).await;
        for fill in [
            "WITH RECURSIVE r (n) AS (SELECT 1 UNION ALL SELECT n + 1 FROM r WHERE n < $1) \
             INSERT INTO customers (id, organization_id, created_at, email, name, metadata) \
             SELECT 'c' || n, 'org_1', 1, 'jane@example.com', 'Jane Doe', '{\"plan\":\"pro\"}' FROM r",
            "WITH RECURSIVE r (n) AS (SELECT 1 UNION ALL SELECT n + 1 FROM r WHERE n < $1) \
             INSERT INTO customer_sessions (id, token_hash, customer_id, created_at, expires_at) \
             SELECT 's' || n, lower(hex(randomblob(32))), 'c' || n, 1, \
             iif(n % 10 = 0, n, 4102444800000000) FROM r",
            "ANALYZE",
        ] {
            let fill = sqlx::query(fill).bind(rows as i64);
            fill.execute(&pool).await.expect("filled");
        }
        (pool, store, known)
    });
    let mut held = runtime
        .block_on(SqliteConnection::connect_with(&options))
        .expect("opened");
    run_on("0", None);
    let find = vec![
        task("held", {
            let hashes = some(&known);
            let held = &mut held;
            move || {
                let hashes = hashes();
                let begun = Instant::now();
                runtime.block_on(async {
                    for (_, hash) in hashes {
                        let row = sqlx::query(FIND).bind(hash).fetch_one(&mut *held).await;
                        read!(row.expect("found"), i64);
                    }
                });
                begun.elapsed().as_secs_f64() * 1e6 / BATCH as f64
            }
        }),
        task(
            "pool",
            batch(
                runtime,
                some(&known),
                async |(_, hash): (CustomerSession, String)| {
                    let row = sqlx::query(FIND).bind(hash).fetch_one(&pool).await;
                    read!(row.expect("found"), i64);
                },
            ),
        ),
        our_find(runtime, &store, &known),
    ];
    let find = medians(find, ROUNDS);
    let upsert = upsert("text");
    let insert = vec![
        task(
            "raw",
            batch(
                runtime,
                new_ones,
                async |(session, hash): (CustomerSession, String)| {
                    let mut transaction = pool.begin_with("BEGIN IMMEDIATE").await.expect("begun");
                    let customer = sqlx::query(AssertSqlSafe(upsert.as_str()));
                    let customer = bind_customer!(customer, session, micros);
                    customer.execute(&mut *transaction).await.expect("inserted");
                    let insert = "INSERT INTO customer_sessions (customer_id, id, token_hash, \
                     created_at, modified_at, expires_at) VALUES ($1, $2, $3, $4, $5, $6)";
                    let insert = sqlx::query(insert)
                        .bind(session.customer_id.as_str())
                        .bind(session.id.as_str())
                        .bind(hash)
                        .bind(micros(session.created_at))
                        .bind(session.modified_at.map(micros))
                        .bind(micros(session.expires_at));
                    insert.execute(&mut *transaction).await.expect("inserted");
                    transaction.commit().await.expect("committed");
                },
            ),
        ),
        our_insert(runtime, &store),
    ];
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
