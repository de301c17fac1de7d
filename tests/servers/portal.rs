//! The examples do what they say: the lines they print, pasted one after the other, before and
//! after a restart.
#![cfg_attr(
    not(all(feature = "sqlite", feature = "postgres", feature = "redis")),
    allow(dead_code, reason = "some examples are skipped")
)]

use std::{
    io::{BufRead as _, BufReader, Lines, Read as _, Write as _},
    net::TcpStream,
    path::PathBuf,
    process::{Child, ChildStdout, Command, Stdio},
};

#[cfg(feature = "sqlite")]
use test_support::example;
use test_support::servers;
#[cfg(all(feature = "postgres", feature = "redis"))]
use test_support::servers::Server;

/// Ends the server however the test ends.
struct Portal {
    child: Child,
    lines: Lines<BufReader<ChildStdout>>,
    /// The requests that it suggests.
    curls: Vec<String>,
}

impl Portal {
    fn start(example: &PathBuf, store: &str) -> Self {
        let mut child = Command::new(example)
            .env("PORT", "0")
            .env("STORE", store)
            .stdout(Stdio::piped())
            .spawn()
            .expect("it starts");
        let mut lines = BufReader::new(child.stdout.take().expect("piped")).lines();
        let printed = lines.by_ref().map(|line| line.expect("text"));
        let curls = printed
            .filter(|line| line.starts_with("curl "))
            .take(5)
            .collect();
        Self {
            child,
            lines,
            curls,
        }
    }

    /// The address that it listens on.
    fn address(&self) -> &str {
        let (_, rest) = self.curls[0].split_once("http://").expect("a URL");
        rest.split('/').next().expect("an address")
    }

    /// One of its lines, sent to the address of another.
    fn curl_to(&self, number: usize, other: &Self) -> (u16, String) {
        curl(&self.curls[number].replace(self.address(), other.address()))
    }

    fn interrupt(mut self) {
        let interrupt = Command::new("kill")
            .args(["-INT", &self.child.id().to_string()])
            .status();
        assert!(interrupt.expect("kill runs").success());
        assert!(self.child.wait().expect("it ends").success());
        let last = self.lines.by_ref().last().expect("a line");
        assert_eq!(last.expect("text"), "stopped");
    }
}

impl Drop for Portal {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

/// What `curl` would do with this line; the machine may not have it.
fn curl(line: &str) -> (u16, String) {
    let (_, url) = line.rsplit_once(" http://").expect("a URL");
    let (address, path) = url.split_once('/').expect("a path");
    let method = if line.contains("-X POST") {
        "POST"
    } else {
        "GET"
    };
    let header = line
        .split_once("-H '")
        .and_then(|(_, rest)| rest.split_once('\''))
        .map_or(String::new(), |(header, _)| format!("{header}\r\n"));
    let mut stream = TcpStream::connect(address).expect("it listens");
    let request = format!(
        "{method} /{path} HTTP/1.1\r\nhost: {address}\r\n{header}connection: close\r\n\r\n"
    );
    stream.write_all(request.as_bytes()).expect("sent");
    let mut answer = String::new();
    stream.read_to_string(&mut answer).expect("answered");
    let status = answer.split(' ').nth(1).expect("a status line");
    (status.parse().expect("a number"), answer)
}

/// What the printed lines are: no token, let in, the list, sign out, refused.
const STATUSES: [u16; 5] = [401, 200, 200, 204, 401];

fn paste(portal: &Portal) {
    let answers: Vec<_> = portal.curls.iter().map(|line| curl(line)).collect();
    let statuses: Vec<u16> = answers.iter().map(|(status, _)| *status).collect();
    assert_eq!(statuses, STATUSES, "{answers:#?}");
    for (answer, holds) in [
        (0, "www-authenticate: Bearer realm="),
        (1, r#""name":"Jane Doe""#),
        (2, "expires_at"),
        (4, r#"error="invalid_token""#),
    ] {
        assert!(
            answers[answer].1.contains(holds),
            "{holds}: {}",
            answers[answer].1
        );
    }
    assert!(!answers[2].1.contains("cst_"), "a token is in the list");
}

#[cfg(feature = "sqlite")]
#[test]
fn customers_stay_signed_in_when_it_restarts() {
    let folder = std::env::temp_dir().join(format!("cst-portal-{}", std::process::id()));
    std::fs::create_dir_all(&folder).expect("a folder");
    let store = format!("sqlite:{}/portal.db", folder.display());
    let portal = example("portal");

    let first = Portal::start(&portal, &store);
    paste(&first);
    let again = Portal::start(&portal, &store);
    assert_eq!(again.curl_to(1, &again).0, 200);
    let kept = again.curls[1].clone();
    again.interrupt();

    let restarted = Portal::start(&portal, &store);
    let (_, address) = kept.split_once("http://").expect("a URL");
    let address = address.split('/').next().expect("an address");
    assert_eq!(curl(&kept.replace(address, restarted.address())).0, 200);
    assert_eq!(
        first.curl_to(1, &restarted).0,
        401,
        "it was signed out before"
    );
    paste(&restarted);

    let mistaken = Command::new(&portal)
        .env("STORE", store)
        .env("SESSION_PEPPER", "another pepper than before")
        .output()
        .expect("it runs");
    let said = String::from_utf8_lossy(&mistaken.stderr);
    assert!(!mistaken.status.success());
    assert!(said.contains("another pepper than those given"), "{said}");
    let _ = std::fs::remove_dir_all(&folder);
}

#[cfg(all(feature = "postgres", feature = "redis"))]
#[test]
fn machines_share_their_sessions() {
    let portal = example("shared_portal");
    let mut shared = Vec::new();
    match Server::postgres() {
        Some(server) => shared.push(server),
        None => servers::missing("PostgreSQL"),
    }
    match Server::redis() {
        Some(server) => shared.push(server),
        None => servers::missing("Redis"),
    }
    for server in shared {
        let one = Portal::start(&portal, &server.url());
        let two = Portal::start(&portal, &server.url());
        assert_eq!(one.curl_to(1, &two).0, 200);
        paste(&one);
        paste(&two);
    }
}

#[cfg(not(all(feature = "sqlite", feature = "postgres", feature = "redis")))]
#[test]
fn some_examples_are_skipped() {
    servers::say("SKIPPED: the examples need their features; scripts/test tests everything");
}
