//! The examples `portal` and `shared_portal`: the lines they print, pasted one after the other,
//! before and after a restart.

use std::{
    io::{Read as _, Write as _},
    net::TcpStream,
};

use test_support::{RunningExample, example};

/// A portal and the requests that it suggests.
struct Portal {
    process: RunningExample,
    curls: Vec<String>,
}

impl Portal {
    fn start(name: &str, store: &str) -> Self {
        let mut process = RunningExample::start(example(name), &[("STORE", store)]);
        let curls = (0..STATUSES.len()).map(|_| process.line("curl ")).collect();
        Self { process, curls }
    }

    /// Returns the address that it listens on.
    fn address(&self) -> &str {
        let (_, rest) = self.curls[0].split_once("http://").expect("a URL");
        rest.split('/').next().expect("an address")
    }

    /// Sends one of its lines to the address of another portal.
    fn curl_to(&self, number: usize, other: &Self) -> (u16, String) {
        curl(&self.curls[number].replace(self.address(), other.address()))
    }
}

/// Sends the request of a `curl` line, since `curl` may not be installed.
fn curl(line: &str) -> (u16, String) {
    let (_, url) = line.rsplit_once(" http://").expect("a URL");
    let (address, path) = url.split_once('/').expect("a path");
    let method = line
        .split_once("-X ")
        .and_then(|(_, rest)| rest.split(' ').next())
        .unwrap_or("GET");
    let header = line
        .split_once("-H '")
        .and_then(|(_, rest)| rest.split_once('\''))
        .map_or(String::new(), |(header, _)| format!("{header}\r\n"));
    let body = line
        .split_once("-d '")
        .and_then(|(_, rest)| rest.split_once('\''))
        .map_or("", |(body, _)| body);
    let mut stream = TcpStream::connect(address).expect("it listens");
    let request = format!(
        "{method} /{path} HTTP/1.1\r\nhost: {address}\r\n{header}content-length: {}\r\n\
         connection: close\r\n\r\n{body}",
        body.len()
    );
    stream.write_all(request.as_bytes()).expect("sent");
    let mut answer = String::new();
    stream.read_to_string(&mut answer).expect("answered");
    let status = answer.split(' ').nth(1).expect("a status line");
    (status.parse().expect("a number"), answer)
}

/// Statuses of the printed lines: no token, let in, the list, another's device, sign out, refused,
/// sign in.
const STATUSES: [u16; 7] = [401, 200, 200, 404, 204, 401, 200];

/// Signs a device out by its id, which the list shows.
fn sign_a_device_out(portal: &Portal) {
    let signed_in = curl(&portal.curls[6]).1;
    let token = text(&signed_in, "token");
    let (_, printed) = portal.curls[1].split_once("Bearer ").expect("a token");
    let printed = printed.split('\'').next().expect("its end");
    let with_token = |line: &str| line.replace(printed, &token);
    let sign_out = with_token(&portal.curls[3]).replace("ses_of_another", &text(&signed_in, "id"));
    assert_eq!(curl(&sign_out).0, 204);
    assert_eq!(curl(&with_token(&portal.curls[1])).0, 401);
}

