//! One lookup per token, whatever happens to the requests that wait for it.

use std::{pin::pin, sync::Arc, time::Duration};

use customer_session::{AuthenticateError, CustomerSessions, StoreErrorKind, TokenFormat};
use tokio::task::{JoinSet, yield_now};
use tower::ServiceExt as _;

use test_support::{Fault, HOUR, ProbeStore, Sessions, customer, one_session};

fn poll_once<F: Future>(future: F) -> Option<F::Output> {
    let mut context = std::task::Context::from_waker(std::task::Waker::noop());
    match pin!(future).poll(&mut context) {
        std::task::Poll::Ready(output) => Some(output),
        std::task::Poll::Pending => None,
    }
}

/// Lets spawned tasks run until no lookup is under way.
async fn idle(sessions: &Sessions) {
    for _ in 0..1000 {
        if sessions.statistics().lookups_in_flight == 0 {
            return;
        }
        yield_now().await;
    }
    panic!("a lookup was left behind: {:?}", sessions.statistics());
}

#[tokio::test]
async fn a_cached_session_is_answered_at_once_while_the_store_never_completes() {
    let (store, sessions, session) = one_session().await;
    sessions.authenticate(&session.token).await.expect("live");
    store.fault(Fault::Hang);
    let answer = poll_once(sessions.authenticate(&session.token)).expect("ready at the first poll");
    assert_eq!(answer.expect("live").id, session.id);
    assert_eq!(store.lookups(), 1);
}

#[tokio::test]
async fn a_hundred_requests_for_one_cold_token_are_one_lookup() {
    let (store, sessions, session) = one_session().await;
    store.shut();
    let mut requests = JoinSet::new();
    for _ in 0..100 {
        let (sessions, token) = (sessions.clone(), session.token.clone());
        requests.spawn(async move { sessions.authenticate(&token).await });
    }
    store.has_read(1).await;
    store.open();
    while let Some(answer) = requests.join_next().await {
        assert_eq!(answer.expect("no panic").expect("live").id, session.id);
    }
    assert_eq!(store.lookups(), 1);
    assert_eq!(sessions.statistics().lookups, 1);
}

#[tokio::test]
async fn when_all_fifty_callers_leave_the_lookup_finishes_and_is_cached() {
    let (store, sessions, session) = one_session().await;
    store.shut();
    let mut requests = JoinSet::new();
    for _ in 0..50 {
        let (sessions, token) = (sessions.clone(), session.token.clone());
        requests.spawn(async move { sessions.authenticate(&token).await.map(drop) });
    }
    store.has_read(1).await;
    requests.shutdown().await;
    assert_eq!(sessions.statistics().lookups_in_flight, 1);

    store.open();
    idle(&sessions).await;
    let hit = poll_once(sessions.authenticate(&session.token)).expect("cached");
    hit.expect("live");
    assert_eq!(store.lookups(), 1);
}

#[tokio::test]
async fn when_the_first_caller_leaves_the_second_gets_the_answer() {
    let (store, sessions, session) = one_session().await;
    store.shut();
    let first = tokio::spawn({
        let (sessions, token) = (sessions.clone(), session.token.clone());
        async move { sessions.authenticate(&token).await.map(drop) }
    });
    store.has_read(1).await;
    let mut second = Box::pin(sessions.authenticate(&session.token));
    assert!(poll_once(second.as_mut()).is_none());
    first.abort();
    first.await.expect_err("the first caller has left");
    store.open();
    assert_eq!(second.await.expect("live").id, session.id);
    assert_eq!(store.lookups(), 1);
}

#[tokio::test(start_paused = true)]
async fn a_store_that_fails_hangs_or_panics_is_an_error_for_all_and_asked_again() {
    for (fault, kind) in [
        (Fault::Fail, StoreErrorKind::Unavailable),
        (Fault::Hang, StoreErrorKind::Timeout),
        (Fault::Panic, StoreErrorKind::Unavailable),
    ] {
        let (store, sessions, session) = one_session().await;
        store.fault(fault);
        let begun = tokio::time::Instant::now();
        let mut requests = JoinSet::new();
        for _ in 0..10 {
            let (sessions, token) = (sessions.clone(), session.token.clone());
            requests.spawn(async move { sessions.authenticate(&token).await });
        }
        while let Some(answer) = requests.join_next().await {
            match answer.expect("the panic stays within the lookup") {
                Err(AuthenticateError::Store(error)) => assert_eq!(error.kind(), kind),
                other => panic!("{fault:?}: {other:?}"),
            }
        }
        assert!(begun.elapsed() <= Duration::from_millis(2001), "{fault:?}");
        assert_eq!(store.lookups(), 1, "{fault:?}");
        idle(&sessions).await;
        assert_eq!(sessions.statistics().store_errors, 1, "{fault:?}");

        store.fault(None);
        sessions.authenticate(&session.token).await.expect("live");
        assert_eq!(store.lookups(), 2, "{fault:?}: the error was cached");
    }
}

