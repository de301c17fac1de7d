//! What PostgreSQL does with a large table: bytes for each session, and lookups, sign-ins and
//! revocations a second.
//!
//! `cargo run --release --bin capacity` fills a throw-away server with 1,000,000 and then 10,000,000
//! sessions, each of a customer of their own, and measures 16 clients of the store. `ROWS=1000000`
//! measures that size alone. Ten million take 8 GB on the disk, and some ten minutes to add.

use std::{
    sync::{Arc, Mutex},
    time::{Duration, Instant},
};

use chrono::{TimeDelta, Utc};
use customer_session::{
    CustomerData, CustomerSession, Revocation, SessionId, SessionRegistry as _, SessionStore as _,
    SessionToken, TokenFormat,
    store::{Peppers, PostgresStore},
};
use customer_session_benches::{full_or_quick, measure::orders::Rng, statistics::median};
use sha2::{Digest as _, Sha256};
use sqlx::{AssertSqlSafe, Executor as _, PgPool};
use test_support::servers::{self, Server};
use tokio::task::JoinSet;

const CLIENTS: usize = 16;

/// As a service would have it that gives the server a part of the machine's memory.
const SETTINGS: [&str; 4] = [
    "fsync=on",
    "shared_buffers=2GB",
    "max_wal_size=8GB",
    "checkpoint_timeout=15min",
];

/// Rows that are added at once.
const STEP: u64 = 500_000;

/// Identifiers are as long as those of Polar with a prefix, and in no order.
const FILLS: [&str; 3] = [
    "INSERT INTO customer_session_customers (id, organization_id, created_at, email, name, metadata) \
     SELECT 'cus_' || {digits}, 'org_' || repeat('1', 32), now(), 'jane.doe@example.com', 'Jane Doe', \
     '{\"plan\":\"pro\"}' FROM generate_series($1, $2) n",
    "INSERT INTO customer_session_epochs (customer_id) \
     SELECT 'cus_' || {digits} FROM generate_series($1, $2) n",
    "INSERT INTO customer_sessions (id, token_hash, customer_id, created_at, expires_at) \
     SELECT 'ses_' || {digits}, sha256(('cst_' || {digits})::bytea), \
     'cus_' || {digits}, now(), now() + interval '30 day' + n * interval '1 second' \
     FROM generate_series($1, $2) n",
];

#[tokio::main(worker_threads = 2)]
async fn main() {
    let Some(server) = Server::postgres_with(&SETTINGS, &[]) else {
        return servers::missing("PostgreSQL");
    };
    let sizes = match std::env::var("ROWS") {
        Ok(rows) => vec![rows.parse().expect("ROWS is a number")],
        Err(_) => vec![1_000_000, 10_000_000],
    };
    let pool = PgPool::connect(&server.url()).await.expect("connected");
    let builder = PostgresStore::builder(Peppers::none()).max_connections(CLIENTS as u32);
    let store = builder.connect(&server.url()).await.expect("connected");
    store.migrate().await.expect("migrated");
    println!(
        "\n| sessions | bytes of the sessions, each | of which indexes | of the customers and epochs, each \
         | lookups/s | sign-ins/s | revocations/s |\n|---:|---:|---:|---:|---:|---:|---:|"
    );
    let mut filled = 0;
    for rows in sizes {
        while filled < rows {
            let until = rows.min(filled + STEP);
            for fill in FILLS {
                let fill = fill
                    .replace(
                        "{digits}",
                        "left(encode(sha256(n::text::bytea), 'hex'), 32)",
                    )
                    .replace("$1", &(filled + 1).to_string())
                    .replace("$2", &until.to_string());
                pool.execute(AssertSqlSafe(fill)).await.expect("filled");
            }
            filled = until;
        }
        for statement in ["VACUUM ANALYZE", "CHECKPOINT"] {
            pool.execute(statement).await.expect("done");
        }
        let bytes = |what: &'static str| {
            let pool = &pool;
            async move {
                let bytes: i64 = sqlx::query_scalar(AssertSqlSafe(format!("SELECT {what}")))
                    .fetch_one(pool)
                    .await
                    .expect("a size");
                bytes as f64 / rows as f64
            }
        };
        let sessions = bytes("pg_total_relation_size('customer_sessions')").await;
        let indexes = bytes("pg_indexes_size('customer_sessions')").await;
        let customers = bytes(
            "pg_total_relation_size('customer_session_customers') \
             + pg_total_relation_size('customer_session_epochs')",
        )
        .await;
        let load = Load {
            store: store.clone(),
            rows,
            added: Mutex::default(),
        };
        let rates = load.rates().await;
        println!(
            "| {rows} | {sessions:.0} | {indexes:.0} | {customers:.0} | {:.0} | {:.0} | {:.0} |",
            rates[0], rates[1], rates[2]
        );
    }
    pool.close().await;
}

