//! What announcing costs in PostgreSQL, and how soon other nodes hear of a change.
//!
//! Beside the tables as they are there is a second set without triggers. Both are changed by the raw
//! driver with the store's statement, while three nodes read what is announced. The server writes to
//! the disk, as in production: a lock that is held until then counts.

use std::{
    collections::HashMap,
    sync::{
        Arc,
        atomic::{AtomicBool, AtomicU64, Ordering::Relaxed},
    },
    time::{Duration, Instant},
};

use customer_session::{
    Invalidation, InvalidationSource as _, SessionId, SourceEvent,
    store::{Peppers, PostgresStore},
};
use customer_session_benches::{
    full_or_quick,
    statistics::{median, ratio},
};
use sqlx::{AssertSqlSafe, Connection as _, Executor as _, PgConnection, postgres::PgListener};
use test_support::servers::Server;
use tokio::{runtime::Runtime, sync::mpsc, task::JoinSet};

use crate::{contents::PEPPER, cores};

const CLIENTS: usize = 16;
const NODES: usize = 3;
/// Clients of another application, in another database, that notify.
const NOTIFIERS: usize = 4;

/// The schemas: the tables as they are, and those without triggers.
const SIDES: [&str; 2] = ["announcing", "silent"];

/// The ids of sessions that are still there.
struct Ids {
    schema: &'static str,
    next: AtomicU64,
}

impl Ids {
    fn take(&self) -> String {
        format!("s{}", self.next.fetch_add(1, Relaxed))
    }
}

/// When a node heard of the end of a session.
type Heard = (SessionId, Instant);

pub fn measure(runtime: &Runtime) {
    let Some(server) = Server::postgres_with(&["fsync=on"], &[]) else {
        return;
    };
    cores::run_on(cores::ALL.get().expect("set"), Some(&server));
    runtime.block_on(async {
        let sides = [
            filled(&server, SIDES[0]).await,
            filled(&server, SIDES[1]).await,
        ];
        let (heard, mut events) = mpsc::unbounded_channel();
        listen(&server, heard).await;
        while events.try_recv().is_ok() {}
        revocations(&server, &sides).await;
        notifications(&server, &sides).await;
        while events.try_recv().is_ok() {}
        delays(&server, &sides[0], &mut events).await;
    });
}

async fn connect(server: &Server) -> PgConnection {
    let connection = PgConnection::connect(&server.url()).await;
    connection.expect("connected")
}

async fn run(connection: &mut PgConnection, sql: String) {
    let done = connection.execute(AssertSqlSafe(sql)).await;
    done.expect("it runs");
}

async fn filled(server: &Server, schema: &'static str) -> Arc<Ids> {
    let rows = full_or_quick(600_000, 30_000);
    let mut owner = connect(server).await;
    run(&mut owner, format!("CREATE SCHEMA {schema}")).await;
    let builder = PostgresStore::builder(Peppers::new(PEPPER)).schema(schema);
    let store = builder.connect(&server.url()).await.expect("connected");
    store.migrate().await.expect("migrated");
    for fill in [
        "INSERT INTO customer_session_customers (id, organization_id, created_at) \
         SELECT 'c' || n, 'org_1', now() FROM generate_series(0, $1) n",
        "INSERT INTO customer_session_epochs (customer_id) \
         SELECT 'c' || n FROM generate_series(0, $1) n",
        "INSERT INTO customer_sessions (id, token_hash, customer_id, created_at, expires_at) \
         SELECT 's' || n, sha256(n::text::bytea), 'c' || n, now(), now() + interval '1 day' \
         FROM generate_series(0, $1) n",
    ] {
        let path = format!("SET search_path TO {schema}");
        run(&mut owner, path).await;
        run(&mut owner, fill.replace("$1", &rows.to_string())).await;
    }
    if schema == SIDES[1] {
        let drop = format!("ALTER TABLE {schema}.customer_sessions DISABLE TRIGGER USER");
        run(&mut owner, drop).await;
    }
    run(&mut owner, "VACUUM ANALYZE".to_owned()).await;
    run(&mut owner, "CHECKPOINT".to_owned()).await;
    Arc::new(Ids {
        schema,
        next: AtomicU64::new(0),
    })
}

