//! The throw-away clusters, sentinels and TLS servers of Redis, which other tests use.

use std::{
    fs,
    io::{Read as _, Write as _},
    net::TcpStream,
    path::PathBuf,
    process::{Command, Stdio},
};

use test_support::{
    certificates::Certificates,
    servers::{self, RedisCluster, RedisSentinel, Server},
};

fn started<T>(server: Option<T>) -> Option<T> {
    if server.is_none() {
        servers::missing("Redis");
    }
    server
}

#[test]
fn a_cluster_keeps_its_keys_when_a_slot_moves_and_when_a_primary_is_killed() {
    let Some(mut cluster) = started(RedisCluster::new(3, 1)) else {
        return;
    };
    assert_eq!(cluster.urls().len(), 6);
    assert!((0..6).all(|node| cluster.node(node).redis_cli(&["PING"]) == "PONG"));
    assert_eq!(cluster.primaries(), [0, 1, 2]);
    assert!((0..3).all(|primary| cluster.replicas_of(primary) == [primary + 3]));

    let slot = cluster.slot_of("{tests}");
    let (from, keys) = (cluster.owner_of(slot), ["{tests}:1", "{tests}:2"]);
    let to = 0;
    assert_ne!(from, to);
    let get = |cluster: &RedisCluster, node, key| cluster.node(node).redis_cli(&["GET", key]);
    for key in keys {
        let set = cluster.node(from).redis_cli(&["SET", key, "a value"]);
        assert_eq!(set, "OK");
    }
    let moved_to = |to: usize| format!("-MOVED {slot} 127.0.0.1:{}", cluster.node(to).port);
    assert_eq!(get(&cluster, to, keys[0]), moved_to(from));
    cluster.begin_move(slot, to);
    assert_eq!(get(&cluster, from, keys[0]), "a value");
    let ask = format!("-ASK {slot} 127.0.0.1:{}", cluster.node(to).port);
    assert_eq!(get(&cluster, from, "{tests}:other"), ask);
    cluster.move_keys(slot, to);
    assert_eq!(get(&cluster, from, keys[0]), ask);
    cluster.finish_move(slot, to);
    assert_eq!(cluster.owner_of(slot), to);
    assert_eq!(get(&cluster, from, keys[0]), moved_to(to));
    assert_eq!(get(&cluster, to, keys[0]), "a value");

    cluster.node(0).wait_until_replicated_to(cluster.node(3));
    let killed = cluster.kill_primary();
    assert_eq!((killed, cluster.primaries()), (0, vec![1, 2, 3]));
    assert_eq!(cluster.owner_of(slot), 3);
    assert_eq!(get(&cluster, 3, keys[1]), "a value");
    cluster.restart(killed);
    assert_eq!(cluster.replicas_of(3), [killed]);
}

#[test]
fn a_cluster_with_tls_moves_a_slot() {
    let names = "DNS:localhost,IP:127.0.0.1";
    let Some(certificates) = Certificates::with_names("cluster", names) else {
        return servers::missing("OpenSSL");
    };
    let Some(cluster) = started(RedisCluster::tls(2, 0, &certificates)) else {
        return;
    };
    assert!(cluster.urls()[0].starts_with("rediss://"));
    let slot = cluster.slot_of("key");
    let from = cluster.owner_of(slot);
    let to = 1 - from;
    assert_eq!(
        cluster.node(from).redis_cli(&["SET", "key", "a value"]),
        "OK"
    );
    cluster.move_slot(slot, to);
    assert_eq!(cluster.node(to).redis_cli(&["GET", "key"]), "a value");
}

#[test]
fn sentinels_name_the_other_server_when_the_primary_is_killed() {
    let Some(mut topology) = started(RedisSentinel::new()) else {
        return;
    };
    assert_eq!(topology.primary(), 0);
    let primary = topology.server(0);
    assert_eq!(primary.redis_cli(&["SET", "key", "a value"]), "OK");
    primary.wait_until_replicated_to(topology.server(1));
    assert_eq!(topology.kill_primary(), 0);
    for sentinel in 0..topology.sentinel_urls().len() {
        let command = ["SENTINEL", "GET-MASTER-ADDR-BY-NAME", "mymaster"];
        let named = topology.sentinel(sentinel).redis_cli(&command);
        assert_eq!(named, format!("127.0.0.1\n{}", topology.server(1).port));
    }
    assert_eq!(topology.server(1).redis_cli(&["GET", "key"]), "a value");
    topology.restart(0);
    let refused = topology.server(0).redis_cli(&["SET", "key", "another"]);
    assert!(refused.starts_with("-READONLY"), "{refused}");
    topology.sentinel_mut(2).kill();
    topology.restart_sentinel(2);
}

