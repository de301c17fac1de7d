//! What Redis needs for many sessions, and how long it is busy with them.
//!
//! `cargo run --release --bin redis` measures the bytes of a million sessions (`ROWS=100000` of so many),
//! each of a customer of its own and all of a thousand customers, the time to end all sessions of a
//! customer, how soon other nodes hear of a change, and how a cluster of three shares the work.

use std::{
    cell::{Cell, RefCell},
    collections::HashMap,
    sync::{
        Arc,
        atomic::{AtomicBool, AtomicU64, Ordering::Relaxed},
    },
    time::{Duration, Instant},
};

use chrono::{TimeDelta, Utc};
use customer_session::{
    CustomerData, CustomerSession, Invalidation, InvalidationSource as _, Revocation, SessionId,
    SessionRegistry as _, SessionStore as _, SourceEvent, TokenFormat,
    store::{Peppers, RedisStore},
};
use customer_session_benches::{
    full_or_quick,
    measure::tasks::{medians, task},
};
use test_support::servers::{self, RedisCluster, Server};
use tokio::{runtime::Runtime, task::JoinSet};

const PEPPER: &[u8] = b"a pepper of the benches, 32 bytes";
const CLIENTS: u64 = 64;
const NODES: usize = 3;

fn main() {
    let runtime = tokio::runtime::Builder::new_multi_thread()
        .worker_threads(2)
        .enable_all()
        .build()
        .expect("a runtime");
    let rows = std::env::var("ROWS").map(|rows| rows.parse().expect("ROWS is a number"));
    let rows = rows.unwrap_or(full_or_quick(1_000_000, 5_000));
    for customers in [rows, rows / 1000] {
        let Some(server) = Server::redis_with(&[("appendonly", "no")], &[]) else {
            return servers::missing("Redis");
        };
        runtime.block_on(bytes(&server, rows, customers));
    }
    if let Some(server) = Server::redis() {
        server.redis_cli(&["CONFIG", "SET", "appendfsync", "everysec"]);
        revoking(&runtime, &server);
        runtime.block_on(delays(&server));
    }
    if let Some(cluster) = RedisCluster::new(NODES, 0) {
        runtime.block_on(spread(&cluster));
    }
}

async fn connect(url: &str) -> RedisStore {
    let store = RedisStore::connect(url, Peppers::new(PEPPER)).await;
    store.expect("connected")
}

/// Returns a session with identifiers of 36 characters, of a customer with a name and an address.
fn session(number: u64, customer: u64) -> CustomerSession {
    // In no order.
    let factor = 0x9e37_79b9_7f4a_7c15_f39c_c060_5ced_c835;
    let digits = |number: u64| u128::from(number + 1).wrapping_mul(factor);
    let uuid = |number| uuid::Uuid::from_u128(digits(number)).to_string();
    let id = uuid(customer);
    let mut data = CustomerData::new(id, uuid(1 << 50));
    data.name = Some("Jane Doe".to_owned());
    data.email = Some("jane.doe@example.com".to_owned());
    data.metadata = [("plan".to_owned(), "pro".into())].into();
    let seconds = TimeDelta::seconds(i64::try_from(number).expect("few"));
    let expires_at = Utc::now() + TimeDelta::days(30) + seconds;
    let id = uuid(number + (1 << 40));
    CustomerSession::new(id, TokenFormat::new("cst_").generate(), data, expires_at)
}

/// Adds sessions by many clients, and returns some of them.
async fn fill(store: &RedisStore, rows: u64, customers: u64) -> Vec<CustomerSession> {
    let next = Arc::new(AtomicU64::new(0));
    let clients = (0..CLIENTS).map(|_| {
        let (store, next) = (store.clone(), Arc::clone(&next));
        async move {
            let mut some = Vec::new();
            loop {
                let number = next.fetch_add(1, Relaxed);
                if number >= rows {
                    return some;
                }
                let session = session(number, number % customers);
                store.insert(&session, None).await.expect("inserted");
                if some.len() < 1000 {
                    some.push(session);
                }
            }
        }
    });
    let some = clients.collect::<JoinSet<_>>().join_all().await;
    some.into_iter().flatten().collect()
}

fn used_memory(server: &Server) -> u64 {
    let info = server.redis_cli(&["INFO", "memory"]);
    let used = info
        .lines()
        .find_map(|line| line.strip_prefix("used_memory:"));
    used.and_then(|used| used.trim().parse().ok())
        .expect("a number")
}

