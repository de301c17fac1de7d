//! Invalidations from Redis: what its stores have changed.
//!
//! The scripts publish it on a channel as they change it, so that a message comes before the answer to
//! whoever made the change, and there is none for what fails. On a cluster a source hears every primary
//! itself, as a message takes its time from one node to another.

use std::{
    fmt,
    future::pending,
    pin::pin,
    sync::{
        Arc,
        atomic::{AtomicBool, Ordering::Relaxed},
    },
    time::Instant,
};

use async_trait::async_trait;
use futures_util::{
    FutureExt as _,
    future::{select, try_join_all},
};
use redis::{Client, Cmd, PushInfo, PushKind, RedisError, Value, aio::MultiplexedConnection};
use tokio::{
    sync::mpsc::{Receiver, Sender, channel},
    time::{timeout, timeout_at},
};

use super::{
    endpoint::{Endpoint, Primaries, address},
    keys::Keys,
    options::ConnectionOptions,
    probe::Probe,
    server::{PREFIX, check_channel, check_server, store_error},
};
use crate::{
    invalidation::{Invalidation, InvalidationSource, SourceEvent},
    store::{
        error::{ContextError, StoreError},
        messages::event,
        reconnect::{Heartbeat, Question, TIME_LIMIT},
    },
};

/// Messages that may wait to be applied; more of them become one `All`.
const MAX_QUEUED: usize = 8192;

/// Receives what any [`RedisStore`](super::RedisStore) with the same keys changes.
///
/// The source has a connection of its own to each primary. Once a second it publishes a message, waits
/// until it hears it, and asks whether the server is fit for use; then it reports that it is
/// [`Alive`](SourceEvent::Alive). If this takes longer than a second, or if the primaries are others than
/// before, the source reports that it is [`Disconnected`](SourceEvent::Disconnected), and reconnects by
/// itself. Dropping the source closes its connections. A replica is refused.
///
/// Keys that are deleted by hand are not announced, nor is `FLUSHALL`: other nodes notice when what they
/// have cached is too old ([`cache_ttl`](crate::CustomerSessionsBuilder::cache_ttl)), or at once if you
/// call [`announce`](crate::SessionRegistry::announce).
///
/// ```no_run
/// use customer_session::{CustomerSessions, store::{Peppers, RedisInvalidations, RedisStore}};
///
/// # async fn start(url: &str, peppers: Peppers) -> Result<(), Box<dyn std::error::Error>> {
/// let store = RedisStore::connect(url, peppers).await?;
/// let source = store.invalidations().await?;
/// let sessions = CustomerSessions::builder(store).build();
/// tokio::spawn(sessions.listen(source));
/// # Ok(())
/// # }
/// ```
pub struct RedisInvalidations {
    endpoint: Endpoint,
    keys: Keys,
    listener: Option<Listener>,
    heartbeat: Heartbeat,
}

/// Connections on which the servers send changes. Dropping it closes them.
struct Listener {
    connections: Vec<MultiplexedConnection>,
    /// The servers that they lead to.
    primaries: Arc<Primaries>,
    messages: Receiver<Message>,
    overflowed: Arc<AtomicBool>,
    /// It resolves when all servers were found fit for use.
    question: Option<Question<Result<(), StoreError>>>,
    probe: Option<Probe>,
}

/// A message, with the place of the connection that it came by.
struct Message {
    place: usize,
    push: PushInfo,
}

/// The first that comes to a [`Listener`].
enum Next {
    /// `false` if the question was not answered well.
    Answer(bool),
    Message(Option<Message>),
}

/// Something that has come over a [`Listener`].
enum Received {
    Event(SourceEvent),
    /// Messages were lost for want of room.
    Overflow,
    /// Nothing, although it is time for the next question.
    Nothing,
    /// The listener is of no use any more.
    Lost,
}

impl RedisInvalidations {
    /// Begins to listen on the server at `url`, which is as for
    /// [`RedisStore::connect`](super::RedisStore::connect).
    /// [`RedisStore::invalidations`](super::RedisStore::invalidations) repeats nothing, and is the way to
    /// one with the settings of a builder.
    ///
    /// # Errors
    ///
    /// [`Unavailable`](crate::StoreErrorKind::Unavailable) if the URL is not one of Redis, or if the
    /// server cannot be reached or refuses.
    pub async fn connect(url: &str) -> Result<Self, StoreError> {
        let endpoint = Endpoint::new(&[url], ConnectionOptions::default())?;
        Self::listening(endpoint, Keys::new(PREFIX)).await
    }

