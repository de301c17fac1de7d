//! What the stores cost beside the raw driver doing the same.
//!
//! `cargo bench --bench stores --features sqlite,postgres,redis` fills each store with 10,000,
//! 100,000 and 1,000,000 sessions, a tenth of them expired, and measures a lookup, an insertion,
//! and lookups while the expired ones are purged. `ROWS=10000` measures that size alone.
//! PostgreSQL and Redis are throw-away servers; one that is not installed is left out.
//!
//! Lookups and insertions are measured on one core, driver and server alike: which of two cores
//! a thread wakes up on, and whether that one was asleep, is a matter of chance that outweighs
//! everything else. Purging has all cores.

mod measure;
#[path = "../tests/support/servers.rs"]
mod servers;

use std::{
    sync::OnceLock,
    time::{Duration, Instant},
};

use chrono::{SubsecRound as _, TimeDelta, Utc};
use customer_session::{
    CustomerData, CustomerSession, CustomerSessions, SessionRegistry, TokenFormat,
    store::{Peppers, PostgresStore, RedisStore, SqliteStore},
};
use hmac::{Hmac, KeyInit as _, Mac as _};
use redis::aio::{ConnectionManager, ConnectionManagerConfig};
use sha2::Sha256;
use sqlx::{
    AssertSqlSafe, Connection as _, Executor as _, PgConnection, PgPool, Row as _,
    SqliteConnection, SqlitePool,
    postgres::PgPoolOptions,
    sqlite::{SqliteConnectOptions, SqliteJournalMode, SqlitePoolOptions},
};
use tokio::runtime::Runtime;

use measure::{Contender, contender, medians};
use servers::Server;

const PEPPER: [u8; 32] = [7; 32];

/// How many sessions are looked up, picked from all over the table.
const KNOWN: usize = 2000;
const BATCH: usize = 100;
const ROUNDS: usize = 40;

/// Lookups while nothing else happens, and while sessions are purged: this many a second.
const RATE: u32 = 500;

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
        sqlite(&runtime, rows);
        postgres(&runtime, rows);
        redis(&runtime, rows);
    }
}

/// A session like those of a service: a customer with a name, an address and a little metadata.
fn session() -> CustomerSession {
    let id = TokenFormat::any().generate().expose()[4..30].to_owned();
    let now = Utc::now().trunc_subsecs(6);
    let mut customer = CustomerData::new(format!("cus_{id}"), "org_1");
    customer.name = Some("Jane Doe".to_owned());
    customer.email = Some("jane@example.com".to_owned());
    customer.metadata = [("plan", "pro".into()), ("seats", 12.into())]
        .map(|(key, value): (&str, customer_session::MetadataValue)| (key.to_owned(), value))
        .into();
    CustomerSession {
        id: format!("ses_{id}").into(),
        created_at: now,
        modified_at: None,
        token: TokenFormat::new("cst_").generate(),
        expires_at: now + TimeDelta::days(1),
        customer_id: customer.id.clone(),
        customer: customer.into(),
    }
}

fn hash(session: &CustomerSession) -> String {
    let mut hmac = Hmac::<Sha256>::new_from_slice(&PEPPER).expect("any length");
    hmac.update(session.token.expose().as_bytes());
    hex::encode(hmac.finalize().into_bytes())
}

/// Inserts the sessions that will be looked up, and answers them with their hashes.
async fn known(store: &impl SessionRegistry) -> Vec<(CustomerSession, String)> {
    let mut known = Vec::with_capacity(KNOWN);
    for _ in 0..KNOWN {
        let session = session();
        store.insert(&session).await.expect("inserted");
        let hash = hash(&session);
        known.push((session, hash));
    }
    known
}

