//! Injects one fault after the other, and removes it again.

use std::{sync::atomic::Ordering::Relaxed, thread, time::Duration};

use super::{cluster::Cluster, load::World, record::Span};
use crate::rng::Rng;

/// A fault of the server, of one node, or of the stores.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) enum Fault {
    /// The server's processes are killed, and started again a moment later.
    ServerKilled,
    /// The server is paused.
    ServerPaused,
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
    pub(crate) const ALL: &[Self] = &[
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
}

/// The time after a fault in which its effects may still be felt.
const RECOVERY: Duration = Duration::from_millis(1500);

/// The time without faults before each fault.
const QUIET: Duration = Duration::from_millis(1500);

/// Injects the faults in random order, again and again, until `until`. Returns each fault with
/// the time in which it may have been felt.
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
    while !faults.is_empty() && world.now() + cycle < until {
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
    let (store, source) = &cluster.networks[rng.below(cluster.networks.len() as u64) as usize];
    let both = [store, source];
    match fault {
        Fault::ServerKilled => {
            cluster.server.kill();
            thread::sleep(length);
            cluster.server.start();
        }
        Fault::ServerPaused => {
            cluster.server.pause();
            thread::sleep(length);
            cluster.server.resume();
        }
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
        Fault::StorePanics => {
            for store in &cluster.stores {
                store.panics.store(true, Relaxed);
            }
            thread::sleep(length);
            for store in &cluster.stores {
                store.panics.store(false, Relaxed);
            }
        }
    }
}
