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

const PREFIX: &str = "cs:";
const COMMON: &str = include_str!("../../../../src/store/redis/lua/common.lua");
const FIND: &str = include_str!("../../../../src/store/redis/lua/find.lua");
const CLAIM: &str = include_str!("../../../../src/store/redis/lua/claim.lua");
const SCHEDULE: &str = include_str!("../../../../src/store/redis/lua/schedule.lua");
const EPOCH: &str = include_str!("../../../../src/store/redis/lua/epoch.lua");
const INSERT: &str = concat!(
    include_str!("../../../../src/store/redis/lua/tree.lua"),
    include_str!("../../../../src/store/redis/lua/room.lua"),
    include_str!("../../../../src/store/redis/lua/insert.lua"),
);
/// Adds sessions as the store keeps them, each with a customer of its own, all of one shard.
const FILL: &str = "local epoch = redis.call('GET', KEYS[1] .. 'a:{0}') \
     if not epoch then epoch = '12345678' redis.call('SET', KEYS[1] .. 'a:{0}', epoch) end \
     for n = ARGV[1], ARGV[2] do \
     local expires = (n % 10 == 0) and 1000000 or 4102444800000000 \
     local hash = string.sub(redis.sha1hex(n), 1, 16) \
     local id, customer = '=s' .. n, '=c' .. n \
     local member = id .. struct.pack('>l', expires) \
     local record = '10' .. struct.pack('>H', #customer) .. customer \
     .. struct.pack('>H', #member) .. member .. struct.pack('>l', 1) .. '\\0' \
     redis.call('SET', KEYS[1] .. 't:' .. hash, record, 'PX', 86400000) \
     redis.call('SET', KEYS[1] .. 'i:' .. id, '1' .. hash .. struct.pack('>l', expires) .. customer, \
     'PX', 86400000) \
     redis.call('SET', KEYS[1] .. 'c:{' .. customer .. '}', 'c' .. epoch .. ARGV[3], 'PX', 86400000) \
     redis.call('ZADD', KEYS[1] .. 's:{' .. customer .. '}', 1, member) \
     local minute = math.floor(expires / 60000000) \
     redis.call('ZADD', KEYS[1] .. 'e:{0}', minute, minute) \
     redis.call('RPUSH', KEYS[1] .. 'e:{0}' .. minute, member) \
     end";

fn script(text: &str) -> Script {
    Script::new(&[COMMON, text].concat())
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
            call.arg(&hash[..16]);
            let row: (u64, Vec<u8>, Vec<u8>, Option<i64>, Option<i64>) = call
                .invoke_async(&mut connection.clone())
                .await
                .expect("found");
            std::hint::black_box(row);
        }
    };
    task(name, batch(runtime, some(known), find))
}

/// The scripts that an insertion runs, one after the other.
struct Insertion {
    claim: Script,
    schedule: Script,
    epoch: Script,
    insert: Script,
}

fn raw_insert<'a>(runtime: &'a Runtime, connection: &'a ConnectionManager) -> Task<'a> {
    let scripts = Arc::new(Insertion {
        claim: script(CLAIM),
        schedule: script(SCHEDULE),
        epoch: script(EPOCH),
        insert: script(INSERT),
    });
    let insert = move |(session, hash): Known| {
        let scripts = Arc::clone(&scripts);
        async move {
            let to = &mut connection.clone();
            let expires = session.expires_at.timestamp_micros();
            let (id, customer) = (session.id.as_str(), session.customer_id.as_str());
            let mut member = format!("={id}").into_bytes();
            member.extend(expires.to_be_bytes());
            let mut record = b"10".to_vec();
            record.extend((customer.len() as u16 + 1).to_be_bytes());
            record.extend(format!("={customer}").as_bytes());
            record.extend((member.len() as u16).to_be_bytes());
            record.extend(&member);
            record.extend(session.created_at.timestamp_micros().to_be_bytes());
            record.push(0);
            let json = serde_json::to_string(&session.customer).expect("JSON");
            let keys = ["c", "s", "d", "u"].map(|kind| format!("{PREFIX}{kind}:{{={customer}}}"));
            let life = 90_000_000;
            let raw = async {
                let mut claim = scripts.claim.key(format!("{PREFIX}i:={id}"));
                claim
                    .arg(
                        [
                            b"1".as_slice(),
                            &hash[..16],
                            &expires.to_be_bytes(),
                            format!("={customer}").as_bytes(),
                        ]
                        .concat(),
                    )
                    .arg(life);
                let _: Option<Vec<u8>> = claim.invoke_async(to).await?;
                let mut claim = scripts
                    .claim
                    .key([b"cs:t:".as_slice(), &hash[..16]].concat());
                claim.arg(record).arg(life);
                let _: Option<Vec<u8>> = claim.invoke_async(to).await?;
                let list = format!("{PREFIX}e:{{0}}");
                let mut schedule = scripts.schedule.key(&list);
                schedule.key(format!("{list}{}", expires / 60_000_000));
                schedule.arg(expires / 60_000_000).arg(&member).arg(life);
                let _: u64 = schedule.invoke_async(to).await?;
                let mut epoch = scripts.epoch.key(format!("{PREFIX}a:{{0}}"));
                let epoch: Vec<u8> = epoch.arg("12345678").invoke_async(to).await?;
                let mut insert = scripts.insert.key(&keys);
                let created = session.created_at.timestamp_micros();
                insert.arg(&member).arg(created).arg(created);
                insert.arg(epoch).arg(json).arg(life).arg("cs:changes");
                insert.arg("").arg("").arg("").arg("");
                let answer: Vec<Vec<u8>> = insert.invoke_async(to).await?;
                let pointer = redis::cmd("GET").arg(format!("{PREFIX}i:={id}")).to_owned();
                let _: Vec<u8> = pointer.query_async(to).await?;
                redis::RedisResult::Ok(answer)
            };
            let answer = raw.await.expect("inserted");
            assert_eq!(answer[0], b"done");
        }
    };
    task("raw", batch(runtime, new_ones, insert))
}
