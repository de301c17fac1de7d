//! The connection of a store: opened when it is needed, and replaced when it fails or stays silent.

use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use redis::{Cmd, ErrorKind, FromRedisValue, RedisError, ScriptInvocation, ServerErrorKind};

use super::{
    endpoint::{Endpoint, Opened},
    keys::Keys,
    link::{GivenConnection, Link},
    scan::Scan,
    server::{Server, check_channel, check_server, store_error},
    transport::is_refused,
};
use crate::store::error::StoreError;

/// A command, or a call of a script.
#[derive(Clone, Copy)]
pub(super) enum Request<'a> {
    Command(&'a Cmd),
    Script(&'a ScriptInvocation<'a>),
}

/// A connection to a server. Calls share it.
///
/// A call that fails for the connection's sake, or gets no answer in time, has it replaced: a network
/// may have forgotten it without a word to either side.
pub(super) struct Connection {
    /// `None` for a connection that the application has opened, and that it must look after.
    endpoint: Option<Endpoint>,
    /// Guards plain values, whole at every point. Never held across an await.
    state: Mutex<State>,
    /// Held while a connection is being opened.
    opening: tokio::sync::Mutex<()>,
}

#[derive(Default)]
struct State {
    link: Option<Link>,
    /// The server that the last connection led to: its kind, and its host and port.
    server: Option<Server>,
    address: String,
    /// The number of connections that were opened.
    opened: u64,
    /// The number of losses that sources had recorded before the last connection was opened.
    losses: u64,
    /// The number of attempts to open one that failed, and the error of the last.
    failures: u64,
    failure: Option<StoreError>,
}

/// The error of a request.
pub(super) struct Failure {
    pub(super) error: StoreError,
    /// Another connection may do better.
    pub(super) is_of_connection: bool,
}

/// A connection with its number, by which it is discarded.
struct Numbered {
    link: Link,
    number: u64,
}

impl Connection {
    /// Opens a connection to `endpoint`.
    pub(super) async fn open(endpoint: Endpoint) -> Result<Self, StoreError> {
        let connection = Self::new(Some(endpoint), State::default());
        connection.get().await?;
        Ok(connection)
    }

    /// Takes a connection that the application has opened.
    pub(super) fn given(connection: Arc<dyn GivenConnection>) -> Self {
        let state = State {
            link: Some(Link::Given(connection)),
            ..State::default()
        };
        Self::new(None, state)
    }

    fn new(endpoint: Option<Endpoint>, state: State) -> Self {
        Self {
            endpoint,
            state: Mutex::new(state),
            opening: tokio::sync::Mutex::new(()),
        }
    }

    /// Sends a request, and waits for the answer. `context` says what was attempted.
    pub(super) async fn send<T: FromRedisValue>(
        &self,
        request: Request<'_>,
        context: &str,
    ) -> Result<T, Failure> {
        let Numbered { mut link, number } = self.get().await.map_err(|error| Failure {
            error,
            is_of_connection: false,
        })?;
        let answer = match request {
            Request::Command(command) => command.query_async(&mut link).await,
            Request::Script(call) => call.invoke_async(&mut link).await,
        };
        answer.map_err(|error| {
            let is_of_connection = is_of_connection(&error);
            if is_of_connection {
                self.discard(number);
            }
            Failure {
                error: store_error(context, error),
                is_of_connection,
            }
        })
    }

    /// Checks whether the server is fit for use, and whether the user may announce changes. A new
    /// connection is checked as it is opened.
    pub(super) async fn check(&self, keys: &Keys) -> Result<(), StoreError> {
        let Numbered { mut link, number } = self.get().await?;
        match self.check_link(&mut link).await {
            Ok(server) => self.lock().server = Some(server),
            Err(_) if self.endpoint.is_some() => {
                self.discard(number);
                link = self.get().await?.link;
            }
            Err(error) => return Err(error),
        }
        check_channel(&mut link, keys).await
    }

