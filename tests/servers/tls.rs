//! TLS to PostgreSQL, with an authority that exists for the test alone.

use std::net::UdpSocket;

use customer_session::{
    StoreErrorKind,
    store::{PostgresInvalidations, PostgresStore},
};
use sqlx::PgPool;

use crate::persistent_store::{assert_error, peppers, text};
use test_support::servers::{self, Server};

const UNAVAILABLE: StoreErrorKind = StoreErrorKind::Unavailable;

fn postgres(settings: &[&str], files: &[(&str, &str)]) -> Option<Server> {
    let server = Server::postgres_with(settings, files);
    if server.is_none() {
        servers::missing("PostgreSQL");
    }
    server
}

/// Returns an address of this machine in a network. Nothing is sent.
fn address_in_a_network() -> Option<String> {
    let socket = UdpSocket::bind("0.0.0.0:0").ok()?;
    socket.connect("192.0.2.1:9").ok()?;
    let address = socket.local_addr().ok()?.ip();
    (!address.is_loopback() && !address.is_unspecified()).then(|| address.to_string())
}

/// Before anything is sent.
#[tokio::test]
async fn a_server_elsewhere_is_refused_without_tls() {
    let url = "postgres://tests@db.invalid/app";
    let says = ["plain text", "sslmode=verify-full", "allow_plaintext(true)"];
    let outcome = PostgresStore::connect(url, peppers()).await;
    assert_error(outcome, UNAVAILABLE, &says);
    let outcome = PostgresInvalidations::connect(url).await;
    assert_error(outcome, UNAVAILABLE, &says);
}

#[tokio::test]
async fn a_server_in_a_network_is_refused_without_tls() {
    let Some(address) = address_in_a_network() else {
        return servers::say("SKIPPED: this machine is in no network");
    };
    let rules = "local all all trust\nhost all all all trust\n";
    let Some(server) = postgres(&["listen_addresses=*"], &[("pg_hba.conf", rules)]) else {
        return;
    };
    let url = server.url().replace("127.0.0.1", &address);
    assert_ne!(url, server.url());
    let says = ["plain text", "sslmode=verify-full", "allow_plaintext(true)"];
    for mode in ["", "?sslmode=disable", "?sslmode=allow", "?sslmode=prefer"] {
        let url = format!("{url}{mode}");
        let outcome = PostgresStore::connect(&url, peppers()).await;
        assert_error(outcome, UNAVAILABLE, &says);
        let outcome = PostgresInvalidations::connect(&url).await;
        assert_error(outcome, UNAVAILABLE, &says);
    }
    let pool = PgPool::connect(&url).await.expect("connected");
    let store = PostgresStore::new(pool.clone(), peppers());
    assert_error(store.migrate().await, UNAVAILABLE, &says);
    assert_error(store.check().await, UNAVAILABLE, &says);
    assert_error(store.invalidations().await, UNAVAILABLE, &says);

    let allowed = || PostgresStore::builder(peppers()).allow_plaintext(true);
    let store = allowed().connect(&url).await.expect("connected");
    store.migrate().await.expect("migrated");
    drop(store.invalidations().await.expect("it listens"));
    let store = allowed().build(pool).expect("built");
    store.check().await.expect("all is well");

    // TLS is demanded, and the server has none.
    let outcome = PostgresStore::connect(&format!("{url}?sslmode=require"), peppers()).await;
    let error = outcome.expect_err("no TLS");
    let says = match cfg!(feature = "postgres-rustls") {
        true => "the server has no TLS",
        false => "enable the feature `postgres-rustls`",
    };
    assert!(text(&error).contains(says), "{}", text(&error));
}

#[cfg(feature = "postgres-rustls")]
mod with_rustls {
    use customer_session::SessionStore as _;
    use test_support::{RegistryExt as _, certificates::Certificates};

    use super::*;
    use crate::persistent_store::inserted;

    const TLS: [&str; 3] = [
        "ssl=on",
        "ssl_cert_file=server.pem",
        "ssl_key_file=server.key",
    ];

