//! How the lookups of a fleet grow with its nodes.
//!
//! `cargo run --release --bin fleet FOLDER` lets requests of many sessions, each at random times,
//! arrive at nodes that cache for a minute, and counts the lookups at the store that they share: once
//! with a load balancer that spreads requests at random, once with one that sends each token to one
//! node. The nodes are real, time is held by hand. It prints a table and writes `fleet.svg`.

use std::{
    env,
    path::PathBuf,
    sync::{
        Arc,
        atomic::{AtomicU64, Ordering::Relaxed},
    },
    time::Duration,
};

use customer_session::{
    CustomerData, CustomerSession, CustomerSessions, SessionRegistry as _, SessionStore,
    SessionToken, StoreError, TokenFormat, async_trait, store::MemoryStore, testing::ManualClock,
};
use customer_session_benches::{full_or_quick, measure::orders::Rng, report::plots};

/// Seconds between two requests of a session, on average.
const PAUSES: [f64; 2] = [2.0, 30.0];
const NODES: [usize; 6] = [1, 2, 4, 8, 16, 32];

#[derive(Clone, Default)]
struct Counted {
    inner: MemoryStore,
    lookups: Arc<AtomicU64>,
}

#[async_trait]
impl SessionStore for Counted {
    async fn find(&self, token: &SessionToken) -> Result<Option<CustomerSession>, StoreError> {
        self.lookups.fetch_add(1, Relaxed);
        self.inner.find(token).await
    }

    fn token_format(&self) -> TokenFormat {
        self.inner.token_format()
    }
}

#[tokio::main(flavor = "current_thread")]
async fn main() {
    let folder = env::args_os().nth(1).map(PathBuf::from);
    let folder = folder.expect("usage: fleet FOLDER");
    println!(
        "| a session asks every | nodes | lookups/s of 1,000 sessions | by the formula \
         | with affinity | by the formula |\n|---:|---:|---:|---:|---:|---:|"
    );
    let mut lines = Vec::new();
    for pause in PAUSES {
        let (mut spread, mut pinned) = (Vec::new(), Vec::new());
        for nodes in NODES {
            let random = lookups(nodes, pause, false).await;
            let affine = lookups(nodes, pause, true).await;
            println!(
                "| {pause} s | {nodes} | {random:.0} | {:.0} | {affine:.0} | {:.0} |",
                expected(nodes, pause),
                expected(1, pause)
            );
            spread.push((nodes as f64, random));
            pinned.push((nodes as f64, affine));
        }
        lines.push((
            format!("a request every {pause} s, spread at random"),
            spread,
        ));
        lines.push((
            format!("a request every {pause} s, each token at one node"),
            pinned,
        ));
    }
    plots::fleet(&lines, &folder.join("fleet.svg")).expect("drawn");
}

/// Returns the lookups a second of 1,000 sessions: each node asks again at the first request after a
/// copy of a minute has been used for 80 to 90 % of that.
fn expected(nodes: usize, pause: f64) -> f64 {
    let nodes = nodes as f64;
    1000.0 * nodes / (0.85 * 60.0 + nodes * pause)
}

/// Counts the lookups a second of 1,000 sessions, each of which makes a request after `pause` seconds
/// on average.
async fn lookups(nodes: usize, pause: f64, has_affinity: bool) -> f64 {
    let sessions = full_or_quick(1000, 50);
    // Until copies are of all ages, and then to be counted.
    let (warm_up, counted) = full_or_quick((300.0, 600.0), (100.0, 100.0));
    let clock = ManualClock::new("2030-01-01T00:00:00Z".parse().expect("a time"));
    let store = Counted::default();
    let mut tokens = Vec::new();
    for number in 0..sessions {
        let token = TokenFormat::new("cst_").generate();
        let customer = CustomerData::new(format!("cus_{number}"), "org_1");
        let expires = "2031-01-01T00:00:00Z".parse().expect("a time");
        let session =
            CustomerSession::new(format!("ses_{number}"), token.clone(), customer, expires);
        store.inner.insert(&session, None).await.expect("inserted");
        tokens.push(token);
    }
    let fleet: Vec<_> = (0..nodes)
        .map(|_| {
            let builder = CustomerSessions::builder(store.clone());
            builder.clock(clock.clone()).build()
        })
        .collect();
    let mut rng = Rng(1);
    let (mut now, mut from) = (0.0, None);
    while now < warm_up + counted {
        // The time to the next request of any session.
        let step = -(1.0 - rng.part()).ln() * pause / sessions as f64;
        now += step;
        clock.advance(Duration::from_secs_f64(step));
        if now > warm_up && from.is_none() {
            from = Some(store.lookups.load(Relaxed));
        }
        let session = rng.below(sessions);
        let node = match has_affinity {
            true => session % nodes,
            false => rng.below(nodes),
        };
        let found = fleet[node].authenticate(&tokens[session]).await;
        found.expect("it is live");
        // Refreshes run in the background.
        tokio::task::yield_now().await;
    }
    let lookups = store.lookups.load(Relaxed) - from.expect("some time was counted");
    lookups as f64 / counted * 1000.0 / sessions as f64
}
