//! Where the servers are, and how connections to them are opened.

use std::{
    collections::BTreeSet,
    sync::{Arc, Mutex, PoisonError},
    time::Duration,
};

use redis::{
    AsyncConnectionConfig, Client, ConnectionAddr, IntoConnectionInfo as _, RedisResult, Value,
    aio::{ConnectionLike, MultiplexedConnection},
    cluster::ClusterClient,
    cmd, from_redis_value,
    io::tcp::{TcpSettings, socket2::TcpKeepalive},
};

use super::{
    link::Link,
    server::{Server, check_server, store_error},
};
use crate::store::error::StoreError;

/// Time limit of opening a connection.
const CONNECTION_TIMEOUT: Duration = Duration::from_secs(1);

/// Time limit of an answer. The connection is replaced after it.
const RESPONSE_TIMEOUT: Duration = Duration::from_secs(1);

/// Idle time after which the kernel asks the other side for a sign of life, and the time from one of
/// these questions to the next. A network that forgets idle connections is thus kept from it.
const KEEPALIVE: [Duration; 2] = [Duration::from_secs(15), Duration::from_secs(5)];

/// Time after which the kernel gives up a connection on which nothing is acknowledged.
const USER_TIMEOUT: Duration = Duration::from_secs(5);

/// Attempts of the cluster's client to follow a redirect, or to reach a node that is being replaced, and
/// the range of the pauses between them in milliseconds.
const CLUSTER_RETRIES: u32 = 5;
const CLUSTER_PAUSES: [u64; 2] = [10, 200];

/// Time limit of an answer from a cluster, with all attempts.
const CLUSTER_TIMEOUT: Duration = Duration::from_secs(2);

const NODES: &str =
    "asking the Redis cluster for its nodes (this takes the right to run CLUSTER SLOTS)";

/// A server, a cluster, or a server that sentinels watch over.
#[derive(Clone)]
pub(super) struct Endpoint {
    /// Servers, nodes of the cluster, or sentinels. Never empty.
    clients: Arc<[Client]>,
    /// The name by which sentinels know the primary.
    watched_as: Option<Arc<str>>,
    /// Nodes of the cluster that were named by another one, for when those that were given are down.
    /// Guards a plain value. Never held across an await.
    learnt: Arc<Mutex<Vec<Client>>>,
}

/// Host and port.
type Address = (String, u16);
type Addresses = BTreeSet<Address>;

/// The nodes of a cluster.
#[derive(Default)]
struct Nodes {
    primaries: Addresses,
    replicas: Addresses,
    /// The first and the last slot of each range, and its primary.
    slots: BTreeSet<(u16, u16, Address)>,
}

/// The servers that accept changes.
pub(super) struct Primaries {
    pub(super) clients: Vec<Client>,
    /// The node of a cluster that was asked for them, and its answer.
    of_cluster: Option<(Client, Nodes)>,
}

impl Primaries {
    /// Returns `true` if a node of the cluster still names the same ones.
    pub(super) async fn are_current(
        &self,
        node: &mut impl ConnectionLike,
    ) -> Result<bool, StoreError> {
        match &self.of_cluster {
            None => Ok(true),
            Some((client, before)) => Ok(nodes(node, client).await?.primaries == before.primaries),
        }
    }
}

impl Primaries {
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
    /// Reads URLs. `watched_as` is the name of the primary, if they are those of sentinels.
    ///
    /// # Errors
    ///
    /// [`Unavailable`](crate::StoreErrorKind::Unavailable) if they are not URLs of Redis.
    pub(super) fn new(urls: &[&str], watched_as: Option<&str>) -> Result<Self, StoreError> {
        let clients: Result<Vec<_>, _> = urls.iter().map(|url| client(url)).collect();
        let context = "this is not the URL of a Redis server, such as redis://host:6379";
        let clients = clients.map_err(|error| store_error(context, error))?;
        if clients.is_empty() {
            return Err(StoreError::unavailable("there is no URL of a Redis server"));
        }
        Ok(Self {
            clients: clients.into(),
            watched_as: watched_as.map(Into::into),
            learnt: Arc::default(),
        })
    }

    /// Returns hosts and ports, for errors.
    pub(super) fn address(&self) -> String {
        let addresses = self.clients.iter().map(address);
        addresses.collect::<Vec<_>>().join(", ")
    }

    /// Opens a connection to a server that is fit for use, or to a cluster.
    pub(super) async fn open(&self) -> Result<(Link, Server), StoreError> {
        let (mut connection, client) = self.connect().await?;
        let server = check_server(&mut connection).await?;
        if server != Server::NodeOfCluster {
            return Ok((Link::Server(connection), server));
        }
        self.learn(&mut connection, &client).await?;
        let nodes = self.seeds().into_iter();
        let nodes: Vec<_> = nodes
            .map(|client| client.get_connection_info().clone())
            .collect();
        let cluster = ClusterClient::builder(nodes)
            .connection_timeout(CONNECTION_TIMEOUT)
            .response_timeout(RESPONSE_TIMEOUT)
            .overall_response_timeout(Some(CLUSTER_TIMEOUT))
            .retries(CLUSTER_RETRIES)
            .min_retry_wait(CLUSTER_PAUSES[0])
            .max_retry_wait(CLUSTER_PAUSES[1])
            .tcp_settings(tcp_settings())
            .build();
        let opened = async { cluster?.get_async_connection().await };
        let context = || format!("connecting to the Redis cluster at {}", self.address());
        let link = opened
            .await
            .map_err(|error| store_error(context(), error))?;
        Ok((Link::Cluster(link), server))
    }

