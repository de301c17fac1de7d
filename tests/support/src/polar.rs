//! A server that answers as Polar does, or fails as told, with customers of its own.
#![allow(clippy::result_large_err, reason = "a test is in no hurry")]

use std::{
    collections::HashMap,
    convert::Infallible,
    net::SocketAddr,
    sync::{Arc, Mutex},
    time::{Duration, Instant},
};

use axum::{
    Json, Router,
    body::Body,
    extract::{Path, RawQuery, Request, State},
    http::{HeaderMap, HeaderValue, Method, StatusCode, header},
    middleware::{Next, from_fn_with_state},
    response::{IntoResponse as _, Response},
    routing::{get, post},
};
use base64::{Engine as _, prelude::BASE64_STANDARD};
use chrono::{DateTime, TimeDelta, Utc};
use customer_session::{SessionToken, TokenFormat};
use futures_util::stream;
use hmac::{Hmac, KeyInit as _, Mac as _};
use serde_json::{Value, json};
use sha2::Sha256;
use tokio::{net::TcpListener, time::sleep};

pub const OUR_TOKEN: &str = "polar_oat_ours";
pub const OUR_ORGANIZATION: &str = "0b8dbc3a-1d3e-4c43-9be1-0a1b2c3d4e5f";
const THEIR_TOKEN: &str = "polar_oat_theirs";
const THEIR_ORGANIZATION: &str = "9f8e7d6c-5b4a-4938-8271-605f4e3d2c1b";

pub const JANE: &str = "3f2c8f4e-6f0b-4a53-9b3c-2f1d7a9e5c01";
pub const PLAIN: &str = "3f2c8f4e-6f0b-4a53-9b3c-2f1d7a9e5c02";
pub const TEAM: &str = "3f2c8f4e-6f0b-4a53-9b3c-2f1d7a9e5c03";
pub const FOREIGN: &str = "3f2c8f4e-6f0b-4a53-9b3c-2f1d7a9e5c04";

pub const MEMBER: &str = "7d1f0c9e-6a54-4a0e-8a4e-8c1b6d2f3e05";

pub const INTROSPECT: &str = "/v1/customer-portal/customer-session/introspect";
pub const ME: &str = "/v1/customer-portal/customers/me";
pub const USER: &str = "/v1/customer-portal/customer-session/user";
pub const CUSTOMERS: &str = "/v1/customers/";
pub const CREATE: &str = "/v1/customer-sessions/";

