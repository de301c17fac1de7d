//! Three nodes that share one server: each has its own threads, its own connections, and its
//! own network. One of those on PostgreSQL is behind a pooler in transaction mode. Nodes that share a
//! Redis primary and its replica, or a Redis cluster, reach the servers directly, as these name each
//! other by address.

use std::{sync::Arc, time::Duration};

use customer_session::{
    CustomerSessions, SessionRegistry,
    store::{
        Peppers, PostgresInvalidations, PostgresStore, RedisInvalidations, RedisStore,
        RedisStoreBuilder,
    },
};
use tokio::runtime::{Builder, Runtime};

use super::{
    load::Node,
    store::{Defect, NodeStore},
};
use test_support::rng::Rng;
use test_support::{
    Wrapped,
    proxy::Proxy,
    servers::{self, RedisCluster, RedisSentinel, Server},
};

pub(crate) const NODES: usize = 3;
pub(crate) const STORE_TIMEOUT: Duration = Duration::from_millis(250);

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Kind {
    Postgres,
    Redis,
    RedisSentinel,
    RedisCluster,
}

impl Kind {
    /// Where a primary may fail, it is long, so that what keeps the promise is the lease of two seconds.
    pub(crate) fn cache_ttl(self) -> Duration {
        match self {
            Self::Postgres | Self::Redis => Duration::from_secs(2),
            Self::RedisSentinel | Self::RedisCluster => Duration::from_secs(60),
        }
    }

    fn stale_if_error(self) -> Duration {
        match self {
            Self::Postgres | Self::Redis => Duration::from_secs(1),
            Self::RedisSentinel | Self::RedisCluster => Duration::ZERO,
        }
    }

    /// The longest time for which a node may let in by what another node has revoked.
    pub(crate) fn bound(self) -> Duration {
        match self {
            Self::Postgres | Self::Redis => self.cache_ttl() + self.stale_if_error(),
            Self::RedisSentinel | Self::RedisCluster => LEASE,
        }
    }

    fn name(self) -> &'static str {
        match self {
            Self::Postgres => "PostgreSQL",
            Self::Redis | Self::RedisSentinel | Self::RedisCluster => "Redis",
        }
    }
}

/// The time for which a node trusts what it has cached, after the last question that was answered.
const LEASE: Duration = Duration::from_secs(2);

/// The servers that the nodes share.
pub(crate) enum Servers {
    One(Server),
    Sentinel(RedisSentinel),
    Cluster(RedisCluster),
}

impl Servers {
    fn start(kind: Kind) -> Option<Self> {
        match kind {
            Kind::Postgres => Server::postgres().map(Self::One),
            Kind::Redis => Server::redis().map(Self::One),
            Kind::RedisSentinel => {
                // On a busy machine a primary may be silent for longer than by default here. The replica
                // of one that is replaced without reason may lack a change.
                let down_after = ("sentinel", "down-after-milliseconds mymaster 1500");
                RedisSentinel::with(&[], &[down_after]).map(Self::Sentinel)
            }
            Kind::RedisCluster => RedisCluster::new(3, 1).map(Self::Cluster),
        }
    }
}

/// The parts of a cluster in which the nemesis injects faults.
pub(crate) struct Cluster {
    pub(crate) servers: Servers,
    /// Between the last node and PostgreSQL. It ends after the runtimes.
    pooler: Option<Server>,
    /// The networks of each node: to its store, and to the source of its invalidations. There are none
    /// if there are several servers.
    pub(crate) networks: Vec<(Proxy, Proxy)>,
    pub(crate) stores: Vec<Arc<Wrapped<NodeStore>>>,
}

/// The threads of the nodes, to be ended last: their tasks use the rest.
pub(crate) struct Runtimes(Vec<Runtime>);

impl Runtimes {
    /// Ends them without waiting for tasks.
    pub(crate) fn end(self) {
        for runtime in self.0 {
            runtime.shutdown_background();
        }
    }
}

fn runtime(name: String) -> Runtime {
    // One thread each, so that a late timer shows that every task was late.
    Builder::new_multi_thread()
        .worker_threads(1)
        .thread_name(name)
        .enable_all()
        .build()
        .expect("a runtime")
}

