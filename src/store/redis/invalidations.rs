//! Invalidations from Redis: what any client has changed among its keys.
//!
//! They come from the server's client tracking in broadcast mode, not from messages that the
//! scripts publish: tracking also reports keys that are deleted by hand or lost with `FLUSHALL`,
//! and it reports before the writer has its answer. It makes a revocation about 100 µs slower. The
//! tracked keys are named after identifiers; those named after the hash of a token are not tracked.

use std::{
    fmt,
    future::pending,
    sync::{
        Arc,
        atomic::{AtomicBool, Ordering::Relaxed},
    },
    time::Instant,
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

use super::{
    either::{Either, either},
    server::{PREFIX, check_server, store_error},
};
use crate::{
    invalidation::{Invalidation, InvalidationSource, SourceEvent},
    store::{
        error::{ContextError, StoreError},
        reconnect::{Heartbeat, Question, TIME_LIMIT},
    },
};

/// Messages that may wait to be applied; more of them become one `All`.
const MAX_QUEUED: usize = 8192;

/// Receives what any client changes among the keys of a [`RedisStore`](super::RedisStore).
///
/// The source has a connection of its own. Once a second it asks the server a question, while it goes
/// on hearing, and reports that it is [`Alive`](SourceEvent::Alive) when the answer has come, and
/// what came before the answer has been reported. If there is no answer within a second, or if the
/// server has become a replica, the source reports that it is
/// [`Disconnected`](SourceEvent::Disconnected), and reconnects by itself. Dropping the source closes
/// the connection. The server's user needs the right to run `CLIENT TRACKING`, and `INFO`, as for
/// the store. A replica is refused.
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
    /// It resolves to the time at which it was asked.
    question: Option<Question<Result<Instant, StoreError>>>,
    answer: Option<Answered>,
}

/// An answer that waits for the messages that came before it.
struct Answered {
    asked_at: Instant,
    /// The number of these messages that are queued.
    queued: usize,
}

/// Something that has come over a [`Link`].
enum Received {
    Message(PushInfo),
    /// The answer to a question asked at this time.
    Answer(Instant),
    /// Messages were lost for want of room.
    Overflow,
    /// Nothing, although it is time for the next question.
    Nothing,
    /// The link is of no use any more.
    Lost,
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
        let (link, asked_at) = connect(&client, &prefix).await?;
        Ok(Self {
            client,
            prefix,
            link: Some(link),
            heartbeat: Heartbeat::connected(Invalidation::All, asked_at),
            waiting: Vec::new(),
        })
    }

    async fn reconnect(&mut self) {
        self.heartbeat.wait_for_retry().await;
        match connect(&self.client, &self.prefix).await {
            Ok((link, asked_at)) => {
                self.link = Some(link);
                self.heartbeat = Heartbeat::connected(Invalidation::All, asked_at);
            }
            Err(_) => self.heartbeat.on_failed_attempt(),
        }
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
            question: None,
            answer: None,
        })
    }

    /// Asks the server whether it is fit for use. A replica that has lost its primary answers other
    /// questions too, and reports no changes.
    fn start_question(&mut self) {
        let mut connection = self.connection.clone();
        let asked_at = Instant::now();
        self.question = Some(Question::new(async move {
            check_server(&mut connection).await?;
            Ok(asked_at)
        }));
    }

    fn is_asking(&self) -> bool {
        self.question.is_some() || self.answer.is_some()
    }

    /// Waits for what comes next, until `ask_at` if no question is under way. Cancel-safe.
    async fn recv(&mut self, ask_at: tokio::time::Instant) -> Received {
        loop {
            if self.overflowed.swap(false, Relaxed) {
                self.skip_queued();
                return Received::Overflow;
            }
            if let Some(answer) = self.answer.take_if(|answer| answer.queued == 0) {
                return Received::Answer(answer.asked_at);
            }
            let is_asking = self.is_asking();
            let answered = answered(&mut self.question);
            let next = either(answered, self.messages.recv());
            let next = if is_asking {
                Ok(next.await)
            } else {
                timeout_at(ask_at, next).await
            };
            match next {
                // The driver queues messages and answers in the order in which they arrive.
                Ok(Either::First(Some(asked_at))) => {
                    let queued = self.messages.len();
                    self.answer = Some(Answered { asked_at, queued });
                }
                Ok(Either::Second(Some(message))) if message.kind != PushKind::Disconnection => {
                    if let Some(answer) = &mut self.answer {
                        answer.queued = answer.queued.saturating_sub(1);
                    }
                    return Received::Message(message);
                }
                Ok(_gone) => return Received::Lost,
                Err(_elapsed) => return Received::Nothing,
            }
        }
    }

    /// Drops the queued messages. What arrives after this is kept.
    fn skip_queued(&mut self) {
        while self
            .messages
            .try_recv()
            .is_ok_and(|message| message.kind != PushKind::Disconnection)
        {}
        if let Some(answer) = &mut self.answer {
            answer.queued = 0;
        }
    }
}

/// Waits for the answer to a question, and returns the time at which it was asked; `None` if the
/// answer is a bad one, or does not come in time. Never resolves if there is no question.
async fn answered(question: &mut Option<Question<Result<Instant, StoreError>>>) -> Option<Instant> {
    let Some(asked) = question else {
        return pending().await;
    };
    let answer = asked.answer().await;
    *question = None;
    answer.ok()?.ok()
}

/// Connects to a server that is fit for use, within the time limit. Returns the time at which the
/// server was asked whether it is, too.
async fn connect(client: &Client, prefix: &str) -> Result<(Link, Instant), StoreError> {
    let context = || {
        let address = client.get_connection_info().addr();
        format!("listening to Redis at {address}")
    };
    let connecting = async {
        let link = Link::new(client, prefix).await;
        let mut link = link.map_err(|error| store_error(context(), error))?;
        let asked_at = Instant::now();
        check_server(&mut link.connection).await?;
        Ok((link, asked_at))
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
                self.reconnect().await;
                continue;
            };
            if !link.is_asking() && self.heartbeat.is_due() {
                link.start_question();
            }
            match link.recv(self.heartbeat.ask_at()).await {
                Received::Message(message) => self.read(message),
                Received::Answer(asked_at) => return Some(SourceEvent::Alive { asked_at }),
                // It covers what was queued already.
                Received::Overflow => return Some(Invalidation::All.into()),
                Received::Nothing => {}
                Received::Lost => self.disconnect(),
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
