//! The memory that a hit takes: its allocations, and the size of its future.

use std::{
    convert::Infallible,
    future::Ready,
    mem::size_of,
    pin::{Pin, pin},
    task::{Context, Poll, Waker},
};

use bytes::Bytes;
use customer_session::{
    Customer, CustomerSession, CustomerSessionLayer, CustomerSessions, NewSession, ResponseFuture,
    store::MemoryStore,
};
use http::{Extensions, HeaderValue, Request, Response};
use http_body_util::Empty;
use tower::{Layer as _, Service};

use test_support::{HOUR, customer};

/// A service that does nothing and allocates nothing.
#[derive(Clone)]
struct Nothing;

impl Service<Request<()>> for Nothing {
    type Response = Response<Empty<Bytes>>;
    type Error = Infallible;
    type Future = Ready<Result<Self::Response, Infallible>>;

    fn poll_ready(&mut self, _: &mut Context<'_>) -> Poll<Result<(), Infallible>> {
        Poll::Ready(Ok(()))
    }

    fn call(&mut self, request: Request<()>) -> Self::Future {
        assert!(request.extensions().get::<Customer>().is_some());
        std::future::ready(Ok(Response::new(Empty::new())))
    }
}

#[tokio::test]
async fn a_hit_allocates_nothing_but_the_extensions() {
    allocates_only_extensions(|layer| layer).await;
}

#[tokio::test]
async fn guards_allocate_nothing() {
    allocates_only_extensions(|layer| layer.require_scope("orders:read")).await;
    allocates_only_extensions(|layer| {
        layer
            .organization(|_| Some("org_1"))
            .without_stale()
            .require_recent(HOUR)
            .require(|session, head| session.id.as_str() != head.uri.path())
    })
    .await;
}

/// Checks that a hit behind this layer allocates only what the extension of a request takes.
async fn allocates_only_extensions(
    configure: impl FnOnce(CustomerSessionLayer) -> CustomerSessionLayer,
) {
    let sessions = CustomerSessions::builder(MemoryStore::new()).build();
    let mut data = (*customer("cus_1")).clone();
    for n in 0..50 {
        data.metadata.insert(format!("key {n}"), "value".into());
    }
    let new = NewSession::new(HOUR).scopes(["orders:read", "orders:write"]);
    let session = sessions.issue_with(data, new).await.expect("issued");
    sessions.authenticate(&session.token).await.expect("live");
    let mut service = configure(sessions.layer()).layer(Nothing);
    let bearer = format!("Bearer {}", session.token.expose());
    let bearer = HeaderValue::try_from(bearer).expect("a value");

    let shared = sessions.authenticate(&session.token).await.expect("live");
    let mut extensions = Extensions::new();
    let floor = allocation_counter::measure(|| {
        extensions.insert(shared.customer.clone());
    })
    .count_total;

    let mut others = Vec::new();
    for _ in 0..1000 {
        let mut request = Request::new(());
        request
            .headers_mut()
            .insert("authorization", bearer.clone());
        let count = allocation_counter::measure(|| {
            let mut response = pin!(service.call(request));
            let polled = response
                .as_mut()
                .poll(&mut Context::from_waker(Waker::noop()));
            assert!(polled.is_ready(), "a hit waits for nothing");
        })
        .count_total;
        if count != floor {
            others.push(count);
        }
    }
    assert!(floor <= 3, "{floor}");
    // Now and then moka runs its maintenance on the caller's thread.
    assert!(others.len() <= 10, "{others:?}");
    println!("a hit allocates {floor} times, all of it in http::Extensions");
}

#[test]
fn a_cached_session_takes_little_memory_beyond_its_own() {
    const SESSIONS: usize = 10_000;

    let runtime = tokio::runtime::Builder::new_current_thread()
        .enable_time()
        .build()
        .expect("a runtime");
    let sessions = CustomerSessions::builder(MemoryStore::new())
        .cache_capacity(SESSIONS as u64)
        .build();
    let issued: Vec<_> = (0..SESSIONS)
        .map(|number| {
            let issued = sessions.issue(customer(&format!("cus_{number}")), HOUR);
            runtime.block_on(issued).expect("issued")
        })
        .collect();
    // The store and the cache share the data of a customer.
    let own = allocation_counter::measure(|| std::mem::forget(issued[0].clone()));
    let own = size_of::<CustomerSession>() as i64 + own.bytes_current;
    let taken = allocation_counter::measure(|| {
        for session in &issued {
            let found = runtime.block_on(sessions.authenticate(&session.token));
            drop(found.expect("live"));
        }
        sessions.run_pending_tasks();
    });
    assert_eq!(sessions.statistics().cached_sessions, SESSIONS as u64);
    let beyond = taken.bytes_current / SESSIONS as i64 - own;
    println!("a cached session takes {beyond} bytes beyond its own {own}");
    assert!(beyond <= 375, "{beyond}");
}

/// A service whose future is of a given size.
#[derive(Clone)]
struct Sized<const N: usize>;

struct Bytewise<const N: usize>([u8; N]);

impl<const N: usize> Future for Bytewise<N> {
    type Output = Result<Response<Empty<Bytes>>, Infallible>;

    fn poll(self: Pin<&mut Self>, _: &mut Context<'_>) -> Poll<Self::Output> {
        Poll::Pending
    }
}

impl<const N: usize> Service<Request<()>> for Sized<N> {
    type Response = Response<Empty<Bytes>>;
    type Error = Infallible;
    type Future = Bytewise<N>;

    fn poll_ready(&mut self, _: &mut Context<'_>) -> Poll<Result<(), Infallible>> {
        Poll::Ready(Ok(()))
    }

    fn call(&mut self, _: Request<()>) -> Bytewise<N> {
        Bytewise([0; N])
    }
}

#[test]
fn the_future_is_two_words_larger_than_the_inner_one_at_most() {
    assert!(size_of::<ResponseFuture<Sized<8>, ()>>() <= 8 + 16);
    assert!(size_of::<ResponseFuture<Sized<64>, ()>>() <= 64 + 16);
    assert!(size_of::<ResponseFuture<Sized<1000>, ()>>() <= 1000 + 16);
    let inner = size_of::<<Nothing as Service<Request<()>>>::Future>();
    let ours = size_of::<ResponseFuture<Nothing, ()>>();
    println!("inner {inner}, ours {ours}");
    assert!(ours <= inner + 16);
}
