//! Redis: ours, and the raw driver.

use std::sync::Arc;

use customer_session::store::{Peppers, RedisStore};
use customer_session_benches::measure::tasks::{Task, medians, task};
use redis::{
    Script,
    aio::{ConnectionManager, ConnectionManagerConfig},
};
use test_support::servers::{self, Server};
use tokio::runtime::Runtime;

use crate::{
    contents::{
        Known, PEPPER, ROUNDS, batch, known, new_ones, our_find, our_insert, session, some,
    },
    cores::run_on,
    purging::report,
};

const PREFIX: &str = "{customer_sessions}:";
const KEYS: &str = include_str!("../../../../src/store/redis/lua/keys.lua");
const FIND: &str = include_str!("../../../../src/store/redis/lua/find.lua");
const INSERT: &str = include_str!("../../../../src/store/redis/lua/insert.lua");
const FILL: &str = "for n = ARGV[1], ARGV[2] do \
     local expires = (n % 10 == 0) and '1000000' or '4102444800000000' \
     local hash = redis.sha1hex(n) .. string.sub(redis.sha1hex('x' .. n), 1, 24) \
     add('s' .. n, 'c' .. n, hash, ' 1 - ' .. expires, expires) \
     redis.call('HSET', customer_key('c' .. n), 'customer', ARGV[3]) \
     end";

fn script(text: &str) -> Script {
    Script::new(&[KEYS, text].concat())
}

/// Measures the store and the raw driver, and prints a row.
pub fn measure(runtime: &Runtime, rows: u64) {
    let Some(server) = Server::redis() else {
        return servers::missing("Redis");
    };
    let (connection, store, known) = runtime.block_on(filled(&server, rows));
    run_on("0", Some(&server));
    let find = vec![
        raw_find("held", runtime, &connection, &known),
        raw_find("pool", runtime, &connection, &known),
        our_find(runtime, &store, &known),
    ];
    let find = medians(find, ROUNDS);
    let insert = vec![
        raw_insert(runtime, &connection),
        our_insert(runtime, &store),
    ];
    let insert = medians(insert, ROUNDS);
    report(
        runtime,
        "Redis",
        rows,
        &store,
        &known,
        (find, insert),
        Some(&server),
    );
}

/// Returns a connection and a store with the same keys, of this many sessions, and the known
/// sessions.
async fn filled(server: &Server, rows: u64) -> (ConnectionManager, RedisStore, Vec<Known>) {
    let client = redis::Client::open(server.url()).expect("a URL");
    let config = ConnectionManagerConfig::new().set_response_timeout(None);
    let connection = ConnectionManager::new_with_config(client, config).await;
    let connection: ConnectionManager = connection.expect("connected");
    // With `always` the disk would be measured: every write holds lookups up for a flush.
    let _: () = redis::cmd("CONFIG")
        .arg(&["SET", "appendfsync", "everysec"])
        .query_async(&mut connection.clone())
        .await
        .expect("set");
    let store = RedisStore::new(connection.clone(), Peppers::new(PEPPER));
    let known = known(&store).await;
    let fill = script(FILL);
    let customer = serde_json::to_string(&session().customer).expect("JSON");
    let mut to = connection.clone();
    for from in (1..=rows).step_by(10_000) {
        let mut part = fill.key(PREFIX);
        part.arg(from).arg((from + 9_999).min(rows)).arg(&customer);
        let _: () = part.invoke_async(&mut to).await.expect("filled");
    }
    (connection, store, known)
}

fn raw_find<'a>(
    name: &'static str,
    runtime: &'a Runtime,
    connection: &'a ConnectionManager,
    known: &'a [Known],
) -> Task<'a> {
    let script = Arc::new(script(FIND));
    let find = move |(_, hash): Known| {
        let script = Arc::clone(&script);
        async move {
            let mut call = script.key(PREFIX);
            call.arg(hex::encode(hash));
            let row: (u64, String, String, String) = call
                .invoke_async(&mut connection.clone())
                .await
                .expect("found");
            std::hint::black_box(row);
        }
    };
    task(name, batch(runtime, some(known), find))
}

fn raw_insert<'a>(runtime: &'a Runtime, connection: &'a ConnectionManager) -> Task<'a> {
    let script = Arc::new(script(INSERT));
    let insert = move |(session, hash): Known| {
        let script = Arc::clone(&script);
        async move {
            let expires = session.expires_at.timestamp_micros().to_string();
            let record = format!(" {} - {expires}", session.created_at.timestamp_micros());
            let customer = serde_json::to_string(&session.customer).expect("JSON");
            let mut call = script.key(PREFIX);
            call.arg(session.id.as_str())
                .arg(session.customer_id.as_str());
            call.arg(hex::encode(hash))
                .arg(record)
                .arg(expires)
                .arg(customer);
            // Created now, and no limit of sessions.
            call.arg(session.created_at.timestamp_micros())
                .arg("")
                .arg("");
            let answer: Vec<String> = call
                .invoke_async(&mut connection.clone())
                .await
                .expect("inserted");
            assert_eq!(answer[0], "done");
        }
    };
    task("raw", batch(runtime, new_ones, insert))
}
