//! The answers and deliveries of a real Polar server, from a folder that `POLAR_RECORDINGS` names:
//! `exchanges/*.json` are played back to the same requests, `webhook_vectors.json` are deliveries.
//! Without the variable these tests do nothing; those of the store have answers of their own.

use std::{
    collections::BTreeMap,
    net::SocketAddr,
    path::{Path, PathBuf},
    sync::{Arc, Mutex},
};

use axum::{
    Router,
    body::Body,
    extract::Request,
    http::{HeaderMap, HeaderName, HeaderValue, Response, StatusCode},
};
use chrono::{DateTime, Utc};
use customer_session::{
    Customer, CustomerSession, Invalidation, MemberRole, SessionStore as _, SessionToken,
    StoreErrorKind, TokenFormat,
    polar::{
        CreateError, CreatedSession, CustomerRef, EventKind, PolarStore, SessionOptions,
        WebhookError, Webhooks,
    },
    testing::ManualClock,
};
use serde_json::{Value, json};
use tokio::net::TcpListener;

fn folder() -> Option<PathBuf> {
    let folder = std::env::var_os("POLAR_RECORDINGS");
    if folder.is_none() {
        println!("POLAR_RECORDINGS is not set: no recordings");
    }
    folder.map(PathBuf::from)
}

fn read(path: &Path) -> Value {
    serde_json::from_str(&std::fs::read_to_string(path).expect("a file")).expect("JSON")
}

/// The recorded exchanges by name, and a server that plays them back.
struct Recordings {
    by_name: BTreeMap<String, Value>,
    address: SocketAddr,
    world: Arc<Mutex<World>>,
    used: Mutex<BTreeMap<String, &'static str>>,
}

#[derive(Default)]
struct World {
    /// The answers by method, path and credential.
    answers: BTreeMap<String, Value>,
    /// The answer to every request, if there is one.
    always: Option<Value>,
}

fn text(value: &Value) -> &str {
    value.as_str().expect("text")
}

fn key(method: &str, path: &str, credential: &str) -> String {
    format!("{method} {path} {credential}")
}

impl Recordings {
    async fn of(folder: &Path) -> Self {
        let mut by_name = BTreeMap::new();
        let world = Arc::new(Mutex::new(World::default()));
        for entry in std::fs::read_dir(folder.join("exchanges")).expect("a folder") {
            let exchange = read(&entry.expect("an entry").path());
            by_name.insert(text(&exchange["name"]).to_owned(), exchange);
        }
        let listener = TcpListener::bind("127.0.0.1:0").await.expect("a port");
        let address = listener.local_addr().expect("an address");
        let asked = Arc::clone(&world);
        let app = Router::new().fallback(async move |request: Request| {
            let credential = request.headers().get("authorization");
            let credential = credential.map_or("", |value| value.to_str().expect("text"));
            let key = key(request.method().as_str(), request.uri().path(), credential);
            let world = asked.lock().expect("no panic");
            let answer = world.always.as_ref().or_else(|| world.answers.get(&key));
            play(answer.unwrap_or_else(|| panic!("no recording of {key}")))
        });
        tokio::spawn(async move { axum::serve(listener, app).await });
        let recordings = Self {
            by_name,
            address,
            world,
            used: Mutex::default(),
        };
        for (name, exchange) in &recordings.by_name {
            let request = &exchange["request"];
            let credential = recordings.header(name, "Authorization").unwrap_or_default();
            let key = key(
                text(&request["method"]),
                text(&request["path"]),
                &credential,
            );
            let mut world = recordings.world.lock().expect("no panic");
            world.answers.insert(key, exchange["response"].clone());
        }
        recordings
    }

    fn header(&self, name: &str, header: &str) -> Option<String> {
        let headers = self.by_name[name]["request"]["headers"].as_array();
        let mut headers = headers.expect("headers").iter();
        let found = headers.find(|line| line[0] == header)?;
        Some(text(&found[1]).to_owned())
    }

    fn token(&self, name: &str) -> SessionToken {
        let header = self.header(name, "Authorization").expect("a credential");
        SessionToken::new(header.strip_prefix("Bearer ").expect("a bearer token"))
    }