/// The behaviour of the server instead of an answer.
#[derive(Clone, Debug)]
pub enum Fault {
    Answer(u16, Vec<(&'static str, String)>, Vec<u8>),
    /// Begins the answer, then closes the connection.
    Cut,
    Hang,
}

impl Fault {
    pub fn status(status: u16) -> Self {
        Self::Answer(status, Vec::new(), Vec::new())
    }

    pub fn body(body: impl Into<Vec<u8>>) -> Self {
        Self::Answer(200, vec![json_type()], body.into())
    }

    /// Answers as the rate limiter of Polar does: without a body.
    pub fn too_many(retry_after: u32) -> Self {
        let headers = vec![("retry-after", retry_after.to_string())];
        Self::Answer(429, headers, Vec::new())
    }

    /// Answers as Polar does while its database is down.
    pub fn down() -> Self {
        let headers = vec![("content-type", "text/plain; charset=utf-8".to_owned())];
        Self::Answer(500, headers, b"Internal Server Error".to_vec())
    }

    /// Answers as Polar does to an unknown token.
    pub fn invalid_token() -> Self {
        let body = json!({"error": "invalid_token", "error_description": "No."});
        Self::Answer(401, vec![json_type()], body.to_string().into_bytes())
    }

    /// Answers as Polar does for a customer of another organization.
    pub fn not_found() -> Self {
        let body = json!({"error": "ResourceNotFound", "detail": "Not found"});
        Self::Answer(404, vec![json_type()], body.to_string().into_bytes())
    }

    pub fn redirect(to: impl Into<String>) -> Self {
        Self::Answer(307, vec![("location", to.into())], Vec::new())
    }
}

fn json_type() -> (&'static str, String) {
    ("content-type", "application/json".to_owned())
}

struct Session {
    customer: String,
    expires_at: DateTime<Utc>,
}

/// The state of the server.
struct World {
    /// The customers as the primary has them.
    customers: Mutex<HashMap<String, Value>>,
    /// All versions of the customers, for the replica.
    versions: Mutex<HashMap<String, Vec<(Instant, Value)>>>,
    /// The time by which the replica lags.
    replica_lag: Mutex<Duration>,
    sessions: Mutex<HashMap<String, Session>>,
    begun: Instant,
    /// How many times customers are not found by their ids, as if the replica had not got them.
    lags: Mutex<HashMap<String, usize>>,
    /// The faults by the beginning of the path.
    faults: Mutex<Vec<(&'static str, Fault)>>,
    delay: Mutex<Duration>,
    calls: Mutex<Vec<String>>,
    bodies: Mutex<Vec<Value>>,
}

pub struct FakePolar {
    pub address: SocketAddr,
    world: Arc<World>,
}

fn customer(id: &str, organization: &str) -> Value {
    json!({
        "id": id,
        "created_at": "2025-11-22T23:29:51.500699Z",
        "modified_at": null,
        "metadata": {},
        "external_id": null,
        "email": "someone@example.org",
        "email_verified": false,
        "type": "individual",
        "name": null,
        "billing_name": null,
        "billing_address": null,
        "tax_id": null,
        "locale": null,
        "organization_id": organization,
        "default_payment_method_id": null,
        "deleted_at": null,
        "first_user_event_at": null,
        "avatar_url": "https://example.org/avatar.png",
    })
}

fn with(mut value: Value, fields: Value) -> Value {
    let fields = fields.as_object().expect("an object").clone();
    value.as_object_mut().expect("an object").extend(fields);
    value
}

/// Returns a customer with every field set.
fn jane() -> Value {
    let more = json!({
        "metadata": {
            "beyond_f64": 9_007_199_254_740_993_i64, "below_zero": -1, "beta": true,
            "plan": "gold", "tiny": 1e-7, "ratio": 0.5, "whole": 2.0,
        },
        "external_id": "usr_1",
        "email": "jane@example.org",
        "name": "Jane Roe",
        "billing_name": "Roe Ltd",
        "billing_address": {
            "line1": "2 rue de Lyon", "line2": null, "postal_code": "69001",
            "city": "Lyon", "state": null, "country": "FR",
        },
        "tax_id": ["FR00000000000", "eu_vat"],
        "locale": "fr-FR",
    });
    with(customer(JANE, OUR_ORGANIZATION), more)
}

impl FakePolar {
    pub async fn start() -> Self {
        let team = json!({ "type": "team", "name": "Acme", "email": null });
        let customers = [
            jane(),
            customer(PLAIN, OUR_ORGANIZATION),
            with(customer(TEAM, OUR_ORGANIZATION), team),
            customer(FOREIGN, THEIR_ORGANIZATION),
        ];
        let by_id = customers
            .map(|customer| (customer["id"].as_str().expect("an id").to_owned(), customer));
        let world = Arc::new(World {
            customers: Mutex::new(HashMap::from(by_id)),
            versions: Mutex::default(),
            replica_lag: Mutex::default(),
            sessions: Mutex::default(),
            begun: Instant::now(),
            lags: Mutex::default(),
            faults: Mutex::default(),
            delay: Mutex::default(),
            calls: Mutex::default(),
            bodies: Mutex::default(),
        });
        let app = Router::new()
            .route(INTROSPECT, get(introspect))
            .route(ME, get(me))
            .route(USER, get(user))
            .route("/v1/customers/{id}", get(read_customer))
            .route(CUSTOMERS, get(list_customers))
            .route(CREATE, post(create))
            .fallback(async |request: Request| {
                let path = request.uri().path();
                match request.method() {
                    // As the framework of Polar does.
                    &Method::POST => redirect(&format!("{path}/")),
                    _ => problem(404, json!({"detail": "Not Found"})),
                }
            })
            .layer(from_fn_with_state(Arc::clone(&world), apply_faults))
            .with_state(Arc::clone(&world));
        let listener = TcpListener::bind("127.0.0.1:0").await.expect("a port");
        let address = listener.local_addr().expect("an address");
        tokio::spawn(async move { axum::serve(listener, app).await });
        Self { address, world }
    }

    pub fn url(&self) -> String {
        format!("http://{}", self.address)
    }

    /// Signs a customer in for `ttl` with a token of this kind.
    pub fn sign_in(&self, customer: &str, kind: &str, ttl: TimeDelta) -> SessionToken {
        let token = TokenFormat::new(kind).generate();
        let session = Session {
            customer: customer.to_owned(),
            expires_at: Utc::now() + ttl,
        };
        let mut sessions = self.world.sessions.lock().expect("no panic");
        sessions.insert(token.expose().to_owned(), session);
        token
    }

    pub fn customer_token(&self, customer: &str) -> SessionToken {
        self.sign_in(customer, "polar_cst_", TimeDelta::hours(1))
    }

    pub fn member_token(&self, customer: &str) -> SessionToken {
        self.sign_in(customer, "polar_mst_", TimeDelta::hours(1))
    }

    pub fn update(&self, customer: &str, fields: Value) {
        let mut customers = self.world.customers.lock().expect("no panic");
        let known = customers.get_mut(customer).expect("a customer");
        let old = known.take();
        *known = with(old.clone(), fields);
        let mut versions = self.world.versions.lock().expect("no panic");
        let versions = versions.entry(customer.to_owned());
        let versions = versions.or_insert_with(|| vec![(self.world.begun, old)]);
        versions.push((Instant::now(), known.clone()));
    }

    /// Adds a customer, made just now, and returns its id.
    pub fn sign_up(&self, fields: Value) -> String {
        self.add(OUR_ORGANIZATION, fields)
    }

    /// Adds a customer of another organization, and returns its id.
    pub fn sign_up_elsewhere(&self, fields: Value) -> String {
        self.add(THEIR_ORGANIZATION, fields)
    }

    fn add(&self, organization: &str, fields: Value) -> String {
        let mut customers = self.world.customers.lock().expect("no panic");
        let id = format!("3f2c8f4e-6f0b-4a53-9b3c-{:012x}", 0x1000 + customers.len());
        let new = with(
            customer(&id, organization),
            json!({ "created_at": Utc::now() }),
        );
        let new = with(new, fields);
        let versions = vec![(Instant::now(), new.clone())];
        let mut all = self.world.versions.lock().expect("no panic");
        all.insert(id.clone(), versions);
        customers.insert(id.clone(), new);
        id
    }

    /// Returns the customer as it is now.
    pub fn customer(&self, id: &str) -> Value {
        self.world.customers.lock().expect("no panic")[id].clone()
    }

    /// Answers for a customer by its id as it was this long ago, from now on.
    pub fn set_replica_lag(&self, lag: Duration) {
        *self.world.replica_lag.lock().expect("no panic") = lag;
    }

    pub fn delete(&self, customer: &str) {
        self.update(customer, json!({ "deleted_at": Utc::now() }));
    }

    /// Adds a customer of another organization.
    pub fn add_foreign(&self, id: &str) {
        let mut customers = self.world.customers.lock().expect("no panic");
        customers.insert(id.to_owned(), customer(id, THEIR_ORGANIZATION));
    }

    /// Does not find the customer by its id for this number of times, as a replica that lags.
    pub fn lag(&self, customer: &str, times: usize) {
        let mut lags = self.world.lags.lock().expect("no panic");
        lags.insert(customer.to_owned(), times);
    }

    /// Answers the paths that begin with `path` in this way from now on.
    pub fn fault(&self, path: &'static str, fault: Fault) {
        let mut faults = self.world.faults.lock().expect("no panic");
        faults.retain(|(other, _)| *other != path);
        faults.push((path, fault));
    }

    /// Ends all faults.
    pub fn clear_faults(&self) {
        self.world.faults.lock().expect("no panic").clear();
    }

    /// Delays every answer by `delay` from now on.
    pub fn delay(&self, delay: Duration) {
        *self.world.delay.lock().expect("no panic") = delay;
    }

    /// Returns the calls since the last time, in their order of arrival.
    pub fn calls(&self) -> Vec<String> {
        std::mem::take(&mut *self.world.calls.lock().expect("no panic"))
    }

    /// Returns the bodies posted since the last time.
    pub fn posted(&self) -> Vec<Value> {
        std::mem::take(&mut *self.world.bodies.lock().expect("no panic"))
    }
}

impl World {
    /// Returns the customer as the replica has it.
    fn on_replica(&self, id: &str) -> Option<Value> {
        let lag = *self.replica_lag.lock().expect("no panic");
        let versions = self.versions.lock().expect("no panic");
        match versions.get(id) {
            Some(versions) => {
                let mut versions = versions.iter().rev();
                let has_arrived = |(since, _): &&(Instant, Value)| since.elapsed() >= lag;
                versions.find(has_arrived).map(|(_, value)| value.clone())
            }
            None => {
                let customers = self.customers.lock().expect("no panic");
                customers.get(id).cloned()
            }
        }
    }
}

type Shared = State<Arc<World>>;

async fn apply_faults(State(world): Shared, request: Request, next: Next) -> Response {
    let path = request.uri().path().to_owned();
    let call = format!("{} {path}", request.method());
    world.calls.lock().expect("no panic").push(call);
    let delay = *world.delay.lock().expect("no panic");
    if !delay.is_zero() {
        sleep(delay).await;
    }
    let fault = {
        let faults = world.faults.lock().expect("no panic");
        let fits = faults.iter().find(|(start, _)| path.starts_with(start));
        fits.map(|(_, fault)| fault.clone())
    };
    let mut response = match fault {
        None => next.run(request).await,
        Some(Fault::Hang) => std::future::pending().await,
        Some(Fault::Cut) => {
            let parts = [Ok("{"), Err(std::io::Error::other("cut"))];
            Body::from_stream(stream::iter(parts)).into_response()
        }
        Some(Fault::Answer(status, headers, body)) => {
            let mut response = Response::new(Body::from(body));
            *response.status_mut() = StatusCode::from_u16(status).expect("a status");
            for (name, value) in headers {
                let value = HeaderValue::from_str(&value).expect("a value");
                response.headers_mut().insert(name, value);
            }
            return response;
        }
    };
    let headers = response.headers_mut();
    headers.insert("polar-version", HeaderValue::from_static("2026-04"));
    let entry = headers.entry(header::CACHE_CONTROL);
    entry.or_insert(HeaderValue::from_static("private, no-store"));
    response
}

fn problem(status: u16, body: Value) -> Response {
    let status = StatusCode::from_u16(status).expect("a status");
    (status, Json(body)).into_response()
}

fn redirect(to: &str) -> Response {
    let status = StatusCode::TEMPORARY_REDIRECT;
    (status, [(header::LOCATION, to.to_owned())]).into_response()
}

fn unauthorized() -> Response {
    let challenge = [(header::WWW_AUTHENTICATE, r#"Bearer realm="polar""#)];
    let body = json!({"error": "Unauthorized", "detail": "Unauthorized"});
    (challenge, problem(401, body)).into_response()
}

fn invalid_token() -> Response {
    let challenge = r#"Bearer realm="polar", error="invalid_token", error_description="No.""#;
    let headers = [
        (header::WWW_AUTHENTICATE, challenge),
        (header::CACHE_CONTROL, "no-store"),
        (header::PRAGMA, "no-cache"),
    ];
    let body = json!({"error": "invalid_token", "error_description": "No."});
    (headers, problem(401, body)).into_response()
}

fn bearer(headers: &HeaderMap) -> Option<&str> {
    let value = headers.get(header::AUTHORIZATION)?.to_str().ok()?;
    value.strip_prefix("Bearer ")
}

/// Returns the end and the customer of the live session that the request carries a token of,
/// whatever its organization.
fn session(world: &World, headers: &HeaderMap) -> Result<(DateTime<Utc>, Value), Response> {
    let token = bearer(headers).ok_or_else(unauthorized)?;
    if token.starts_with("polar_oat_") {
        return Err(unauthorized());
    }
    let sessions = world.sessions.lock().expect("no panic");
    let session = sessions.get(token).ok_or_else(invalid_token)?;
    let customer = world.customers.lock().expect("no panic")[&session.customer].clone();
    if session.expires_at <= Utc::now() || !customer["deleted_at"].is_null() {
        return Err(invalid_token());
    }
    Ok((session.expires_at, customer))
}

async fn introspect(State(world): Shared, headers: HeaderMap) -> Result<Response, Response> {
    let (expires_at, _) = session(&world, &headers)?;
    let body = json!({ "expires_at": expires_at, "return_url": null });
    Ok(Json(body).into_response())
}

async fn me(State(world): Shared, headers: HeaderMap) -> Result<Response, Response> {
    let (_, mut customer) = session(&world, &headers)?;
    let fields = customer.as_object_mut().expect("an object");
    for omitted in [
        "organization_id",
        "external_id",
        "metadata",
        "deleted_at",
        "first_user_event_at",
        "avatar_url",
    ] {
        fields.remove(omitted);
    }
    fields.insert("oauth_accounts".to_owned(), json!({}));
    Ok(Json(customer).into_response())
}

/// Names the member. The endpoint fails for teams whose token is not a member's.
async fn user(State(world): Shared, headers: HeaderMap) -> Result<Response, Response> {
    let (_, customer) = session(&world, &headers)?;
    let is_member = bearer(&headers).is_some_and(|token| token.starts_with("polar_mst_"));
    if customer["type"] == "team" && !is_member {
        let detail = json!([{"type": "value_error", "loc": ["body"], "msg": "No.", "input": null}]);
        let body = json!({"error": "PolarRequestValidationError", "detail": detail});
        return Err(problem(422, body));
    }
    let id = &customer["id"];
    Ok(Json(match is_member {
        true => json!({
            "type": "member", "name": "Boss", "email": "boss@example.org",
            "customer_id": id, "member_id": MEMBER, "role": "owner",
        }),
        false => json!({
            "type": "customer", "name": customer["name"], "email": customer["email"],
            "customer_id": id, "member_id": null, "role": null,
        }),
    })
    .into_response())
}

fn organization(headers: &HeaderMap) -> Result<&'static str, Response> {
    match bearer(headers) {
        Some(OUR_TOKEN) => Ok(OUR_ORGANIZATION),
        Some(THEIR_TOKEN) => Ok(THEIR_ORGANIZATION),
        Some(_) => Err(invalid_token()),
        None => Err(unauthorized()),
    }
}

async fn read_customer(
    State(world): Shared,
    headers: HeaderMap,
    Path(id): Path<String>,
) -> Result<Response, Response> {
    let organization = organization(&headers)?;
    let lags = &mut *world.lags.lock().expect("no panic");
    let lag = lags.get_mut(&id).filter(|times| **times > 0);
    let is_there = lag.map(|times| *times -= 1).is_none();
    match world.on_replica(&id) {
        Some(customer)
            if is_there
                && customer["organization_id"] == organization
                && customer["deleted_at"].is_null() =>
        {
            Ok(Json(customer).into_response())
        }
        _ => {
            let body = json!({"error": "ResourceNotFound", "detail": "Not found"});
            Err(problem(404, body))
        }
    }
}

async fn list_customers(
    State(world): Shared,
    headers: HeaderMap,
    RawQuery(query): RawQuery,
) -> Result<Response, Response> {
    let organization = organization(&headers)?;
    assert_eq!(query.as_deref(), Some("limit=1"));
    let customers = world.customers.lock().expect("no panic");
    let ours = |customer: &&Value| customer["organization_id"] == organization;
    let items: Vec<_> = customers.values().filter(ours).take(1).collect();
    let body = json!({ "items": items, "pagination": { "total_count": 4, "max_page": 4 } });
    Ok(Json(body).into_response())
}

async fn create(
    State(world): Shared,
    headers: HeaderMap,
    Json(body): Json<Value>,
) -> Result<Response, Response> {
    let organization = organization(&headers)?;
    world.bodies.lock().expect("no panic").push(body.clone());
    let (field, wanted) = match (&body["customer_id"], &body["external_customer_id"]) {
        (Value::String(id), _) => ("customer_id", ("id", id)),
        (_, Value::String(id)) => ("external_customer_id", ("external_id", id)),
        _ => panic!("a request without a customer"),
    };
    let customers = world.customers.lock().expect("no panic");
    let known = customers.values().find(|customer| {
        customer["organization_id"] == organization && customer[wanted.0] == wanted.1.as_str()
    });
    let Some(customer) = known else {
        let detail = json!([{
            "type": "value_error", "loc": ["body", field],
            "msg": "Customer does not exist.", "input": wanted.1,
        }]);
        let body = json!({"error": "PolarRequestValidationError", "detail": detail});
        return Err(problem(422, body));
    };
    let token = TokenFormat::polar().generate();
    let token = token.expose();
    let now = Utc::now();
    let expires_at = now + TimeDelta::hours(1);
    let answer = json!({
        "created_at": now,
        "modified_at": null,
        "id": "1d0c6a52-7b1e-4c9d-8a2f-4e5d6c7b8a90",
        "token": token,
        "expires_at": expires_at,
        "return_url": body["return_url"],
        "customer_portal_url": format!("https://example.org/portal?customer_session_token={token}"),
        "customer_id": customer["id"],
        "customer": customer,
    });
    let session = Session {
        customer: customer["id"].as_str().expect("an id").to_owned(),
        expires_at,
    };
    let mut sessions = world.sessions.lock().expect("no panic");
    sessions.insert(token.to_owned(), session);
    Ok((StatusCode::CREATED, Json(answer)).into_response())
}

/// Returns the signature of a delivery, whose key is the whole secret.
pub fn sign(secret: &str, id: &str, timestamp: &str, body: &str) -> String {
    let mut mac = Hmac::<Sha256>::new_from_slice(secret.as_bytes()).expect("any length");
    mac.update(format!("{id}.{timestamp}.{body}").as_bytes());
    format!("v1,{}", BASE64_STANDARD.encode(mac.finalize().into_bytes()))
}

/// Starts a server that accepts every request, and returns its address and the list of requests.
pub async fn trap() -> (SocketAddr, Arc<Mutex<Vec<String>>>) {
    let visits = Arc::new(Mutex::new(Vec::new()));
    let noted = Arc::clone(&visits);
    let app = Router::new().fallback(move |request: Request| {
        let visit = format!("{} {}", request.method(), request.uri());
        noted.lock().expect("no panic").push(visit);
        async { Ok::<_, Infallible>(Json(json!({ "id": JANE }))) }
    });
    let listener = TcpListener::bind("127.0.0.1:0").await.expect("a port");
    let address = listener.local_addr().expect("an address");
    tokio::spawn(async move { axum::serve(listener, app).await });
    (address, visits)
}
