//! Polar's webhooks with two nodes, of which one receives the delivery and a database tells the other.

use std::time::{Duration, Instant};

use base64::{Engine as _, prelude::BASE64_STANDARD};
use chrono::{TimeDelta, Utc};
use customer_session::{
    CustomerSessions, InvalidationSource, SessionRegistry, SessionToken,
    polar::{WebhookService, Webhooks},
    store::{PostgresStore, RedisStore},
};
use hmac::{Hmac, KeyInit as _, Mac as _};
use http::HeaderMap;
use serde_json::json;
use sha2::Sha256;

use crate::{
    invalidations::{postgres, redis},
    persistent_store::{peppers, unique},
};
use test_support::{HOUR, customer};

const SECRET: &str = "whsec_of-the-tests-of-nodes";

/// Longest time until the other node has heard of a change, on a busy machine.
const DEADLINE: Duration = Duration::from_secs(10);

/// Has a delivery of Polar's that names this customer applied.
async fn deliver(webhooks: &WebhookService, customer: &str) {
    let data = json!({
        "id": customer, "organization_id": "org_1", "created_at": "2020-01-01T00:00:00Z",
        // Newer than the store's, as if that lagged.
        "modified_at": Utc::now() + TimeDelta::days(1),
    });
    let event = json!({ "type": "customer.updated", "timestamp": Utc::now(), "data": data });
    let (body, timestamp) = (event.to_string(), Utc::now().timestamp());
    let mut mac = Hmac::<Sha256>::new_from_slice(SECRET.as_bytes()).expect("any length");
    mac.update(format!("msg_1.{timestamp}.{body}").as_bytes());
    let signature = BASE64_STANDARD.encode(mac.finalize().into_bytes());
    let mut headers = HeaderMap::new();
    for (name, value) in [
        ("webhook-id", "msg_1".to_owned()),
        ("webhook-timestamp", timestamp.to_string()),
        ("webhook-signature", format!("v1,{signature}")),
    ] {
        headers.insert(name, value.parse().expect("a value"));
    }
    let received = webhooks.receive(&headers, body.as_bytes()).await;
    received.expect("applied and announced");
}

/// Sends requests to a node until it has made this number of lookups.
async fn until_looked_up<S: SessionRegistry>(
    sessions: &CustomerSessions<S>,
    token: &SessionToken,
    lookups: u64,
) {
    let begun = Instant::now();
    while sessions.statistics().lookups < lookups {
        assert!(begun.elapsed() < DEADLINE, "{lookups} lookups");
        sessions.authenticate(token).await.expect("live");
        tokio::time::sleep(Duration::from_millis(20)).await;
    }
}

/// `stores` and `sources` are those of two nodes.
async fn both_nodes_hear<S: SessionRegistry + Clone>(
    stores: [S; 2],
    sources: [impl InvalidationSource + 'static; 2],
) {
    let [here, there] = stores
        .clone()
        .map(|store| CustomerSessions::builder(store).build());
    for (sessions, source) in [&here, &there].into_iter().zip(sources) {
        tokio::spawn(sessions.listen(source));
    }
    let [bus, _] = stores;
    let webhooks = Webhooks::new(SECRET)
        .expect("a secret")
        .announce_through(bus);
    let (webhooks, invalidations) = webhooks.service();
    tokio::spawn(here.listen(invalidations));

    let id = unique("cus");
    let session = here.issue(customer(&id), HOUR).await.expect("issued");
    let token = &session.token;
    // Both nodes have heard of what came before, and have the session in their caches.
    for node in [&here, &there] {
        let begun = Instant::now();
        loop {
            let before = node.statistics();
            for _ in 0..2 {
                node.authenticate(token).await.expect("live");
            }
            let after = node.statistics();
            if after.lookups == before.lookups && after.sources_disconnected == 0 {
                break;
            }
            assert!(begun.elapsed() < DEADLINE, "it is cached");
        }
    }
    let lookups = [&here, &there].map(|node| node.statistics().lookups);
    deliver(&webhooks, &id).await;
    for (node, before) in [&here, &there].into_iter().zip(lookups) {
        // Once since the change, and again after a second: the store has an older customer.
        until_looked_up(node, token, before + 2).await;
    }
}

#[tokio::test]
async fn a_webhook_reaches_all_nodes_through_postgres() {
    let Some((server, store)) = postgres().await else {
        return;
    };
    let other = PostgresStore::connect(&server.url(), peppers()).await;
    let other = other.expect("connected");
    let sources = [
        store.invalidations().await.expect("it listens"),
        other.invalidations().await.expect("it listens"),
    ];
    both_nodes_hear([store, other], sources).await;
}

#[tokio::test]
async fn a_webhook_reaches_all_nodes_through_redis() {
    let Some((server, store)) = redis().await else {
        return;
    };
    let other = RedisStore::connect(&server.url(), peppers()).await;
    let other = other.expect("connected");
    let sources = [
        store.invalidations().await.expect("it listens"),
        other.invalidations().await.expect("it listens"),
    ];
    both_nodes_hear([store, other], sources).await;
}
