//! A service behind the layer that admits few requests at once.

use std::{convert::Infallible, sync::Arc, time::Duration};

use bytes::Bytes;
use customer_session::TokenFormat;
use http::{HeaderValue, Request, Response};
use http_body_util::Empty;
use tokio::{
    sync::Semaphore,
    time::{Instant, timeout},
};
use tower::{Service as _, ServiceBuilder, ServiceExt as _};

use test_support::{Fault, one_session};

fn request(token: &str) -> Request<Empty<Bytes>> {
    let mut request = Request::new(Empty::new());
    let value = HeaderValue::try_from(format!("Bearer {token}")).expect("a value");
    request.headers_mut().insert("authorization", value);
    request
}

async fn answer(_: Request<Empty<Bytes>>) -> Result<Response<Empty<Bytes>>, Infallible> {
    Ok(Response::new(Empty::new()))
}

#[tokio::test(start_paused = true)]
async fn a_request_that_waits_for_a_lookup_holds_no_permit() {
    let (store, sessions, session) = one_session().await;
    let service = ServiceBuilder::new()
        .layer(sessions.layer())
        .concurrency_limit(1)
        .service_fn(answer);
    let live = || service.clone().oneshot(request(session.token.expose()));
    assert_eq!(live().await.expect("infallible").status(), 200);

    store.fault(Fault::Hang);
    let before = store.lookups();
    let strangers: Vec<_> = (0..4)
        .map(|_| {
            let unknown = TokenFormat::new("cst_").generate();
            tokio::spawn(service.clone().oneshot(request(unknown.expose())))
        })
        .collect();
    store.was_asked(before + 1).await;
    let start = Instant::now();
    assert_eq!(live().await.expect("infallible").status(), 200);
    assert_eq!(
        start.elapsed(),
        Duration::ZERO,
        "the strangers hold no permit"
    );
    for stranger in strangers {
        let response = stranger.await.expect("no panic").expect("infallible");
        assert_eq!(response.status(), 503);
    }
}

#[tokio::test]
async fn a_refused_request_leaves_no_permit_with_the_service_that_it_was_sent_to() {
    let (_, sessions, session) = one_session().await;
    let service = ServiceBuilder::new()
        .layer(sessions.layer())
        .concurrency_limit(1)
        .service_fn(answer);
    let mut idle = service.clone();
    for refused in [request("garbage"), Request::new(Empty::new())] {
        let ready = idle.ready().await.expect("infallible");
        let response = ready.call(refused);
        let live = service.clone().oneshot(request(session.token.expose()));
        let live = timeout(Duration::from_secs(5), live).await;
        let live = live.expect("there is a permit").expect("infallible");
        assert_eq!(live.status(), 200);
        assert_eq!(response.await.expect("infallible").status(), 401);
    }
}

#[tokio::test(start_paused = true)]
async fn a_session_that_ends_while_its_request_waits_for_a_permit_is_refused() {
    let (_, sessions, session) = one_session().await;
    let permits = Arc::new(Semaphore::new(0));
    let service = ServiceBuilder::new()
        .layer(sessions.layer())
        .concurrency_limit(1)
        .service_fn({
            let permits = Arc::clone(&permits);
            move |_: Request<Empty<Bytes>>| {
                let permits = Arc::clone(&permits);
                async move {
                    permits.acquire().await.expect("open").forget();
                    Ok::<_, Infallible>(Response::new(Empty::<Bytes>::new()))
                }
            }
        });
    let other = sessions
        .issue(session.customer.clone(), Duration::from_secs(60))
        .await;
    let other = other.expect("issued");
    // It takes the only permit, and keeps it.
    let mut first = tokio::spawn(service.clone().oneshot(request(other.token.expose())));
    let is_waiting = timeout(Duration::from_secs(1), &mut first).await;
    assert!(is_waiting.is_err(), "the handler waits");
    // Inside the layer a request that was looked up waits for the permit.
    let mut inner = service.clone();
    let mut second = {
        use tower::Service as _;
        // The limit is reached, so `oneshot` would wait before the lookup.
        Box::pin(inner.call(request(session.token.expose())))
    };
    let is_waiting = timeout(Duration::from_secs(1), &mut second).await;
    assert!(is_waiting.is_err(), "no permit is free");
    assert!(sessions.revoke(&session.id).await.expect("revoked"));
    permits.add_permits(2);
    assert_eq!(second.await.expect("infallible").status(), 401);
    let response = first.await.expect("no panic").expect("infallible");
    assert_eq!(response.status(), 200);
}
