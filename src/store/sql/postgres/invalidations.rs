//! Invalidations from PostgreSQL: what any client has changed in its tables.

use std::fmt;

use async_trait::async_trait;
use sqlx::{
    Executor as _, Row as _,
    postgres::{PgConnectOptions, PgListener, PgPoolOptions},
};
use tokio::{
    runtime::Handle,
    time::{timeout, timeout_at},
};

use super::server;
use crate::{
    invalidation::{Invalidation, InvalidationSource, SourceEvent},
    store::{
        error::{ContextError, StoreError},
        reconnect::{Heartbeat, TIME_LIMIT},
        sql::error::store_error,
    },
};

/// Selects the channel on which changes are announced, if all triggers exist that announce them.
const CHANNEL: &str = "SELECT 'customer_sessions_' || tables.sessions::oid::text \
     FROM (SELECT to_regclass('customer_sessions') AS sessions, \
     to_regclass('customers') AS customers) AS tables \
     WHERE (SELECT count(*) FROM pg_trigger WHERE tgenabled IN ('O', 'A') \
     AND (tgrelid = tables.sessions AND tgname IN ('customer_sessions_deleted', \
     'customer_sessions_updated', 'customer_sessions_truncated') \
     OR tgrelid = tables.customers AND tgname IN ('customers_deleted', \
     'customers_updated', 'customers_truncated'))) = 6";

/// Receives what any client changes in the tables of a [`PostgresStore`](super::PostgresStore).
///
/// Triggers, which [`migrate`](super::PostgresStore::migrate) creates, announce each change in the
/// transaction that makes it, so that a row deleted by hand counts too. The source has a
/// connection of its own and tests it once a second. When it is lost, the source says so
/// ([`Disconnected`](SourceEvent::Disconnected)) and reconnects by itself. Dropping it closes the
/// connection. What is written while triggers are off (`session_replication_role = replica`,
/// logical replication) is not announced.
///
/// ```no_run
/// use customer_session::{CustomerSessions, store::{Peppers, PostgresInvalidations, PostgresStore}};
///
/// # async fn start(url: &str, peppers: Peppers) -> Result<(), Box<dyn std::error::Error>> {
/// let store = PostgresStore::connect(url, peppers).await?;
/// store.migrate().await?;
/// let sessions = CustomerSessions::builder(store).build();
/// tokio::spawn(sessions.listen(PostgresInvalidations::connect(url).await?));
/// # Ok(())
/// # }
/// ```
///
/// Connect to the server itself, or through a pooler that keeps a session to its connection: one
/// that pools by transaction loses what is announced.
pub struct PostgresInvalidations {
    options: PgConnectOptions,
    channel: String,
    listener: Option<PgListener>,
    heartbeat: Heartbeat,
    /// Dropping a listener takes a task.
    runtime: Handle,
}

impl PostgresInvalidations {
    /// Begins to listen on the server at `url`, which is as for
    /// [`PostgresStore::connect`](super::PostgresStore::connect).
    ///
    /// # Errors
    ///
    /// [`Unavailable`](crate::StoreErrorKind::Unavailable) if the URL is not one of PostgreSQL, if the
    /// server cannot be reached or refuses, or if the triggers are missing.
    pub async fn connect(url: &str) -> Result<Self, StoreError> {
        let options = server::options(url)?;
        let (listener, channel) = listen(&options).await?;
        Ok(Self {
            options,
            channel,
            listener: Some(listener),
            heartbeat: Heartbeat::connected(),
            runtime: Handle::current(),
        })
    }

    fn disconnect(&mut self) {
        self.listener = None;
        self.heartbeat.on_disconnect();
    }

    /// Reads a message of the database.
    fn read(&self, channel: &str, payload: &str) -> SourceEvent {
        if channel != self.channel {
            return SourceEvent::Malformed;
        }
        match payload.split_once(':') {
            Some(("session", id)) => Invalidation::Session(id.into()).into(),
            Some(("customer", id)) => Invalidation::Customer(id.into()).into(),
            None if payload == "all" => Invalidation::All.into(),
            _ => SourceEvent::Malformed,
        }
    }

    /// Returns `true` if the connection works and changes are still announced on its channel: the
    /// tables may have been created again. The driver keeps what is announced meanwhile.
    async fn is_alive(&mut self) -> bool {
        let Some(listener) = &mut self.listener else {
            return false;
        };
        let channel = listener.fetch_optional(CHANNEL);
        match timeout(TIME_LIMIT, channel).await {
            Ok(Ok(Some(row))) => row
                .try_get(0)
                .is_ok_and(|channel: String| channel == self.channel),
            _ => false,
        }
    }
}

/// Connects a listener, and returns it with its channel.
async fn listen(options: &PgConnectOptions) -> Result<(PgListener, String), StoreError> {
    let context = || {
        let (host, port) = (options.get_host(), options.get_port());
        format!("listening to PostgreSQL at {host}:{port}")
    };
    let connecting = async {
        // The listener takes its connection from a pool. This one is for it alone.
        let pool = PgPoolOptions::new()
            .max_connections(1)
            .max_lifetime(None)
            .idle_timeout(None)
            .connect_with(options.clone())
            .await?;
        let mut listener = PgListener::connect_with(&pool).await?;
        listener.eager_reconnect(false);
        let row = listener.fetch_optional(CHANNEL).await?;
        let channel = match row {
            Some(row) => row.try_get::<String, _>(0)?,
            None => return Ok(None),
        };
        listener.listen(&channel).await?;
        Ok(Some((listener, channel)))
    };
    match timeout(TIME_LIMIT, connecting).await {
        Ok(Ok(Some(listening))) => Ok(listening),
        Ok(Ok(None)) => Err(StoreError::unavailable(
            "the triggers that announce changes are missing; run `PostgresStore::migrate`",
        )),
        Ok(Err(error)) => Err(store_error(context(), error)),
        Err(elapsed) => Err(StoreError::timeout(ContextError::new(context(), elapsed))),
    }
}

#[async_trait]
impl InvalidationSource for PostgresInvalidations {
    async fn recv(&mut self) -> Option<SourceEvent> {
        loop {
            if let Some(event) = self.heartbeat.take_pending() {
                return Some(event);
            }
            match &mut self.listener {
                Some(listener) => {
                    match timeout_at(self.heartbeat.test_at, listener.try_recv()).await {
                        Ok(Ok(Some(message))) => {
                            self.heartbeat.on_alive();
                            return Some(self.read(message.channel(), message.payload()));
                        }
                        Ok(Ok(None) | Err(_)) => self.disconnect(),
                        Err(_silent) if self.is_alive().await => self.heartbeat.on_alive(),
                        Err(_silent) => self.disconnect(),
                    }
                }
                None => {
                    self.heartbeat.wait_for_retry().await;
                    match listen(&self.options).await {
                        Ok((listener, channel)) => {
                            self.listener = Some(listener);
                            self.channel = channel;
                            self.heartbeat = Heartbeat::connected();
                        }
                        Err(_) => self.heartbeat.on_failed_attempt(),
                    }
                }
            }
        }
    }
}

/// The source may be dropped outside a runtime, or after its runtime has ended.
impl Drop for PostgresInvalidations {
    fn drop(&mut self) {
        let _there = self.runtime.enter();
        self.listener = None;
    }
}

impl fmt::Debug for PostgresInvalidations {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("PostgresInvalidations")
            .field("channel", &self.channel)
            .field("connected", &self.listener.is_some())
            .finish_non_exhaustive()
    }
}
