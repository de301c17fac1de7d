//! Invalidations from PostgreSQL: what any client has changed in its tables.

use std::{fmt, time::Instant};

use async_trait::async_trait;
use sqlx::{
    Error, Executor as _, Row as _,
    postgres::{PgConnectOptions, PgListener, PgPoolOptions},
};
use tokio::{
    runtime::Handle,
    time::{timeout, timeout_at},
};

use super::{
    PostgresStore,
    probe::{self, Probe, channel_query},
    server,
};
use crate::{
    invalidation::{Invalidation, InvalidationSource, SourceEvent},
    store::{
        error::{ContextError, StoreError},
        reconnect::{Either, Heartbeat, TIME_LIMIT, either},
        sql::{error::store_error, schema_name::SchemaName},
    },
};

/// The error of a listener that does not hear itself.
const NOT_HEARD: &str = "a message that the listener sent to itself has not arrived; if there is a \
     pooler by transaction in between, which passes no notifications on, connect to the server \
     itself";

/// Receives what any client changes in the tables of a [`PostgresStore`].
///
/// Triggers, which [`migrate`](PostgresStore::migrate) creates, announce each change in the
/// transaction that makes it, so that a row deleted by hand counts too. What is written while
/// triggers are off (`session_replication_role = replica`, logical replication) is not announced.
///
/// The source has two connections of its own. It hears by one of them. By the other it sends a
/// message to itself once a second, on a channel that no other source listens to, and reports that
/// it is [`Alive`](SourceEvent::Alive) when it has heard the message. If the message does not
/// arrive within a second, the source reports that it is
/// [`Disconnected`](SourceEvent::Disconnected), and reconnects by itself. Dropping the source closes
/// its connections.
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
/// Connect to the server itself, or through a pooler that keeps a session to its connection. A pooler
/// by transaction loses what is announced, the source's messages to itself included, and is
/// refused.
pub struct PostgresInvalidations {
    options: PgConnectOptions,
    schema: SchemaName,
    link: Option<Link>,
    heartbeat: Heartbeat,
    /// Dropping a listener takes a task.
    runtime: Handle,
}

/// The connections of a source. Dropping it closes them.
struct Link {
    listener: PgListener,
    /// Channel on which changes are announced.
    channel: String,
    probe: Probe,
}

/// Something that has come over a [`Link`].
enum Received {
    /// An event other than an answer.
    Event(SourceEvent),
    /// The answer to a question asked at this time.
    Answer(Instant),
    /// Nothing, although it is time for the next question.
    Nothing,
    /// The link is of no use any more.
    Lost(StoreError),
}

impl PostgresInvalidations {
    /// Begins to listen on the server at `url`, which is as for
    /// [`PostgresStore::connect`](PostgresStore::connect). If there is a store in the same
    /// process, [`PostgresStore::invalidations`](PostgresStore::invalidations) repeats
    /// nothing, and knows the schema.
    ///
    /// # Errors
    ///
    /// [`Unavailable`](crate::StoreErrorKind::Unavailable) if the URL is not one of PostgreSQL, if the
    /// server cannot be reached or refuses, if the triggers are missing, or if a message that the
    /// source sends to itself does not arrive.
    pub async fn connect(url: &str) -> Result<Self, StoreError> {
        Self::listen(server::options(url)?, SchemaName::default()).await
    }

    pub(super) async fn listen(
        options: PgConnectOptions,
        schema: SchemaName,
    ) -> Result<Self, StoreError> {
        let (link, asked_at) = Link::connect(&options, &schema).await?;
        Ok(Self {
            options,
            schema,
            link: Some(link),
            heartbeat: Heartbeat::connected(asked_at),
            runtime: Handle::current(),
        })
    }

    async fn reconnect(&mut self) {
        self.heartbeat.wait_for_retry().await;
        match Link::connect(&self.options, &self.schema).await {
            Ok((link, asked_at)) => {
                self.link = Some(link);
                self.heartbeat = Heartbeat::connected(asked_at);
            }
            Err(_) => self.heartbeat.on_failed_attempt(),
        }
    }
}

impl PostgresStore {
    /// Begins to listen to what any client changes in the tables of this store, with the store's own
    /// connection options and schema.
    ///
    /// # Errors
    ///
    /// Those of [`PostgresInvalidations::connect`].
    pub async fn invalidations(&self) -> Result<PostgresInvalidations, StoreError> {
        let options = self.sql.pool.connect_options();
        let schema = self.sql.schema.clone();
        PostgresInvalidations::listen((*options).clone(), schema).await
    }
}

