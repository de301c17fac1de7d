//! The servers of a store, and connections to them.

use std::{
    collections::BTreeSet,
    sync::{
        Arc, Mutex, PoisonError,
        atomic::{AtomicU64, Ordering::SeqCst},
    },
};

use futures_util::future::join_all;
use redis::{
    AsyncConnectionConfig, Client, ConnectionAddr, Value,
    aio::{ConnectionLike, MultiplexedConnection},
    cmd, from_redis_value,
};

use super::{
    link::Link,
    options::ConnectionOptions,
    sentinel::primary_named_by,
    server::{Server, check_server, store_error},
    transport::connection_error,
};
use crate::store::error::StoreError;

/// A server, a cluster, or a server that sentinels watch over.
#[derive(Clone)]
pub(super) struct Endpoint {
    /// Servers, nodes of the cluster, or sentinels. Never empty.
    clients: Arc<[Client]>,
    options: Arc<ConnectionOptions>,
    /// Nodes of the cluster that were named by another one, for when those that were given are down.
    /// Guards a plain value. Never held across an await.
    learnt: Arc<Mutex<Vec<Client>>>,
    /// The number of times that a source behind sentinels has lost the primary.
    losses: Arc<AtomicU64>,
}

/// A connection to a server that is fit for use.
struct Connected {
    connection: MultiplexedConnection,
    client: Client,
    server: Server,
}

/// A connection that a store may use.
#[derive(Clone)]
pub(super) struct Opened {
    pub(super) link: Link,
    pub(super) server: Server,
    pub(super) address: String,
}

/// Host and port.
type Address = (String, u16);

/// The nodes of a cluster.
#[derive(Default)]
struct Nodes {
    primaries: BTreeSet<Address>,
    replicas: BTreeSet<Address>,
    /// The first and the last slot of each range, and its primary.
    slots: BTreeSet<(u16, u16, Address)>,
}

/// The servers that accept changes.
pub(super) struct Primaries {
    pub(super) clients: Vec<Client>,
    /// The node of a cluster that was asked for them, and its answer.
    of_cluster: Option<(Client, Nodes)>,
    /// The server and the sentinels that watch over it.
    watched: Option<(String, Endpoint)>,
}

impl Primaries {
    /// Refuses a node of a cluster that names other primaries.
    pub(super) async fn check_slots(
        &self,
        node: &mut impl ConnectionLike,
    ) -> Result<(), StoreError> {
        let Some((client, before)) = &self.of_cluster else {
            return Ok(());
        };
        match nodes(node, client).await?.primaries == before.primaries {
            true => Ok(()),
            false => Err(StoreError::unavailable(
                "the primaries are others than before",
            )),
        }
    }

    /// Refuses a primary that sentinels do not name any more.
    pub(super) async fn check_sentinels(&self) -> Result<(), StoreError> {
        match &self.watched {
            None => Ok(()),
            Some((address, endpoint)) => endpoint.check_sentinels(address).await,
        }
    }

    /// Returns `true` if each slot is where it was.
    pub(super) fn have_slots_of(&self, before: &Self) -> bool {
        let slots = |primaries: &Self| {
            let nodes = primaries.of_cluster.as_ref();
            nodes.map(|(_, nodes)| nodes.slots.clone())
        };
        slots(self) == slots(before)
    }
}

impl Endpoint {
    /// Reads the URLs of servers, of nodes of one cluster, or of sentinels.
    ///
    /// # Errors
    ///
    /// [`Unavailable`](crate::StoreErrorKind::Unavailable) if they are not URLs of Redis, or if they and
    /// the options contradict each other.
    pub(super) fn new(
        urls: &[impl AsRef<str>],
        options: ConnectionOptions,
    ) -> Result<Self, StoreError> {
        options.check()?;
        let clients = urls.iter().map(|url| options.client(url.as_ref()));
        let clients = clients.collect::<Result<Vec<_>, _>>()?;
        if clients.is_empty() {
            return Err(StoreError::unavailable("there is no URL of a Redis server"));
        }
        Ok(Self {
            clients: clients.into(),
            options: options.into(),
            learnt: Arc::default(),
            losses: Arc::default(),
        })
    }