    fn certificates(name: &str) -> Option<Certificates> {
        let certificates = Certificates::new(name);
        if certificates.is_none() {
            servers::missing("OpenSSL");
        }
        certificates
    }

    /// Starts a server that demands TLS.
    fn server_of(certificates: &Certificates) -> Option<Server> {
        let rules = "hostssl all all all trust\n";
        let [certificate, key] = ["server.pem", "server.key"].map(|name| certificates.read(name));
        let files = [
            ("pg_hba.conf", rules),
            ("server.pem", &certificate),
            ("server.key", &key),
        ];
        postgres(&TLS, &files)
    }

    #[tokio::test]
    async fn the_servers_certificate_is_verified_by_what_the_url_says() {
        let (Some(ours), Some(other)) = (certificates("ours"), certificates("other")) else {
            return;
        };
        let Some(server) = server_of(&ours) else {
            return;
        };
        // The certificate is for this name.
        let by_name = server.url().replace("127.0.0.1", "localhost");
        let with = |url: &str, mode: &str, authority: &Certificates| {
            let authority = authority.authority();
            format!("{url}?sslmode={mode}&sslrootcert={}", authority.display())
        };
        let url = with(&by_name, "verify-full", &ours);
        let store = PostgresStore::connect(&url, peppers()).await;
        let store = store.expect("connected");
        store.migrate().await.expect("migrated");
        let session = inserted(&store).await;
        let found = store.find(&session.token).await.expect("an answer");
        assert_eq!(found.as_ref(), Some(&session));
        assert!(store.end(&session.id).await.expect("revoked"));
        drop(store.invalidations().await.expect("it listens"));
        drop(
            PostgresInvalidations::connect(&url)
                .await
                .expect("it listens"),
        );
        let encrypted = "SELECT ssl FROM pg_stat_ssl WHERE pid = pg_backend_pid()";
        let pool = PgPool::connect(&url).await.expect("connected");
        let encrypted: bool = sqlx::query_scalar(encrypted)
            .fetch_one(&pool)
            .await
            .expect("an answer");
        assert!(encrypted);

        // Another authority; none; another name, unless only the authority counts.
        let says = ["certificate is not accepted", "sslrootcert"];
        for url in [
            with(&by_name, "verify-full", &other),
            with(&by_name, "verify-ca", &other),
            format!("{by_name}?sslmode=verify-full"),
            with(&server.url(), "verify-full", &ours),
        ] {
            let outcome = PostgresStore::connect(&url, peppers()).await;
            assert_error(outcome, UNAVAILABLE, &says);
        }
        for url in [
            with(&server.url(), "verify-ca", &ours),
            format!("{by_name}?sslmode=require"),
        ] {
            let store = PostgresStore::connect(&url, peppers()).await;
            store
                .expect("connected")
                .check()
                .await
                .expect("all is well");
        }
    }

    #[tokio::test]
    async fn a_server_that_demands_tls_says_so() {
        let Some(ours) = certificates("demanded") else {
            return;
        };
        let Some(server) = server_of(&ours) else {
            return;
        };
        let url = format!("{}?sslmode=disable", server.url());
        let outcome = PostgresStore::connect(&url, peppers()).await;
        let says = ["demands TLS", "sslmode=verify-full", "no encryption"];
        assert_error(outcome, UNAVAILABLE, &says);
    }

    /// reqwest takes the provider of the process, and would find none if there were two.
    #[cfg(feature = "polar")]
    #[tokio::test]
    async fn there_is_one_provider_beside_that_of_polar() {
        let store = customer_session::polar::PolarStore::builder("polar_oat_tests").build();
        store.expect("a client with TLS");
        let Some(ours) = certificates("beside") else {
            return;
        };
        let Some(server) = server_of(&ours) else {
            return;
        };
        let url = format!("{}?sslmode=require", server.url());
        let store = PostgresStore::connect(&url, peppers()).await;
        store.expect("connected");
    }
}