/// Starts the nodes, each with a source of its own, and waits until all listen.
async fn listen(server: &Server, heard: mpsc::UnboundedSender<Heard>) {
    let builder = PostgresStore::builder(Peppers::new(PEPPER)).schema(SIDES[0]);
    let store = builder.connect(&server.url()).await.expect("connected");
    for _ in 0..NODES {
        let mut source = store.invalidations().await.expect("it listens");
        source.recv().await.expect("it goes on");
        let heard = heard.clone();
        tokio::spawn(async move {
            while let Some(event) = source.recv().await {
                if let SourceEvent::Invalidate(Invalidation::Session(session)) = event
                    && heard.send((session, Instant::now())).is_err()
                {
                    return;
                }
            }
        });
    }
}

/// A connection that ends sessions.
struct Client {
    connection: PgConnection,
    ids: Arc<Ids>,
    delete: Arc<str>,
}

impl Client {
    fn new(connection: PgConnection, ids: &Arc<Ids>) -> Self {
        let schema = ids.schema;
        let delete = format!(
            "DELETE FROM {schema}.customer_sessions WHERE id = $1 RETURNING \
             coalesce(epoch >= (SELECT e.epoch FROM {schema}.customer_session_epochs e \
             WHERE e.customer_id = customer_sessions.customer_id), false)"
        );
        Self {
            connection,
            ids: Arc::clone(ids),
            delete: delete.into(),
        }
    }

    /// Ends the next session, and returns its id.
    async fn revoke(&mut self) -> String {
        let id = self.ids.take();
        let delete = sqlx::query_scalar(AssertSqlSafe(Arc::clone(&self.delete))).bind(id.clone());
        let was_live: bool = delete.fetch_one(&mut self.connection).await.expect("ended");
        assert!(was_live);
        id
    }

    async fn revoke_until(mut self, done: impl Fn() -> bool) {
        while !done() {
            self.revoke().await;
        }
    }
}

/// Returns how many sessions the clients end in a second. They keep their connections from one window to
/// the next, as a pool does: the first calls of a connection load and plan what the trigger runs.
async fn rate(clients: &mut Vec<Client>, window: Duration) -> f64 {
    let begun = Instant::now();
    let revoking = clients.drain(..).map(|mut client| async move {
        let mut ended = 0;
        while begun.elapsed() < window {
            client.revoke().await;
            ended += 1;
        }
        (client, ended)
    });
    let revoked = revoking.collect::<JoinSet<_>>().join_all().await;
    let elapsed = begun.elapsed().as_secs_f64();
    let mut ended = 0;
    for (client, number) in revoked {
        clients.push(client);
        ended += number;
    }
    f64::from(ended) / elapsed
}

async fn revocations(server: &Server, sides: &[Arc<Ids>; 2]) {
    let window = Duration::from_millis(full_or_quick(1000, 200));
    let mut clients = [Vec::new(), Vec::new()];
    for (clients, ids) in clients.iter_mut().zip(sides) {
        for _ in 0..CLIENTS {
            clients.push(Client::new(connect(server).await, ids));
        }
        rate(clients, window).await;
    }
    let mut rates = [Vec::new(), Vec::new()];
    for round in 0..full_or_quick(15, 3) {
        for turn in 0..2 {
            let side = (round + turn) % 2;
            rates[side].push(rate(&mut clients[side], window).await);
        }
    }
    println!(
        "\nRevocations by {CLIENTS} clients, while {NODES} nodes read what is announced: {:.0}/s, \
         without triggers {:.0}/s, ratio {:.2}",
        median(&rates[0]),
        median(&rates[1]),
        ratio(&rates[0], &rates[1])
    );
}

