//! Invalidations from Redis: what any client has changed among its keys.
//!
//! They come from the server's client tracking in broadcast mode, not from messages that the
//! scripts publish: tracking also reports keys that are deleted by hand or lost with `FLUSHALL`,
//! and it reports before the writer has its answer. It makes a revocation about 100 µs slower. The
//! tracked keys are named after identifiers; those named after the hash of a token are not tracked.

use std::{
    fmt,
    sync::{
        Arc,
        atomic::{AtomicBool, Ordering::Relaxed},
    },
};

use async_trait::async_trait;
use redis::{
    AsyncConnectionConfig, Client, PushInfo, PushKind, RedisError, Value,
    aio::MultiplexedConnection,
};
use tokio::{
    sync::mpsc::{Receiver, Sender, channel},
    time::{timeout, timeout_at},
};

use super::server::{PREFIX, check_server, store_error};
use crate::{
    invalidation::{Invalidation, InvalidationSource, SourceEvent},
    store::{
        error::{ContextError, StoreError},
        reconnect::{Heartbeat, TIME_LIMIT},
    },
};

/// Messages that may wait to be applied; more of them become one `All`.
const MAX_QUEUED: usize = 8192;

/// Receives what any client changes among the keys of a [`RedisStore`](super::RedisStore).
///
/// The source has a connection of its own and tests it once a second. When it is lost, the source says so
/// ([`Disconnected`](SourceEvent::Disconnected)) and reconnects by itself. Dropping it closes the
/// connection. The server's user needs the right to run `CLIENT TRACKING`, and `INFO`, as for the
/// store. A replica is refused.
///
/// Keys that are named after the hash of a token are not tracked: deleting such a key by hand, and
/// not the session's or the customer's, goes unnoticed.
///
/// A customer's sessions share one key. Any change of one of them, a new one included, therefore
/// makes each node look up the customer's other sessions once more.
///
/// ```no_run
/// use customer_session::{CustomerSessions, store::{Peppers, RedisInvalidations, RedisStore}};
///
/// # async fn start(url: &str, peppers: Peppers) -> Result<(), Box<dyn std::error::Error>> {
/// let store = RedisStore::connect(url, peppers).await?;
/// let sessions = CustomerSessions::builder(store).build();
/// tokio::spawn(sessions.listen(RedisInvalidations::connect(url).await?));
/// # Ok(())
/// # }
/// ```
pub struct RedisInvalidations {
    client: Client,
    prefix: String,
    link: Option<Link>,
    heartbeat: Heartbeat,
    /// The keys of a message that named several.
    waiting: Vec<SourceEvent>,
}

/// A connection on which the server sends changes. Dropping it closes it.
struct Link {
    connection: MultiplexedConnection,
    messages: Receiver<PushInfo>,
    overflowed: Arc<AtomicBool>,
}

impl RedisInvalidations {
    /// Begins to listen on the server at `url`, which is as for
    /// [`RedisStore::connect`](super::RedisStore::connect).
    ///
    /// # Errors
    ///
    /// [`Unavailable`](crate::StoreErrorKind::Unavailable) if the URL is not one of Redis, or if the
    /// server cannot be reached or refuses.
    pub async fn connect(url: &str) -> Result<Self, StoreError> {
        let client = Client::open(url).map_err(|error| {
            let context = "this is not the URL of a Redis server, such as redis://host:6379";
            store_error(context, error)
        })?;
        let info = client.get_connection_info().clone();
        let settings = info.redis_settings().clone();
        let settings = settings.set_protocol(redis::ProtocolVersion::RESP3);
        let client = Client::open(info.set_redis_settings(settings))
            .map_err(|error| store_error("preparing to connect to Redis", error))?;
        Self::listening(client, PREFIX.to_owned()).await
    }

    /// Sets the prefix of all keys, as [`RedisStore::key_prefix`](super::RedisStore::key_prefix) does,
    /// and opens another connection for it.
    ///
    /// # Errors
    ///
    /// As [`connect`](Self::connect).
    pub async fn key_prefix(self, prefix: impl Into<String>) -> Result<Self, StoreError> {
        Self::listening(self.client, prefix.into()).await
    }

    async fn listening(client: Client, prefix: String) -> Result<Self, StoreError> {
        let link = connect(&client, &prefix).await?;
        Ok(Self {
            client,
            prefix,
            link: Some(link),
            heartbeat: Heartbeat::connected(),
            waiting: Vec::new(),
        })
    }

    fn disconnect(&mut self) {
        self.link = None;
        self.waiting.clear();
        self.heartbeat.on_disconnect();
    }

