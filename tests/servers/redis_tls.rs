//! TLS to Redis, with an authority that exists for the test alone, and what is refused without it.

use std::{net::TcpListener, time::Duration};

use customer_session::{
    StoreErrorKind,
    store::{RedisInvalidations, RedisStore},
};

use crate::persistent_store::{assert_error, peppers};
use test_support::servers::{self, Server};

const UNAVAILABLE: StoreErrorKind = StoreErrorKind::Unavailable;

/// Before anything is sent.
#[tokio::test]
async fn a_server_elsewhere_is_refused_without_tls() {
    let url = "redis://app:hunter2@redis.invalid:6379";
    let says = ["redis.invalid", "plain text", "rediss://", "redis-rustls"];
    let outcome = RedisStore::connect(url, peppers()).await;
    assert_error(outcome, UNAVAILABLE, &says);
    let outcome = RedisInvalidations::connect(url).await;
    assert_error(outcome, UNAVAILABLE, &["allow_plaintext(true)"]);
    let outcome = RedisStore::builder(peppers()).connect_any(["redis://localhost", url]);
    assert_error(outcome.await, UNAVAILABLE, &says);

    // Now it looks for the server.
    let allowed = RedisStore::builder(peppers()).allow_plaintext(true);
    let error = allowed.connect(url).await.expect_err("no such host");
    let shown = format!("{error:?}");
    assert!(shown.contains("connecting to Redis at redis.invalid:6379"));
    assert!(!shown.contains("hunter2"), "{shown}");
}

#[tokio::test]
async fn a_url_with_tls_is_answered_by_an_error_and_never_by_a_panic() {
    // It closes each connection at once.
    let listener = TcpListener::bind("127.0.0.1:0").expect("a port");
    let port = listener.local_addr().expect("bound").port();
    drop(listener);
    let url = format!("rediss://:hunter2@localhost:{port}");
    let error = RedisStore::connect(&url, peppers()).await;
    let error = error.expect_err("nothing is there");
    let shown = format!("{error:?}");
    assert!(!shown.contains("hunter2"), "{shown}");
    let says = match cfg!(feature = "redis-rustls") {
        true => "connecting to Redis at localhost",
        false => "enable the feature `redis-rustls`",
    };
    assert!(shown.contains(says), "{shown}");
}

#[tokio::test]
async fn settings_that_do_not_go_together_are_refused_before_anything_is_sent() {
    let builder = || RedisStore::builder(peppers());
    let url = "redis://localhost:1";
    let limits = ["from 10ms to 60s"];
    for timeout in [Duration::ZERO, Duration::from_secs(61)] {
        let outcome = builder().response_timeout(timeout).connect(url).await;
        assert_error(outcome, UNAVAILABLE, &["`response_timeout`", limits[0]]);
        let outcome = builder().connection_timeout(timeout).connect(url).await;
        assert_error(outcome, UNAVAILABLE, &["`connection_timeout`", limits[0]]);
    }
    let none: [&str; 0] = [];
    let outcome = builder().connect_any(none).await;
    assert_error(outcome, UNAVAILABLE, &["there is no URL"]);
    let says = match cfg!(feature = "redis-rustls") {
        true => "use rediss://",
        false => "enable the feature `redis-rustls`",
    };
    let outcome = builder().root_certificate("PEM").connect(url).await;
    assert_error(outcome, UNAVAILABLE, &["certificates", says]);

    let Some(server) = Server::redis() else {
        return servers::missing("Redis");
    };
    let client = redis::Client::open(server.url()).expect("a URL");
    let connection = client.get_multiplexed_async_connection().await;
    let connection = connection.expect("connected");
    let store = builder().key_prefix("mine:").connection(connection.clone());
    store.expect("built").check().await.expect("all is well");
    let keys = server.redis_cli(&["KEYS", "*"]);
    assert_eq!(keys, "mine:peppers");
    let outcome = builder().sentinel("mymaster").connection(connection);
    assert_error(outcome, UNAVAILABLE, &["`sentinel`"]);
}

#[tokio::test]
async fn of_several_urls_the_first_that_leads_to_a_fit_server_is_taken() {
    let Some(server) = Server::redis() else {
        return servers::missing("Redis");
    };
    let primary = format!("127.0.0.1 {}", server.port);
    let replica = Server::redis_with(&[("replicaof", &primary)], &[]).expect("started before");
    let urls = [
        "redis://127.0.0.1:1".to_owned(),
        replica.url(),
        server.url(),
    ];
    let builder = || RedisStore::builder(peppers());
    let store = builder().connect_any(&urls).await.expect("connected");
    store.check().await.expect("all is well");
    drop(store.invalidations().await.expect("it listens"));
    let outcome = builder().connect_any(&urls[..2]).await;
    assert_error(outcome, UNAVAILABLE, &["replica"]);
}

#[cfg(feature = "redis-rustls")]
mod with_rustls {
    use customer_session::store::RedisStoreBuilder;
    use test_support::{certificates::Certificates, servers::RedisCluster};

    use super::*;
    use crate::persistent_store::{inserted, keeps_the_contract, text};
    use customer_session::{Invalidation, InvalidationSource as _, SessionStore as _, SourceEvent};
    use test_support::RegistryExt as _;
    use tokio::time::timeout;

    fn certificates(name: &str, names: &str) -> Option<Certificates> {
        let certificates = Certificates::with_names(name, names);
        if certificates.is_none() {
            servers::missing("OpenSSL");
        }
        certificates
    }

    fn started<T>(server: Option<T>) -> Option<T> {
        if server.is_none() {
            servers::missing("Redis");
        }
        server
    }

