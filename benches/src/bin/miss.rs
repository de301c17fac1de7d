//! The cost of a cold token that many requests carry at once.
//!
//! `cargo run --release --bin miss` prints, for 1, 10 and 1,000 requests that arrive together, how
//! many lookups they make and how long a request takes, ours and without single flight.

use std::{
    sync::{
        Arc,
        atomic::{AtomicU64, Ordering::Relaxed},
    },
    time::{Duration, Instant},
};

use customer_session::{
    CustomerData, CustomerSession, CustomerSessions, SessionRegistry as _, SessionStore,
    SessionToken, StoreError, TokenFormat, async_trait, store::MemoryStore,
};
use customer_session_benches::measure::tasks::{medians, task};
use tokio::{runtime::Runtime, task::JoinSet};

/// Time that the store takes to answer, as a database on the same network.
const DELAY: Duration = Duration::from_millis(1);
const ROUNDS: usize = 40;

#[derive(Clone, Default)]
struct Remote {
    inner: MemoryStore,
    lookups: Arc<AtomicU64>,
}

#[async_trait]
impl SessionStore for Remote {
    async fn find(&self, token: &SessionToken) -> Result<Option<CustomerSession>, StoreError> {
        self.lookups.fetch_add(1, Relaxed);
        tokio::time::sleep(DELAY).await;
        self.inner.find(token).await
    }

    fn token_format(&self) -> TokenFormat {
        self.inner.token_format()
    }
}

/// Returns the nanoseconds until all of `waiters` requests for one token are answered.
fn together<F>(runtime: &Runtime, waiters: usize, request: impl Fn() -> F) -> f64
where
    F: Future<Output = bool> + Send + 'static,
{
    runtime.block_on(async {
        let begun = Instant::now();
        let mut requests = JoinSet::new();
        for _ in 0..waiters {
            requests.spawn(request());
        }
        while let Some(answer) = requests.join_next().await {
            assert!(answer.expect("no panic"), "a live session was refused");
        }
        begun.elapsed().as_nanos() as f64
    })
}

/// Inserts a session that no cache has seen, and returns its token.
async fn new_session(store: &MemoryStore) -> SessionToken {
    let customer = CustomerData::new("cus_1", "org_1");
    let id = TokenFormat::any().generate();
    let token = store.token_format().generate();
    let end = chrono::Utc::now() + Duration::from_secs(3600);
    let session = CustomerSession::new(id.expose(), token, customer, end);
    store.insert(&session, None).await.expect("inserted");
    session.token
}

fn main() {
    let runtime = tokio::runtime::Builder::new_multi_thread()
        .worker_threads(2)
        .enable_all()
        .build()
        .expect("a runtime");
    let remote = Remote::default();
    let sessions = CustomerSessions::builder(remote.clone()).build();
    println!(
        "\n| requests for one cold token | lookups | until all are answered, µs | lookups without single flight | µs |"
    );
    println!("|---:|---:|---:|---:|---:|");
    for waiters in [1, 10, 1000] {
        let counts = [AtomicU64::new(0), AtomicU64::new(0)];
        let counted = |of: &AtomicU64, run: &dyn Fn(SessionToken) -> f64| {
            let token = runtime.block_on(new_session(&remote.inner));
            let before = remote.lookups.load(Relaxed);
            let time = run(token);
            of.fetch_max(remote.lookups.load(Relaxed) - before, Relaxed);
            time
        };
        let tasks = vec![
            task("ours", || {
                counted(&counts[0], &|token| {
                    together(&runtime, waiters, || {
                        let (sessions, token) = (sessions.clone(), token.clone());
                        async move { sessions.authenticate(&token).await.is_ok() }
                    })
                })
            }),
            task("each for itself", || {
                counted(&counts[1], &|token| {
                    together(&runtime, waiters, || {
                        let (remote, token) = (remote.clone(), token.clone());
                        async move { matches!(remote.find(&token).await, Ok(Some(_))) }
                    })
                })
            }),
        ];
        let medians = medians(tasks, ROUNDS);
        println!(
            "| {waiters} | {} | {:.0} | {} | {:.0} |",
            counts[0].load(Relaxed),
            medians("ours") / 1000.0,
            counts[1].load(Relaxed),
            medians("each for itself") / 1000.0
        );
    }
}