#[derive(Clone, Copy)]
enum Work {
    Find,
    SignIn,
    Revoke,
}

/// What the clients work on.
struct Load {
    store: PostgresStore,
    rows: u64,
    /// Sessions that were added, to be ended again, so that the table keeps its size.
    added: Mutex<Vec<SessionId>>,
}

impl Load {
    /// Returns lookups, sign-ins and revocations in a second.
    async fn rates(self) -> [f64; 3] {
        let load = Arc::new(self);
        let mut rates = [Vec::new(), Vec::new(), Vec::new()];
        for round in 0..=full_or_quick(5, 1) {
            for (work, rates) in [Work::Find, Work::SignIn, Work::Revoke]
                .into_iter()
                .zip(&mut rates)
            {
                let rate = load.rate(work).await;
                // At first, pages come from the disk that stay in memory later.
                if round > 0 {
                    rates.push(rate);
                }
            }
        }
        rates.map(|rates| median(&rates))
    }

    /// Returns how often the clients do this in a second.
    async fn rate(self: &Arc<Self>, work: Work) -> f64 {
        let window = Duration::from_millis(full_or_quick(4000, 300));
        let begun = Instant::now();
        let clients = (0..CLIENTS).map(|client| {
            let load = Arc::clone(self);
            let mut rng = Rng(begun.elapsed().as_nanos() as u64 ^ (client as u64) << 40);
            async move {
                let mut done = 0;
                while begun.elapsed() < window && load.work(work, &mut rng).await {
                    done += 1;
                }
                done
            }
        });
        let done: u64 = clients
            .collect::<JoinSet<_>>()
            .join_all()
            .await
            .iter()
            .sum();
        done as f64 / begun.elapsed().as_secs_f64()
    }

    /// Returns `false` if there is nothing left to be done.
    async fn work(&self, work: Work, rng: &mut Rng) -> bool {
        let mut anyone = || {
            let number = 1 + rng.below(self.rows as usize);
            hex::encode(&Sha256::digest(number.to_string())[..16])
        };
        match work {
            Work::Find => {
                let token = SessionToken::new(format!("cst_{}", anyone()));
                let found = self.store.find(&token).await.expect("an answer");
                assert!(found.is_some(), "it is live");
            }
            Work::SignIn => {
                let customer = CustomerData::new(format!("cus_{}", anyone()), "org_1");
                let token = TokenFormat::new("cst_").generate();
                let id = format!("ses_{}", &token.expose()[4..36]);
                let expires = Utc::now() + TimeDelta::days(30);
                let session = CustomerSession::new(id, token, customer, expires);
                self.store.insert(&session, None).await.expect("inserted");
                self.added.lock().expect("no panic").push(session.id);
            }
            Work::Revoke => {
                let Some(session) = self.added.lock().expect("no panic").pop() else {
                    return false;
                };
                let revoked = self.store.revoke(&Revocation::Session(session)).await;
                assert!(revoked.expect("revoked").any, "it was live");
            }
        }
        true
    }
}