/// Microseconds for each of a batch, one after the other.
fn batch<'a, T, F: Future<Output = ()>>(
    runtime: &'a Runtime,
    items: impl Fn() -> Vec<T> + 'a,
    act: impl Fn(T) -> F + 'a,
) -> impl FnMut() -> f64 + 'a {
    move || {
        let items = items();
        let count = items.len() as f64;
        let begun = Instant::now();
        runtime.block_on(async {
            for item in items {
                act(item).await;
            }
        });
        begun.elapsed().as_secs_f64() * 1e6 / count
    }
}

/// Another part of what is known each time.
fn some<T: Clone>(all: &[T]) -> impl Fn() -> Vec<T> + '_ {
    let next = std::cell::Cell::new(0);
    move || {
        let from = next.replace((next.get() + 7 * BATCH) % all.len());
        all.iter().cycle().skip(from).take(BATCH).cloned().collect()
    }
}

fn our_find<'a, S: SessionRegistry>(
    runtime: &'a Runtime,
    store: &'a S,
    known: &'a [(CustomerSession, String)],
) -> Contender<'a> {
    contender(
        "ours",
        batch(
            runtime,
            some(known),
            async |(session, _): (CustomerSession, String)| {
                let found = store.find(&session.token).await.expect("an answer");
                assert!(found.is_some());
            },
        ),
    )
}

fn our_insert<'a, S: SessionRegistry>(runtime: &'a Runtime, store: &'a S) -> Contender<'a> {
    contender(
        "ours",
        batch(
            runtime,
            new_ones,
            async |(session, _): (CustomerSession, String)| {
                store.insert(&session).await.expect("inserted");
            },
        ),
    )
}

fn new_ones() -> Vec<(CustomerSession, String)> {
    let sessions = (0..BATCH).map(|_| session());
    sessions
        .map(|session| (session.clone(), hash(&session)))
        .collect()
}

