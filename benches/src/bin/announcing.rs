//! What each way of telling other nodes of a revocation costs a Redis server: a channel, as `RedisStore`
//! has it, a sharded channel, a stream, and client tracking.
//!
//! `cargo run --release --bin announcing` prints, for a revocation and for a sign-in, the server's
//! time, and the bytes that each of three listeners receives. The time is that of the server's process, so
//! a busy machine disturbs it little.

use std::{
    collections::BTreeMap,
    sync::{
        Arc,
        atomic::{AtomicU64, Ordering::Relaxed},
    },
    time::Duration,
};

use customer_session_benches::{full_or_quick, statistics::median};
use test_support::servers::{self, Server};
use tokio::{
    io::{AsyncReadExt as _, AsyncWriteExt as _},
    net::TcpStream,
    time::sleep,
};

const LISTENERS: usize = 3;

/// A sign-in and a revocation of one session, without and with an announcement.
const SIGN_IN: &str = "redis.call('SET', KEYS[1], ARGV[1]) redis.call('ZADD', KEYS[2], 1, KEYS[1])";
const REVOKE: &str = "redis.call('ZREM', KEYS[2], KEYS[1]) redis.call('DEL', KEYS[1])";

#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
enum Way {
    Nothing,
    Channel,
    ShardedChannel,
    Stream,
    Tracking,
}

impl Way {
    const ALL: [Self; 5] = [
        Self::Nothing,
        Self::Channel,
        Self::ShardedChannel,
        Self::Stream,
        Self::Tracking,
    ];

    fn name(self) -> &'static str {
        match self {
            Self::Nothing => "nothing announced",
            Self::Channel => "channel (PUBLISH)",
            Self::ShardedChannel => "sharded channel (SPUBLISH)",
            Self::Stream => "stream (XADD, XREAD BLOCK)",
            Self::Tracking => "client tracking (BCAST)",
        }
    }

    /// Returns what a script adds to a revocation.
    fn announcement(self) -> &'static str {
        match self {
            Self::Nothing | Self::Tracking => "",
            Self::Channel => " redis.call('PUBLISH', 'changes', KEYS[1])",
            Self::ShardedChannel => " redis.call('SPUBLISH', '{1}changes', KEYS[1])",
            Self::Stream => {
                " redis.call('XADD', '{1}stream', 'MAXLEN', '~', '10000', '*', 's', KEYS[1])"
            }
        }
    }

    /// Returns the commands with which a listener begins.
    fn listen(self) -> &'static [&'static [&'static str]] {
        match self {
            Self::Nothing => &[],
            Self::Channel => &[&["SUBSCRIBE", "changes"]],
            Self::ShardedChannel => &[&["SSUBSCRIBE", "{1}changes"]],
            Self::Stream => &[READ_STREAM],
            Self::Tracking => &[
                &["HELLO", "3"],
                &["CLIENT", "TRACKING", "ON", "BCAST", "PREFIX", "{1}t:"],
            ],
        }
    }
}

const READ_STREAM: &[&str] = &["XREAD", "BLOCK", "0", "STREAMS", "{1}stream", "$"];

#[derive(Clone, Copy)]
struct Cost {
    microseconds: f64,
    bytes: f64,
}

#[tokio::main]
async fn main() {
    let Some(server) = Server::redis_with(&[("appendonly", "no")], &[]) else {
        return servers::missing("Redis");
    };
    let count = full_or_quick(20_000, 200);
    let mut costs = BTreeMap::<_, Vec<_>>::new();
    for _ in 0..full_or_quick(5, 1) {
        for way in Way::ALL {
            costs
                .entry(way)
                .or_default()
                .push(measure(&server, way, count).await);
        }
    }
    println!(
        "| other nodes are told by | revocation: µs of the server | bytes to each node | sign-in: µs | bytes |"
    );
    println!("|---|---:|---:|---:|---:|");
    for (way, costs) in costs {
        let of = |part: fn(&[Cost; 2]) -> f64| median(&costs.iter().map(part).collect::<Vec<_>>());
        println!(
            "| {} | {:.1} | {:.0} | {:.1} | {:.0} |",
            way.name(),
            of(|cost| cost[0].microseconds),
            of(|cost| cost[0].bytes),
            of(|cost| cost[1].microseconds),
            of(|cost| cost[1].bytes),
        );
    }
}

