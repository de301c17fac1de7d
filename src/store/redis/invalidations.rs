//! Hears from Redis what other nodes, or anybody, have changed among its keys.
//!
//! By the server's own client tracking, in broadcast mode, rather than by messages that the
//! scripts publish: it also tells of keys that are deleted by hand or lost with `FLUSHALL`, and
//! it tells before the writer has its answer. For that a revocation takes about a tenth of a
//! millisecond longer. The keys that are tracked are named after identifiers; those named
//! after the hash of a token are not among them.

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

use super::server::{PREFIX, check_server, failed};
use crate::{
    invalidation::{Invalidation, InvalidationSource, SourceEvent},
    store::{
        error::{ContextError, StoreError},
        reconnect::{Heartbeat, PATIENCE},
    },
};

/// So many messages wait to be applied. What comes beyond becomes one `All`.
const MOST_WAITING: usize = 8192;

/// Hears what changes among the keys of a [`RedisStore`](super::RedisStore), whoever changes it.
///
/// The source has a connection of its own, tries it once a second, and when it is lost says so
/// ([`Disconnected`](SourceEvent::Disconnected)) and connects again by itself. Dropping it closes the
/// connection. The server's user needs the right to run `CLIENT TRACKING`, and `INFO`, as for the
/// store. A replica is refused.
///
/// Keys that are named after the hash of a token are not tracked: whoever deletes such a key by
/// hand, and not the session's or the customer's, is not heard.
///
/// A customer's sessions share one key, so that whatever happens to one of them, a new one
/// included, has the customer's other sessions looked up once more on each node.
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

/// A connection on which the server sends what changes. It is closed when it is dropped.
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
    /// [`Unavailable`](crate::StoreErrorKind::Unavailable) if the URL is none, or if the server
    /// cannot be reached or refuses.
    pub async fn connect(url: &str) -> Result<Self, StoreError> {
        let client = Client::open(url).map_err(|error| {
            let context = "this is no URL of a Redis server; one looks like redis://host:6379";
            failed(context, error)
        })?;
        let info = client.get_connection_info().clone();
        let settings = info.redis_settings().clone();
        let settings = settings.set_protocol(redis::ProtocolVersion::RESP3);
        let client = Client::open(info.set_redis_settings(settings))
            .map_err(|error| failed("preparing to connect to Redis", error))?;
        Self::listening(client, PREFIX.to_owned()).await
    }

    /// What the names of all keys begin with, as for
    /// [`RedisStore::key_prefix`](super::RedisStore::key_prefix). It begins to listen anew.
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
            heartbeat: Heartbeat::begin(),
            waiting: Vec::new(),
        })
    }

    fn lose(&mut self) {
        self.link = None;
        self.waiting.clear();
        self.heartbeat.lost();
    }

    /// Writes down what a message of the server says.
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
        let (sender, messages) = channel(MOST_WAITING);
        let overflowed = Arc::new(AtomicBool::new(false));
        let config = AsyncConnectionConfig::new()
            .set_connection_timeout(Some(PATIENCE))
            .set_response_timeout(Some(PATIENCE))
            .set_push_sender(note_down(sender, Arc::clone(&overflowed)));
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

/// A connection to a server that will do, within the time for it.
async fn connect(client: &Client, prefix: &str) -> Result<Link, StoreError> {
    let context = || {
        let address = client.get_connection_info().addr();
        format!("listening to Redis at {address}")
    };
    let connecting = async {
        let link = Link::new(client, prefix).await;
        let mut link = link.map_err(|error| failed(context(), error))?;
        check_server(&mut link.connection).await?;
        Ok(link)
    };
    timeout(PATIENCE, connecting)
        .await
        .unwrap_or_else(|elapsed| Err(StoreError::timeout(ContextError::new(context(), elapsed))))
}

/// Passes messages on without ever waiting; what finds no room is remembered as a gap.
fn note_down(
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
            if let Some(first) = self.heartbeat.first() {
                return Some(first);
            }
            if let Some(waiting) = self.waiting.pop() {
                return Some(waiting);
            }
            let Some(link) = &mut self.link else {
                self.heartbeat.retry().await;
                match connect(&self.client, &self.prefix).await {
                    Ok(link) => {
                        self.link = Some(link);
                        self.heartbeat = Heartbeat::begin();
                    }
                    Err(_) => self.heartbeat.failed(),
                }
                continue;
            };
            if link.overflowed.swap(false, Relaxed) {
                // What waits is part of it. What comes from here on is not thrown away.
                while link
                    .messages
                    .try_recv()
                    .is_ok_and(|it| it.kind != PushKind::Disconnection)
                {}
                return Some(Invalidation::All.into());
            }
            match timeout_at(self.heartbeat.due, link.messages.recv()).await {
                Ok(Some(message)) if message.kind != PushKind::Disconnection => {
                    self.heartbeat.alive();
                    self.read(message);
                }
                Ok(_gone) => self.lose(),
                // A replica that has lost its master answers, too, and tells nothing.
                Err(_silent) => match timeout(PATIENCE, check_server(&mut link.connection)).await {
                    Ok(Ok(())) => self.heartbeat.alive(),
                    _ => self.lose(),
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
