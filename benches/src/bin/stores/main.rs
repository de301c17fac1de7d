//! The cost of the stores beside that of the raw driver.
//!
//! `cargo run --release --bin stores` fills each store with 10,000,
//! 100,000 and 1,000,000 sessions, a tenth of them expired, and measures a lookup, an insertion,
//! and lookups while the expired ones are purged. `ROWS=10000` measures that size alone. Then it
//! measures what it takes to end all sessions of a customer, and what announcing costs.
//! PostgreSQL and Redis are throw-away servers; one that is not installed is left out.
//!
//! Lookups and insertions are measured on one core, driver and server alike: which of two cores
//! a thread wakes up on, and whether that one was asleep, is a matter of chance that outweighs
//! everything else. Purging has all cores.

mod announcing;
mod columns;
mod contents;
mod cores;
mod postgres;
mod purging;
mod redis;
mod revoking;
mod sqlite;

fn main() {
    let cores = std::thread::available_parallelism().map_or(1, usize::from);
    cores::ALL.set(format!("0-{}", cores - 1)).expect("once");
    let runtime = tokio::runtime::Builder::new_multi_thread()
        .worker_threads(2)
        .enable_all()
        .build()
        .expect("a runtime");
    let sizes = match std::env::var("ROWS") {
        Ok(rows) => vec![rows.parse().expect("ROWS is a number")],
        Err(_) => vec![10_000, 100_000, 1_000_000],
    };
    println!(
        "\n| store | sessions | find, µs | x pool | x raw | insert, µs | x raw \
         | lookups p99 idle, µs | while purging, µs | ratio | purged/s |"
    );
    println!("|---|---:|---:|---:|---:|---:|---:|---:|---:|---:|---:|");
    for rows in sizes {
        sqlite::measure(&runtime, rows);
        postgres::measure(&runtime, rows);
        redis::measure(&runtime, rows);
    }
    revoking::measure(&runtime);
    announcing::measure(&runtime);
}
