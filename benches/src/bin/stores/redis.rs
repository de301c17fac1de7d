//! Redis: ours, and the raw driver.

use customer_session::{
    CustomerSession,
    store::{Peppers, RedisStore},
};
use customer_session_benches::measure::tasks::{medians, task};
use redis::aio::{ConnectionManager, ConnectionManagerConfig};
use test_support::servers::{self, Server};
use tokio::runtime::Runtime;

use crate::{
    contents::{PEPPER, ROUNDS, batch, known, new_ones, our_find, our_insert, session, some},
    cores::run_on,
    purging::report,
};

/// Measures the store and the raw driver, and prints a row.
pub fn measure(runtime: &Runtime, rows: u64) {
    let Some(server) = Server::redis() else {
        return servers::missing("Redis");
    };
    const PREFIX: &str = "{customer_sessions}:";
    const KEYS: &str = include_str!("../../../../src/store/redis/lua/keys.lua");
    let script = |text: &str| redis::Script::new(&[KEYS, text].concat());
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
    let find_script = script(include_str!("../../../../src/store/redis/lua/find.lua"));
    let raw = || {
        batch(
            runtime,
            some(&known),
            async |(_, hash): (CustomerSession, String)| {
                let mut call = find_script.key(PREFIX);
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
    let find_tasks = vec![
        task("held", raw()),
        task("pool", raw()),
        our_find(runtime, &store, &known),
    ];
    let find = medians(find_tasks, ROUNDS);
    let insert_script = script(include_str!("../../../../src/store/redis/lua/insert.lua"));
    let insert = vec![
        task(
            "raw",
            batch(
                runtime,
                new_ones,
                async |(session, hash): (CustomerSession, String)| {
                    let expires = session.expires_at.timestamp_micros().to_string();
                    let record = format!(" {} - {expires}", session.created_at.timestamp_micros());
                    let customer = serde_json::to_string(&session.customer).expect("JSON");
                    let mut call = insert_script.key(PREFIX);
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
