//! Lookups while expired sessions are purged, and the row of a store.

use std::time::{Duration, Instant};

use chrono::{TimeDelta, Utc};
use customer_session::{CustomerSessions, SessionRegistry};
use test_support::servers::Server;
use tokio::runtime::Runtime;

use crate::{
    contents::{Known, session},
    cores::{self, run_on},
};

/// Lookups a second, first alone and then while sessions are purged.
const RATE: u32 = 500;

/// Returns the 99th percentile of lookups at a steady rate until `done`, in microseconds.
async fn p99<S: SessionRegistry + Clone>(
    store: &S,
    known: &[Known],
    done: impl Fn() -> bool,
) -> f64 {
    let mut tick = tokio::time::interval(Duration::from_secs(1) / RATE);
    let mut lookups = tokio::task::JoinSet::new();
    for (session, _) in known.iter().cycle() {
        tick.tick().await;
        if done() {
            break;
        }
        let (store, token) = (store.clone(), session.token.clone());
        lookups.spawn(async move {
            let begun = Instant::now();
            store.find(&token).await.expect("an answer").expect("found");
            begun.elapsed().as_secs_f64() * 1e6
        });
    }
    let mut times = lookups.join_all().await;
    times.sort_by(f64::total_cmp);
    times[times.len() * 99 / 100]
}

/// Prints the row of the table for one store.
pub fn report<S: SessionRegistry + Clone>(
    runtime: &Runtime,
    name: &str,
    rows: u64,
    store: &S,
    known: &[Known],
    (find, insert): (impl Fn(&str) -> f64, impl Fn(&str) -> f64),
    server: Option<&Server>,
) {
    run_on(cores::ALL.get().expect("set"), server);
    let (idle, purging, rate) = runtime.block_on(async {
        let begun = Instant::now();
        let idle = p99(store, known, || begun.elapsed() > Duration::from_secs(4)).await;
        // As a service would: what expired a day ago goes in the background, batch by batch.
        let expired = rows / 10;
        let begun = Instant::now();
        let sessions = CustomerSessions::builder(store.clone()).build();
        let purging = tokio::spawn(sessions.purge(Duration::from_secs(1)));
        let counted = store.clone();
        let gone = tokio::spawn(async move {
            // The first batch begins within a second; then wait for the last of them.
            loop {
                tokio::time::sleep(Duration::from_millis(200)).await;
                let mut last = session();
                last.expires_at = Utc::now() - TimeDelta::days(2);
                counted.insert(&last, None).await.expect("inserted");
                tokio::time::sleep(Duration::from_millis(200)).await;
                if counted
                    .find(&last.token)
                    .await
                    .expect("an answer")
                    .is_none()
                {
                    return;
                }
            }
        });
        let while_purging = p99(store, known, || gone.is_finished()).await;
        let rate = expired as f64 / begun.elapsed().as_secs_f64();
        purging.abort();
        (idle, while_purging, rate)
    });
    println!(
        "| {name} | {rows} | {:.0} | {:.2} | {:.2} | {:.0} | {:.2} | {idle:.0} | {purging:.0} \
         | {:.2} | {rate:.0} |",
        find("ours"),
        find("ours") / find("pool"),
        find("ours") / find("held"),
        insert("ours"),
        insert("ours") / insert("raw"),
        purging / idle
    );
}
