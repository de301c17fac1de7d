//! PostgreSQL: ours, and the raw driver.

use std::{sync::Arc, time::Instant};

use chrono::Utc;
use customer_session::store::{Peppers, PostgresStore};
use customer_session_benches::measure::tasks::{Task, medians, task};
use sqlx::{
    AssertSqlSafe, Connection as _, Executor as _, PgConnection, PgPool, Row as _,
    postgres::PgPoolOptions,
};
use test_support::servers::{self, Server};
use tokio::runtime::Runtime;

use crate::{
    columns::{FIND, bind_customer, read, upsert},
    contents::{BATCH, Known, PEPPER, ROUNDS, batch, known, new_ones, our_find, our_insert, some},
    cores::run_on,
    purging::report,
};

const FILLS: [&str; 3] = [
    "INSERT INTO customer_session_customers (id, organization_id, created_at, email, name, metadata) \
     SELECT 'c' || n, 'org_1', timestamptz '2020-01-01', 'jane@example.com', 'Jane Doe', \
     '{\"plan\":\"pro\"}' FROM generate_series(1, $1) n",
    "INSERT INTO customer_session_epochs (customer_id) \
     SELECT 'c' || n FROM generate_series(1, $1) n",
    "INSERT INTO customer_sessions (id, token_hash, customer_id, created_at, expires_at) \
     SELECT 's' || n, sha256(n::text::bytea), 'c' || n, \
     timestamptz '2020-01-01', CASE WHEN n % 10 = 0 THEN timestamptz '2020-01-01' \
     ELSE timestamptz '2100-01-01' END FROM generate_series(1, $1) n",
];

/// Measures the store and the raw driver, and prints a row.
pub fn measure(runtime: &Runtime, rows: u64) {
    let Some(server) = Server::postgres() else {
        return servers::missing("PostgreSQL");
    };
    let (pool, store, known) = runtime.block_on(filled(&server, rows));
    let held = runtime
        .block_on(PgConnection::connect(&server.url()))
        .expect("connected");
    run_on("0", Some(&server));
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
        "PostgreSQL",
        rows,
        &store,
        &known,
        (find, insert),
        Some(&server),
    );
    runtime.block_on(pool.close());
}

/// Returns a pool and a store on the same tables, with this many rows, and the known sessions.
async fn filled(server: &Server, rows: u64) -> (PgPool, PostgresStore, Vec<Known>) {
    let pool = PgPoolOptions::new()
        .test_before_acquire(false)
        .connect(&server.url())
        .await
        .expect("connected");
    let store = PostgresStore::connect(&server.url(), Peppers::new(PEPPER)).await;
    let store = store.expect("connected");
    store.migrate().await.expect("migrated");
    let known = known(&store).await;
    for fill in FILLS {
        let fill = sqlx::query(fill).bind(rows as i64);
        fill.execute(&pool).await.expect("filled");
    }
    pool.execute("VACUUM ANALYZE").await.expect("vacuumed");
    (pool, store, known)
}

fn find_on_held<'a>(runtime: &'a Runtime, mut held: PgConnection, known: &'a [Known]) -> Task<'a> {
    let hashes = some(known);
    task("held", move || {
        let hashes = hashes();
        let begun = Instant::now();
        runtime.block_on(async {
            for (_, hash) in hashes {
                let row = sqlx::query(FIND).bind(hash).fetch_one(&mut held).await;
                read!(row.expect("found"), chrono::DateTime<Utc>);
            }
        });
        begun.elapsed().as_secs_f64() * 1e6 / BATCH as f64
    })
}

fn find_on_pool<'a>(runtime: &'a Runtime, pool: &'a PgPool, known: &'a [Known]) -> Task<'a> {
    let find = move |(_, hash): Known| async move {
        let row = sqlx::query(FIND).bind(hash).fetch_one(pool).await;
        read!(row.expect("found"), chrono::DateTime<Utc>);
    };
    task("pool", batch(runtime, some(known), find))
}

fn raw_insert<'a>(runtime: &'a Runtime, pool: &'a PgPool) -> Task<'a> {
    let statement = format!(
        "WITH known AS ({} WHERE customer_session_customers::text <> excluded::text RETURNING id), \
         first AS (INSERT INTO customer_session_epochs (customer_id) SELECT id FROM known) \
         INSERT INTO customer_sessions \
         (id, token_hash, customer_id, created_at, modified_at, expires_at) \
         SELECT $19, $20, $1, $21, $22, $23 WHERE (SELECT count(*) FROM known) >= 0",
        upsert("json")
    );
    let statement = Arc::<str>::from(statement);
    let insert = move |(session, hash): Known| {
        let statement = Arc::clone(&statement);
        async move {
            let query = sqlx::query(AssertSqlSafe(&*statement));
            let query = bind_customer!(query, session, |time| time)
                .bind(session.id.as_str().to_owned())
                .bind(hash)
                .bind(session.created_at)
                .bind(session.modified_at)
                .bind(session.expires_at);
            query.execute(pool).await.expect("inserted");
        }
    };
    task("raw", batch(runtime, new_ones, insert))
}