impl Link {
    /// Connects, and sends a message to itself. Returns the time at which it was sent, too.
    async fn connect(
        options: &PgConnectOptions,
        schema: &SchemaName,
    ) -> Result<(Self, Instant), StoreError> {
        let (host, port) = (options.get_host(), options.get_port());
        let context = format!("listening to PostgreSQL at {host}:{port}");
        let mut link = match timeout(TIME_LIMIT, Self::open(options, schema)).await {
            Ok(Ok(Some(link))) => link,
            Ok(Ok(None)) => {
                return Err(StoreError::unavailable(probe::NO_TRIGGERS));
            }
            Ok(Err(error)) => return Err(store_error(context, error)),
            Err(elapsed) => return Err(StoreError::timeout(ContextError::new(context, elapsed))),
        };
        link.probe.start();
        loop {
            let deadline = link.probe.deadline();
            match link
                .recv(deadline.unwrap_or_else(tokio::time::Instant::now))
                .await
            {
                Received::Answer(asked_at) => return Ok((link, asked_at)),
                Received::Lost(error) => {
                    return Err(StoreError::unavailable(ContextError::new(context, error)));
                }
                // The first event of the source, `All`, covers it.
                Received::Event(_) | Received::Nothing => {}
            }
        }
    }

    /// Opens the connections. Returns `None` if triggers are missing.
    async fn open(options: &PgConnectOptions, schema: &SchemaName) -> Result<Option<Self>, Error> {
        // The listener takes its connection from a pool. This one is for it alone.
        let pool = PgPoolOptions::new()
            .max_connections(1)
            .max_lifetime(None)
            .idle_timeout(None)
            .connect_with(options.clone())
            .await?;
        let mut listener = PgListener::connect_with(&pool).await?;
        listener.eager_reconnect(false);
        let query = channel_query(schema);
        let channel = listener
            .fetch_optional(sqlx::raw_sql(query.clone()))
            .await?;
        let Some(row) = channel else {
            return Ok(None);
        };
        let channel: String = row.try_get(0)?;
        let probe = Probe::connect(options, query).await?;
        listener.listen_all([&*channel, probe.channel()]).await?;
        Ok(Some(Self {
            listener,
            channel,
            probe,
        }))
    }

    /// Waits for what comes next, until `deadline` if no message to itself is under way.
    /// Cancel-safe.
    async fn recv(&mut self, deadline: tokio::time::Instant) -> Received {
        loop {
            if let Some(asked_at) = self.probe.take_answer() {
                return Received::Answer(asked_at);
            }
            let probe_deadline = self.probe.deadline();
            let next = either(self.probe.sent(), self.listener.try_recv());
            match timeout_at(probe_deadline.unwrap_or(deadline), next).await {
                // The tables may have been created again.
                Ok(Either::First(Ok(channel))) if channel.as_ref() != Some(&self.channel) => {
                    return Received::lost("changes are announced on this channel no longer");
                }
                Ok(Either::First(Ok(_same))) => {}
                Ok(Either::First(Err(error))) => return Received::Lost(error),
                Ok(Either::Second(Ok(Some(message)))) => {
                    if message.channel() == self.probe.channel() {
                        self.probe.on_arrival(message.payload());
                    } else {
                        self.probe.on_backlog();
                        return Received::Event(self.read(message.channel(), message.payload()));
                    }
                }
                Ok(Either::Second(_)) => return Received::lost("the connection is lost"),
                Err(_) if probe_deadline.is_some() => return Received::lost(NOT_HEARD),
                Err(_) => return Received::Nothing,
            }
        }
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
}

impl Received {
    fn lost(why: &'static str) -> Self {
        Self::Lost(StoreError::unavailable(why))
    }
}

#[async_trait]
impl InvalidationSource for PostgresInvalidations {
    async fn recv(&mut self) -> Option<SourceEvent> {
        loop {
            if let Some(event) = self.heartbeat.take_pending() {
                return Some(event);
            }
            let Some(link) = &mut self.link else {
                self.reconnect().await;
                continue;
            };
            if link.probe.is_idle() && self.heartbeat.is_due() {
                link.probe.start();
            }
            match link.recv(self.heartbeat.ask_at()).await {
                Received::Event(event) => return Some(event),
                Received::Answer(asked_at) => return Some(SourceEvent::Alive { asked_at }),
                Received::Nothing => {}
                Received::Lost(_) => {
                    self.link = None;
                    self.heartbeat.on_disconnect();
                }
            }
        }
    }
}

/// The source may be dropped outside a runtime, or after its runtime has ended.
impl Drop for PostgresInvalidations {
    fn drop(&mut self) {
        let _there = self.runtime.enter();
        self.link = None;
    }
}

impl fmt::Debug for PostgresInvalidations {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let channel = self.link.as_ref().map(|link| &*link.channel);
        f.debug_struct("PostgresInvalidations")
            .field("channel", &channel)
            .field("connected", &self.link.is_some())
            .finish_non_exhaustive()
    }
}
