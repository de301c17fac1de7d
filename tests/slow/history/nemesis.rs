//! Injects one fault after the other, and removes it again.

use std::{sync::atomic::Ordering::Relaxed, thread, time::Duration};

use super::{
    cluster::{Cluster, Servers},
    load::World,
    record::Span,
};
use test_support::rng::Rng;
use test_support::servers::Server;

/// A fault of the server, of one node, or of the stores.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) enum Fault {
    /// The server's processes are killed, and started again a moment later.
    ServerKilled,
    /// The server is paused.
    ServerPaused,
    /// A primary that its replica keeps up with is killed, and started again as a replica.
    PrimaryKilled,
    /// A primary is paused until its replica has taken over. It goes on as a primary that answers, and
    /// accepts no change, until it hears that it is one no more.
    PrimaryPaused,
    /// All servers close all connections.
    ConnectionsClosed,
    /// All connections of one node are cut.
    NodeCut,
    /// The connection of a node's source is cut, and no new one is let through.
    InvalidationsCut,
    /// Nothing passes through a node's connections, nor through new ones.
    NodeFrozen,
    /// Nothing passes through the connection of a node's source, which stays open.
    InvalidationsFrozen,
    /// A node's connections are cut, and new ones refused.
    NodeRefused,
    /// A node's connections are slow.
    NodeSlow,
    /// The stores panic.
    StorePanics,
}

impl Fault {
    pub(crate) const OF_ONE_SERVER: &[Self] = &[
        Self::ServerKilled,
        Self::ServerPaused,
        Self::NodeCut,
        Self::InvalidationsCut,
        Self::NodeFrozen,
        Self::InvalidationsFrozen,
        Self::NodeRefused,
        Self::NodeSlow,
        Self::StorePanics,
    ];

    pub(crate) const OF_REPLICAS: &[Self] = &[
        Self::PrimaryKilled,
        Self::PrimaryPaused,
        Self::ConnectionsClosed,
    ];
}

/// The time after a fault in which its effects may still be felt.
const RECOVERY: Duration = Duration::from_millis(1500);

/// The time without faults before each fault.
const QUIET: Duration = Duration::from_millis(1500);

/// Injects the faults in random order, again and again, until `until`, and each at least once. Returns
/// each fault with the time in which it may have been felt.
pub(crate) fn inject_faults(
    cluster: &mut Cluster,
    world: &World,
    faults: &[Fault],
    rng: &Rng,
    until: Duration,
) -> Vec<(Fault, Span)> {
    let mut felt = Vec::new();
    let mut remaining = Vec::new();
    let cycle = QUIET + RECOVERY + Duration::from_secs(1);
    while felt.len() < faults.len() || !faults.is_empty() && world.now() + cycle < until {
        thread::sleep(QUIET);
        if remaining.is_empty() {
            remaining.extend_from_slice(faults);
        }
        let fault = remaining.swap_remove(rng.below(remaining.len() as u64) as usize);
        let start = world.now();
        let length = Duration::from_millis(400 + rng.below(800));
        inject(cluster, fault, length, rng);
        let end = world.now() + RECOVERY;
        felt.push((fault, Span { start, end }));
        thread::sleep(RECOVERY);
    }
    thread::sleep(until.saturating_sub(world.now()));
    felt
}

fn inject(cluster: &mut Cluster, fault: Fault, length: Duration, rng: &Rng) {
    match fault {
        Fault::ServerKilled
        | Fault::ServerPaused
        | Fault::PrimaryKilled
        | Fault::PrimaryPaused
        | Fault::ConnectionsClosed => {
            disturb(&mut cluster.servers, fault, length);
        }
        Fault::StorePanics => {
            for store in &cluster.stores {
                store.panics.store(true, Relaxed);
            }
            thread::sleep(length);
            for store in &cluster.stores {
                store.panics.store(false, Relaxed);
            }
        }
        _ => disturb_network(cluster, fault, length, rng),
    }
}

fn disturb(servers: &mut Servers, fault: Fault, length: Duration) {
    match (servers, fault) {
        (Servers::One(server), Fault::ServerKilled) => {
            server.kill();
            thread::sleep(length);
            server.start();
        }
        (Servers::One(server), Fault::ServerPaused) => {
            server.pause();
            thread::sleep(length);
            server.resume();
        }
        (Servers::Sentinel(topology), Fault::PrimaryKilled) => {
            let killed = topology.kill_replicated_primary();
            topology.restart(killed);
        }
        (Servers::Cluster(cluster), Fault::PrimaryKilled) => {
            let killed = cluster.kill_replicated_primary();
            cluster.restart(killed);
        }
        (Servers::Sentinel(topology), Fault::PrimaryPaused) => topology.pause_replicated_primary(),
        (Servers::Cluster(cluster), Fault::PrimaryPaused) => cluster.pause_replicated_primary(),
        (Servers::Sentinel(topology), Fault::ConnectionsClosed) => {
            (0..2).for_each(|index| close_connections(topology.server(index)));
        }
        (Servers::Cluster(cluster), Fault::ConnectionsClosed) => {
            let count = cluster.urls().len();
            (0..count).for_each(|index| close_connections(cluster.node(index)));
        }
        (_, fault) => panic!("{fault:?} is for other servers"),
    }
}

/// Closes the connections of the nodes. Sentinels that lose theirs may name another primary, which need
/// not have received every change.
fn close_connections(server: &Server) {
    for kind in ["normal", "pubsub"] {
        let clients = server.redis_cli(&["CLIENT", "LIST", "TYPE", kind]);
        for client in clients.lines() {
            let field = |name| client.split(' ').find_map(|field| field.strip_prefix(name));
            let is_sentinel = field("name=").is_some_and(|name| name.starts_with("sentinel-"));
            if let Some(id) = field("id=").filter(|_| !is_sentinel) {
                server.redis_cli(&["CLIENT", "KILL", "ID", id]);
            }
        }
    }
}

fn disturb_network(cluster: &Cluster, fault: Fault, length: Duration, rng: &Rng) {
    let (store, source) = &cluster.networks[rng.below(cluster.networks.len() as u64) as usize];
    let both = [store, source];
    match fault {
        Fault::NodeCut => both.into_iter().for_each(|network| network.cut()),
        Fault::InvalidationsCut => {
            source.refuse(true);
            source.cut();
            thread::sleep(length);
            source.refuse(false);
        }
        Fault::NodeFrozen => {
            both.into_iter().for_each(|network| network.pause(true));
            thread::sleep(length);
            both.into_iter().for_each(|network| network.pause(false));
        }
        Fault::InvalidationsFrozen => {
            source.freeze();
            // In some cases long enough for the node to notice.
            thread::sleep(length * (1 + 2 * rng.below(2) as u32));
            source.cut();
        }
        Fault::NodeRefused => {
            for network in both {
                network.refuse(true);
                network.cut();
            }
            thread::sleep(length);
            both.into_iter().for_each(|network| network.refuse(false));
        }
        Fault::NodeSlow => {
            // From hardly noticeable to longer than the timeout.
            let delay = Duration::from_millis(10 + rng.below(200));
            store.delay(delay);
            thread::sleep(length);
            store.delay(Duration::ZERO);
        }
        fault => panic!("{fault:?} is not one of the network"),
    }
}