#[test]
fn settings_and_files_reach_the_server_and_limit_clients_alone() {
    let policy = ("maxmemory-policy", "noeviction");
    let users = "user default off\nuser reader on >secret ~* +get\n";
    let files = [("users", users)];
    let Some(server) = started(Server::redis_with(&[policy, ("aclfile", "users")], &files)) else {
        return;
    };
    let policy = server.redis_cli(&["CONFIG", "GET", "maxmemory-policy"]);
    assert_eq!(policy, "maxmemory-policy\nnoeviction");
    assert_eq!(
        server.redis_cli(&["SET", "key", &"long".repeat(5_000)]),
        "OK"
    );
    assert_eq!(server.redis_cli(&["GET", "key"]), "long".repeat(5_000));
    let mut client = TcpStream::connect(("127.0.0.1", server.port)).expect("connected");
    let commands = b"PING\r\nAUTH reader secret\r\nPING\r\nQUIT\r\n";
    client.write_all(commands).expect("written");
    let mut answers = String::new();
    client.read_to_string(&mut answers).expect("read");
    let answers: Vec<_> = answers.lines().collect();
    assert!(answers[0].starts_with("-NOAUTH"), "{answers:?}");
    assert_eq!(answers[1], "+OK");
    assert!(answers[2].starts_with("-NOPERM"), "{answers:?}");
}

/// Sends a command through OpenSSL, and returns the answer.
fn ping(server: &Server, authority: PathBuf, more: &[&str]) -> String {
    let address = server.url().replace("rediss://", "");
    let mut client = Command::new("openssl")
        .args(["s_client", "-quiet", "-verify_return_error"])
        .args(["-verify_hostname", "localhost", "-connect", &address])
        .arg("-CAfile")
        .arg(authority)
        .args(more)
        .stdin(Stdio::piped())
        .stdout(Stdio::piped())
        .stderr(Stdio::null())
        .spawn()
        .expect("openssl runs");
    // It may have ended already.
    let mut input = client.stdin.take().expect("piped");
    let _ = input.write_all(b"PING\r\nQUIT\r\n");
    let output = client.wait_with_output().expect("it ends");
    String::from_utf8(output.stdout).expect("text")
}

#[test]
fn a_tls_server_speaks_tls_alone_and_asks_for_certificates() {
    let Some(certificates) = Certificates::new("redis") else {
        return servers::missing("OpenSSL");
    };
    let authority = || certificates.authority();
    let Some(open) = started(Server::redis_tls(&certificates, false, &[])) else {
        return;
    };
    let mut plain = TcpStream::connect(("127.0.0.1", open.port)).expect("connected");
    plain.write_all(b"PING\r\nQUIT\r\n").expect("written");
    let mut answer = Vec::new();
    // Reset, or closed after a TLS alert.
    let _ = plain.read_to_end(&mut answer);
    assert!(!answer.starts_with(b"+"), "{answer:?}");
    assert_eq!(open.redis_cli(&["PING"]), "PONG");
    assert_eq!(ping(&open, authority(), &[]), "+PONG\r\n+OK\r\n");

    let asking = Server::redis_tls(&certificates, true, &[]).expect("started before");
    assert_eq!(ping(&asking, authority(), &[]), "");
    let [certificate, key] = ["client.pem", "client.key"].map(|name| {
        let file = authority().with_file_name(name);
        assert!(fs::exists(&file).expect("readable"));
        file.display().to_string()
    });
    let shown = ["-cert", &certificate, "-key", &key];
    assert_eq!(ping(&asking, authority(), &shown), "+PONG\r\n+OK\r\n");
}