/// Measures a revocation and a sign-in.
async fn measure(server: &Server, way: Way, count: u64) -> [Cost; 2] {
    let received = Arc::new(AtomicU64::new(0));
    let listeners: Vec<_> = (0..LISTENERS)
        .map(|_| tokio::spawn(listen(server.port, way, Arc::clone(&received))))
        .collect();
    sleep(Duration::from_millis(200)).await;
    let mut costs = Vec::new();
    for script in [
        SIGN_IN.to_owned(),
        format!("{REVOKE}{}", way.announcement()),
    ] {
        let (busy, bytes) = (busy_microseconds(server), received.load(Relaxed));
        call(server.port, &script, count).await;
        // What was sent last is on its way.
        sleep(Duration::from_millis(200)).await;
        costs.push(Cost {
            microseconds: (busy_microseconds(server) - busy) / count as f64,
            bytes: (received.load(Relaxed) - bytes) as f64 / (count as f64 * LISTENERS as f64),
        });
    }
    listeners.iter().for_each(tokio::task::JoinHandle::abort);
    [costs[1], costs[0]]
}

/// Calls a script for one session after the other.
async fn call(port: u16, script: &str, count: u64) {
    let mut stream = TcpStream::connect(("127.0.0.1", port))
        .await
        .expect("connected");
    stream.set_nodelay(true).expect("a socket");
    let mut answer = [0; 512];
    for number in 0..count {
        let key = format!("{{1}}t:{number:016}");
        let value = "x".repeat(200);
        let words = ["EVAL", script, "2", &key, "{1}s:customer", &value];
        stream.write_all(&command(&words)).await.expect("written");
        let read = stream.read(&mut answer).await.expect("an answer");
        assert!(read > 0 && answer[0] != b'-', "an error");
    }
}

/// Counts the bytes that a node receives.
async fn listen(port: u16, way: Way, received: Arc<AtomicU64>) {
    let mut stream = TcpStream::connect(("127.0.0.1", port))
        .await
        .expect("connected");
    for words in way.listen() {
        stream.write_all(&command(words)).await.expect("written");
    }
    let mut bytes = vec![0; 1 << 16];
    loop {
        let read = stream.read(&mut bytes).await.expect("a connection");
        received.fetch_add(read as u64, Relaxed);
        if read == 0 {
            return;
        }
        if way == Way::Stream {
            let text = String::from_utf8_lossy(&bytes[..read]);
            let is_id = |word: &&str| {
                let digits =
                    |text: &str| !text.is_empty() && text.bytes().all(|b| b.is_ascii_digit());
                word.split_once('-')
                    .is_some_and(|(time, number)| digits(time) && digits(number))
            };
            let Some(last) = text.split("\r\n").filter(is_id).last() else {
                continue;
            };
            let mut words = READ_STREAM.to_vec();
            words[5] = last;
            stream.write_all(&command(&words)).await.expect("written");
        }
    }
}

fn command(words: &[&str]) -> Vec<u8> {
    let mut text = format!("*{}\r\n", words.len());
    for word in words {
        text.push_str(&format!("${}\r\n{word}\r\n", word.len()));
    }
    text.into_bytes()
}

/// Returns the time for which the server's process has been busy.
fn busy_microseconds(server: &Server) -> f64 {
    let info = server.redis_cli(&["INFO", "cpu"]);
    let seconds = ["used_cpu_sys:", "used_cpu_user:"].map(|name| {
        let value = info.lines().find_map(|line| line.strip_prefix(name));
        let value = value.and_then(|value| value.trim().parse::<f64>().ok());
        value.expect("a number")
    });
    (seconds[0] + seconds[1]) * 1e6
}