    /// Returns what opens connections to each primary.
    pub(super) async fn primaries(&self) -> Result<Primaries, StoreError> {
        let (mut connection, client) = self.connect().await?;
        if check_server(&mut connection).await? != Server::NodeOfCluster {
            return Ok(Primaries {
                clients: vec![client],
                of_cluster: None,
            });
        }
        let nodes = self.learn(&mut connection, &client).await?;
        let clients: RedisResult<_> = nodes.primaries.iter().map(|at| node(&client, at)).collect();
        let clients = clients.map_err(|error| store_error(NODES, error));
        Ok(Primaries {
            clients: clients?,
            of_cluster: Some((client, nodes)),
        })
    }

    /// Asks a node of a cluster for the others.
    async fn learn(
        &self,
        connection: &mut MultiplexedConnection,
        client: &Client,
    ) -> Result<Nodes, StoreError> {
        let nodes = nodes(connection, client).await?;
        let all = nodes.primaries.union(&nodes.replicas);
        let learnt: RedisResult<_> = all.map(|at| node(client, at)).collect();
        let learnt = learnt.map_err(|error| store_error(NODES, error));
        *self.learnt.lock().unwrap_or_else(PoisonError::into_inner) = learnt?;
        Ok(nodes)
    }

    /// Returns the servers that may be asked first.
    fn seeds(&self) -> Vec<Client> {
        let learnt = self.learnt.lock().unwrap_or_else(PoisonError::into_inner);
        self.clients.iter().chain(&*learnt).cloned().collect()
    }

    /// Opens a connection to one node of a cluster.
    pub(super) async fn link(client: &Client, context: &str) -> Result<Link, StoreError> {
        let connection = connect(client).await;
        connection
            .map(Link::Server)
            .map_err(|error| store_error(context, error))
    }

    /// Connects to a server: the first that can be reached, or the primary that sentinels name.
    async fn connect(&self) -> Result<(MultiplexedConnection, Client), StoreError> {
        let context = || format!("connecting to Redis at {}", self.address());
        let mut failure = None;
        for client in self.seeds() {
            let client = match &self.watched_as {
                None => Ok(client),
                Some(name) => watched_by(&client, name).await,
            };
            let connected = match client {
                Ok(client) => connect(&client)
                    .await
                    .map(|connection| (connection, client)),
                Err(error) => Err(error),
            };
            match connected {
                Ok(connected) => return Ok(connected),
                Err(error) => failure = Some(store_error(context(), error)),
            }
        }
        Err(failure.unwrap_or_else(|| StoreError::unavailable(context())))
    }
}

fn client(url: &str) -> RedisResult<Client> {
    let info = url.into_connection_info()?;
    // The third version of the protocol brings messages on the connection that asks.
    let settings = info.redis_settings().clone();
    let settings = settings.set_protocol(redis::ProtocolVersion::RESP3);
    let info = info.set_redis_settings(settings);
    Client::open(info.set_tcp_settings(tcp_settings()))
}

fn tcp_settings() -> TcpSettings {
    let keepalive = TcpKeepalive::new()
        .with_time(KEEPALIVE[0])
        .with_interval(KEEPALIVE[1]);
    let settings = TcpSettings::default()
        .set_nodelay(true)
        .set_keepalive(keepalive);
    #[cfg(any(target_os = "android", target_os = "fuchsia", target_os = "linux"))]
    let settings = settings.set_user_timeout(USER_TIMEOUT);
    settings
}

/// Returns host and port.
pub(super) fn address(client: &Client) -> String {
    client.get_connection_info().addr().to_string()
}

async fn connect(client: &Client) -> RedisResult<MultiplexedConnection> {
    let config = AsyncConnectionConfig::new()
        .set_connection_timeout(Some(CONNECTION_TIMEOUT))
        .set_response_timeout(Some(RESPONSE_TIMEOUT));
    client
        .get_multiplexed_async_connection_with_config(&config)
        .await
}

/// Asks a sentinel for the primary with this name. User, password and database of the sentinel's URL are
/// those of the primary.
async fn watched_by(sentinel: &Client, name: &str) -> RedisResult<Client> {
    let info = sentinel.get_connection_info().clone();
    let without_database = info.redis_settings().clone().set_db(0);
    let asked = Client::open(info.clone().set_redis_settings(without_database))?;
    let mut connection = connect(&asked).await?;
    let mut ask = cmd("SENTINEL");
    ask.arg("get-master-addr-by-name").arg(name);
    let primary: Option<(String, u16)> = ask.query_async(&mut connection).await?;
    let Some((host, port)) = primary else {
        let text = "the sentinel does not know a primary with this name";
        return Err((redis::ErrorKind::Client, text, name.to_owned()).into());
    };
    node(sentinel, &(host, port))
}

/// Returns what opens connections to another node.
fn node(client: &Client, (host, port): &(String, u16)) -> RedisResult<Client> {
    let info = client.get_connection_info().clone();
    let mut addr = info.addr().clone();
    if let ConnectionAddr::Tcp(to_host, to_port)
    | ConnectionAddr::TcpTls {
        host: to_host,
        port: to_port,
        ..
    } = &mut addr
    {
        (*to_host, *to_port) = (host.clone(), *port);
    }
    Client::open(info.set_addr(addr))
}

/// Returns the nodes that have slots, as one of the cluster says.
async fn nodes(connection: &mut impl ConnectionLike, client: &Client) -> Result<Nodes, StoreError> {
    let slots = cmd("CLUSTER")
        .arg("SLOTS")
        .query_async::<Vec<Vec<Value>>>(connection)
        .await;
    let slots = slots.map_err(|error| store_error(NODES, error))?;
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
            let port = from_redis_value(port).map_err(|error| store_error(NODES, error.into()))?;
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
