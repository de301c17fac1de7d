//! PostgreSQL: ours, and the raw driver.

use std::time::Instant;

use chrono::Utc;
use customer_session::{
    CustomerSession,
    store::{Peppers, PostgresStore},
};
use customer_session_benches::measure::tasks::{medians, task};
use sqlx::{
    AssertSqlSafe, Connection as _, Executor as _, PgConnection, PgPool, Row as _,
    postgres::PgPoolOptions,
};
use test_support::servers::{self, Server};
use tokio::runtime::Runtime;

use crate::{
    columns::{FIND, bind_customer, read, upsert},
    contents::{BATCH, PEPPER, ROUNDS, batch, known, new_ones, our_find, our_insert, some},
    cores::run_on,
    purging::report,
};

/// Measures the store and the raw driver, and prints a row.
pub fn measure(runtime: &Runtime, rows: u64) {
    let Some(server) = Server::postgres() else {
        return servers::missing("PostgreSQL");
    };
    let (pool, store, known): (PgPool, _, _) = runtime.block_on(async {
        let pool = PgPoolOptions::new()
            .test_before_acquire(false)
            .connect(&server.url())
            .await
            .expect("connected");
        let store = PostgresStore::connect(&server.url(), Peppers::new(PEPPER)).await;
        let store = store.expect("connected");
        store.migrate().await.expect("migrated");
        let known = known(&store).await;
        for fill in [
            "INSERT INTO customers (id, organization_id, created_at, email, name, metadata) \
             SELECT 'c' || n, 'org_1', timestamptz '2020-01-01', 'jane@example.com', 'Jane Doe', \
             '{\"plan\":\"pro\"}' FROM generate_series(1, $1) n",
            "INSERT INTO customer_sessions (id, token_hash, customer_id, created_at, expires_at) \
             SELECT 's' || n, encode(sha256(n::text::bytea), 'hex'), 'c' || n, \
             timestamptz '2020-01-01', CASE WHEN n % 10 = 0 THEN timestamptz '2020-01-01' \
             ELSE timestamptz '2100-01-01' END FROM generate_series(1, $1) n",
        ] {
            let fill = sqlx::query(fill).bind(rows as i64);
            fill.execute(&pool).await.expect("filled");
        }
        pool.execute("VACUUM ANALYZE").await.expect("vacuumed");
        (pool, store, known)
    });
    let mut held = runtime
        .block_on(PgConnection::connect(&server.url()))
        .expect("connected");
    run_on("0", Some(&server));
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
                        read!(row.expect("found"), chrono::DateTime<Utc>);
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
                    read!(row.expect("found"), chrono::DateTime<Utc>);
                },
            ),
        ),
        our_find(runtime, &store, &known),
    ];
    let find = medians(find, ROUNDS);
    let statement = format!(
        "WITH known AS ({} WHERE customers::text <> excluded::text RETURNING id) \
         INSERT INTO customer_sessions \
         (id, token_hash, customer_id, created_at, modified_at, expires_at) \
         SELECT $19, $20, $1, $21, $22, $23 WHERE (SELECT count(*) FROM known) >= 0",
        upsert("json")
    );
    let insert = vec![
        task(
            "raw",
            batch(
                runtime,
                new_ones,
                async |(session, hash): (CustomerSession, String)| {
                    let query = sqlx::query(AssertSqlSafe(statement.as_str()));
                    let query = bind_customer!(query, session, |time| time)
                        .bind(session.id.as_str().to_owned())
                        .bind(hash)
                        .bind(session.created_at)
                        .bind(session.modified_at)
                        .bind(session.expires_at);
                    query.execute(&pool).await.expect("inserted");
                },
            ),
        ),
        our_insert(runtime, &store),
    ];
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
