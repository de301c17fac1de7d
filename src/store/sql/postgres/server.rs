//! Checks whether a PostgreSQL server is fit for use.

use sqlx::{Error, postgres::PgConnectOptions};

use crate::store::{error::StoreError, sql::error::store_error};

/// Oldest supported server.
const MIN_VERSION: i32 = 13;

/// The isolation of transactions that the statements are written for.
const ISOLATION: &str = "read committed";

pub(super) const IS_REPLICA: &str = "this server is a replica: sessions must be written, and it would bring revoked \
     sessions back for as long as it lags behind; name the primary in the URL, since the driver knows \
     no target_session_attrs";

/// Selects the version, and whether it is a replica.
pub(super) const KIND: &str =
    "SELECT current_setting('server_version_num')::int4, pg_is_in_recovery()";

/// Selects the version, the isolation of transactions, and whether it is a replica.
pub(super) const PROPERTIES: &str = "SELECT current_setting('server_version_num')::int4, \
     current_setting('transaction_isolation'), pg_is_in_recovery()";

/// Parses a URL.
pub(super) fn options(url: &str) -> Result<PgConnectOptions, StoreError> {
    let parsed = if url.starts_with("postgres://") || url.starts_with("postgresql://") {
        url.parse::<PgConnectOptions>()
    } else {
        Err(Error::Configuration(
            "it does not begin with postgres://".into(),
        ))
    };
    // Poolers refuse this parameter by default, and no column of ours is a float.
    let parsed = parsed.map(|options| options.extra_float_digits(None));
    parsed.map_err(|error| {
        store_error(
            "this is not the URL of a PostgreSQL database, such as \
             postgres://user:password@host:5432/database",
            error,
        )
    })
}

/// Refuses a server that is too old, or a replica.
pub(super) fn check_kind(version: i32, is_replica: bool) -> Result<(), StoreError> {
    let major = version / 10_000;
    if major < MIN_VERSION {
        return Err(StoreError::unavailable(format!(
            "this is PostgreSQL {major}; {MIN_VERSION} or newer is needed: upgrade it, or name another \
             server in the URL"
        )));
    }
    match is_replica {
        true => Err(StoreError::unavailable(IS_REPLICA)),
        false => Ok(()),
    }
}

/// Refuses a server that is too old, a replica, or isolates transactions too much.
pub(super) fn check_server(
    version: i32,
    isolation: &str,
    is_replica: bool,
) -> Result<(), StoreError> {
    check_kind(version, is_replica)?;
    if isolation != ISOLATION {
        return Err(StoreError::unavailable(format!(
            "transactions are {isolation} here, and concurrent changes of a session would fail; \
             set it with ALTER ROLE ... SET default_transaction_isolation TO 'read committed', or \
             connect with ?options=-cdefault_transaction_isolation%3Dread%5C%20committed where no \
             pooler refuses that"
        )));
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_server_that_will_not_do_is_refused() {
        let isolation = ISOLATION;
        assert!(check_server(130_000, isolation, false).is_ok());
        assert!(check_server(170_004, isolation, false).is_ok());
        assert!(check_server(120_022, isolation, false).is_err());
        assert!(check_server(150_000, isolation, true).is_err());
        assert!(check_server(150_000, "serializable", false).is_err());
    }
}