async fn bytes(server: &Server, rows: u64, customers: u64) {
    let store = connect(&server.url()).await;
    let before = used_memory(server);
    let begun = Instant::now();
    fill(&store, rows, customers).await;
    let took = begun.elapsed().as_secs_f64();
    println!(
        "{rows} sessions of {customers} customers: {:.0} bytes each ({:.0} sign-ins a second)",
        (used_memory(server) - before) as f64 / rows as f64,
        rows as f64 / took
    );
}

/// The slow commands of a server. A machine that is busy otherwise may interrupt one for long.
#[derive(Default)]
struct Slow {
    /// The number of commands that took more than a millisecond.
    count: usize,
    /// The microseconds that the slowest took, and its first words.
    slowest: (u64, String),
}

impl Slow {
    /// Adds what is in the log of slow commands.
    fn note(&mut self, server: &Server) {
        let log = server.redis_cli(&["SLOWLOG", "GET", "-1"]);
        let lines: Vec<_> = log.lines().collect();
        let now = Utc::now().timestamp();
        // The number of the entry, the time, the microseconds, the words.
        for (place, head) in lines.windows(3).enumerate() {
            let [number, time, took] = [0, 1, 2].map(|line| head[line].parse::<i64>());
            let (Ok(_), Ok(time), Ok(took)) = (number, time, took) else {
                continue;
            };
            if (now - 3600..=now).contains(&time) {
                let words = lines[place + 3..].iter().take(4).copied();
                let words = words.collect::<Vec<_>>().join(" ");
                self.count += 1;
                let took = u64::try_from(took).expect("a time");
                self.slowest = (took, words).max(std::mem::take(&mut self.slowest));
            }
        }
    }

    fn describe(&self) -> String {
        match &self.slowest {
            (0, _) => "none took more than 1 ms".to_owned(),
            (took, words) => format!(
                "{} took more than 1 ms, and the slowest {:.1} ms: {}",
                self.count,
                *took as f64 / 1e3,
                words.escape_debug()
            ),
        }
    }
}

/// Measures the time to end all sessions of a customer, and that it holds no other command up.
fn revoking(runtime: &Runtime, server: &Server) {
    let many = full_or_quick(100_000, 2_000);
    let store = runtime.block_on(connect(&server.url()));
    server.redis_cli(&["CONFIG", "SET", "slowlog-log-slower-than", "1000"]);
    let slow = RefCell::new(Slow::default());
    // For each session.
    let purging = Cell::new(Duration::ZERO);
    let revoke = |sessions: u64| {
        let (store, server, slow, purging) = (&store, &server, &slow, &purging);
        move || {
            runtime.block_on(fill(store, sessions, 1));
            server.redis_cli(&["SLOWLOG", "RESET"]);
            let what = Revocation::Customer(session(0, 0).customer_id);
            let begun = Instant::now();
            let revoked = runtime.block_on(store.revoke(&what)).expect("revoked");
            let took = begun.elapsed().as_secs_f64() * 1e6;
            assert!(revoked.any, "they were live");
            // What is left is removed in steps.
            let begun = Instant::now();
            runtime.block_on(async {
                while store.purge_expired(Utc::now(), 1000).await.expect("purged") >= 1000 {}
            });
            purging.set(begun.elapsed() / u32::try_from(sessions).expect("few"));
            slow.borrow_mut().note(server);
            took
        }
    };
    let tasks = vec![task("one", revoke(1)), task("many", revoke(many))];
    let took = medians(tasks, full_or_quick(5, 3));
    println!(
        "ending the only session of a customer takes {:.0} µs, ending {many} takes {:.0} µs: {:.2} x; \
         {:.0} sessions are purged a second; of all commands, {}",
        took("one"),
        took("many"),
        took("many") / took("one"),
        1.0 / purging.get().as_secs_f64(),
        slow.into_inner().describe()
    );
}

