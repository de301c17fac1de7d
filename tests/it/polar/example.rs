//! The example `polar_upstream`, against a server that answers as Polar does.

use chrono::Utc;
use customer_session::SessionToken;
use reqwest::{Client, Response, StatusCode};
use serde_json::{Value, json};

use super::fake_polar::{FOREIGN, FakePolar, JANE, OUR_TOKEN, sign};
use test_support::{RunningExample, example};

const SECRET: &str = "whsec_c2VjcmV0IG9mIGEgdGVzdA";

struct Upstream {
    _process: RunningExample,
    address: String,
    client: Client,
}

impl Upstream {
    fn start(polar: &FakePolar) -> Self {
        let environment = [
            ("POLAR_ACCESS_TOKEN", OUR_TOKEN),
            ("POLAR_WEBHOOK_SECRET", SECRET),
            ("POLAR_BASE_URL", &polar.url()),
        ];
        let mut process = RunningExample::start(example("polar_upstream"), &environment);
        let curl = process.line("curl ");
        let (_, rest) = curl.split_once("http://").expect("a URL");
        Self {
            address: rest.split('/').next().expect("an address").to_owned(),
            client: Client::builder().no_proxy().build().expect("a client"),
            _process: process,
        }
    }

    async fn me(&self, token: &SessionToken) -> Response {
        let url = format!("http://{}/me", self.address);
        let request = self.client.get(url).bearer_auth(token.expose());
        request.send().await.expect("an answer")
    }

    async fn deliver(&self, kind: &str, data: Value) -> StatusCode {
        let body = json!({ "type": kind, "timestamp": Utc::now(), "data": data }).to_string();
        let timestamp = Utc::now().timestamp().to_string();
        let signature = sign(SECRET, "msg_1", &timestamp, &body);
        let url = format!("http://{}/webhooks/polar", self.address);
        let request = self.client.post(url).body(body);
        let request = request
            .header("webhook-id", "msg_1")
            .header("webhook-timestamp", timestamp)
            .header("webhook-signature", signature);
        request.send().await.expect("an answer").status()
    }
}

// The stand-in answers while the test waits for the example.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn customers_of_this_organization_are_let_in_until_polar_says_otherwise() {
    let polar = FakePolar::start().await;
    let upstream = Upstream::start(&polar);
    let [jane, foreign] = [JANE, FOREIGN].map(|id| polar.customer_token(id));
    let answer = upstream.me(&jane).await;
    assert_eq!(answer.status(), StatusCode::OK);
    let me: Value = serde_json::from_str(&answer.text().await.expect("a body")).expect("JSON");
    assert_eq!(me["external_id"], "usr_1");
    assert_eq!(
        upstream.me(&foreign).await.status(),
        StatusCode::UNAUTHORIZED
    );

    polar.delete(JANE);
    assert_eq!(
        upstream.me(&jane).await.status(),
        StatusCode::OK,
        "it is cached"
    );
    let status = upstream
        .deliver("customer.deleted", json!({ "id": JANE }))
        .await;
    assert_eq!(status, StatusCode::OK);
    assert_eq!(upstream.me(&jane).await.status(), StatusCode::UNAUTHORIZED);
}

/// Runs the example with these settings, with which it fails, and returns what it says.
fn run(settings: &[(&str, &str)]) -> String {
    let mut command = example("polar_upstream");
    for name in [
        "POLAR_ACCESS_TOKEN",
        "POLAR_WEBHOOK_SECRET",
        "POLAR_BASE_URL",
    ] {
        command.env_remove(name);
    }
    let output = command
        .envs(settings.iter().copied())
        .output()
        .expect("it runs");
    assert!(!output.status.success());
    String::from_utf8(output.stderr).expect("text")
}

#[tokio::test]
async fn a_wrong_access_token_is_told_at_the_start() {
    let url = FakePolar::start().await.url();
    let running = tokio::task::spawn_blocking(move || {
        run(&[
            ("POLAR_ACCESS_TOKEN", "polar_oat_unknown"),
            ("POLAR_WEBHOOK_SECRET", SECRET),
            ("POLAR_BASE_URL", &url),
        ])
    });
    let said = running.await.expect("no panic");
    assert!(
        said.contains("check the organization access token"),
        "{said}"
    );
}

#[test]
fn missing_settings_are_named() {
    let said = run(&[
        ("POLAR_BASE_URL", "https://api.polar.sh"),
        ("POLAR_ACCESS_TOKEN", ""),
    ]);
    for name in ["set POLAR_ACCESS_TOKEN to", "set POLAR_WEBHOOK_SECRET to"] {
        assert!(said.contains(name), "{said}");
    }
    assert!(!said.contains("POLAR_BASE_URL"), "{said}");
    let said = run(&[
        ("POLAR_BASE_URL", "http://api.polar.sh"),
        ("POLAR_ACCESS_TOKEN", "polar_oat_x"),
        ("POLAR_WEBHOOK_SECRET", SECRET),
    ]);
    assert!(said.contains("must be https"), "{said}");
}

#[tokio::test]
async fn it_can_be_tried_against_a_stand_in_of_its_own() {
    let mut command = example("polar_upstream");
    command.arg("--stand-in");
    let mut process = RunningExample::start(command, &[]);
    let client = Client::builder().no_proxy().build().expect("a client");
    for expected in [StatusCode::OK, StatusCode::UNAUTHORIZED] {
        let curl = process.line("curl ");
        let url = curl.split(' ').find(|word| word.starts_with("http://"));
        let (_, token) = curl.split_once("Bearer ").expect("a token");
        let (token, _) = token.split_once('\'').expect("its end");
        let request = client.get(url.expect("a URL")).bearer_auth(token);
        let answer = request.send().await.expect("an answer");
        assert_eq!(answer.status(), expected);
    }
}
