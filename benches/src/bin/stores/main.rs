//! What the stores cost beside the raw driver doing the same.
//!
//! `cargo run --release --bin stores` fills each store with 10,000,
//! 100,000 and 1,000,000 sessions, a tenth of them expired, and measures a lookup, an insertion,
//! and lookups while the expired ones are purged. `ROWS=10000` measures that size alone.
//! PostgreSQL and Redis are throw-away servers; one that is not installed is left out.
//!
//! Lookups and insertions are measured on one core, driver and server alike: which of two cores
//! a thread wakes up on, and whether that one was asleep, is a matter of chance that outweighs
//! everything else. Purging has all cores.

mod columns;
mod contents;
mod postgres;
mod purging;
mod redis;
#[path = "../../../../tests/support/src/servers.rs"]
mod servers;
mod sqlite;

use std::sync::OnceLock;

use servers::Server;

const ROUNDS: usize = 40;

/// Asked before the first pinning, which changes the answer.
static ALL_CORES: OnceLock<String> = OnceLock::new();

/// Has this process, and all that come of it, run on these cores alone.
fn run_on(cores: &str, server: Option<&Server>) {
    let mut processes = vec![std::process::id()];
    processes.extend(server.iter().flat_map(|server| server.processes()));
    for process in processes {
        let pinned = std::process::Command::new("taskset")
            .args(["-a", "-p", "-c", cores, &process.to_string()])
            .output();
        if !pinned.is_ok_and(|output| output.status.success()) {
            servers::say("taskset did not work: the figures are those of the scheduler's moods");
        }
    }
}

fn main() {
    let cores = std::thread::available_parallelism().map_or(1, usize::from);
    ALL_CORES.set(format!("0-{}", cores - 1)).expect("once");
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
        "\n| store | sessions | find, us | x pool | x raw | insert, us | x raw \
         | lookups p99 idle, us | while purging, us | ratio | purged/s |"
    );
    println!("|---|---:|---:|---:|---:|---:|---:|---:|---:|---:|---:|");
    for rows in sizes {
        sqlite::measure(&runtime, rows);
        postgres::measure(&runtime, rows);
        redis::measure(&runtime, rows);
    }
}