/// Starts the servers and their nodes. Returns `None`, and says so, if something is not installed.
pub(crate) fn start(
    kind: Kind,
    defect: Defect,
    rng: &Rng,
) -> Option<(Cluster, Vec<Node>, Runtimes)> {
    let Some(servers) = Servers::start(kind) else {
        servers::missing(kind.name());
        return None;
    };
    let pooler = match (&servers, kind) {
        (Servers::One(server), Kind::Postgres) => {
            // By default it waits for 15 seconds before it tries a server again that was down.
            let settings = [("pool_mode", "transaction"), ("server_login_retry", "0.1")];
            let pooler = Server::pgbouncer(server, &settings);
            if pooler.is_none() {
                servers::missing("PgBouncer");
                return None;
            }
            pooler
        }
        _ => None,
    };
    let network = runtime("network".to_owned());
    let mut cluster = Cluster {
        networks: Vec::new(),
        stores: Vec::new(),
        servers,
        pooler,
    };
    let (mut nodes, mut runtimes) = (Vec::new(), Vec::new());
    for number in 0..NODES {
        let runtime = runtime(format!("node {number}"));
        let Parts { store, source } = cluster.connect(kind, number, &network, &runtime);
        let random = Rng::new(rng.below(u64::MAX));
        let store = Arc::new(Wrapped(NodeStore::new(store, defect, random)));
        let sessions = CustomerSessions::builder(Arc::clone(&store))
            .cache_ttl(kind.cache_ttl())
            .stale_if_error(kind.stale_if_error())
            .store_timeout(STORE_TIMEOUT)
            .record_uses()
            .expect("the store keeps uses")
            .build();
        if defect != Defect::NotListening {
            source.listen(&sessions, &runtime);
        }
        nodes.push(Node {
            number,
            sessions,
            runtime: runtime.handle().clone(),
            defect,
        });
        cluster.stores.push(store);
        runtimes.push(runtime);
    }
    runtimes.push(network);
    Some((cluster, nodes, Runtimes(runtimes)))
}

/// The connections of a node.
struct Parts {
    store: Arc<dyn SessionRegistry>,
    source: Source,
}

enum Source {
    Postgres(PostgresInvalidations),
    Redis(RedisInvalidations),
}

impl Source {
    fn listen(self, sessions: &CustomerSessions<Arc<Wrapped<NodeStore>>>, runtime: &Runtime) {
        match self {
            Self::Postgres(source) => drop(runtime.spawn(sessions.listen(source))),
            Self::Redis(source) => drop(runtime.spawn(sessions.listen(source))),
        }
    }
}

impl Cluster {
    /// Connects a node, by a network of its own if there is one server.
    fn connect(
        &mut self,
        kind: Kind,
        number: usize,
        network: &Runtime,
        runtime: &Runtime,
    ) -> Parts {
        let server = match &self.servers {
            Servers::One(server) => server,
            Servers::Sentinel(topology) => {
                let builder = RedisStore::builder(peppers()).sentinel("mymaster");
                return runtime.block_on(connect_any(builder, topology.sentinel_urls()));
            }
            Servers::Cluster(cluster) => {
                return runtime
                    .block_on(connect_any(RedisStore::builder(peppers()), cluster.urls()));
            }
        };
        let pooler = self.pooler.as_ref().filter(|_| number + 1 == NODES);
        let port = pooler.unwrap_or(server).port;
        let networks = network.block_on(async { (Proxy::new(port).await, Proxy::new(port).await) });
        let (to_store, to_source) = (url(kind, &networks.0), url(kind, &networks.1));
        let parts = runtime.block_on(async {
            match kind {
                Kind::Postgres => {
                    connect_to_postgres(&to_store, &to_source, pooler.is_some()).await
                }
                _ => connect_to_redis(&to_store, &to_source).await,
            }
        });
        self.networks.push(networks);
        parts
    }
}

fn url(kind: Kind, network: &Proxy) -> String {
    match kind {
        Kind::Postgres => format!("postgres://tests@127.0.0.1:{}/postgres", network.port),
        _ => format!("redis://127.0.0.1:{}", network.port),
    }
}

fn peppers() -> Peppers {
    Peppers::new(*b"a pepper of the tests, 32 bytes.")
}

async fn connect_to_postgres(to_store: &str, to_source: &str, is_pooled: bool) -> Parts {
    let builder = PostgresStore::builder(peppers()).schema("public");
    let builder = builder.transaction_pooling(is_pooled);
    let store = builder.connect(to_store).await.expect("connected");
    store.migrate().await.expect("migrated");
    // Behind a pooler it is fine without a schema: no client sets a search path here.
    let source = PostgresInvalidations::connect(to_source).await;
    Parts {
        store: Arc::new(store),
        source: Source::Postgres(source.expect("it listens")),
    }
}

async fn connect_to_redis(to_store: &str, to_source: &str) -> Parts {
    let store = RedisStore::connect(to_store, peppers()).await;
    let source = RedisInvalidations::connect(to_source).await;
    Parts {
        store: Arc::new(store.expect("connected")),
        source: Source::Redis(source.expect("it listens")),
    }
}

async fn connect_any(builder: RedisStoreBuilder, urls: Vec<String>) -> Parts {
    let store = builder.connect_any(urls).await.expect("connected");
    let source = store.invalidations().await;
    Parts {
        source: Source::Redis(source.expect("it listens")),
        store: Arc::new(store),
    }
}
