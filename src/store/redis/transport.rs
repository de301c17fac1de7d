//! Refusal of plain text over a network, and errors of new connections.

use redis::{ConnectionAddr, ErrorKind, RedisError};

use super::server::store_error;
use crate::{loopback::is_loopback, store::error::StoreError};

/// Refuses a URL that demands TLS if the driver has none: its own error would not say what to enable.
pub(super) fn check_scheme(url: &str) -> Result<(), StoreError> {
    let url = redis::parse_redis_url(url);
    let demands_tls = url.is_some_and(|url| matches!(url.scheme(), "rediss" | "valkeys"));
    let some = ConnectionAddr::TcpTls {
        host: String::new(),
        port: 0,
        insecure: false,
        tls_params: None,
    };
    if demands_tls && !some.is_supported() {
        return Err(StoreError::unavailable(
            "the URL demands TLS (rediss://); enable the feature `redis-rustls`",
        ));
    }
    Ok(())
}

/// Refuses to send sessions over a network in plain text, unless that is allowed.
pub(super) fn check_transport(
    addr: &ConnectionAddr,
    allow_plaintext: bool,
) -> Result<(), StoreError> {
    match addr {
        ConnectionAddr::Tcp(host, _) if !allow_plaintext && !is_loopback(host) => {
            Err(StoreError::unavailable(format!(
                "the connection to {host} is in plain text, and sessions would cross the network in \
                 the clear; use rediss:// in the URL and enable the feature `redis-rustls`, or call \
                 `RedisStore::builder(peppers).allow_plaintext(true)`"
            )))
        }
        _ => Ok(()),
    }
}

/// Converts the error of an attempt to connect to `addr`; `context` says what was attempted.
pub(super) fn connection_error(
    context: impl Into<String>,
    addr: &ConnectionAddr,
    error: RedisError,
) -> StoreError {
    let context = context.into() + advice(addr, &error);
    store_error(context, error)
}

/// Returns `true` if the server refuses the user or the password.
pub(super) fn is_refused(error: &RedisError) -> bool {
    error.kind() == ErrorKind::AuthenticationFailed
        || matches!(error.code(), Some("WRONGPASS" | "NOAUTH"))
}

/// Returns `true` if the server has ended a connection.
fn is_closed(error: &RedisError) -> bool {
    error.is_connection_dropped()
        && !error.is_connection_refusal()
        && !error.to_string().contains("timed out")
}

/// Returns what to do about an error, to be appended to its context. The driver's TLS has no kinds of
/// errors of its own.
fn advice(addr: &ConnectionAddr, error: &RedisError) -> &'static str {
    let text = error.to_string();
    let has_tls = matches!(addr, ConnectionAddr::TcpTls { .. });
    if text.contains("Unable to build client with TLS parameters") {
        ": `client_certificate` must be a certificate of X.509 version 3 and its key"
    } else if text.contains("invalid peer certificate") {
        ": the server's certificate is not accepted; name its authority by `root_certificate`, and the \
         host as the certificate does"
    } else if text.contains("CertificateRequired") {
        ": the server demands a certificate of the client; give it by `client_certificate`"
    } else if has_tls && error.is_timeout() {
        ": no answer; check host and port, and whether the server has TLS at this port"
    } else if is_refused(error) {
        ": the server refuses the user or the password; check those of the URL, or what \
         `RedisStoreBuilder::password_provider` returns"
    } else if !has_tls && is_closed(error) {
        ": the server has closed the connection; if it demands TLS, use rediss:// in the URL"
    } else {
        ""
    }
}

#[cfg(test)]
mod tests {
    use redis::IntoConnectionInfo as _;

    use super::*;

    fn check(url: &str, allow_plaintext: bool) -> Result<(), String> {
        let info = url.into_connection_info().expect("a URL");
        let checked = check_transport(info.addr(), allow_plaintext);
        checked.map_err(|error| format!("{error:?}"))
    }

    #[test]
    fn plain_text_stays_on_this_machine() {
        for local in ["localhost", "127.0.0.1:6380", "[::1]"] {
            let url = format!("redis://{local}/1");
            assert_eq!(check(&url, false), Ok(()), "{url}");
        }
        assert_eq!(check("unix:///run/redis/redis.sock", false), Ok(()));
        for host in [
            "redis",
            "10.0.0.1",
            "redis.example.com:6380",
            "[2001:db8::1]",
        ] {
            let url = format!("redis://app:hunter2@{host}");
            let refused = check(&url, false).expect_err(&url);
            for says in ["rediss://", "redis-rustls", "allow_plaintext"] {
                assert!(refused.contains(says), "{refused}");
            }
            assert!(!refused.contains("hunter2"), "{refused}");
            assert_eq!(check(&url, true), Ok(()), "{url}");
        }
    }

    #[test]
    fn a_url_that_demands_tls_is_refused_for_want_of_the_feature_alone() {
        check_scheme("redis://redis").expect("it demands none");
        check_scheme("no URL").expect("the driver refuses it");
        let refused = check_scheme("REDISS://:hunter2@redis").err();
        let refused = refused.map(|error| format!("{error:?}"));
        if let Some(refused) = &refused {
            assert!(refused.contains("redis-rustls"), "{refused}");
            assert!(!refused.contains("hunter2"), "{refused}");
        }
        assert_eq!(
            refused.is_none(),
            "rediss://redis".into_connection_info().is_ok()
        );
    }
}
