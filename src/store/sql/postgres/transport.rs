//! Whether what is sent to a server is encrypted.

use sqlx::postgres::{PgConnectOptions, PgSslMode};

use crate::{loopback::is_loopback, store::error::StoreError};

/// Refuses to send sessions over a network in plain text, unless that is allowed. The driver's own
/// default, `prefer`, falls back to plain text without a word.
pub(super) fn check_transport(
    options: &PgConnectOptions,
    allow_plaintext: bool,
) -> Result<(), StoreError> {
    if allow_plaintext || is_local(options) || is_encrypted(options.get_ssl_mode()) {
        return Ok(());
    }
    let host = options.get_host();
    Err(StoreError::unavailable(format!(
        "the connection to {host} may be in plain text, and sessions would cross the network in the \
         clear; add ?sslmode=verify-full (or require) to the URL and enable the feature \
         `postgres-rustls`, or call `PostgresStore::builder(peppers).allow_plaintext(true)`"
    )))
}

fn is_local(options: &PgConnectOptions) -> bool {
    let host = options.get_host();
    options.get_socket().is_some() || host.starts_with('/') || is_loopback(host)
}

fn is_encrypted(mode: PgSslMode) -> bool {
    matches!(
        mode,
        PgSslMode::Require | PgSslMode::VerifyCa | PgSslMode::VerifyFull
    )
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::store::sql::postgres::server::options;

    fn check(url: &str, allow_plaintext: bool) -> Result<(), String> {
        let options = options(url).expect("a URL");
        check_transport(&options, allow_plaintext).map_err(|error| format!("{error:?}"))
    }

    #[test]
    fn plain_text_stays_on_this_machine() {
        for local in ["localhost", "127.0.0.1:5433", "[::1]"] {
            let url = format!("postgres://app@{local}/app?sslmode=disable");
            assert_eq!(check(&url, false), Ok(()), "{url}");
        }
        for socket in [
            "postgres:///app?host=/run/postgresql",
            "postgres://app@%2Frun%2Fpostgresql/app",
        ] {
            assert_eq!(check(socket, false), Ok(()), "{socket}");
        }
        for host in ["db", "10.0.0.1", "db.example.com:5433", "[2001:db8::1]"] {
            for mode in ["disable", "allow", "prefer"] {
                let url = format!("postgres://app:hunter2@{host}/app?sslmode={mode}");
                let refused = check(&url, false).expect_err(&url);
                for says in ["sslmode=verify-full", "postgres-rustls", "allow_plaintext"] {
                    assert!(refused.contains(says), "{refused}");
                }
                assert!(!refused.contains("hunter2"), "{refused}");
                assert_eq!(check(&url, true), Ok(()), "{url}");
            }
            for mode in ["require", "verify-ca", "verify-full"] {
                let url = format!("postgres://app@{host}/app?sslmode={mode}");
                assert_eq!(check(&url, false), Ok(()), "{url}");
            }
        }
    }
}