    /// Sets the prefix of all keys, as [`RedisStore::key_prefix`](super::RedisStore::key_prefix) does,
    /// and opens other connections for it.
    ///
    /// # Errors
    ///
    /// As [`connect`](Self::connect).
    pub async fn key_prefix(self, prefix: impl Into<String>) -> Result<Self, StoreError> {
        Self::listening(self.endpoint, Keys::new(prefix)).await
    }

    pub(super) async fn listening(endpoint: Endpoint, keys: Keys) -> Result<Self, StoreError> {
        let (listener, asked_at) = connect(&endpoint, &keys).await?;
        Ok(Self {
            endpoint,
            keys,
            listener: Some(listener),
            heartbeat: Heartbeat::connected(Invalidation::All, asked_at),
        })
    }

    async fn reconnect(&mut self) {
        self.heartbeat.wait_for_retry().await;
        match connect(&self.endpoint, &self.keys).await {
            Ok((listener, asked_at)) => {
                self.listener = Some(listener);
                self.heartbeat = Heartbeat::connected(Invalidation::All, asked_at);
            }
            Err(_) => {
                self.endpoint.record_loss();
                self.heartbeat.on_failed_attempt();
            }
        }
    }

    fn disconnect(&mut self) {
        self.listener = None;
        self.endpoint.record_loss();
        self.heartbeat.on_disconnect();
    }
}

impl Listener {
    async fn new(endpoint: &Endpoint, keys: &Keys) -> Result<Self, StoreError> {
        let (sender, messages) = channel(MAX_QUEUED);
        let overflowed = Arc::new(AtomicBool::new(false));
        let primaries = endpoint.primaries().await?;
        let connections = primaries.clients.iter().enumerate().map(|(place, client)| {
            let queue = queue_or_overflow(sender.clone(), place, Arc::clone(&overflowed));
            subscribe(endpoint, client, keys, queue)
        });
        let connections = try_join_all(connections).await?;
        Ok(Self {
            connections,
            primaries: primaries.into(),
            messages,
            overflowed,
            question: None,
            probe: None,
        })
    }

    /// Publishes a message on each connection, and asks the servers whether they are fit for use. A
    /// replica that has lost its primary answers other questions too, and hears no changes.
    fn start_question(&mut self, keys: &Keys) {
        let probe = self.probe.insert(Probe::new(self.connections.len()));
        let text = probe.text.clone();
        let (connections, channel) = (self.connections.clone(), keys.channel());
        let primaries = Arc::clone(&self.primaries);
        self.question = Some(Question::new(async move {
            let asked = connections
                .into_iter()
                .enumerate()
                .map(|(place, mut node)| {
                    let publish = Cmd::publish(&channel, format!("{text}:{place}"));
                    let primaries = &primaries;
                    async move {
                        let published = publish.query_async::<()>(&mut node).await;
                        let context = "publishing on the channel of changes";
                        published.map_err(|error| store_error(context, error))?;
                        check_server(&mut node).await?;
                        primaries.check_slots(&mut node).await
                    }
                });
            try_join_all(asked).await?;
            primaries.check_sentinels().await
        }));
    }

    /// Waits for what comes next, until `ask_at` if no question is under way. Cancel-safe.
    async fn recv(&mut self, ask_at: tokio::time::Instant) -> Received {
        loop {
            if self.overflowed.swap(false, Relaxed) {
                self.skip_queued();
                return Received::Overflow;
            }
            if let Some(probe) = self.probe.take_if(|probe| probe.has_come_back()) {
                let asked_at = probe.asked_at;
                return Received::Event(SourceEvent::Alive { asked_at });
            }
            let deadline = match &self.probe {
                Some(probe) => tokio::time::Instant::from_std(probe.asked_at + TIME_LIMIT),
                None => ask_at,
            };
            match timeout_at(deadline, self.next()).await {
                Ok(Next::Answer(true)) => {
                    if let Some(probe) = &mut self.probe {
                        probe.is_answered = true;
                    }
                }
                Ok(Next::Message(Some(message)))
                    if message.push.kind != PushKind::Disconnection =>
                {
                    if let Some(event) = self.read(&message) {
                        return Received::Event(event);
                    }
                }
                Ok(_gone) => return Received::Lost,
                Err(_elapsed) if self.probe.is_some() => return Received::Lost,
                Err(_elapsed) => return Received::Nothing,
            }
        }
    }