    /// Returns the recorded body, which counts as checked from now on.
    fn body(&self, name: &str, checked: &'static str) -> &Value {
        self.used
            .lock()
            .expect("no panic")
            .insert(name.to_owned(), checked);
        &self.by_name[name]["response"]["body"]
    }

    /// Creates a store with this access token.
    fn store(&self, access_token: &str) -> PolarStore {
        let store = PolarStore::builder(access_token).accept_any_access_token();
        let store = store.base_url(format!("http://{}", self.address));
        store.build().expect("built")
    }

    /// Creates a store with the access token of this recording.
    fn store_of(&self, name: &str) -> PolarStore {
        self.store(self.token(name).expose())
    }

    /// Answers every request with the answer of this recording.
    fn always(&self, name: &str) {
        self.world.lock().expect("no panic").always = Some(self.by_name[name]["response"].clone());
    }

    fn no_longer(&self) {
        self.world.lock().expect("no panic").always = None;
    }

    async fn assert_refused(&self, store: &PolarStore, token: &str, checked: &'static str) {
        let found = store.find(&self.token(token)).await;
        assert_eq!(found.expect("no error"), None, "{token}");
        self.body(token, checked);
    }

    async fn created(&self, name: &str) -> Result<CreatedSession, CreateError> {
        self.always(name);
        let customer = CustomerRef::external("any");
        let created = self
            .store("any")
            .create(customer, SessionOptions::new())
            .await;
        self.no_longer();
        created
    }
}

fn play(answer: &Value) -> Response<Body> {
    let mut response = Response::new(Body::from(text(&answer["body_text"]).to_owned()));
    let status = answer["status"].as_u64().expect("a number");
    *response.status_mut() = StatusCode::from_u16(status as u16).expect("a status");
    for header in answer["headers"].as_array().expect("headers") {
        let name: HeaderName = text(&header[0]).parse().expect("a name");
        // Headers that the server here sets by itself.
        if !["date", "transfer-encoding", "content-length"].contains(&name.as_str()) {
            let value = HeaderValue::from_str(text(&header[1])).expect("a value");
            response.headers_mut().append(name, value);
        }
    }
    response
}

fn time(value: &Value) -> DateTime<Utc> {
    text(value).parse().expect("a time")
}