/// Returns how many notifications another application sends in a second, in a database of its own,
/// while the clients revoke.
async fn notified(server: &Server, ids: &Arc<Ids>) -> f64 {
    let other = server.url().replace("/postgres", "/other");
    let is_over = Arc::new(AtomicBool::new(false));
    let done = || {
        let is_over = Arc::clone(&is_over);
        move || is_over.load(Relaxed)
    };
    let mut clients = JoinSet::new();
    for _ in 0..CLIENTS {
        let connection = connect(server).await;
        clients.spawn(Client::new(connection, ids).revoke_until(done()));
    }
    let sent = Arc::new(AtomicU64::new(0));
    for _ in 0..NOTIFIERS {
        let mut connection = PgConnection::connect(&other).await.expect("connected");
        let (sent, done) = (Arc::clone(&sent), done());
        clients.spawn(async move {
            while !done() {
                connection.execute("NOTIFY work, 'x'").await.expect("sent");
                sent.fetch_add(1, Relaxed);
            }
        });
    }
    let begun = Instant::now();
    tokio::time::sleep(Duration::from_millis(full_or_quick(1000, 200))).await;
    let rate = sent.load(Relaxed) as f64 / begun.elapsed().as_secs_f64();
    is_over.store(true, Relaxed);
    clients.join_all().await;
    rate
}

async fn notifications(server: &Server, sides: &[Arc<Ids>; 2]) {
    let mut owner = connect(server).await;
    run(&mut owner, "CREATE DATABASE other".to_owned()).await;
    let other = server.url().replace("/postgres", "/other");
    let mut listener = PgListener::connect(&other).await.expect("connected");
    listener.listen("work").await.expect("it listens");
    let reading = tokio::spawn(async move {
        loop {
            listener.recv().await.expect("a notification");
        }
    });
    let mut rates = [Vec::new(), Vec::new()];
    for round in 0..full_or_quick(15, 3) {
        for turn in 0..2 {
            let side = (round + turn) % 2;
            rates[side].push(notified(server, &sides[side]).await);
        }
    }
    reading.abort();
    println!(
        "\nNotifications by {NOTIFIERS} clients of another database, while {CLIENTS} clients revoke: \
         {:.0}/s, while nothing is announced {:.0}/s, ratio {:.2}",
        median(&rates[0]),
        median(&rates[1]),
        ratio(&rates[0], &rates[1])
    );
}

async fn delays(server: &Server, ids: &Arc<Ids>, events: &mut mpsc::UnboundedReceiver<Heard>) {
    let window = Duration::from_millis(full_or_quick(5000, 300));
    // Not in step with the reading.
    let pause = Duration::from_micros(7300);
    let mut idle = delays_of(server, ids, events, 1, pause, window).await;
    let mut busy = delays_of(server, ids, events, CLIENTS, Duration::ZERO, window).await;
    println!(
        "\n{NODES} nodes hear of a revocation after it was confirmed: idle p50 {:.1} ms, p99 {:.1} ms; \
         while {CLIENTS} clients revoke p50 {:.1} ms, p99 {:.1} ms ({} revocations)",
        part(&mut idle, 50),
        part(&mut idle, 99),
        part(&mut busy, 50),
        part(&mut busy, 99),
        busy.len() / NODES
    );
}

/// Returns the delay of each session that the clients end in this time, on each node, in milliseconds.
async fn delays_of(
    server: &Server,
    ids: &Arc<Ids>,
    events: &mut mpsc::UnboundedReceiver<Heard>,
    clients: usize,
    pause: Duration,
    window: Duration,
) -> Vec<f64> {
    let mut connections = Vec::new();
    for _ in 0..clients {
        connections.push(connect(server).await);
    }
    let begun = Instant::now();
    let clients = connections.into_iter().map(|connection| {
        let ids = Arc::clone(ids);
        async move {
            let mut ended = Vec::new();
            let mut client = Client::new(connection, &ids);
            while begun.elapsed() < window {
                let id = client.revoke().await;
                ended.push((SessionId::from(id), Instant::now()));
                tokio::time::sleep(pause).await;
            }
            ended
        }
    });
    let ended = clients.collect::<JoinSet<_>>().join_all().await;
    let ended: HashMap<_, _> = ended.into_iter().flatten().collect();
    let mut delays = Vec::new();
    while delays.len() < ended.len() * NODES {
        let heard = tokio::time::timeout(Duration::from_secs(30), events.recv()).await;
        let (session, at) = heard.expect("all are heard of").expect("they listen");
        if let Some(ended) = ended.get(&session) {
            delays.push(at.saturating_duration_since(*ended).as_secs_f64() * 1e3);
        }
    }
    delays
}

fn part(delays: &mut [f64], percent: usize) -> f64 {
    delays.sort_by(f64::total_cmp);
    delays[delays.len() * percent / 100]
}