    /// Waits for the answer to the question, or a message. Cancel-safe.
    async fn next(&mut self) -> Next {
        let answer = pin!(answered(&mut self.question).map(Next::Answer));
        let message = pin!(self.messages.recv().map(Next::Message));
        select(answer, message).await.factor_first().0
    }

    /// Reads a message; `None` if it says nothing of a change.
    fn read(&mut self, message: &Message) -> Option<SourceEvent> {
        let text = match (&message.push.kind, message.push.data.as_slice()) {
            (PushKind::Subscribe, _) => return None,
            (PushKind::Message, [_channel, Value::BulkString(text)]) => std::str::from_utf8(text),
            _ => return Some(SourceEvent::Malformed),
        };
        let text = text.unwrap_or_default();
        if let Some(probe) = &mut self.probe {
            probe.note(text, message.place);
        }
        event(text)
    }

    /// Drops the queued messages. What arrives after this is kept.
    fn skip_queued(&mut self) {
        while let Ok(message) = self.messages.try_recv() {
            self.read(&message);
            if message.push.kind == PushKind::Disconnection {
                self.messages.close();
            }
        }
    }
}

/// Waits for the answer to a question. Returns `false` if it is a bad one, or does not come in time. Never
/// resolves if there is no question.
async fn answered(question: &mut Option<Question<Result<(), StoreError>>>) -> bool {
    let Some(asked) = question else {
        return pending().await;
    };
    let answer = asked.answer().await;
    *question = None;
    matches!(answer, Ok(Ok(())))
}

/// Opens a connection on which a server sends changes.
async fn subscribe(
    endpoint: &Endpoint,
    client: &Client,
    keys: &Keys,
    queue: impl Fn(PushInfo) -> Result<(), RedisError> + Send + Sync + 'static,
) -> Result<MultiplexedConnection, StoreError> {
    let context = format!("listening to Redis at {}", address(client));
    let config = endpoint.options().config().set_push_sender(queue);
    let mut connection = endpoint.open_with(client, config, &context).await?;
    let channel = keys.channel();
    let subscribed = connection.subscribe(&channel).await;
    let context = || format!("{context} (this takes the right to run SUBSCRIBE on {channel})");
    subscribed.map_err(|error| store_error(context(), error))?;
    Ok(connection)
}

/// Connects to servers that are fit for use, within the time limit. Returns the time at which they were
/// asked whether they are, too.
async fn connect(endpoint: &Endpoint, keys: &Keys) -> Result<(Listener, Instant), StoreError> {
    let context = || format!("listening to Redis at {}", endpoint.address());
    let connecting = async {
        let mut listener = Listener::new(endpoint, keys).await?;
        let asked_at = Instant::now();
        let checks = listener.connections.iter_mut().map(async |connection| {
            check_server(connection).await?;
            check_channel(connection, keys).await
        });
        try_join_all(checks).await?;
        Ok((listener, asked_at))
    };
    timeout(endpoint.options().opening_timeout(), connecting)
        .await
        .unwrap_or_else(|elapsed| Err(StoreError::timeout(ContextError::new(context(), elapsed))))
}

/// Passes messages on without ever waiting; one that finds no room is recorded as a gap.
fn queue_or_overflow(
    sender: Sender<Message>,
    place: usize,
    overflowed: Arc<AtomicBool>,
) -> impl Fn(PushInfo) -> Result<(), RedisError> + Send + Sync + 'static {
    move |push| {
        if sender.try_send(Message { place, push }).is_err() {
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
            let Some(listener) = &mut self.listener else {
                self.reconnect().await;
                continue;
            };
            if listener.probe.is_none() && self.heartbeat.is_due() {
                listener.start_question(&self.keys);
            }
            match listener.recv(self.heartbeat.ask_at()).await {
                Received::Event(event) => return Some(event),
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
            .field("key_prefix", &self.keys.prefix())
            .field("connected", &self.listener.is_some())
            .finish_non_exhaustive()
    }
}