#[tokio::test]
async fn every_exchange_is_understood() {
    let Some(folder) = folder() else { return };
    let polar = Recordings::of(&folder).await;
    let ours = polar.store_of("062-merchant-get-customer");

    // A whole lookup, from three recordings, and a customer with few fields.
    let session = ours.find(&polar.token("050-valid-full-me")).await;
    let session = session.expect("an answer").expect("a session");
    let customer = polar.body("062-merchant-get-customer", "every field of the customer");
    let customer: Customer = serde_json::from_value(customer.clone()).expect("a customer");
    assert_eq!(session.customer, customer);
    polar.body("452-merchant-get-own-customer", "the same request as 062");
    let me = polar.body("050-valid-full-me", "whose session it is");
    assert_eq!(session.customer_id.as_str(), text(&me["id"]));
    let end = polar.body("050-valid-full-introspect", "until when");
    assert_eq!(session.expires_at, time(&end["expires_at"]));

    // Where the organization was not asked for the customer, what it answers is taken from the
    // session that it created.
    for (identity, introspect, created) in [
        (
            "052-valid-minimal-me",
            "052-valid-minimal-introspect",
            "033-create-customer-session-minimal",
        ),
        (
            "301-mst-valid-individual-user",
            "301-mst-valid-individual-introspect",
            "300-new-create-customer-session",
        ),
        (
            "306-mst-valid-team-owner-user",
            "306-mst-valid-team-owner-introspect",
            "305-new-team-session-with-member",
        ),
    ] {
        let customer = &polar.by_name[created]["response"]["body"]["customer"];
        let path = format!("/v1/customers/{}", text(&customer["id"]));
        let answer = json!({ "status": 200, "headers": [], "body_text": customer.to_string() });
        let key = key(
            "GET",
            &path,
            &polar.header(created, "Authorization").expect("one"),
        );
        polar
            .world
            .lock()
            .expect("no panic")
            .answers
            .insert(key, answer);
        let found = polar.store_of(created).find(&polar.token(identity)).await;
        let found = found.expect("an answer").expect("a session");
        let body = polar.body(identity, "whose session it is");
        let id = body.get("customer_id").unwrap_or(&body["id"]);
        assert_eq!(found.customer_id.as_str(), text(id));
        let member = found.details.member;
        assert_eq!(member.is_some(), identity.ends_with("-user"));
        if let Some(member) = member {
            assert_eq!(member.id, text(&body["member_id"]));
            assert_eq!(member.role, MemberRole::Owner);
            assert_eq!(member.name.as_deref(), body["name"].as_str());
            assert_eq!(member.email.as_deref(), body["email"].as_str());
        }
        let end = polar.body(introspect, "until when");
        assert_eq!(found.expires_at, time(&end["expires_at"]));
        let team = found.customer.kind == customer_session::CustomerKind::Team;
        assert_eq!(team, found.customer.email.is_none());
    }

    // No session. The live token of another organization is one of them.
    polar
        .assert_refused(&ours, "109-cst-bad-checksum-me", "refused without a call")
        .await;
    polar.always("451-cross-org-merchant-get-customer");
    polar.no_longer();
    let foreign = "450-cross-org-cst-of-other-org-me";
    let their_path = format!("/v1/customers/{}", text(&polar.body(foreign, "")["id"]));
    assert_eq!(
        polar.by_name["451-cross-org-merchant-get-customer"]["request"]["path"],
        their_path
    );
    polar
        .assert_refused(
            &ours,
            foreign,
            "another organization's live token: no session",
        )
        .await;
    polar.body(
        "451-cross-org-merchant-get-customer",
        "404 for it: no session",
    );
    for name in [
        "112-cst-wellformed-unknown-me",
        "112-cst-wellformed-unknown-introspect",
        "201-cst-expired-introspect",
        "224-cst-customer-deleted-me",
        "100-no-token-me",
        "121-oat-on-portal-me",
    ] {
        polar.always(name);
        let found = polar
            .store("any")
            .find(&TokenFormat::polar().generate())
            .await;
        assert_eq!(found.expect("no error"), None, "{name}");
        polar.body(name, "401: no session");
    }
    polar.no_longer();
    // The customer is gone between the calls.
    for name in [
        "067-merchant-get-unknown-customer",
        "225-get-deleted-customer",
    ] {
        let path = polar.by_name["062-merchant-get-customer"]["request"]["path"].clone();
        let key = key("GET", text(&path), "Bearer any");
        let answer = polar.by_name[name]["response"].clone();
        polar
            .world
            .lock()
            .expect("no panic")
            .answers
            .insert(key, answer);
        let found = polar
            .store("any")
            .find(&polar.token("050-valid-full-me"))
            .await;
        assert_eq!(found.expect("no error"), None, "{name}");
        polar.body(name, "404 for the customer: no session");
    }

    // Failures, which say nothing of the session.
    for name in [
        "045-create-customer-session-no-trailing-slash",
        "310-mst-role-denied",
        "485-legacy-team-cst-user",
        "610-sandbox-rate-limited-valid-token",
        "611-sandbox-rate-limited-invalid-token",
        "700-database-down-me",
        "704-redis-down-me",
    ] {
        polar.always(name);
        let found = polar
            .store("any")
            .find(&TokenFormat::polar().generate())
            .await;
        let error = found.expect_err(name);
        assert_eq!(error.kind(), StoreErrorKind::Unavailable, "{name}");
        let wait = error.retry_after().map(|wait| wait.as_secs());
        assert_eq!(wait, name.starts_with("61").then_some(60), "{name}");
        polar.body(name, "unavailable");
    }
    polar.no_longer();

    // Created.
    for name in [
        "030-create-customer-session-by-id",
        "031-create-customer-session-by-external-id-return-url",
        "033-create-customer-session-minimal",
        "300-new-create-customer-session",
        "305-new-team-session-with-member",
    ] {
        let created = polar.created(name).await.expect(name);
        let body = polar.body(name, "every field of the session");
        let session: CustomerSession = serde_json::from_value(body.clone()).expect("a session");
        assert_eq!(created.session, session, "{name}");
        let portal = created.customer_portal_url.expect("a URL");
        assert_eq!(
            portal.expose(),
            text(&body["customer_portal_url"]),
            "{name}"
        );
        assert_eq!(
            created.return_url.as_deref(),
            body["return_url"].as_str(),
            "{name}"
        );
    }
    let unknown = "035-create-customer-session-unknown-customer";
    let created = polar.created(unknown).await;
    let Err(CreateError::Invalid(errors)) = created else {
        panic!("{created:?}");
    };
    assert_eq!(errors[0].field, "customer_id");
    polar.body(unknown, "an error that names the field");

    // Shapes that no lookup asks for, or only as a part.
    let whole = polar.body("460-timestamp-whole-second", "a time without a fraction");
    assert_eq!(time(&whole["expires_at"]).timestamp_subsec_micros(), 0);
    let team = polar.body("485-legacy-team-cst-me", "a team without e-mail");
    assert!(team["email"].is_null());
    for name in ["050-valid-full-user", "052-valid-minimal-user"] {
        polar.body(name, "not asked for: it is not a member's token");
    }
    for name in ["301-mst-valid-individual-me", "306-mst-valid-team-owner-me"] {
        polar.body(name, "asked only when the customer is not found");
    }

    let used = polar.used.lock().expect("no panic");
    for (name, checked) in &*used {
        println!("{name}: {checked}");
    }
    let missing: Vec<_> = polar
        .by_name
        .keys()
        .filter(|name| !used.contains_key(*name))
        .collect();
    assert!(missing.is_empty(), "not checked: {missing:?}");
}