/// The 99th percentile of lookups at a steady rate until `done`, in microseconds.
async fn p99<S: SessionRegistry + Clone>(
    store: &S,
    known: &[(CustomerSession, String)],
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

/// The row of the table for one store.
fn report<S: SessionRegistry + Clone>(
    runtime: &Runtime,
    name: &str,
    rows: u64,
    store: &S,
    known: &[(CustomerSession, String)],
    (find, insert): (&[f64], &[f64]),
    server: Option<&Server>,
) {
    run_on(ALL_CORES.get().expect("set"), server);
    let (idle, purging, rate) = runtime.block_on(async {
        let begun = Instant::now();
        let idle = p99(store, known, || begun.elapsed() > Duration::from_secs(4)).await;
        // As a service would: what is expired goes in the background, batch by batch.
        let expired = rows / 10;
        let begun = Instant::now();
        let sessions = CustomerSessions::builder(store.clone()).build();
        let purging = tokio::spawn(sessions.purge(Duration::from_secs(1)));
        let counted = store.clone();
        let gone = tokio::spawn(async move {
            // The first batch begins within a second; then wait for the last of them.
            loop {
                tokio::time::sleep(Duration::from_millis(200)).await;
                let expired: CustomerSession = session();
                let mut last = expired;
                last.expires_at = Utc::now() - TimeDelta::seconds(1);
                counted.insert(&last).await.expect("inserted");
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
        find[2],
        find[2] / find[1],
        find[2] / find[0],
        insert[1],
        insert[1] / insert[0],
        purging / idle
    );
}

const COLUMNS: [&str; 18] = [
    "id",
    "organization_id",
    "created_at",
    "modified_at",
    "metadata",
    "external_id",
    "email",
    "email_verified",
    "kind",
    "name",
    "billing_name",
    "billing_address",
    "tax_id",
    "locale",
    "default_payment_method_id",
    "deleted_at",
    "first_user_event_at",
    "avatar_url",
];

/// What the SQL stores ask, written by hand.
const FIND: &str = "SELECT s.id, s.token_hash, s.created_at, s.modified_at, s.expires_at, c.id, \
     c.organization_id, c.created_at, c.modified_at, CAST(c.metadata AS text), c.external_id, \
     c.email, c.email_verified, c.kind, c.name, c.billing_name, \
     CAST(c.billing_address AS text), CAST(c.tax_id AS text), c.locale, \
     c.default_payment_method_id, c.deleted_at, c.first_user_event_at, c.avatar_url \
     FROM customer_sessions s JOIN customers c ON c.id = s.customer_id WHERE s.token_hash IN ($1)";

fn upsert(json: &str) -> String {
    let values = (1..).zip(COLUMNS).map(|(n, column)| match column {
        "metadata" | "billing_address" | "tax_id" => format!("CAST(${n} AS {json})"),
        _ => format!("${n}"),
    });
    let (values, set): (Vec<_>, Vec<_>) = values
        .zip(COLUMNS.map(|column| format!("{column} = excluded.{column}")))
        .unzip();
    format!(
        "INSERT INTO customers ({}) VALUES ({}) ON CONFLICT (id) DO UPDATE SET {}",
        COLUMNS.join(", "),
        values.join(", "),
        set[1..].join(", ")
    )
}

/// Binds a session as the SQL stores do; `$time` makes a parameter of a time.
macro_rules! bind_customer {
    ($query:expr, $session:expr, $time:expr) => {{
        let customer = &$session.customer;
        let metadata = serde_json::to_string(&customer.metadata).expect("JSON");
        $query
            .bind(customer.id.as_str().to_owned())
            .bind(customer.organization_id.as_str().to_owned())
            .bind($time(customer.created_at))
            .bind(customer.modified_at.map($time))
            .bind(metadata)
            .bind(customer.external_id.clone())
            .bind(customer.email.clone())
            .bind(customer.email_verified)
            .bind("individual")
            .bind(customer.name.clone())
            .bind(customer.billing_name.clone())
            .bind(None::<String>)
            .bind(None::<String>)
            .bind(customer.locale.clone())
            .bind(customer.default_payment_method_id.clone())
            .bind(customer.deleted_at.map($time))
            .bind(customer.first_user_event_at.map($time))
            .bind(customer.avatar_url.clone())
    }};
}

/// Reads every column of a row as the driver gives it.
macro_rules! read {
    ($row:expr, $time:ty) => {{
        let row = $row;
        for place in [0, 1, 5, 6, 9, 10, 11, 13, 14, 15, 16, 17, 18, 19, 22] {
            std::hint::black_box(row.get::<Option<String>, usize>(place));
        }
        for place in [2, 3, 4, 7, 8, 20, 21] {
            std::hint::black_box(row.get::<Option<$time>, usize>(place));
        }
        std::hint::black_box(row.get::<bool, usize>(12));
    }};
}

fn sqlite(runtime: &Runtime, rows: u64) {
    let folder = std::env::temp_dir().join(format!("cst-bench-{}-{rows}", std::process::id()));
    std::fs::create_dir_all(&folder).expect("a folder");
    let options = SqliteConnectOptions::new()
        .filename(folder.join("sessions.db"))
        .create_if_missing(true)
        .journal_mode(SqliteJournalMode::Wal);
    let micros = |time: chrono::DateTime<Utc>| time.timestamp_micros();
    let (pool, store, known): (SqlitePool, _, _) = runtime.block_on(async {
        let pool = SqlitePoolOptions::new()
            .max_connections(5)
            .min_connections(1)
            .test_before_acquire(false)
            .connect_with(options.clone())
            .await
            .expect("opened");
        let url = format!("sqlite:{}/sessions.db", folder.display());
        let store = SqliteStore::connect(&url, Peppers::new(PEPPER)).await;
        let store = store.expect("opened");
        store.migrate().await.expect("migrated");
        let known = known(&store).await;
        for fill in [
            "WITH RECURSIVE r (n) AS (SELECT 1 UNION ALL SELECT n + 1 FROM r WHERE n < $1) \
             INSERT INTO customers (id, organization_id, created_at, email, name, metadata) \
             SELECT 'c' || n, 'org_1', 1, 'jane@example.com', 'Jane Doe', '{\"plan\":\"pro\"}' FROM r",
            "WITH RECURSIVE r (n) AS (SELECT 1 UNION ALL SELECT n + 1 FROM r WHERE n < $1) \
             INSERT INTO customer_sessions (id, token_hash, customer_id, created_at, expires_at) \
             SELECT 's' || n, lower(hex(randomblob(32))), 'c' || n, 1, \
             iif(n % 10 = 0, n, 4102444800000000) FROM r",
            "ANALYZE",
        ] {
            let fill = sqlx::query(fill).bind(rows as i64);
            fill.execute(&pool).await.expect("filled");
        }
        (pool, store, known)
    });
    let mut held = runtime
        .block_on(SqliteConnection::connect_with(&options))
        .expect("opened");
    run_on("0", None);
    let mut find = [
        contender("held", {
            let hashes = some(&known);
            let held = &mut held;
            move || {
                let hashes = hashes();
                let begun = Instant::now();
                runtime.block_on(async {
                    for (_, hash) in hashes {
                        let row = sqlx::query(FIND).bind(hash).fetch_one(&mut *held).await;
                        read!(row.expect("found"), i64);
                    }
                });
                begun.elapsed().as_secs_f64() * 1e6 / BATCH as f64
            }
        }),
        contender(
            "raw",
            batch(
                runtime,
                some(&known),
                async |(_, hash): (CustomerSession, String)| {
                    let row = sqlx::query(FIND).bind(hash).fetch_one(&pool).await;
                    read!(row.expect("found"), i64);
                },
            ),
        ),
        our_find(runtime, &store, &known),
    ];
    let find = medians(&mut find, ROUNDS);
    let upsert = upsert("text");
    let mut insert = [
        contender(
            "raw",
            batch(
                runtime,
                new_ones,
                async |(session, hash): (CustomerSession, String)| {
                    let mut transaction = pool.begin_with("BEGIN IMMEDIATE").await.expect("begun");
                    let customer = sqlx::query(AssertSqlSafe(upsert.as_str()));
                    let customer = bind_customer!(customer, session, micros);
                    customer.execute(&mut *transaction).await.expect("inserted");
                    let insert = "INSERT INTO customer_sessions (customer_id, id, token_hash, \
                     created_at, modified_at, expires_at) VALUES ($1, $2, $3, $4, $5, $6)";
                    let insert = sqlx::query(insert)
                        .bind(session.customer_id.as_str())
                        .bind(session.id.as_str())
                        .bind(hash)
                        .bind(micros(session.created_at))
                        .bind(session.modified_at.map(micros))
                        .bind(micros(session.expires_at));
                    insert.execute(&mut *transaction).await.expect("inserted");
                    transaction.commit().await.expect("committed");
                },
            ),
        ),
        our_insert(runtime, &store),
    ];
    let insert = medians(&mut insert, ROUNDS);
    report(
        runtime,
        "SQLite",
        rows,
        &store,
        &known,
        (&find, &insert),
        None,
    );
    runtime.block_on(pool.close());
    let _ = std::fs::remove_dir_all(&folder);
}

fn postgres(runtime: &Runtime, rows: u64) {
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
    let mut find = [
        contender("held", {
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
        contender(
            "raw",
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
    let find = medians(&mut find, ROUNDS);
    let insert = format!(
        "WITH known AS ({} WHERE customers::text <> excluded::text RETURNING id) \
         INSERT INTO customer_sessions \
         (id, token_hash, customer_id, created_at, modified_at, expires_at) \
         SELECT $19, $20, $1, $21, $22, $23 WHERE (SELECT count(*) FROM known) >= 0",
        upsert("json")
    );
    let mut insert = [
        contender(
            "raw",
            batch(
                runtime,
                new_ones,
                async |(session, hash): (CustomerSession, String)| {
                    let query = sqlx::query(AssertSqlSafe(insert.as_str()));
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
    let insert = medians(&mut insert, ROUNDS);
    report(
        runtime,
        "PostgreSQL",
        rows,
        &store,
        &known,
        (&find, &insert),
        Some(&server),
    );
    runtime.block_on(pool.close());
}

fn redis(runtime: &Runtime, rows: u64) {
    let Some(server) = Server::redis() else {
        return servers::missing("Redis");
    };
    const PREFIX: &str = "{customer_sessions}:";
    let script = |text: &str| {
        redis::Script::new(&[include_str!("../src/store/lua/keys.lua"), text].concat())
    };
    let (connection, store, known) = runtime.block_on(async {
        let client = redis::Client::open(server.url()).expect("a URL");
        let config = ConnectionManagerConfig::new().set_response_timeout(None);
        let connection = ConnectionManager::new_with_config(client, config).await;
        let connection: ConnectionManager = connection.expect("connected");
        // With `always` it is the disk that is measured: every write holds lookups up for a flush.
        let _: () = redis::cmd("CONFIG")
            .arg(&["SET", "appendfsync", "everysec"])
            .query_async(&mut connection.clone())
            .await
            .expect("set");
        let store = RedisStore::new(connection.clone(), Peppers::new(PEPPER));
        let known = known(&store).await;
        let fill = script(
            "for n = ARGV[1], ARGV[2] do \
             local expires = (n % 10 == 0) and '1000000' or '4102444800000000' \
             local hash = redis.sha1hex(n) .. string.sub(redis.sha1hex('x' .. n), 1, 24) \
             add('s' .. n, 'c' .. n, hash, ' 1 - ' .. expires, expires) \
             redis.call('HSET', customer_key('c' .. n), 'customer', ARGV[3]) \
             end",
        );
        let customer = serde_json::to_string(&session().customer).expect("JSON");
        let mut to = connection.clone();
        for from in (1..=rows).step_by(10_000) {
            let mut part = fill.key(PREFIX);
            part.arg(from).arg((from + 9_999).min(rows)).arg(&customer);
            let _: () = part.invoke_async(&mut to).await.expect("filled");
        }
        (connection, store, known)
    });
    let find = script(include_str!("../src/store/lua/find.lua"));
    let raw = || {
        batch(
            runtime,
            some(&known),
            async |(_, hash): (CustomerSession, String)| {
                let mut call = find.key(PREFIX);
                call.arg(hash);
                let row: (u64, String, String, String) = call
                    .invoke_async(&mut connection.clone())
                    .await
                    .expect("found");
                std::hint::black_box(row);
            },
        )
    };
    run_on("0", Some(&server));
    let mut contenders = [
        contender("held", raw()),
        contender("raw", raw()),
        our_find(runtime, &store, &known),
    ];
    let find = medians(&mut contenders, ROUNDS);
    let insert = script(include_str!("../src/store/lua/insert.lua"));
    let mut insert = [
        contender(
            "raw",
            batch(
                runtime,
                new_ones,
                async |(session, hash): (CustomerSession, String)| {
                    let expires = session.expires_at.timestamp_micros().to_string();
                    let record = format!(" {} - {expires}", session.created_at.timestamp_micros());
                    let customer = serde_json::to_string(&session.customer).expect("JSON");
                    let mut call = insert.key(PREFIX);
                    call.arg(session.id.as_str())
                        .arg(session.customer_id.as_str());
                    call.arg(hash).arg(record).arg(expires).arg(customer);
                    let done: String = call
                        .invoke_async(&mut connection.clone())
                        .await
                        .expect("inserted");
                    assert_eq!(done, "done");
                },
            ),
        ),
        our_insert(runtime, &store),
    ];
    let insert = medians(&mut insert, ROUNDS);
    report(
        runtime,
        "Redis",
        rows,
        &store,
        &known,
        (&find, &insert),
        Some(&server),
    );
}