    async fn check_link(&self, link: &mut Link) -> Result<Server, StoreError> {
        let server = check_server(link).await?;
        if let Some(endpoint) = &self.endpoint {
            let address = self.lock().address.clone();
            endpoint.check_sentinels(&address).await?;
        }
        Ok(server)
    }

    /// Returns `true` if the keys are spread over several servers.
    pub(super) fn is_cluster(&self) -> bool {
        self.lock().server == Some(Server::NodeOfCluster)
    }

    /// Returns where the servers are; `None` if the application has opened the connection.
    pub(super) fn endpoint(&self) -> Option<&Endpoint> {
        self.endpoint.as_ref()
    }

    /// Begins to walk over the keys that match a pattern, on all servers.
    pub(super) async fn scan(&self, pattern: Vec<u8>, context: &str) -> Result<Scan, StoreError> {
        if !self.is_cluster() {
            return Ok(Scan::new(vec![self.get().await?.link], pattern, None));
        }
        let Some(endpoint) = &self.endpoint else {
            return Err(StoreError::unavailable(format!(
                "{context}: the store must know the nodes of the cluster; connect it by their URLs"
            )));
        };
        let primaries = endpoint.primaries().await?;
        let mut links = Vec::new();
        for client in &primaries.clients {
            links.push(endpoint.link(client, context).await?);
        }
        Ok(Scan::new(
            links,
            pattern,
            Some((endpoint.clone(), primaries)),
        ))
    }

    /// Returns the connection, and opens one if there is none. Calls that wait share the outcome.
    async fn get(&self) -> Result<Numbered, StoreError> {
        let failures = {
            let state = self.lock();
            if let Some(numbered) = state.numbered() {
                return Ok(numbered);
            }
            state.failures
        };
        let Some(endpoint) = &self.endpoint else {
            return Err(StoreError::unavailable("there is no connection to Redis"));
        };
        let _opening = self.opening.lock().await;
        if let Some(outcome) = self.lock().outcome_since(failures) {
            return outcome;
        }
        let losses = endpoint.losses();
        let opened = endpoint.open().await;
        let mut state = self.lock();
        match opened {
            Ok(Opened {
                link,
                server,
                address,
            }) => {
                state.server = Some(server);
                state.address = address;
                state.opened += 1;
                state.losses = losses;
                let number = state.opened;
                state.link = Some(link.clone());
                Ok(Numbered { link, number })
            }
            Err(error) => {
                state.failures += 1;
                state.failure = Some(error.clone());
                Err(error)
            }
        }
    }

    /// Forgets a connection that was opened before a source lost the primary. Returns `true` if it did.
    pub(super) fn discard_after_loss(&self) -> bool {
        let losses = self.endpoint.as_ref().map_or(0, Endpoint::losses);
        // As without sentinels: no lock for each call.
        if losses == 0 {
            return false;
        }
        let mut state = self.lock();
        let is_lost = state.link.is_some() && state.losses != losses;
        if is_lost {
            state.link = None;
        }
        is_lost
    }

    /// Forgets a connection, unless it was replaced already.
    fn discard(&self, number: u64) {
        let mut state = self.lock();
        if state.opened == number && self.endpoint.is_some() {
            state.link = None;
        }
    }

    fn lock(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl State {
    fn numbered(&self) -> Option<Numbered> {
        let number = self.opened;
        let link = self.link.clone()?;
        Some(Numbered { link, number })
    }

    /// Returns the outcome of an attempt that has ended since there were so many failures.
    fn outcome_since(&self, failures: u64) -> Option<Result<Numbered, StoreError>> {
        let failure = self.failure.clone().filter(|_| self.failures != failures);
        self.numbered().map(Ok).or(failure.map(Err))
    }
}

/// Returns `true` if another connection may do better: this one is lost or silent, leads to a server
/// that has become a replica, or was refused when the driver of a cluster opened it.
fn is_of_connection(error: &RedisError) -> bool {
    error.is_io_error()
        || error.is_timeout()
        || error.is_connection_dropped()
        || error.is_unrecoverable_error()
        || is_refused(error)
        || error.kind() == ErrorKind::Server(ServerErrorKind::ReadOnly)
}