    fn trusting(authority: &Certificates) -> RedisStoreBuilder {
        RedisStore::builder(peppers()).root_certificate(authority.read("ca.pem"))
    }

    /// Fails unless a revocation in the store reaches its source of invalidations.
    async fn announces(store: &RedisStore) {
        let mut source = store.invalidations().await.expect("it listens");
        let session = inserted(store).await;
        let found = store.find(&session.token).await.expect("an answer");
        assert_eq!(found.as_ref(), Some(&session));
        assert!(store.end(&session.id).await.expect("revoked"));
        let expected = Invalidation::Session(session.id.clone());
        let expected: SourceEvent = expected.into();
        let hearing = async { while source.recv().await.expect("it goes on") != expected {} };
        timeout(Duration::from_secs(10), hearing)
            .await
            .expect("it comes");
    }

    #[tokio::test]
    async fn a_server_of_a_private_authority_is_used_and_others_are_refused() {
        let (Some(ours), Some(other)) = (
            certificates("redis-ours", "DNS:localhost"),
            certificates("redis-other", "DNS:localhost"),
        ) else {
            return;
        };
        let Some(server) = started(Server::redis_tls(&ours, false, &[])) else {
            return;
        };
        let store = trusting(&ours).connect(&server.url()).await;
        let store = store.expect("connected");
        announces(&store).await;
        keeps_the_contract(store).await;

        // Another authority, none, and another name.
        let says = ["certificate is not accepted", "`root_certificate`"];
        let outcome = trusting(&other).connect(&server.url()).await;
        assert_error(outcome, UNAVAILABLE, &says);
        let outcome = RedisStore::connect(&server.url(), peppers()).await;
        assert_error(outcome, UNAVAILABLE, &says);
        let outcome = RedisInvalidations::connect(&server.url()).await;
        assert_error(outcome, UNAVAILABLE, &says);
        let by_address = server.url().replace("localhost", "127.0.0.1");
        let outcome = trusting(&ours).connect(&by_address).await;
        assert_error(outcome, UNAVAILABLE, &says);
        let outcome = trusting(&ours).root_certificate("not PEM");
        let outcome = outcome.connect(&server.url()).await;
        assert_error(outcome, UNAVAILABLE, &["`root_certificate` has no"]);
    }

    #[tokio::test]
    async fn plain_text_to_a_server_with_tls_and_tls_to_one_without_say_so() {
        let Some(ours) = certificates("redis-mixed", "DNS:localhost") else {
            return;
        };
        let Some(server) = started(Server::redis_tls(&ours, false, &[])) else {
            return;
        };
        let url = server.url().replace("rediss://", "redis://");
        let outcome = RedisStore::connect(&url, peppers()).await;
        assert_error(outcome, UNAVAILABLE, &["use rediss://"]);
        let plain = Server::redis().expect("started before");
        let url = format!("rediss://localhost:{}", plain.port);
        // It waits for the end of a line.
        let outcome = trusting(&ours)
            .connection_timeout(Duration::from_millis(200))
            .connect(&url)
            .await;
        let says = ["whether the server has TLS at this port"];
        assert_error(outcome, StoreErrorKind::Timeout, &says);
    }

    #[tokio::test]
    async fn a_server_that_demands_a_certificate_of_the_client_gets_it() {
        let Some(ours) = certificates("redis-mutual", "DNS:localhost") else {
            return;
        };
        let Some(server) = started(Server::redis_tls(&ours, true, &[])) else {
            return;
        };
        let outcome = trusting(&ours).connect(&server.url()).await;
        assert_error(outcome, UNAVAILABLE, &["`client_certificate`"]);

        let [certificate, key] = ["client.pem", "client.key"].map(|name| ours.read(name));
        let mutual = trusting(&ours).client_certificate(certificate.clone(), key.clone());
        let shown = format!("{mutual:?}");
        let secret = key.lines().nth(1).expect("a key");
        assert!(!shown.contains(secret), "{shown}");
        let store = mutual.connect(&server.url()).await.expect("connected");
        announces(&store).await;

        let swapped = trusting(&ours).client_certificate(key.clone(), certificate);
        let error = swapped.connect(&server.url()).await.expect_err("swapped");
        assert!(!format!("{} {error:?}", text(&error)).contains(secret));
    }

    #[tokio::test]
    async fn a_cluster_with_tls_is_used_by_all_its_nodes() {
        let names = "DNS:localhost,IP:127.0.0.1";
        let (Some(ours), Some(other)) = (
            certificates("redis-cluster", names),
            certificates("redis-cluster-other", names),
        ) else {
            return;
        };
        let Some(cluster) = started(RedisCluster::tls(2, 0, &ours)) else {
            return;
        };
        let store = trusting(&ours).connect_any(cluster.urls()).await;
        let store = store.expect("connected");
        announces(&store).await;
        keeps_the_contract(store).await;
        let outcome = trusting(&other).connect_any(cluster.urls()).await;
        assert_error(outcome, UNAVAILABLE, &["certificate is not accepted"]);
    }

    /// reqwest takes the provider of the process, and would find none if there were two.
    #[cfg(feature = "polar")]
    #[tokio::test]
    async fn there_is_one_provider_beside_that_of_polar() {
        let store = customer_session::polar::PolarStore::builder("polar_oat_tests").build();
        store.expect("a client with TLS");
        let Some(ours) = certificates("redis-beside", "DNS:localhost") else {
            return;
        };
        let Some(server) = started(Server::redis_tls(&ours, false, &[])) else {
            return;
        };
        let store = trusting(&ours).connect(&server.url()).await;
        store.expect("connected");
    }
}