    pub(super) fn options(&self) -> &ConnectionOptions {
        &self.options
    }

    /// Records that a source has lost the primary, or cannot find it. Sentinels may have named another, and
    /// the one before may still answer, so a store must ask them again.
    pub(super) fn record_loss(&self) {
        if self.options.sentinel.is_some() {
            self.losses.fetch_add(1, SeqCst);
        }
    }

    /// Returns the number of losses that sources have recorded.
    pub(super) fn losses(&self) -> u64 {
        self.losses.load(SeqCst)
    }

    /// Returns hosts and ports, for errors.
    pub(super) fn address(&self) -> String {
        let addresses = self.clients.iter().map(address);
        addresses.collect::<Vec<_>>().join(", ")
    }

    /// Refuses the server at `address` unless most of the sentinels name it as the primary: one that is cut
    /// off together with some of them has been replaced without a word.
    pub(super) async fn check_sentinels(&self, address: &str) -> Result<(), StoreError> {
        let Some(name) = &self.options.sentinel else {
            return Ok(());
        };
        let named = self.clients.iter();
        let named = named.map(|sentinel| primary_named_by(sentinel, name, &self.options));
        let (mut confirmations, mut failures) = (0, Vec::new());
        for primary in join_all(named).await {
            match primary {
                Ok(primary) => confirmations += usize::from(self::address(&primary) == address),
                Err(error) => failures.push(error),
            }
        }
        let needed = self.clients.len() / 2 + 1;
        if confirmations >= needed {
            return Ok(());
        }
        let failure = failures
            .pop()
            .filter(|_| confirmations + failures.len() + 1 >= needed);
        Err(failure.unwrap_or_else(|| {
            StoreError::unavailable(format!(
                "the sentinels name another primary than {address} for `{name}`"
            ))
        }))
    }

    /// Opens a connection to a server that is fit for use, or to a cluster.
    pub(super) async fn open(&self) -> Result<Opened, StoreError> {
        let mut connected = self.connect().await?;
        let server = connected.server;
        if server != Server::NodeOfCluster {
            return Ok(Opened {
                link: Link::Server(connected.connection),
                server,
                address: address(&connected.client),
            });
        }
        // The driver connects to whatever nodes there are.
        self.primaries_of(&mut connected).await?;
        let nodes = self.seeds().into_iter();
        let nodes = nodes.map(|client| client.get_connection_info().clone());
        let cluster = self.options.cluster(nodes.collect()).build();
        let opened = async { cluster?.get_async_connection().await };
        let context = || format!("connecting to the Redis cluster at {}", self.address());
        let addr = connected.client.get_connection_info().addr();
        let link = opened
            .await
            .map_err(|error| connection_error(context(), addr, error))?;
        Ok(Opened {
            link: Link::Cluster(link),
            server,
            address: self.address(),
        })
    }

    /// Returns what opens connections to each primary.
    pub(super) async fn primaries(&self) -> Result<Primaries, StoreError> {
        let mut connected = self.connect().await?;
        if connected.server == Server::NodeOfCluster {
            return self.primaries_of(&mut connected).await;
        }
        Ok(Primaries {
            watched: Some((address(&connected.client), self.clone())),
            clients: vec![connected.client],
            of_cluster: None,
        })
    }

    /// Asks a node of a cluster for the primaries.
    async fn primaries_of(&self, node: &mut Connected) -> Result<Primaries, StoreError> {
        let nodes = nodes(&mut node.connection, &node.client).await?;
        let clients = |addresses: &BTreeSet<Address>| -> Result<Vec<Client>, StoreError> {
            let clients = addresses
                .iter()
                .map(|(host, port)| self.options.client_at(&node.client, host.clone(), *port));
            clients.collect()
        };
        let primaries = clients(&nodes.primaries)?;
        let learnt = [primaries.clone(), clients(&nodes.replicas)?].concat();
        *self.learnt.lock().unwrap_or_else(PoisonError::into_inner) = learnt;
        Ok(Primaries {
            clients: primaries,
            of_cluster: Some((node.client.clone(), nodes)),
            watched: None,
        })
    }

