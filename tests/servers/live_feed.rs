//! The example `live_feed`: what is revoked on one node ends the streams of another.

use std::{
    io::{Read as _, Write as _},
    net::TcpStream,
    time::{Duration, Instant},
};

use test_support::{
    RunningExample, example,
    servers::{self, Server},
};

struct Node {
    _process: RunningExample,
    address: String,
    token: String,
}

impl Node {
    fn start(store: &str) -> Self {
        let mut process = RunningExample::start(example("live_feed"), &[("STORE", store)]);
        let page = process.line("open http://");
        let page = page.strip_prefix("open http://").expect("just found");
        let (address, token) = page.split_once("/#").expect("a token");
        Self {
            address: address.to_owned(),
            token: token.to_owned(),
            _process: process,
        }
    }

    /// Sends a request and reads the answer until it contains `until`.
    fn open(&self, head: &str, until: &str) -> TcpStream {
        let mut stream = TcpStream::connect(&self.address).expect("connected");
        stream
            .set_read_timeout(Some(Duration::from_secs(10)))
            .expect("set");
        write!(stream, "{head}\r\nHost: {}\r\n\r\n", self.address).expect("sent");
        let mut said = Vec::new();
        let mut piece = [0; 512];
        while !String::from_utf8_lossy(&said).contains(until) {
            let len = stream.read(&mut piece).expect("an answer");
            assert!(len > 0, "{}", String::from_utf8_lossy(&said));
            said.extend_from_slice(&piece[..len]);
        }
        stream
    }

    fn socket(&self, token: &str) -> TcpStream {
        let head = format!(
            "GET /socket HTTP/1.1\r\nConnection: Upgrade\r\nUpgrade: websocket\r\n\
             Sec-WebSocket-Version: 13\r\nSec-WebSocket-Key: dGhlIHNhbXBsZSBub25jZQ==\r\n\
             Sec-WebSocket-Protocol: feed.v1, bearer.{token}"
        );
        self.open(&head, "news 1")
    }

    fn events(&self, token: &str) -> TcpStream {
        let head = format!("GET /events?access_token={token} HTTP/1.1\r\nConnection: close");
        self.open(&head, "news 1")
    }

    fn revoke(&self, token: &str) {
        let head = format!("POST /sign-out HTTP/1.1\r\nAuthorization: Bearer {token}");
        self.open(&head, "204 No Content");
    }
}

/// Both streams on one node end soon after the other has revoked their session.
fn streams_end(server: &Server) {
    let (here, there) = (Node::start(&server.url()), Node::start(&server.url()));
    let (mut socket, mut events) = (here.socket(&here.token), here.events(&here.token));
    there.revoke(&here.token);
    let revoked = Instant::now();
    let (mut last_words, mut rest) = (Vec::new(), Vec::new());
    socket.read_to_end(&mut last_words).expect("it is closed");
    let socket_ended = revoked.elapsed();
    events.read_to_end(&mut rest).expect("it is closed");
    println!(
        "the WebSocket ended after {socket_ended:?}, the events after {:?}",
        revoked.elapsed()
    );
    assert!(
        revoked.elapsed() < Duration::from_secs(1),
        "{:?}",
        revoked.elapsed()
    );
    assert!(String::from_utf8_lossy(&last_words).contains("the session was revoked"));
}

#[test]
fn streams_end_when_another_node_revokes_through_redis() {
    match Server::redis() {
        Some(server) => streams_end(&server),
        None => servers::missing("Redis"),
    }
}

#[test]
fn streams_end_when_another_node_revokes_through_postgres() {
    match Server::postgres() {
        Some(server) => streams_end(&server),
        None => servers::missing("PostgreSQL"),
    }
}
