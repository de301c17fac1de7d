//! What the layer costs a request that needs no lookup.
//!
//! `cargo bench --bench hit` prints a table of ratios: the bare service, the floor (one `Arc`
//! extension inserted and read), the middleware a user would write by hand, and ours.

mod measure;

use std::{
    convert::Infallible,
    hint::black_box,
    pin::pin,
    sync::Arc,
    task::{Context, Poll, Waker},
    time::Duration,
};

use axum::{
    body::Body,
    extract::{Request, State},
    middleware::{Next, from_fn_with_state},
    response::Response,
};
use chrono::Utc;
use customer_session::{
    Customer, CustomerData, CustomerSession, CustomerSessions, MemoryStore, SessionStore,
    SessionToken, TokenFormat,
};
use http::{HeaderMap, HeaderName, HeaderValue, StatusCode};
use tower::{Layer as _, Service, ServiceBuilder};

use measure::{Contender, contender, medians, time};

const BY_HAND: &str = "hand-written `from_fn` + moka, hit";
const OURS: &str = "ours, hit";
const BATCH: usize = 64;
const ROUNDS: usize = 3000;

const OK: StatusCode = StatusCode::OK;
const REFUSED: StatusCode = StatusCode::UNAUTHORIZED;

/// What a user would write: `from_fn`, a moka cache, an expiry check.
struct ByHand {
    cache: moka::future::Cache<String, Arc<CustomerSession>>,
    store: MemoryStore,
}

async fn by_hand(State(state): State<Arc<ByHand>>, mut request: Request, next: Next) -> Response {
    let token = request
        .headers()
        .get(http::header::AUTHORIZATION)
        .and_then(|value| value.to_str().ok())
        .and_then(|value| value.strip_prefix("Bearer "));
    let Some(token) = token else {
        return refusal();
    };
    let session = match state.cache.get(token).await {
        Some(session) => session,
        None => match state.store.find(&SessionToken::new(token)).await {
            Ok(Some(session)) => {
                let session = Arc::new(session);
                state
                    .cache
                    .insert(token.to_owned(), Arc::clone(&session))
                    .await;
                session
            }
            _ => return refusal(),
        },
    };
    if session.expires_at <= Utc::now() {
        return refusal();
    }
    request.extensions_mut().insert(session.customer.clone());
    next.run(request).await
}

fn refusal() -> Response {
    let mut response = Response::new(Body::empty());
    *response.status_mut() = StatusCode::UNAUTHORIZED;
    response
}

/// The headers of an ordinary request, and the credential.
fn headers(credential: Option<&str>) -> HeaderMap {
    let mut headers = HeaderMap::new();
    for (name, value) in [
        ("host", "api.example.com"),
        ("user-agent", "bench/1.0"),
        ("accept", "application/json"),
        ("accept-encoding", "gzip, br"),
        ("content-type", "application/json"),
        ("x-request-id", "7c5b2a80-0f0e-4c5e-9d0a-0a4d5f6b7c8d"),
        (
            "traceparent",
            "00-0af7651916cd43dd8448eb211c80319c-b7ad6b7169203331-01",
        ),
    ] {
        headers.insert(
            HeaderName::from_static(name),
            HeaderValue::from_static(value),
        );
    }
    if let Some(credential) = credential {
        let value = HeaderValue::try_from(format!("Bearer {credential}")).expect("a value");
        headers.insert(http::header::AUTHORIZATION, value);
    }
    headers
}

/// A batch of requests whose headers come in turn.
fn requests(headers: &mut impl Iterator<Item = HeaderMap>) -> Vec<Request> {
    headers
        .take(BATCH)
        .map(|headers| {
            let mut request = Request::new(Body::empty());
            *request.headers_mut() = headers;
            request
        })
        .collect()
}

/// Calls the service for each request of a batch; every answer must be ready at once.
fn run<S>(service: &mut S, headers: &mut impl Iterator<Item = HeaderMap>, status: StatusCode) -> f64
where
    S: Service<Request, Error = Infallible, Response: Status>,
{
    let mut context = Context::from_waker(Waker::noop());
    time(requests(headers), |request| {
        let mut response = pin!(service.call(request));
        loop {
            if let Poll::Ready(Ok(response)) = response.as_mut().poll(&mut context) {
                assert_eq!(response.status(), status);
                black_box(response);
                break;
            }
        }
    })
}

trait Status {
    fn status(&self) -> StatusCode;
}

impl<B> Status for http::Response<B> {
    fn status(&self) -> StatusCode {
        http::Response::status(self)
    }
}

async fn reads_customer(request: Request) -> Result<Response, Infallible> {
    let customer = request.extensions().get::<Customer>();
    black_box(customer.map(|customer| customer.id.as_str().len()));
    Ok(Response::new(Body::empty()))
}

/// Our sessions and what a user would write, with the same sessions cached in both.
struct Scene {
    sessions: CustomerSessions<MemoryStore>,
    by_hand: Arc<ByHand>,
    tokens: Vec<String>,
    /// Remembered to be unknown.
    absent: SessionToken,
}

