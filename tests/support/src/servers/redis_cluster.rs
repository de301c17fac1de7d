//! A Redis Cluster of processes on this machine.

use std::thread;

use super::{Server, free_port, redis::field, wait_until};
use crate::certificates::Certificates;

const SLOTS: usize = 16_384;

/// A Redis Cluster, whose nodes keep their numbers: first the primaries that it begins with, then
/// their replicas, in the order of the primaries.
pub struct RedisCluster {
    nodes: Vec<Server>,
    ids: Vec<String>,
}

/// A node, as another node sees it.
#[derive(Debug, PartialEq, Eq)]
struct SeenNode {
    index: usize,
    /// The id of a replica's primary.
    primary: Option<String>,
    /// `5` or `0-5460`.
    slots: Vec<String>,
    /// A node that does not run counts as up, as others notice it at different times.
    is_up: bool,
}

impl RedisCluster {
    /// Starts a cluster, and waits until all its nodes agree. Returns `None` if neither Redis nor
    /// Valkey is installed.
    pub fn new(primaries: usize, replicas_each: usize) -> Option<Self> {
        Self::with(primaries, replicas_each, &[], &[])
    }

    /// Starts a cluster with these settings and files, as [`Server::redis_with`] takes them.
    pub fn with(
        primaries: usize,
        replicas_each: usize,
        settings: &[(&str, &str)],
        files: &[(&str, &str)],
    ) -> Option<Self> {
        Self::start(primaries, replicas_each, |cluster| {
            Server::redis_with(&[cluster, settings].concat(), files)
        })
    }

    /// Starts a cluster with TLS alone, between its nodes too. Clients find the nodes by addresses,
    /// which the certificate must name: `DNS:localhost,IP:127.0.0.1`.
    pub fn tls(
        primaries: usize,
        replicas_each: usize,
        certificates: &Certificates,
    ) -> Option<Self> {
        let tls = [("tls-cluster", "yes"), ("tls-replication", "yes")];
        Self::start(primaries, replicas_each, |cluster| {
            Server::redis_tls(certificates, false, &[cluster, &tls].concat())
        })
    }

