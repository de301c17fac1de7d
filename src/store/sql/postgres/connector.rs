//! How a store reaches its server by connections outside its pool.

use sqlx::{
    ConnectOptions as _, Connection as _, Error, PgConnection, PgPool, postgres::PgConnectOptions,
};

use super::{password::connect, transport::check_transport};
use crate::store::{error::StoreError, password::PasswordProvider};

/// Opens single connections, such as that of a source of invalidations. Not `Debug`: the driver shows
/// the password in its options.
#[derive(Clone)]
pub(super) struct Connector {
    target: Target,
    allow_plaintext: bool,
    password: Option<PasswordProvider>,
}

#[derive(Clone)]
enum Target {
    Options(Box<PgConnectOptions>),
    /// An application's pool, which may be given other options while the store runs.
    Pool(PgPool),
}

impl Connector {
    /// Connects with these options, and with the password that `password` provides.
    pub(super) fn new(
        options: PgConnectOptions,
        allow_plaintext: bool,
        password: Option<PasswordProvider>,
    ) -> Self {
        Self {
            target: Target::Options(options.into()),
            allow_plaintext,
            password,
        }
    }

    /// Connects with the options that a pool has at that time.
    pub(super) fn of_pool(pool: PgPool, allow_plaintext: bool) -> Self {
        Self {
            target: Target::Pool(pool),
            allow_plaintext,
            password: None,
        }
    }

    /// Returns the options of new connections, without the password of a provider.
    ///
    /// # Errors
    ///
    /// They lead over a network in plain text, which is not allowed.
    pub(super) fn options(&self) -> Result<PgConnectOptions, StoreError> {
        let options = match &self.target {
            Target::Options(options) => (**options).clone(),
            Target::Pool(pool) => (*pool.connect_options()).clone(),
        };
        check_transport(&options, self.allow_plaintext)?;
        // Poolers refuse this parameter by default, and no column of ours is a float.
        Ok(options.extra_float_digits(None))
    }

    /// Begins to open a connection that logs no statements.
    ///
    /// # Errors
    ///
    /// Those of [`options`](Self::options).
    pub(super) fn connect_silently(
        &self,
    ) -> Result<impl Future<Output = Result<PgConnection, Error>> + Send + use<>, StoreError> {
        let options = self.options()?.disable_statement_logging();
        let password = self.password.clone();
        Ok(async move {
            match password {
                Some(provider) => connect(&provider, &options).await,
                None => PgConnection::connect_with(&options).await,
            }
        })
    }

    /// Returns where it connects to, for errors.
    pub(super) fn place(&self) -> String {
        let place = |options: &PgConnectOptions| {
            let (host, port) = (options.get_host(), options.get_port());
            format!("PostgreSQL at {host}:{port}")
        };
        match &self.target {
            Target::Options(options) => place(options),
            Target::Pool(pool) => place(&pool.connect_options()),
        }
    }
}
