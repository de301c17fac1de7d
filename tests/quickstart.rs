//! The quickstart does what it says: the lines it prints, pasted one after the other.
#![cfg(unix)]

use std::{
    io::{BufRead as _, BufReader, Read as _, Write as _},
    net::TcpStream,
    path::PathBuf,
    process::{Child, Command, Stdio},
};

/// Beside this test's own binary, where cargo builds the examples.
fn quickstart() -> PathBuf {
    let mut path = std::env::current_exe().expect("a path");
    path.pop();
    path.pop();
    path.push("examples/quickstart");
    // Nothing to do after `cargo test`; after `cargo test --test quickstart` it may be old.
    let cargo = Command::new(env!("CARGO"))
        .args(["build", "--quiet", "--example", "quickstart"])
        .status();
    assert!(cargo.expect("cargo runs").success());
    path
}

/// Ends the server however the test ends.
struct Server(Child);

impl Drop for Server {
    fn drop(&mut self) {
        let _ = self.0.kill();
        let _ = self.0.wait();
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

#[test]
fn the_printed_lines_do_what_they_say() {
    let child = Command::new(quickstart())
        .env("PORT", "0")
        .stdout(Stdio::piped())
        .spawn();
    let mut server = Server(child.expect("it starts"));
    let stdout = server.0.stdout.take().expect("piped");
    let mut lines = BufReader::new(stdout)
        .lines()
        .map(|line| line.expect("text"));
    let printed: Vec<String> = lines
        .by_ref()
        .filter(|line| line.starts_with("curl "))
        .take(4)
        .collect();
    let answers: Vec<_> = printed.iter().map(|line| curl(line)).collect();
    let statuses: Vec<u16> = answers.iter().map(|(status, _)| *status).collect();
    assert_eq!(statuses, [200, 401, 204, 401], "{answers:#?}");
    assert!(
        answers[0].1.contains(r#""name":"Jane Doe""#),
        "{}",
        answers[0].1
    );
    assert!(
        answers[1].1.contains("www-authenticate: Bearer realm="),
        "{}",
        answers[1].1
    );
    assert!(
        answers[3].1.contains("error=\"invalid_token\""),
        "{}",
        answers[3].1
    );

    let interrupt = Command::new("kill")
        .args(["-INT", &server.0.id().to_string()])
        .status();
    assert!(interrupt.expect("kill runs").success());
    assert!(server.0.wait().expect("it ends").success());
    assert_eq!(lines.last().as_deref(), Some("stopped"));
}