#[tokio::test]
async fn beyond_half_of_the_limit_lookups_of_strangers_are_refused_at_once_and_hits_go_on() {
    let store = Arc::new(ProbeStore::default());
    let sessions = CustomerSessions::builder(Arc::clone(&store))
        .max_concurrent_lookups(4)
        .build();
    let cached = sessions
        .issue(customer("cus_1"), HOUR)
        .await
        .expect("issued");
    sessions.authenticate(&cached.token).await.expect("live");

    store.shut();
    let waiting: Vec<_> = (0..2)
        .map(|_| {
            let sessions = sessions.clone();
            tokio::spawn(async move {
                let token = TokenFormat::new("cst_").generate();
                sessions.authenticate(&token).await.map(drop)
            })
        })
        .collect();
    store.was_asked(3).await;

    let third = TokenFormat::new("cst_").generate();
    let refused = poll_once(sessions.authenticate(&third)).expect("refused without waiting");
    assert!(matches!(refused, Err(AuthenticateError::Overloaded)));
    assert!(poll_once(sessions.authenticate(&cached.token)).is_some_and(|answer| answer.is_ok()));
    let service = sessions.layer();
    let service =
        tower::ServiceBuilder::new()
            .layer(service)
            .service_fn(async |_: http::Request<()>| {
                Ok::<_, std::convert::Infallible>(http::Response::new(http_body_util::Empty::<
                    bytes::Bytes,
                >::new()))
            });
    let request = http::Request::get("/")
        .header("authorization", format!("Bearer {}", third.expose()))
        .body(())
        .expect("a request");
    let response = service.oneshot(request).await.expect("infallible");
    assert_eq!(response.status(), 503);
    assert_eq!(sessions.statistics().overloaded, 2);

    store.open();
    for request in waiting {
        let answer = request.await.expect("no panic");
        assert!(matches!(answer, Err(AuthenticateError::InvalidToken)));
    }
    idle(&sessions).await;
    // Both permits are back.
    let answer = sessions.authenticate(&third).await;
    assert!(matches!(answer, Err(AuthenticateError::InvalidToken)));
}

#[tokio::test]
async fn without_a_cache_every_request_is_a_lookup() {
    let store = Arc::new(ProbeStore::default());
    let sessions = CustomerSessions::builder(Arc::clone(&store))
        .cache_ttl(Duration::ZERO)
        .negative_ttl(Duration::ZERO)
        .store_timeout(Duration::ZERO)
        .max_concurrent_lookups(0)
        .build();
    let session = sessions
        .issue(customer("cus_1"), HOUR)
        .await
        .expect("issued");
    for _ in 0..3 {
        sessions.authenticate(&session.token).await.expect("live");
    }
    assert_eq!(store.lookups(), 3);
}

#[test]
fn outside_a_runtime_the_answer_is_an_error_not_a_panic() {
    let sessions = CustomerSessions::builder(ProbeStore::default()).build();
    let token = TokenFormat::new("cst_").generate();
    let answer = poll_once(sessions.authenticate(&token)).expect("an answer");
    assert!(matches!(answer, Err(AuthenticateError::Store(_))));
    let answer = poll_once(sessions.revoke(&"ses_1".into())).expect("an answer");
    assert_eq!(
        answer.expect_err("no runtime").kind(),
        StoreErrorKind::Unavailable
    );
}

