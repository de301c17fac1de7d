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
    TokenFormat,
};
use http::{HeaderMap, HeaderName, HeaderValue, StatusCode};
use tower::{Layer as _, Service, ServiceBuilder};

use measure::{contender, medians, time};

const SESSIONS: usize = 1000;
const BATCH: usize = 64;
const ROUNDS: usize = 3000;

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
        None => match state
            .store
            .find(&customer_session::SessionToken::new(token))
            .await
        {
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

fn requests(headers: &HeaderMap) -> Vec<Request> {
    (0..BATCH)
        .map(|_| {
            let mut request = Request::new(Body::empty());
            *request.headers_mut() = headers.clone();
            request
        })
        .collect()
}

/// Calls the service for each request of a batch; every answer must be ready at once.
fn run<S>(service: &mut S, headers: &HeaderMap, status: StatusCode) -> f64
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

fn main() {
    let runtime = tokio::runtime::Builder::new_current_thread()
        .enable_all()
        .build()
        .expect("a runtime");
    let store = MemoryStore::new();
    let sessions = CustomerSessions::builder(store.clone()).build();
    let state = Arc::new(ByHand {
        cache: moka::future::Cache::builder()
            .max_capacity(50_000)
            .time_to_live(Duration::from_secs(60 * 60))
            .build(),
        store,
    });
    let absent = TokenFormat::new("cst_").generate();
    let hot = runtime.block_on(async {
        let mut hot = None;
        for n in 0..SESSIONS {
            let customer = CustomerData::new(format!("cus_{n}"), "org_1");
            let session = sessions
                .issue(customer, Duration::from_secs(3600))
                .await
                .expect("issued");
            sessions.authenticate(&session.token).await.expect("live");
            let token = session.token.expose().to_owned();
            state.cache.insert(token, Arc::new(session.clone())).await;
            hot = Some(session);
        }
        sessions.authenticate(&absent).await.expect_err("unknown");
        hot.expect("a session")
    });

    let token = hot.token.expose();
    let mut garbage = token.to_owned();
    garbage.replace_range(10..11, if &token[10..11] == "x" { "y" } else { "x" });
    let signed = headers(Some(token));
    let anonymous = headers(None);
    let screened = headers(Some(&garbage));
    let unknown = headers(Some(absent.expose()));

    let mut bare = tower::service_fn(reads_customer);
    let customer = hot.customer.clone();
    let mut floor = ServiceBuilder::new()
        .map_request(move |mut request: Request| {
            request.extensions_mut().insert(customer.clone());
            request
        })
        .service_fn(reads_customer);
    let mut hand_written =
        from_fn_with_state(state, by_hand).layer(tower::service_fn(reads_customer));
    let ours = sessions.layer().layer(tower::service_fn(reads_customer));
    let [mut hit, mut missing, mut garbage, mut absent] = std::array::from_fn(|_| ours.clone());

    const OK: StatusCode = StatusCode::OK;
    const REFUSED: StatusCode = StatusCode::UNAUTHORIZED;
    let mut contenders = [
        contender("bare service", || run(&mut bare, &signed, OK)),
        contender("floor: one `Arc` extension", || {
            run(&mut floor, &signed, OK)
        }),
        contender("hand-written `from_fn` + moka, hit", || {
            run(&mut hand_written, &signed, OK)
        }),
        contender("ours, hit", || run(&mut hit, &signed, OK)),
        contender("ours, no credential: 401", || {
            run(&mut missing, &anonymous, REFUSED)
        }),
        contender("ours, garbage, screened: 401", || {
            run(&mut garbage, &screened, REFUSED)
        }),
        contender("ours, unknown, remembered: 401", || {
            run(&mut absent, &unknown, REFUSED)
        }),
    ];
    let medians = medians(&mut contenders, ROUNDS);

    let (floor, by_hand) = (medians[1], medians[2]);
    println!("\n| one request, {SESSIONS} sessions cached | ns | x floor | x hand-written |");
    println!("|---|---:|---:|---:|");
    for (contender, median) in contenders.iter().zip(&medians) {
        println!(
            "| {} | {median:.0} | {:.2} | {:.2} |",
            contender.name,
            median / floor,
            median / by_hand
        );
    }
    drop(contenders);
    println!(
        "\nlookups during the run: {}",
        sessions.statistics().lookups - SESSIONS as u64 - 1
    );
}
