//! Polar answers lookups of customers from a replica, which lags behind its webhooks.

use std::time::Duration;

use chrono::{DateTime, Utc};
use customer_session::{
    Clock as _, CustomerId, Invalidation, InvalidationSource as _, SourceEvent, polar::Webhooks,
    testing::ManualClock,
};
use http::StatusCode;
use serde_json::{Value, json};
use tower::Service as _;

use super::{
    fake_polar::{CUSTOMERS, Fault, JANE, OUR_ORGANIZATION},
    webhooks::{SECRET, Scene, deliver, delivery},
};

const SECOND: Duration = Duration::from_secs(1);

/// Returns the customer as of that time, as the webhook and the endpoint show it.
fn jane(name: &str, modified_at: Option<DateTime<Utc>>) -> Value {
    json!({
        "id": JANE, "created_at": "2024-11-22T23:29:51.500699Z", "modified_at": modified_at,
        "organization_id": OUR_ORGANIZATION, "name": name,
    })
}

/// Returns a scene whose time is held by hand, from now.
async fn scene() -> (Scene, ManualClock) {
    let clock = ManualClock::new(Utc::now());
    let held = clock.clone();
    let scene = Scene::with(|builder| builder.clock(held)).await;
    (scene, clock)
}

impl Scene {
    /// Has the replica show this customer from now on.
    fn replica_shows(&self, customer: &Value) {
        self.polar
            .fault(CUSTOMERS, Fault::body(customer.to_string()));
    }

    async fn delivered(&self, kind: &str, customer: &Value) {
        let answer = deliver(&self.app, kind, customer.clone()).await;
        assert_eq!(answer.status(), StatusCode::OK, "{kind}");
    }

    /// Returns the number of lookups since the last time.
    fn lookups(&self) -> usize {
        let calls = self.polar.calls();
        let of_customers = calls.iter().filter(|call| call.contains(CUSTOMERS));
        of_customers.count()
    }
}

#[tokio::test]
async fn a_changed_customer_is_seen_a_second_after_the_replica_has_the_change() {
    let (scene, clock) = scene().await;
    let (old, new) = (jane("Jane Roe", None), jane("Jane Doe", Some(clock.now())));
    scene.replica_shows(&old);
    scene.delivered("customer.updated", &new).await;
    scene.lookups();
    for _ in 0..2 {
        assert_eq!(scene.name().await.as_deref(), Some("Jane Roe"), "it lags");
        clock.advance(SECOND);
    }
    assert_eq!(scene.lookups(), 2);
    scene.replica_shows(&new);
    assert_eq!(scene.name().await.as_deref(), Some("Jane Doe"));
    // From then on it is cached as usual.
    scene.lookups();
    clock.advance(30 * SECOND);
    assert_eq!(scene.name().await.as_deref(), Some("Jane Doe"));
    assert_eq!(scene.lookups(), 0);
}

/// Polar sends `customer.state_changed` at each change of a meter, too.
#[tokio::test]
async fn a_state_change_of_a_customer_whose_last_change_was_applied_costs_no_lookup() {
    let (scene, clock) = scene().await;
    let changed = jane("Jane Doe", Some(clock.now()));
    scene.replica_shows(&changed);
    scene.lookups();
    // What was not applied here is not known.
    scene.delivered("customer.created", &changed).await;
    assert_eq!(scene.name().await.as_deref(), Some("Jane Roe"), "cached");
    scene.delivered("customer.state_changed", &changed).await;
    assert_eq!(scene.name().await.as_deref(), Some("Jane Doe"));
    assert_eq!(scene.lookups(), 1);

    let older = jane("Jane Roe", Some(clock.now() - SECOND));
    for known in [&changed, &older, &changed] {
        scene.delivered("customer.state_changed", known).await;
        assert_eq!(scene.name().await.as_deref(), Some("Jane Doe"));
    }
    assert_eq!(scene.lookups(), 0, "it is cached, and as new");

    // A customer without a time, a newer one, and any other event are looked up.
    let newer = jane("Jane Doe", Some(clock.now() + SECOND));
    scene.replica_shows(&newer);
    for (kind, customer) in [
        ("customer.state_changed", &jane("Jane Doe", None)),
        ("customer.state_changed", &newer),
        ("customer.updated", &newer),
        ("customer.updated", &changed),
    ] {
        scene.delivered(kind, customer).await;
        assert_eq!(scene.name().await.as_deref(), Some("Jane Doe"));
        assert_eq!(scene.lookups(), 1, "{kind}");
    }
}

/// A change counts as known only once it was applied, and for its own customer.
#[tokio::test(start_paused = true)]
async fn a_state_change_after_a_change_that_was_not_applied_is_applied() {
    let (service, mut source) = Webhooks::new(SECRET).expect("a secret").service();
    let mut service = service;
    source.recv().await.expect("the beginning");
    let changed = jane("Jane Doe", Some(Utc::now()));
    let other = {
        let mut other = changed.clone();
        other["id"] = json!("another");
        other
    };
    let mut send = async |kind: &str, customer: &Value| {
        let request = delivery(kind, customer.clone());
        let answer = service.call(request).await.expect("infallible");
        answer.status()
    };
    // Held, and given up: nothing receives it in time.
    let status = send("customer.updated", &changed).await;
    assert_eq!(status, StatusCode::SERVICE_UNAVAILABLE);
    let receiving = tokio::spawn(async move {
        let mut customers = Vec::new();
        while let Some(SourceEvent::Invalidate(Invalidation::CustomerChanged { id, .. })) =
            source.recv().await
        {
            customers.push(id);
        }
        customers
    });
    assert_eq!(
        send("customer.state_changed", &changed).await,
        StatusCode::OK
    );
    assert_eq!(
        send("customer.state_changed", &changed).await,
        StatusCode::OK
    );
    assert_eq!(send("customer.state_changed", &other).await, StatusCode::OK);
    drop(service);
    let customers = receiving.await.expect("no panic");
    // The first is the one that was held.
    let expected = [JANE, JANE, "another"].map(CustomerId::from);
    assert_eq!(customers, expected);
}

#[tokio::test]
async fn a_deleted_customer_is_refused_a_second_after_polar_s_answers_show_it() {
    let (scene, clock) = scene().await;
    let mut deleted = jane("Jane Roe", Some(clock.now()));
    deleted["deleted_at"] = json!(clock.now());
    scene.replica_shows(&jane("Jane Roe", None));
    scene.delivered("customer.deleted", &deleted).await;
    for _ in 0..2 {
        assert_eq!(scene.name().await.as_deref(), Some("Jane Roe"), "it lags");
        clock.advance(SECOND);
    }
    scene.polar.delete(JANE);
    assert_eq!(scene.name().await, None);
}
