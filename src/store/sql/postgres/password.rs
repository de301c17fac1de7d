//! Connections with passwords that change while a service runs.

use sqlx::{Connection as _, Error, PgConnection, postgres::PgConnectOptions};

use crate::store::password::{Password, PasswordError, PasswordProvider};

/// Opens a connection with the password that `provider` has, and asks again if it is refused.
pub(super) async fn connect(
    provider: &PasswordProvider,
    options: &PgConnectOptions,
) -> Result<PgConnection, Error> {
    let password = provider.current().await?;
    let connection = PgConnection::connect_with(&with_password(options, &password)).await;
    match connection {
        Err(error) if is_refused(&error) => match provider.after_refusal(Some(&password)).await? {
            Some(password) => PgConnection::connect_with(&with_password(options, &password)).await,
            None => Err(error),
        },
        connection => connection,
    }
}

/// Returns options with this password.
pub(super) fn with_password(options: &PgConnectOptions, password: &Password) -> PgConnectOptions {
    options.clone().password(password.text())
}

/// Returns `true` if the server refuses the password, or what stands in its place.
pub(super) fn is_refused(error: &Error) -> bool {
    let Error::Database(cause) = error else {
        return false;
    };
    matches!(cause.code().as_deref(), Some("28P01" | "28000"))
}

impl From<PasswordError> for Error {
    fn from(error: PasswordError) -> Self {
        Self::Configuration(error.into())
    }
}