/// Uses the page "where you are signed in": two devices, of which one signs the other out, and a payout,
/// for which the password is typed again.
fn use_the_page_of_devices(portal: &Portal) {
    let sign_in = || text(&curl(&portal.curls[6]).1, "token");
    let (first, second) = (sign_in(), sign_in());
    let address = portal.address();
    let send = |method: &str, path: &str, token: &str, body: &str| {
        let headers =
            format!("-H 'Authorization: Bearer {token}\r\ncontent-type: application/json'");
        curl(&format!(
            "curl -X {method} {headers} -d '{body}' http://{address}/{path}"
        ))
    };
    let (status, list) = send("GET", "sessions", &first, "");
    assert_eq!(status, 200);
    assert_eq!(list.matches(r#""current":true"#).count(), 1, "{list}");
    assert!(list.matches(r#""user_agent":"#).count() >= 2, "{list}");
    // The request for the list was a use, that of the other device is to come.
    assert!(list.matches(r#""last_used_at":"2"#).count() >= 1, "{list}");
    assert!(list.contains(r#""last_used_at":null"#), "{list}");
    let credentials = r#"{"email":"jane@example.com","password":"jane"}"#;
    let wrong = r#"{"email":"jane@example.com","password":"wrong"}"#;
    assert_eq!(send("POST", "payout", &first, "").0, 200, "just signed in");
    assert_eq!(send("POST", "confirm-password", &first, wrong).0, 403);
    let (status, confirmed) = send("POST", "confirm-password", &first, credentials);
    assert_eq!(status, 200);
    let confirmed = text(&confirmed, "token");
    assert_eq!(
        send("POST", "payout", &first, "").0,
        401,
        "it was exchanged"
    );
    assert_eq!(send("POST", "payout", &confirmed, "").0, 200);
    // Requests with the old token go on for a while, and are not a device of their own.
    let devices = |list: &str| list.matches(r#""user_agent":"#).count();
    let before = devices(&send("GET", "sessions", &confirmed, "").1);
    let (status, rotated) = send("POST", "rotate", &confirmed, "");
    assert_eq!(status, 200);
    let (old, confirmed) = (confirmed, text(&rotated, "token"));
    assert_eq!(send("POST", "rotate", &old, "").0, 409);
    assert_eq!(send("GET", "me", &old, "").0, 200);
    assert_eq!(devices(&send("GET", "sessions", &confirmed, "").1), before);
    assert_eq!(send("POST", "sign-out-others", &confirmed, "").0, 204);
    assert_eq!(send("GET", "me", &second, "").0, 401);
    assert_eq!(send("GET", "me", &confirmed, "").0, 200);
    // The sixth device ends the oldest session.
    let devices: Vec<_> = (0..5).map(|_| sign_in()).collect();
    assert_eq!(send("GET", "me", &confirmed, "").0, 401);
    for device in devices {
        assert_eq!(send("GET", "me", &device, "").0, 200);
    }
}

fn text(answer: &str, name: &str) -> String {
    let (_, rest) = answer
        .split_once(&format!("\"{name}\":\""))
        .expect("a field");
    rest.split('"').next().expect("its end").to_owned()
}

fn paste(portal: &Portal) {
    let answers: Vec<_> = portal.curls.iter().map(|line| curl(line)).collect();
    let statuses: Vec<u16> = answers.iter().map(|(status, _)| *status).collect();
    assert_eq!(statuses, STATUSES, "{answers:#?}");
    for (answer, holds) in [
        (0, "www-authenticate: Bearer realm="),
        (1, r#""name":"Jane Doe""#),
        (2, "expires_at"),
        (5, r#"error="invalid_token""#),
        (6, r#""token":"cst_"#),
    ] {
        assert!(
            answers[answer].1.contains(holds),
            "{holds}: {}",
            answers[answer].1
        );
    }
    assert!(!answers[2].1.contains("cst_"), "a token is in the list");
    sign_a_device_out(portal);
}

#[cfg(feature = "sqlite")]
#[test]
fn customers_stay_signed_in_across_a_restart() {
    let folder = std::env::temp_dir().join(format!("cst-portal-{}", std::process::id()));
    std::fs::create_dir_all(&folder).expect("a folder");
    let store = format!("sqlite:{}/portal.db", folder.display());
    let start = || Portal::start("portal", &store);
    let first = start();
    paste(&first);
    let mut again = start();
    assert_eq!(again.curl_to(1, &again).0, 200);
    let kept = again.curls[1].clone();
    assert_eq!(again.process.interrupt(), "stopped");

    let restarted = start();
    let (_, address) = kept.split_once("http://").expect("a URL");
    let address = address.split('/').next().expect("an address");
    assert_eq!(curl(&kept.replace(address, restarted.address())).0, 200);
    assert_eq!(
        first.curl_to(1, &restarted).0,
        401,
        "it was signed out before"
    );
    paste(&restarted);
    use_the_page_of_devices(&restarted);

    let mistaken = example("portal")
        .env("STORE", &store)
        .env("SESSION_PEPPER", "another pepper than before")
        .output()
        .expect("it runs");
    let said = String::from_utf8_lossy(&mistaken.stderr);
    assert!(!mistaken.status.success());
    assert!(said.contains("another pepper than those given"), "{said}");
    let _ = std::fs::remove_dir_all(&folder);
}

/// Asserts that `two`, which has let the token of `one` in from its cache, refuses it soon after
/// `one` has revoked it: long before the cached answer is too old, which takes a minute.
#[cfg(all(feature = "postgres", feature = "redis"))]
fn refused_soon(one: &Portal, two: &Portal) {
    use std::time::{Duration, Instant};

    let revoked = Instant::now();
    while one.curl_to(1, two).0 != 401 {
        assert!(
            revoked.elapsed() < Duration::from_secs(5),
            "a session that was revoked on one machine is let in on the other"
        );
        std::thread::sleep(Duration::from_millis(10));
    }
}

#[cfg(all(feature = "postgres", feature = "redis"))]
#[test]
fn machines_share_their_sessions() {
    use test_support::servers::{Server, missing};

    let mut shared = Vec::new();
    match Server::postgres() {
        Some(server) => shared.push(server),
        None => missing("PostgreSQL"),
    }
    match Server::redis() {
        Some(server) => shared.push(server),
        None => missing("Redis"),
    }
    for server in shared {
        let start = || Portal::start("shared_portal", &server.url());
        let (one, two) = (start(), start());
        assert_eq!(one.curl_to(1, &two).0, 200);
        paste(&one);
        refused_soon(&one, &two);
        paste(&two);
        use_the_page_of_devices(&two);
    }
}