#[tokio::test]
async fn five_hundred_dropped_requests_with_one_token_are_one_lookup() {
    let store = Arc::new(ProbeStore::default());
    let sessions = CustomerSessions::builder(Arc::clone(&store))
        .max_concurrent_lookups(4)
        .build();
    let unknown = TokenFormat::new("cst_").generate();
    store.shut();
    for _ in 0..500 {
        // Polled once, so that it sets out, and dropped.
        let answer = poll_once(sessions.authenticate(&unknown));
        assert!(answer.is_none(), "{answer:?}");
        yield_now().await;
    }
    assert_eq!(store.lookups(), 1);
    store.open();
    idle(&sessions).await;
    let answer = poll_once(sessions.authenticate(&unknown)).expect("remembered");
    assert!(matches!(answer, Err(AuthenticateError::InvalidToken)));
    assert_eq!(store.lookups(), 1);
}

#[tokio::test]
async fn a_lookup_keeps_its_permit_when_its_request_leaves() {
    let store = Arc::new(ProbeStore::default());
    let sessions = CustomerSessions::builder(Arc::clone(&store))
        .max_concurrent_lookups(4)
        .build();
    let issued = sessions.issue(customer("cus_1"), HOUR).await;
    let session = issued.expect("issued");
    store.shut();
    for number in 0..500 {
        let token = TokenFormat::new("cst_").generate();
        let left = async {
            if number % 2 == 0 {
                sessions.authenticate(&token).await.map(drop)
            } else {
                sessions.rotate(&token, HOUR).await.map(drop)?;
                Ok(())
            }
        };
        let _ = poll_once(left);
        yield_now().await;
    }
    assert!((1..=4).contains(&store.lookups()), "{}", store.lookups());
    store.open();
    idle(&sessions).await;
    sessions.authenticate(&session.token).await.expect("live");
}

#[tokio::test(start_paused = true)]
async fn a_store_that_hangs_is_given_up_even_without_a_timeout() {
    let store = Arc::new(ProbeStore::default());
    let sessions = CustomerSessions::builder(Arc::clone(&store))
        .store_timeout(Duration::ZERO)
        .max_concurrent_lookups(1)
        .build();
    let issued = sessions.issue(customer("cus_1"), HOUR).await;
    let session = issued.expect("issued");
    store.fault(Fault::Hang);
    let left = poll_once(sessions.authenticate(&session.token));
    assert!(left.is_none(), "it waits");
    let waited = tokio::time::timeout(2 * HOUR, sessions.authenticate(&session.token)).await;
    let answer = waited.expect("bounded");
    assert!(matches!(answer, Err(AuthenticateError::Store(_))));
    idle(&sessions).await;
    store.fault(None);
    sessions.authenticate(&session.token).await.expect("live");
}

/// One runtime per core, of which one computes: here it does not run at all.
#[test]
fn a_lookup_on_a_busy_thread_keeps_others_waiting_until_its_deadline_and_no_longer() {
    let limit = Duration::from_millis(200);
    let runtime = || {
        tokio::runtime::Builder::new_current_thread()
            .enable_all()
            .build()
            .expect("a runtime")
    };
    let (busy, idle) = (runtime(), runtime());
    let store = Arc::new(ProbeStore::default());
    let sessions = CustomerSessions::builder(Arc::clone(&store))
        .store_timeout(limit)
        .build();
    let issued = idle.block_on(sessions.issue(customer("cus_1"), HOUR));
    let session = issued.expect("issued");
    {
        let _busy = busy.enter();
        assert!(poll_once(sessions.authenticate(&session.token)).is_none());
    }
    idle.block_on(async {
        tokio::time::sleep(limit / 2).await;
        // It joins the lookup, and makes one of its own in what is left of its time.
        let joined = sessions.authenticate(&session.token).await;
        joined.expect("live");
    });
    assert_eq!(store.lookups(), 1, "the busy thread has made none");
}

#[test]
fn a_runtime_that_shuts_down_leaves_no_caller_waiting() {
    let runtime = tokio::runtime::Builder::new_current_thread()
        .enable_all()
        .build()
        .expect("a runtime");
    let handle = runtime.handle().clone();
    drop(runtime);
    let (done, finished) = std::sync::mpsc::channel();
    std::thread::spawn(move || {
        let _guard = handle.enter();
        let sessions = CustomerSessions::builder(ProbeStore::default()).build();
        let token = TokenFormat::new("cst_").generate();
        let answer = poll_once(sessions.authenticate(&token));
        done.send(answer.is_some_and(|answer| answer.is_err()))
    });
    let answered = finished.recv_timeout(Duration::from_secs(10));
    assert_eq!(answered, Ok(true), "an error, and no deadlock");
}