impl Scene {
    fn new(count: usize) -> Self {
        let runtime = tokio::runtime::Builder::new_current_thread()
            .enable_all()
            .build()
            .expect("a runtime");
        const TTL: Duration = Duration::from_secs(3600);
        let store = MemoryStore::new();
        let sessions = CustomerSessions::builder(store.clone())
            .cache_capacity(2 * count as u64)
            .cache_ttl(TTL)
            .negative_ttl(TTL)
            .build();
        let cache = moka::future::Cache::builder()
            .max_capacity(2 * count as u64)
            .time_to_live(TTL)
            .build();
        let absent = TokenFormat::new("cst_").generate();
        let tokens = runtime.block_on(async {
            let mut issued = Vec::new();
            for n in 0..count {
                let customer = CustomerData::new(format!("cus_{n}"), "org_1");
                let session = sessions.issue(customer, TTL).await;
                issued.push(session.expect("issued"));
            }
            let mut tokens = Vec::new();
            for session in issued {
                sessions.authenticate(&session.token).await.expect("live");
                let token = session.token.expose().to_owned();
                cache.insert(token.clone(), Arc::new(session)).await;
                tokens.push(token);
            }
            sessions.authenticate(&absent).await.expect_err("unknown");
            tokens
        });
        Self {
            sessions,
            by_hand: Arc::new(ByHand { cache, store }),
            tokens,
            absent,
        }
    }

    fn hit<'a>(
        &self,
        by_whom: &'static str,
        mut headers: impl Iterator<Item = HeaderMap> + 'a,
    ) -> Contender<'a> {
        let inner = tower::service_fn(reads_customer);
        let mut by_hand = from_fn_with_state(Arc::clone(&self.by_hand), by_hand).layer(inner);
        let mut ours = self.sessions.layer().layer(inner);
        contender(by_whom, move || match by_whom {
            BY_HAND => run(&mut by_hand, &mut headers, OK),
            _ => run(&mut ours, &mut headers, OK),
        })
    }

    fn refuse<'a>(&self, what: &'static str, credential: Option<&str>) -> Contender<'a> {
        let mut ours = self
            .sessions
            .layer()
            .layer(tower::service_fn(reads_customer));
        let mut headers = std::iter::repeat(headers(credential));
        contender(what, move || run(&mut ours, &mut headers, REFUSED))
    }

    /// The first `count` sessions in turn; in strides, so that neighbours in time are no
    /// neighbours in memory.
    fn in_turn(&self, count: usize) -> impl Iterator<Item = HeaderMap> {
        let tokens = &self.tokens[..count];
        (0..).map(move |n: usize| headers(Some(&tokens[n * 7919 % count])))
    }
}

fn main() {
    let scene = Scene::new(1000);
    let token = scene.tokens[0].as_str();
    let mut garbage = token.to_owned();
    garbage.replace_range(10..11, if &token[10..11] == "x" { "y" } else { "x" });
    let one = || std::iter::repeat(headers(Some(token)));

    let mut bare = tower::service_fn(reads_customer);
    let customer = Customer::from(CustomerData::new("cus_1", "org_1"));
    let mut floor = ServiceBuilder::new()
        .map_request(move |mut request: Request| {
            request.extensions_mut().insert(customer.clone());
            request
        })
        .service_fn(reads_customer);
    let (mut for_bare, mut for_floor) = (one(), one());
    let mut contenders = [
        contender("bare service", || run(&mut bare, &mut for_bare, OK)),
        contender("floor: one `Arc` extension", || {
            run(&mut floor, &mut for_floor, OK)
        }),
        scene.hit(BY_HAND, one()),
        scene.hit(OURS, one()),
        scene.refuse("ours, no credential: 401", None),
        scene.refuse("ours, garbage, screened: 401", Some(&garbage)),
        scene.refuse(
            "ours, unknown, remembered: 401",
            Some(scene.absent.expose()),
        ),
    ];
    let results = medians(&mut contenders, ROUNDS);
    let (floor, by_hand) = (results[1], results[2]);
    println!("\n1,000 sessions cached, one of them asked for:\n");
    println!("| one request | ns | x floor | x hand-written |");
    println!("|---|---:|---:|---:|");
    for (contender, median) in contenders.iter().zip(&results) {
        println!(
            "| {} | {median:.0} | {:.2} | {:.2} |",
            contender.name,
            median / floor,
            median / by_hand
        );
    }
    drop(contenders);

    let scene = Scene::new(50_000);
    println!("\n50,000 sessions cached, many of them asked for, one after the other:\n");
    println!("| in turn | hand-written, ns | ours, ns | x hand-written |");
    println!("|---:|---:|---:|---:|");
    for count in [100, 1000, 50_000] {
        let mut contenders = [
            scene.hit(BY_HAND, scene.in_turn(count)),
            scene.hit(OURS, scene.in_turn(count)),
        ];
        let results = medians(&mut contenders, ROUNDS);
        println!(
            "| {count} | {:.0} | {:.0} | {:.2} |",
            results[0],
            results[1],
            results[1] / results[0]
        );
    }
    let lookups = scene.sessions.statistics().lookups;
    println!("\nlookups during the run: {}", lookups - 50_001);
}