    /// Returns the servers that may be asked first.
    fn seeds(&self) -> Vec<Client> {
        let learnt = self.learnt.lock().unwrap_or_else(PoisonError::into_inner);
        self.clients.iter().chain(&*learnt).cloned().collect()
    }

    /// Opens a connection to one node of a cluster.
    pub(super) async fn link(&self, client: &Client, context: &str) -> Result<Link, StoreError> {
        let connection = self.open_with(client, self.options.config(), context).await;
        connection.map(Link::Server)
    }

    /// Opens a connection to one server, with a configuration that that of the options has begun.
    pub(super) async fn open_with(
        &self,
        client: &Client,
        config: AsyncConnectionConfig,
        context: &str,
    ) -> Result<MultiplexedConnection, StoreError> {
        let connection = self.options.open_with(client, config).await;
        let addr = client.get_connection_info().addr();
        connection.map_err(|error| connection_error(context, addr, error))
    }

    /// Connects to a server: the first that can be reached and is fit for use, or the primary that a
    /// sentinel names.
    async fn connect(&self) -> Result<Connected, StoreError> {
        let mut failure = None;
        for client in self.seeds() {
            match self.connect_by(&client).await {
                Ok(connected) => return Ok(connected),
                Err(error) => failure = Some(error),
            }
        }
        Err(failure.unwrap_or_else(|| StoreError::unavailable("there is no URL")))
    }

    /// Connects to a server, or to the primary that this sentinel names.
    async fn connect_by(&self, client: &Client) -> Result<Connected, StoreError> {
        let client = match &self.options.sentinel {
            None => client.clone(),
            Some(name) => primary_named_by(client, name, &self.options).await?,
        };
        let context = format!("connecting to Redis at {}", address(&client));
        let config = self.options.config();
        let mut connection = self.open_with(&client, config, &context).await?;
        let server = check_server(&mut connection).await?;
        self.check_sentinels(&address(&client)).await?;
        Ok(Connected {
            connection,
            client,
            server,
        })
    }
}

/// Returns host and port.
pub(super) fn address(client: &Client) -> String {
    client.get_connection_info().addr().to_string()
}

/// Returns the nodes that have slots, as one of the cluster says.
async fn nodes(connection: &mut impl ConnectionLike, client: &Client) -> Result<Nodes, StoreError> {
    let context =
        "asking the Redis cluster for its nodes (this takes the right to run CLUSTER SLOTS)";
    let slots = cmd("CLUSTER")
        .arg("SLOTS")
        .query_async::<Vec<Vec<Value>>>(connection)
        .await;
    let slots = slots.map_err(|error| store_error(context, error))?;
    let own_host = match client.get_connection_info().addr() {
        ConnectionAddr::Tcp(host, _) | ConnectionAddr::TcpTls { host, .. } => host.as_str(),
        _ => "",
    };
    let mut nodes = Nodes::default();
    for range in slots {
        // The first and the last slot, the primary, its replicas.
        let mut range = range.into_iter();
        let mut slot = || range.next().and_then(|slot| from_redis_value(slot).ok());
        let ends = (slot().unwrap_or_default(), slot().unwrap_or_default());
        for (place, node) in range.enumerate() {
            let Value::Array(fields) = node else { continue };
            let mut fields = fields.into_iter();
            let (Some(host), Some(port)) = (fields.next(), fields.next()) else {
                continue;
            };
            // An unknown host is that of the node that answers.
            let host: Option<String> = from_redis_value(host).unwrap_or_default();
            let host = host.filter(|host| !host.is_empty() && host != "?");
            let port =
                from_redis_value(port).map_err(|error| store_error(context, error.into()))?;
            let at = (host.unwrap_or_else(|| own_host.to_owned()), port);
            match place {
                0 => {
                    nodes.slots.insert((ends.0, ends.1, at.clone()));
                    nodes.primaries.insert(at)
                }
                _ => nodes.replicas.insert(at),
            };
        }
    }
    Ok(nodes)
}