    /// Reads a message of the server, and queues what it says.
    fn read(&mut self, message: PushInfo) {
        if message.kind != PushKind::Invalidate {
            return self.waiting.push(SourceEvent::Malformed);
        }
        for part in message.data {
            match part {
                // Everything was deleted.
                Value::Nil => self.waiting.push(Invalidation::All.into()),
                Value::Array(keys) => {
                    let keys = keys.iter().map(|key| self.read_key(key));
                    let keys: Vec<_> = keys.collect();
                    self.waiting.extend(keys);
                }
                _ => self.waiting.push(SourceEvent::Malformed),
            }
        }
    }

    fn read_key(&self, key: &Value) -> SourceEvent {
        let key = match key {
            Value::BulkString(key) => std::str::from_utf8(key).ok(),
            _ => None,
        };
        let key = key.and_then(|key| key.strip_prefix(&*self.prefix));
        match key.and_then(|key| key.split_once(':')) {
            Some(("session", id)) => Invalidation::Session(id.into()).into(),
            Some(("customer", id)) => Invalidation::Customer(id.into()).into(),
            _ => SourceEvent::Malformed,
        }
    }
}

impl Link {
    async fn new(client: &Client, prefix: &str) -> Result<Self, RedisError> {
        let (sender, messages) = channel(MAX_QUEUED);
        let overflowed = Arc::new(AtomicBool::new(false));
        let config = AsyncConnectionConfig::new()
            .set_connection_timeout(Some(TIME_LIMIT))
            .set_response_timeout(Some(TIME_LIMIT))
            .set_push_sender(queue_or_overflow(sender, Arc::clone(&overflowed)));
        let mut connection = client
            .get_multiplexed_async_connection_with_config(&config)
            .await?;
        let mut track = redis::cmd("CLIENT");
        track.arg("TRACKING").arg("ON").arg("BCAST");
        for kind in ["session:", "customer:"] {
            track.arg("PREFIX").arg(format!("{prefix}{kind}"));
        }
        track.query_async::<()>(&mut connection).await?;
        Ok(Self {
            connection,
            messages,
            overflowed,
        })
    }
}

/// Connects to a server that is fit for use, within the time limit.
async fn connect(client: &Client, prefix: &str) -> Result<Link, StoreError> {
    let context = || {
        let address = client.get_connection_info().addr();
        format!("listening to Redis at {address}")
    };
    let connecting = async {
        let link = Link::new(client, prefix).await;
        let mut link = link.map_err(|error| store_error(context(), error))?;
        check_server(&mut link.connection).await?;
        Ok(link)
    };
    timeout(TIME_LIMIT, connecting)
        .await
        .unwrap_or_else(|elapsed| Err(StoreError::timeout(ContextError::new(context(), elapsed))))
}

/// Passes messages on without ever waiting; one that finds no room is recorded as a gap.
fn queue_or_overflow(
    sender: Sender<PushInfo>,
    overflowed: Arc<AtomicBool>,
) -> impl Fn(PushInfo) -> Result<(), RedisError> + Send + Sync + 'static {
    move |message| {
        if sender.try_send(message).is_err() {
            overflowed.store(true, Relaxed);
        }
        Ok(())
    }
}

#[async_trait]
impl InvalidationSource for RedisInvalidations {
    async fn recv(&mut self) -> Option<SourceEvent> {
        loop {
            if let Some(event) = self.heartbeat.take_pending() {
                return Some(event);
            }
            if let Some(waiting) = self.waiting.pop() {
                return Some(waiting);
            }
            let Some(link) = &mut self.link else {
                self.heartbeat.wait_for_retry().await;
                match connect(&self.client, &self.prefix).await {
                    Ok(link) => {
                        self.link = Some(link);
                        self.heartbeat = Heartbeat::connected();
                    }
                    Err(_) => self.heartbeat.on_failed_attempt(),
                }
                continue;
            };
            if link.overflowed.swap(false, Relaxed) {
                // `All` covers what waits already. What arrives after this is kept.
                while link
                    .messages
                    .try_recv()
                    .is_ok_and(|message| message.kind != PushKind::Disconnection)
                {}
                return Some(Invalidation::All.into());
            }
            match timeout_at(self.heartbeat.test_at, link.messages.recv()).await {
                Ok(Some(message)) if message.kind != PushKind::Disconnection => {
                    self.heartbeat.on_alive();
                    self.read(message);
                }
                Ok(_gone) => self.disconnect(),
                // A replica that has lost its primary answers too, and reports no changes.
                Err(_silent) => match timeout(TIME_LIMIT, check_server(&mut link.connection)).await
                {
                    Ok(Ok(())) => self.heartbeat.on_alive(),
                    _ => self.disconnect(),
                },
            }
        }
    }
}

impl fmt::Debug for RedisInvalidations {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("RedisInvalidations")
            .field("key_prefix", &self.prefix)
            .field("connected", &self.link.is_some())
            .finish_non_exhaustive()
    }
}
