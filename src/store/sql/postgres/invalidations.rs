//! Hears from PostgreSQL what other nodes, or anybody, have changed in its tables.

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
        reconnect::{Heartbeat, PATIENCE},
        sql::error::store_error,
    },
};

/// Where changes are announced, if all the triggers are there that do it.
const CHANNEL: &str = "SELECT 'customer_sessions_' || tables.sessions::oid::text \
     FROM (SELECT to_regclass('customer_sessions') AS sessions, \
     to_regclass('customers') AS customers) AS tables \
     WHERE (SELECT count(*) FROM pg_trigger WHERE tgenabled IN ('O', 'A') \
     AND (tgrelid = tables.sessions AND tgname IN ('customer_sessions_deleted', \
     'customer_sessions_updated', 'customer_sessions_truncated') \
     OR tgrelid = tables.customers AND tgname IN ('customers_deleted', \
     'customers_updated', 'customers_truncated'))) = 6";

/// Hears what changes in the tables of a [`PostgresStore`](super::PostgresStore), whoever
/// changes it.
///
/// Triggers in the database, which
/// [`migrate`](super::PostgresStore::migrate) has put there, announce each change in the
/// transaction that makes it, so that a row that is deleted by hand counts, too. The source has
/// a connection of its own, tries it once a second, and when it is lost says so
/// ([`Disconnected`](SourceEvent::Disconnected)) and connects again by itself. Dropping it closes the
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
    /// To end, a listener takes a task.
    runtime: Handle,
}

impl PostgresInvalidations {
    /// Begins to listen on the server at `url`, which is as for
    /// [`PostgresStore::connect`](super::PostgresStore::connect).
    ///
    /// # Errors
    ///
    /// [`Unavailable`](crate::StoreErrorKind::Unavailable) if the URL is none, if the server
    /// cannot be reached or refuses, or if the triggers are not there.
    pub async fn connect(url: &str) -> Result<Self, StoreError> {
        let options = server::options(url)?;
        let (listener, channel) = listen(&options).await?;
        Ok(Self {
            options,
            channel,
            listener: Some(listener),
            heartbeat: Heartbeat::begin(),
            runtime: Handle::current(),
        })
    }

    fn lose(&mut self) {
        self.listener = None;
        self.heartbeat.lost();
    }

    /// What a message of the database says.
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

    /// Tries the connection, and whether changes are still announced where it listens: the tables
    /// may have been made anew. Whatever is announced meanwhile the driver keeps.
    async fn is_alive(&mut self) -> bool {
        let Some(listener) = &mut self.listener else {
            return false;
        };
        let channel = listener.fetch_optional(CHANNEL);
        match timeout(PATIENCE, channel).await {
            Ok(Ok(Some(row))) => row.try_get(0).is_ok_and(|it: String| it == self.channel),
            _ => false,
        }
    }
}

/// A connection that listens, and to what.
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
    match timeout(PATIENCE, connecting).await {
        Ok(Ok(Some(listening))) => Ok(listening),
        Ok(Ok(None)) => Err(StoreError::unavailable(
            "the triggers that announce changes are not there; run `PostgresStore::migrate`",
        )),
        Ok(Err(error)) => Err(store_error(context(), error)),
        Err(elapsed) => Err(StoreError::timeout(ContextError::new(context(), elapsed))),
    }
}

#[async_trait]
impl InvalidationSource for PostgresInvalidations {
    async fn recv(&mut self) -> Option<SourceEvent> {
        loop {
            if let Some(first) = self.heartbeat.first() {
                return Some(first);
            }
            match &mut self.listener {
                Some(listener) => match timeout_at(self.heartbeat.due, listener.try_recv()).await {
                    Ok(Ok(Some(message))) => {
                        self.heartbeat.alive();
                        return Some(self.read(message.channel(), message.payload()));
                    }
                    Ok(Ok(None) | Err(_)) => self.lose(),
                    Err(_silent) if self.is_alive().await => self.heartbeat.alive(),
                    Err(_silent) => self.lose(),
                },
                None => {
                    self.heartbeat.retry().await;
                    match listen(&self.options).await {
                        Ok((listener, channel)) => {
                            self.listener = Some(listener);
                            self.channel = channel;
                            self.heartbeat = Heartbeat::begin();
                        }
                        Err(_) => self.heartbeat.failed(),
                    }
                }
            }
        }
    }
}

/// It may be dropped where there is no runtime, or none any more.
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