    fn start(
        primaries: usize,
        replicas_each: usize,
        start_node: impl Fn(&[(&str, &str)]) -> Option<Server> + Sync,
    ) -> Option<Self> {
        let count = primaries * (1 + replicas_each);
        // The default, 10000 above the port of the clients, may be taken.
        let bus_ports: Vec<String> = (0..count).map(|_| free_port().to_string()).collect();
        let start_node = &start_node;
        let nodes: Option<Vec<Server>> = thread::scope(|scope| {
            let start = |bus_port: &'_ str| {
                start_node(&[
                    ("cluster-enabled", "yes"),
                    ("cluster-port", bus_port),
                    ("cluster-node-timeout", "1000"),
                    // A replica takes over however long its primary has been away.
                    ("cluster-replica-validity-factor", "0"),
                ])
            };
            let starts: Vec<_> = bus_ports
                .iter()
                .map(|bus_port| scope.spawn(move || start(bus_port)))
                .collect();
            let nodes = starts.into_iter();
            nodes.map(|node| node.join().expect("started")).collect()
        });
        let nodes = nodes?;
        let ids = nodes
            .iter()
            .map(|node| node.redis_cli(&["CLUSTER", "MYID"]));
        let cluster = Self {
            ids: ids.collect(),
            nodes,
        };
        cluster.meet(&bus_ports);
        cluster.assign(primaries);
        wait_until(
            || format!("{count} nodes in agreement: {}", cluster.describe()),
            || cluster.is_settled() && cluster.primaries().len() == primaries,
        );
        Some(cluster)
    }

    /// Makes all nodes known to each other.
    fn meet(&self, bus_ports: &[String]) {
        for (i, node) in self.nodes.iter().enumerate() {
            // Nodes with the same epoch would have to resolve the conflict first.
            ok(node, &["CLUSTER", "SET-CONFIG-EPOCH", &(i + 1).to_string()]);
            for (other, bus_port) in self.nodes[..i].iter().zip(bus_ports) {
                let port = other.port.to_string();
                ok(node, &["CLUSTER", "MEET", "127.0.0.1", &port, bus_port]);
            }
        }
        wait_until(
            || format!("all nodes know each other: {}", self.describe()),
            || (0..self.nodes.len()).all(|i| self.seen_by(i).len() == self.nodes.len()),
        );
    }

    /// Spreads the slots, and gives each primary its replicas.
    fn assign(&self, primaries: usize) {
        for (i, node) in self.nodes.iter().enumerate() {
            if i < primaries {
                let first = (SLOTS * i / primaries).to_string();
                let last = (SLOTS * (i + 1) / primaries - 1).to_string();
                ok(node, &["CLUSTER", "ADDSLOTSRANGE", &first, &last]);
            } else {
                let primary = &self.ids[i % primaries];
                ok(node, &["CLUSTER", "REPLICATE", primary]);
            }
        }
    }

    /// Returns the URLs of all nodes.
    pub fn urls(&self) -> Vec<String> {
        self.nodes.iter().map(Server::url).collect()
    }

    pub fn node(&self, index: usize) -> &Server {
        &self.nodes[index]
    }

    pub fn node_mut(&mut self, index: usize) -> &mut Server {
        &mut self.nodes[index]
    }

    /// Returns the nodes that have slots, as the first node that runs sees them.
    pub fn primaries(&self) -> Vec<usize> {
        let seen = self.seen();
        let primaries = seen.iter().filter(|node| !node.slots.is_empty());
        primaries.map(|node| node.index).collect()
    }

    /// Returns the replicas of a primary, as the first node that runs sees them.
    pub fn replicas_of(&self, primary: usize) -> Vec<usize> {
        let id = Some(&self.ids[primary]);
        let seen = self.seen();
        let replicas = seen.iter().filter(|node| node.primary.as_ref() == id);
        replicas.map(|node| node.index).collect()
    }

    /// Returns the slot of a key.
    pub fn slot_of(&self, key: &str) -> u16 {
        let slot = self.running_node().redis_cli(&["CLUSTER", "KEYSLOT", key]);
        slot.parse().expect("a slot")
    }

    /// Returns the node that has a slot, as the first node that runs sees it.
    pub fn owner_of(&self, slot: u16) -> usize {
        let seen = self.seen();
        let owner = seen.iter().find(|node| {
            node.slots.iter().any(|range| {
                let (first, last) = range.split_once('-').unwrap_or((range, range));
                let [first, last] = [first, last].map(|slot| slot.parse::<u16>().expect("a slot"));
                (first..=last).contains(&slot)
            })
        });
        owner.expect("all slots have an owner").index
    }

    /// Kills the first primary, and waits until its replica has taken over. Returns the killed node.
    /// What the replica has not received is lost; [`Server::wait_until_replicated_to`] waits for it.
    pub fn kill_primary(&mut self) -> usize {
        self.kill_and_wait(self.primaries()[0])
    }

    /// As [`kill_primary`](Self::kill_primary), of a primary that has confirmed nothing that its replicas
    /// have not received.
    pub fn kill_replicated_primary(&mut self) -> usize {
        let primary = self.replicated_primary();
        self.kill_and_wait(primary)
    }

    /// Pauses the first primary, which has confirmed nothing that its replica has not received, and lets
    /// it go on when the replica has taken over. It answers as a primary until the other nodes tell it to
    /// follow the other, and accepts no change meanwhile.
    pub fn pause_replicated_primary(&self) {
        let primary = self.replicated_primary();
        self.nodes[primary].refuse_changes();
        self.nodes[primary].pause();
        self.wait_for_failover_of(primary);
        self.nodes[primary].resume();
        self.nodes[primary].accept_changes_as_replica();
        self.wait_until_settled();
    }

    /// Makes changes wait, and returns the first primary when its replicas have received those that were
    /// confirmed.
    fn replicated_primary(&self) -> usize {
        let primary = self.primaries()[0];
        self.nodes[primary].hold_changes();
        for replica in self.replicas_of(primary) {
            self.nodes[primary].wait_until_replicated_to(&self.nodes[replica]);
        }
        primary
    }

    fn kill_and_wait(&mut self, primary: usize) -> usize {
        self.nodes[primary].kill();
        self.wait_for_failover_of(primary);
        primary
    }

    /// Waits until a primary that was killed or paused has been replaced, and the others agree.
    pub fn wait_for_failover_of(&self, primary: usize) {
        wait_until(
            || format!("node {primary} is replaced: {}", self.describe()),
            || !self.primaries().contains(&primary) && self.is_settled(),
        );
    }

    /// Starts a node again after it was killed, and waits until all nodes agree.
    pub fn restart(&mut self, index: usize) {
        self.nodes[index].start();
        self.wait_until_settled();
    }

    /// Waits until all nodes that run agree, and all their replicas follow their primaries.
    pub fn wait_until_settled(&self) {
        wait_until(
            || format!("the nodes agree: {}", self.describe()),
            || self.is_settled(),
        );
    }

    /// Moves a slot with its keys to another primary, and waits until all nodes agree.
    pub fn move_slot(&self, slot: u16, to: usize) {
        self.begin_move(slot, to);
        self.finish_move(slot, to);
    }

    /// Begins to move a slot. Its owner answers for the keys that it still has, and for all others
    /// refers clients to the new owner, with `ASK`.
    pub fn begin_move(&self, slot: u16, to: usize) {
        let (from, slot) = (self.owner_of(slot), slot.to_string());
        let state = |state, other: usize| ["CLUSTER", "SETSLOT", &slot, state, &self.ids[other]];
        ok(&self.nodes[to], &state("IMPORTING", from));
        ok(&self.nodes[from], &state("MIGRATING", to));
    }

    /// Moves the keys of a slot after [`begin_move`](Self::begin_move), while the slot stays.
    pub fn move_keys(&self, slot: u16, to: usize) {
        let from = &self.nodes[self.owner_of(slot)];
        let (slot, port) = (slot.to_string(), self.nodes[to].port.to_string());
        loop {
            let keys = from.redis_cli(&["CLUSTER", "GETKEYSINSLOT", &slot, "100"]);
            if keys.is_empty() {
                return;
            }
            let mut command = vec!["MIGRATE", "127.0.0.1", &port, "", "0", "5000"];
            command.extend(from.redis_authentication());
            command.push("KEYS");
            command.extend(keys.lines());
            ok(from, &command);
        }
    }

    /// Moves the keys that are left, gives the slot to its new owner, and waits until all nodes agree.
    pub fn finish_move(&self, slot: u16, to: usize) {
        self.move_keys(slot, to);
        let from = self.owner_of(slot);
        let slot = slot.to_string();
        // The new owner first: otherwise the slot has none for a moment.
        let others = self.primaries().into_iter();
        let others = others.filter(|&index| index != to && index != from);
        for index in [to, from].into_iter().chain(others) {
            let command = ["CLUSTER", "SETSLOT", &slot, "NODE", &self.ids[to]];
            ok(&self.nodes[index], &command);
        }
        self.wait_until_settled();
    }

    fn running(&self) -> impl Iterator<Item = usize> {
        (0..self.nodes.len()).filter(|&index| self.nodes[index].is_running())
    }

    fn running_node(&self) -> &Server {
        &self.nodes[self.running().next().expect("a node runs")]
    }

    fn seen(&self) -> Vec<SeenNode> {
        self.seen_by(self.running().next().expect("a node runs"))
    }

    /// Returns the nodes that one of them knows, without those that it is still getting to know.
    fn seen_by(&self, index: usize) -> Vec<SeenNode> {
        let answer = self.nodes[index].redis_cli(&["CLUSTER", "NODES"]);
        let mut seen: Vec<_> = answer.lines().filter_map(|line| self.parse(line)).collect();
        seen.sort_by_key(|node| node.index);
        seen
    }

    /// Reads a line of `CLUSTER NODES`: id, address, flags, primary, three numbers, the state of the
    /// link, slots.
    fn parse(&self, line: &str) -> Option<SeenNode> {
        let mut words = line.split(' ');
        let id = words.next()?;
        let index = self.ids.iter().position(|known| known == id)?;
        let flags: Vec<_> = words.nth(1)?.split(',').collect();
        let primary = words.next()?;
        let link = words.nth(3)?;
        let is_up = link == "connected" && !flags.iter().any(|flag| flag.starts_with("fail"));
        // A slot on its way stands in brackets.
        let slots = words.filter(|slots| !slots.starts_with('['));
        (!flags.contains(&"handshake")).then(|| SeenNode {
            index,
            primary: (primary != "-").then(|| primary.to_owned()),
            slots: slots.map(str::to_owned).collect(),
            is_up: is_up || !self.nodes[index].is_running(),
        })
    }

    fn is_settled(&self) -> bool {
        let seen = self.seen();
        seen.iter().all(|node| node.is_up)
            && self.running().all(|index| {
                let node = &self.nodes[index];
                let cluster = node.redis_cli(&["CLUSTER", "INFO"]);
                let replication = node.redis_cli(&["INFO", "replication"]);
                let link = field(&replication, "master_link_status");
                field(&cluster, "cluster_state") == Some("ok")
                    && link.is_none_or(|link| link == "up")
                    && self.seen_by(index) == seen
            })
    }

    fn describe(&self) -> String {
        let nodes = self.running().map(|index| {
            let seen = self.nodes[index].redis_cli(&["CLUSTER", "NODES"]);
            format!("\nnode {index} sees\n{seen}")
        });
        nodes.collect()
    }
}

fn ok(node: &Server, command: &[&str]) {
    assert_eq!(node.redis_cli(command), "OK", "{command:?}");
}