#[test]
fn every_delivery_is_verified() {
    let Some(folder) = folder() else { return };
    let vectors = read(&folder.join("webhook_vectors.json"));
    let vectors = vectors["vectors"].as_array().expect("deliveries");
    for vector in vectors {
        let name = text(&vector["file"]);
        let headers = ["webhook-id", "webhook-timestamp", "webhook-signature"].map(|name| {
            let value = text(&vector[name]).parse::<HeaderValue>().expect("a value");
            (HeaderName::from_static(name), value)
        });
        let headers: HeaderMap = headers.into_iter().collect();
        let sent = text(&vector["webhook-timestamp"]).parse().expect("seconds");
        let clock = ManualClock::new(DateTime::from_timestamp(sent, 0).expect("a time"));
        let webhooks = Webhooks::new(text(&vector["secret"])).expect("a secret");
        let webhooks = webhooks.clock(clock.clone());
        let body = text(&vector["body"]).as_bytes();
        let event = webhooks.verify(&headers, body).expect(name);
        let data = &serde_json::from_slice::<Value>(body).expect("JSON")["data"];
        let is_customer = name.contains("customer.");
        let id = if is_customer {
            &data["id"]
        } else {
            &data["customer_id"]
        };
        let id = text(id).into();
        let modified_at = data["modified_at"].as_str().filter(|_| is_customer);
        let change = match modified_at.map(|time| time.parse().expect("a time")) {
            Some(modified_at) => Invalidation::CustomerChanged { id, modified_at },
            None => Invalidation::Customer(id),
        };
        let expected = Some(change).filter(|_| event.kind != EventKind::CustomerCreated);
        assert_eq!(event.invalidation(), expected, "{name}");
        assert_eq!(event.customer.is_some(), is_customer, "{name}");

        assert_eq!(
            webhooks.verify(&headers, body),
            Err(WebhookError::Replayed),
            "{name}"
        );
        let mut changed = body.to_vec();
        changed[20] ^= 1;
        let refused = webhooks.verify(&headers, &changed);
        assert_eq!(refused, Err(WebhookError::WrongSignature), "{name}");
        let other = Webhooks::new("whsec_the_secret_of_another_endpoint").expect("a secret");
        let other = other.clock(clock);
        let refused = other.verify(&headers, body);
        assert_eq!(refused, Err(WebhookError::WrongSignature), "{name}");
        println!("{name}: {:?}", event.kind);
    }
    assert!(!vectors.is_empty());
}
