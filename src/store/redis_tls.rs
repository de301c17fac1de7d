//! TLS to Redis, by rustls. `redis_tls_missing.rs` stands here without the feature `redis-rustls`.

use std::panic::catch_unwind;

use redis::{
    Client, ClientTlsConfig, ConnectionAddr, ConnectionInfo, TlsCertificates,
    cluster::ClusterClientBuilder,
};
use rustls::{
    ClientConfig,
    crypto::CryptoProvider,
    pki_types::{CertificateDer, pem::PemObject as _},
};

use super::{
    error::{ContextError, StoreError},
    redis::certificates::Certificates,
};

/// Returns what opens connections, with these certificates.
pub(super) fn client(
    info: ConnectionInfo,
    certificates: &Certificates,
) -> Result<Client, StoreError> {
    if !matches!(info.addr(), ConnectionAddr::TcpTls { .. }) {
        if !certificates.is_empty() {
            return Err(StoreError::unavailable(
                "there are certificates, and the URL does not demand TLS; use rediss://",
            ));
        }
        return Client::open(info).map_err(unreadable);
    }
    check_provider()?;
    let root = certificates.root.as_deref();
    if root.is_some_and(|root| CertificateDer::pem_slice_iter(root).next().is_none()) {
        return Err(StoreError::unavailable(
            "`root_certificate` has no certificate; it must be text in PEM: BEGIN CERTIFICATE",
        ));
    }
    Client::build_with_tls(info, of_driver(certificates)).map_err(unreadable)
}

/// Adds the certificates to connections to a cluster.
pub(super) fn cluster(
    cluster: ClusterClientBuilder,
    certificates: &Certificates,
) -> ClusterClientBuilder {
    cluster.certs(of_driver(certificates))
}

fn of_driver(certificates: &Certificates) -> TlsCertificates {
    let client = certificates.client.as_ref();
    TlsCertificates {
        client_tls: client.map(|(certificate, key)| ClientTlsConfig {
            client_cert: certificate.clone(),
            client_key: key.to_vec(),
        }),
        root_cert: certificates.root.clone(),
    }
}

/// Refuses to connect if the driver would panic: rustls takes the cryptography that is compiled in, and
/// cannot choose if it is compiled with two. Which one the process uses is for the application to say.
fn check_provider() -> Result<(), StoreError> {
    let has_one = CryptoProvider::get_default().is_some();
    if has_one || catch_unwind(|| drop(ClientConfig::builder())).is_ok() {
        return Ok(());
    }
    Err(StoreError::unavailable(
        "rustls is compiled with several providers of cryptography; choose one when the service starts, \
         by `rustls::crypto::aws_lc_rs::default_provider().install_default()`",
    ))
}

fn unreadable(error: redis::RedisError) -> StoreError {
    let context = "reading the certificates of the connection to Redis";
    StoreError::unavailable(ContextError::new(context, error))
}
