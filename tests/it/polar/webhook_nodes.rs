//! Webhooks of a service with several nodes: each delivery reaches one of them.

use std::{
    error::Error,
    sync::{
        Arc,
        atomic::{AtomicBool, AtomicUsize, Ordering::SeqCst},
    },
};

use axum::Router;
use customer_session::{
    CustomerSessions, Invalidation,
    polar::{PolarStore, WebhookError, WebhookService, Webhooks},
    store::MemoryStore,
};
use http::StatusCode;
use serde_json::json;
use tokio::sync::mpsc;

use super::{
    fake_polar::{FakePolar, JANE},
    webhooks::{BODY, SECRET, app, deliver, genuine, webhooks},
};
use test_support::receive;

/// A node, over a store of its own in front of the same Polar.
struct Node {
    sessions: CustomerSessions<PolarStore>,
    app: Router,
}

impl Node {
    fn new(polar: &FakePolar, webhooks: Webhooks) -> Self {
        let sessions = CustomerSessions::builder(polar.store()).build();
        let (service, invalidations) = webhooks.service();
        tokio::spawn(sessions.listen(invalidations));
        let app = app(&sessions, service);
        Self { sessions, app }
    }

    async fn deliver(&self) -> StatusCode {
        let data = json!({ "id": JANE });
        deliver(&self.app, "customer.updated", data).await.status()
    }
}

#[tokio::test]
async fn a_change_reaches_all_nodes_before_the_delivery_is_answered() {
    let polar = FakePolar::start().await;
    let new = || Webhooks::new(SECRET).expect("a secret");
    let two = Node::new(&polar, new());
    let sessions = two.sessions.clone();
    let one = Node::new(
        &polar,
        new().announce_with(move |invalidation| {
            let sessions = sessions.clone();
            async move {
                receive(&sessions, [invalidation]).await;
                Ok::<_, Box<dyn Error + Send + Sync>>(())
            }
        }),
    );
    let token = polar.customer_token(JANE);
    let names = async || {
        let mut names = Vec::new();
        for node in [&one, &two] {
            let session = node.sessions.authenticate(&token).await.expect("live");
            names.push(session.customer.name.clone().unwrap_or_default());
        }
        names
    };
    assert_eq!(names().await, ["Jane Roe", "Jane Roe"]);
    polar.update(JANE, json!({ "name": "Jane Doe" }));
    assert_eq!(names().await, ["Jane Roe", "Jane Roe"], "cached");
    assert_eq!(one.deliver().await, StatusCode::OK);
    assert_eq!(names().await, ["Jane Doe", "Jane Doe"]);
}

/// Returns a service whose announcements fail while the flag is set, and their number.
fn failing() -> (WebhookService, Arc<AtomicBool>, Arc<AtomicUsize>) {
    let (fails, announced) = (Arc::new(AtomicBool::new(true)), Arc::default());
    let (flag, count) = (Arc::clone(&fails), Arc::<AtomicUsize>::clone(&announced));
    let webhooks = webhooks().0.announce_with(move |_| {
        let (fails, count) = (flag.load(SeqCst), Arc::clone(&count));
        async move {
            count.fetch_add(1, SeqCst);
            (!fails).then_some(()).ok_or("the bus is down")
        }
    });
    let (service, invalidations) = webhooks.service();
    let sessions = CustomerSessions::builder(MemoryStore::new()).build();
    tokio::spawn(sessions.listen(invalidations));
    (service, fails, announced)
}

#[tokio::test]
async fn a_delivery_that_could_not_be_announced_may_come_again() {
    let (service, fails, announced) = failing();
    let receive = async || service.receive(&genuine(), BODY.as_bytes()).await;
    for number in 1..=2 {
        assert_eq!(receive().await, Err(WebhookError::NotAnnounced));
        assert_eq!(announced.load(SeqCst), number);
    }
    let status = WebhookError::NotAnnounced.status();
    assert_eq!(status, StatusCode::SERVICE_UNAVAILABLE);
    fails.store(false, SeqCst);
    receive().await.expect("announced");
    assert_eq!(receive().await, Err(WebhookError::Replayed));
    assert_eq!(announced.load(SeqCst), 3);
}

#[tokio::test(start_paused = true)]
async fn a_bus_that_hangs_is_not_waited_for_longer_than_polar_waits() {
    let webhooks = webhooks()
        .0
        .announce_with(|_| std::future::pending::<Result<(), String>>());
    let (service, invalidations) = webhooks.service();
    let sessions = CustomerSessions::builder(MemoryStore::new()).build();
    tokio::spawn(sessions.listen(invalidations));
    let begun = tokio::time::Instant::now();
    let refused = service.receive(&genuine(), BODY.as_bytes()).await;
    assert_eq!(refused, Err(WebhookError::NotAnnounced));
    assert!(begun.elapsed().as_secs() < 10);
}

/// A repeated delivery that reaches another node is applied once more there, and by all that listen.
#[tokio::test]
async fn a_repeated_delivery_at_another_node_does_no_harm() {
    let (sender, mut bus) = mpsc::unbounded_channel();
    let node = || {
        let sender = sender.clone();
        let webhooks = webhooks()
            .0
            .announce_with(move |invalidation: Invalidation| {
                let sent = sender.send(invalidation);
                async move { sent }
            });
        let (service, invalidations) = webhooks.service();
        let sessions = CustomerSessions::builder(MemoryStore::new()).build();
        tokio::spawn(sessions.listen(invalidations));
        service
    };
    let (one, two) = (node(), node());
    for service in [&one, &two] {
        let received = service.receive(&genuine(), BODY.as_bytes()).await;
        received.expect("it is new to this node");
    }
    let again = one.receive(&genuine(), BODY.as_bytes()).await;
    assert_eq!(again, Err(WebhookError::Replayed));
    drop((one, two, sender));
    let mut announced = 0;
    while bus.recv().await.is_some() {
        announced += 1;
    }
    assert_eq!(announced, 2);
}
