//! Three nodes that share one server: each has its own threads, its own connections, and its
//! own network. One of those on PostgreSQL is behind a pooler in transaction mode.

use std::{sync::Arc, time::Duration};

use customer_session::{
    CustomerSessions, SessionRegistry,
    store::{Peppers, PostgresInvalidations, PostgresStore, RedisInvalidations, RedisStore},
};
use tokio::runtime::{Builder, Runtime};

use super::{
    load::Node,
    store::{Defect, NodeStore},
};
use crate::rng::Rng;
use test_support::{
    Wrapped,
    proxy::Proxy,
    servers::{self, Server},
};

pub(crate) const NODES: usize = 3;
pub(crate) const CACHE_TTL: Duration = Duration::from_secs(2);
pub(crate) const STALE_IF_ERROR: Duration = Duration::from_secs(1);
pub(crate) const STORE_TIMEOUT: Duration = Duration::from_millis(250);

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Kind {
    Postgres,
    Redis,
}

/// The parts of a cluster in which the nemesis injects faults.
pub(crate) struct Cluster {
    pub(crate) server: Server,
    /// Between the last node and PostgreSQL. It ends after the runtimes.
    pooler: Option<Server>,
    /// The networks of each node: to its store, and to the source of its invalidations.
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

/// Starts a server and its nodes. Returns `None`, and says so, if the server is not installed.
pub(crate) fn start(
    kind: Kind,
    defect: Defect,
    rng: &Rng,
) -> Option<(Cluster, Vec<Node>, Runtimes)> {
    let server = match kind {
        Kind::Postgres => Server::postgres(),
        Kind::Redis => Server::redis(),
    };
    let Some(server) = server else {
        servers::missing(&format!("{kind:?}"));
        return None;
    };
    let pooler = match kind {
        Kind::Postgres => {
            // By default it waits for 15 seconds before it tries a server again that was down.
            let settings = [("pool_mode", "transaction"), ("server_login_retry", "0.1")];
            let pooler = Server::pgbouncer(&server, &settings);
            if pooler.is_none() {
                servers::missing("PgBouncer");
                return None;
            }
            pooler
        }
        Kind::Redis => None,
    };
    let network = runtime("network".to_owned());
    let mut cluster = Cluster {
        networks: Vec::new(),
        stores: Vec::new(),
        server,
        pooler,
    };
    let (mut nodes, mut runtimes) = (Vec::new(), Vec::new());
    for number in 0..NODES {
        let pooler = cluster.pooler.as_ref().filter(|_| number + 1 == NODES);
        let is_pooled = pooler.is_some();
        let port = pooler.unwrap_or(&cluster.server).port;
        let networks = network.block_on(async { (Proxy::new(port).await, Proxy::new(port).await) });
        let (to_store, to_source) = (url(kind, &networks.0), url(kind, &networks.1));
        let runtime = runtime(format!("node {number}"));
        let (store, sessions) = runtime.block_on(async {
            let store = Arc::new(Wrapped(NodeStore::new(
                connect(kind, &to_store, is_pooled).await,
                defect,
                Rng::new(rng.below(u64::MAX)),
            )));
            let sessions = CustomerSessions::builder(Arc::clone(&store))
                .cache_ttl(CACHE_TTL)
                .stale_if_error(STALE_IF_ERROR)
                .store_timeout(STORE_TIMEOUT)
                .build();
            if defect != Defect::NotListening {
                listen(kind, &to_source, &sessions).await;
            }
            (store, sessions)
        });
        nodes.push(Node {
            number,
            sessions,
            runtime: runtime.handle().clone(),
            defect,
        });
        cluster.networks.push(networks);
        cluster.stores.push(store);
        runtimes.push(runtime);
    }
    runtimes.push(network);
    Some((cluster, nodes, Runtimes(runtimes)))
}

fn url(kind: Kind, network: &Proxy) -> String {
    match kind {
        Kind::Postgres => format!("postgres://tests@127.0.0.1:{}/postgres", network.port),
        Kind::Redis => format!("redis://127.0.0.1:{}", network.port),
    }
}

async fn connect(kind: Kind, url: &str, is_pooled: bool) -> Arc<dyn SessionRegistry> {
    let peppers = Peppers::new(*b"a pepper of the tests, 32 bytes.");
    match kind {
        Kind::Postgres => {
            let builder = PostgresStore::builder(peppers).schema("public");
            let builder = builder.transaction_pooling(is_pooled);
            let store = builder.connect(url).await.expect("connected");
            store.migrate().await.expect("migrated");
            Arc::new(store)
        }
        Kind::Redis => {
            let store = RedisStore::connect(url, peppers).await;
            Arc::new(store.expect("connected"))
        }
    }
}

async fn listen(kind: Kind, url: &str, sessions: &CustomerSessions<Arc<Wrapped<NodeStore>>>) {
    match kind {
        Kind::Postgres => {
            // Behind a pooler it is fine without a schema: nobody sets a search path here.
            let source = PostgresInvalidations::connect(url).await;
            tokio::spawn(sessions.listen(source.expect("it listens")));
        }
        Kind::Redis => {
            let source = RedisInvalidations::connect(url).await;
            tokio::spawn(sessions.listen(source.expect("it listens")));
        }
    }
}