/// Measures how soon three nodes hear of a revocation after it was confirmed, while 16 clients revoke.
async fn delays(server: &Server) {
    let store = connect(&server.url()).await;
    let (heard, mut events) = tokio::sync::mpsc::unbounded_channel();
    for _ in 0..NODES {
        let mut source = store.invalidations().await.expect("it listens");
        source.recv().await.expect("it goes on");
        let heard = heard.clone();
        tokio::spawn(async move {
            while let Some(event) = source.recv().await {
                if let SourceEvent::Invalidate(Invalidation::Session(id)) = event {
                    let _ = heard.send((id, Instant::now()));
                }
            }
        });
    }
    let sessions = fill(&store, full_or_quick(30_000, 1_000), 1_000_000).await;
    let parts = sessions.chunks(sessions.len().div_ceil(16));
    let clients = parts.map(|part| {
        let ids: Vec<_> = part.iter().map(|session| session.id.clone()).collect();
        let store = store.clone();
        async move {
            let mut ended = Vec::new();
            for id in ids {
                let what = Revocation::Session(id.clone());
                assert!(store.revoke(&what).await.expect("revoked").any);
                ended.push((id, Instant::now()));
            }
            ended
        }
    });
    let begun = Instant::now();
    let ended = clients.collect::<JoinSet<_>>().join_all().await;
    let rate = sessions.len() as f64 / begun.elapsed().as_secs_f64();
    let ended: HashMap<SessionId, Instant> = ended.into_iter().flatten().collect();
    let mut delays = Vec::new();
    while delays.len() < ended.len() * NODES {
        let event = tokio::time::timeout(Duration::from_secs(10), events.recv()).await;
        let (id, at) = event.expect("all are heard of").expect("they listen");
        delays.push(at.saturating_duration_since(ended[&id]));
    }
    delays.sort();
    println!(
        "{NODES} nodes hear of a revocation at most {:.1} ms after it was confirmed in 99 of 100, \
         while 16 clients revoke {rate:.0} a second",
        delays[delays.len() * 99 / 100].as_secs_f64() * 1e3
    );
}

/// Returns the numbers of commands that a node has run, and of microseconds that they took.
fn work(server: &Server) -> (u64, u64) {
    let info = server.redis_cli(&["INFO", "commandstats"]);
    let field = |line: &str, name: &str| -> u64 {
        let mut fields = line.split([':', ',']);
        let value = fields.find_map(|field| field.strip_prefix(name));
        value.and_then(|value| value.parse().ok()).unwrap_or(0)
    };
    let calls = info.lines().filter(|line| line.starts_with("cmdstat_"));
    calls.fold((0, 0), |(calls, micros), line| {
        (calls + field(line, "calls="), micros + field(line, "usec="))
    })
}

/// Measures how sessions and lookups are shared out.
async fn spread(cluster: &RedisCluster) {
    let store = connect(&cluster.urls()[0]).await;
    let rows = full_or_quick(30_000, 3_000);
    let sessions = Arc::new(fill(&store, rows, rows).await);
    let nodes = cluster.primaries();
    let keys = |node: &usize| -> f64 {
        let size = cluster.node(*node).redis_cli(&["DBSIZE"]);
        size.trim_start_matches(':').parse().expect("a number")
    };
    let keys: Vec<_> = nodes.iter().map(keys).collect();
    let mean = keys.iter().sum::<f64>() / keys.len() as f64;
    let shares = keys
        .iter()
        .map(|keys| format!("{:+.1} %", (keys / mean - 1.0) * 100.0));
    let shares = shares.collect::<Vec<_>>().join(", ");
    println!("a cluster of {NODES}: the numbers of keys differ from their mean by {shares}");
    for node in &nodes {
        cluster.node(*node).redis_cli(&["CONFIG", "RESETSTAT"]);
    }
    let (is_over, found) = (
        Arc::new(AtomicBool::new(false)),
        Arc::new(AtomicU64::new(0)),
    );
    let clients = (0..16).map(|client| {
        let (store, sessions) = (store.clone(), Arc::clone(&sessions));
        let (is_over, found) = (Arc::clone(&is_over), Arc::clone(&found));
        async move {
            for session in sessions.iter().cycle().skip(client * 97) {
                if is_over.load(Relaxed) {
                    return;
                }
                let answer = store.find(&session.token).await.expect("an answer");
                assert!(answer.is_some());
                found.fetch_add(1, Relaxed);
            }
        }
    });
    let clients: JoinSet<_> = clients.collect();
    tokio::time::sleep(Duration::from_millis(full_or_quick(3000, 200))).await;
    is_over.store(true, Relaxed);
    clients.join_all().await;
    let found = found.load(Relaxed) as f64;
    for node in nodes {
        let (calls, micros) = work(cluster.node(node));
        println!(
            "node {node}: {:.2} commands and {:.1} µs of its time for each lookup",
            calls as f64 / found,
            micros as f64 / found
        );
    }
}
