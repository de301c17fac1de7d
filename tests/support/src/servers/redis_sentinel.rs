//! Redis servers and the sentinels that watch them.

use super::{
    Server,
    redis::{Mode, field},
    wait_until,
};

/// The name of the primary in the sentinels.
const NAME: &str = "mymaster";

/// The number of sentinels that must agree that a primary is down.
const QUORUM: usize = 2;

/// Two servers, of which the first is the primary to begin with, and three sentinels, which know the
/// primary as `mymaster`.
pub struct RedisSentinel {
    servers: Vec<Server>,
    sentinels: Vec<Server>,
}

impl RedisSentinel {
    /// Starts all of them, and waits until they agree. Returns `None` if neither Redis nor Valkey is
    /// installed.
    pub fn new() -> Option<Self> {
        Self::with(&[], &[])
    }

    /// Starts all of them, with these settings of the servers and of the sentinels, such as
    /// `("sentinel", "auth-pass mymaster secret")`.
    pub fn with(servers: &[(&str, &str)], sentinels: &[(&str, &str)]) -> Option<Self> {
        let primary = Server::redis_with(servers, &[])?;
        let address = format!("127.0.0.1 {}", primary.port);
        let replica = [servers, &[("replicaof", &address)]].concat();
        let replica = Server::redis_with(&replica, &[])?;
        // A sentinel that finds no replica looks again ten seconds later.
        wait_until(
            || format!("the replica follows its primary: {}", replica.log()),
            || follows(&replica, &primary),
        );
        let monitor = format!("monitor {NAME} {address} {QUORUM}");
        let down_after = format!("down-after-milliseconds {NAME} 500");
        let failover_timeout = format!("failover-timeout {NAME} 3000");
        let settings = [&monitor, &down_after, &failover_timeout];
        let mut all: Vec<_> = settings.map(|value| ("sentinel", value.as_str())).into();
        all.extend(sentinels);
        let started: Option<Vec<_>> = (0..3)
            .map(|_| Server::redis_in(Mode::Sentinel, &all, &[]))
            .collect();
        let topology = Self {
            servers: vec![primary, replica],
            sentinels: started?,
        };
        topology.sentinels.iter().for_each(shorten_periods);
        topology.wait_until_settled();
        Some(topology)
    }

    /// Returns the URLs of the sentinels.
    pub fn sentinel_urls(&self) -> Vec<String> {
        self.sentinels.iter().map(Server::url).collect()
    }

    /// Returns one of the two servers.
    pub fn server(&self, index: usize) -> &Server {
        &self.servers[index]
    }

    pub fn server_mut(&mut self, index: usize) -> &mut Server {
        &mut self.servers[index]
    }

    /// Returns one of the three sentinels.
    pub fn sentinel(&self, index: usize) -> &Server {
        &self.sentinels[index]
    }

    pub fn sentinel_mut(&mut self, index: usize) -> &mut Server {
        &mut self.sentinels[index]
    }

    /// Returns the server that the first sentinel that runs names as the primary.
    pub fn primary(&self) -> usize {
        let mut sentinels = self.sentinels.iter().filter(|server| server.is_running());
        let sentinel = sentinels.next().expect("a sentinel runs");
        self.named_by(sentinel).expect("one of the two servers")
    }

    /// Kills the primary, and waits until the sentinels have made the other server the primary.
    /// Returns the killed one. What the replica has not received is lost;
    /// [`Server::wait_until_replicated_to`] waits for it. Within six seconds of another failover, twice `failover-timeout`, the
    /// sentinels wait for the rest of that time first.
    pub fn kill_primary(&mut self) -> usize {
        self.kill_and_wait(self.primary())
    }

    /// As [`kill_primary`](Self::kill_primary), of a primary that has confirmed nothing that its replica
    /// has not received.
    pub fn kill_replicated_primary(&mut self) -> usize {
        let primary = self.replicated_primary();
        self.kill_and_wait(primary)
    }

    /// Pauses a primary that has confirmed nothing that its replica has not received, and lets it go on
    /// when the replica has taken over. It answers as a primary until the sentinels tell it to follow the
    /// other, and accepts no change meanwhile.
    pub fn pause_replicated_primary(&self) {
        let primary = self.replicated_primary();
        self.servers[primary].refuse_changes();
        self.servers[primary].pause();
        self.wait_for_failover_of(primary);
        self.servers[primary].resume();
        self.servers[primary].accept_changes_as_replica();
        self.wait_until_settled();
    }

    /// Makes changes wait, and returns the primary when its replica has received those that were
    /// confirmed.
    fn replicated_primary(&self) -> usize {
        let primary = self.primary();
        self.servers[primary].hold_changes();
        self.servers[primary].wait_until_replicated_to(&self.servers[1 - primary]);
        primary
    }

    fn kill_and_wait(&mut self, primary: usize) -> usize {
        self.servers[primary].kill();
        self.wait_for_failover_of(primary);
        primary
    }

    /// Waits until a primary that was killed or paused has been replaced, and the sentinels agree.
    pub fn wait_for_failover_of(&self, primary: usize) {
        wait_until(
            || format!("server {primary} is replaced: {}", self.describe()),
            || self.primary() != primary && self.is_settled(),
        );
    }

    /// Starts a server again after it was killed, and waits until it follows the primary.
    pub fn restart(&mut self, index: usize) {
        self.servers[index].start();
        self.wait_until_settled();
    }

    /// Starts a sentinel again after it was killed, and waits until it agrees with the others.
    pub fn restart_sentinel(&mut self, index: usize) {
        self.sentinels[index].start();
        shorten_periods(&self.sentinels[index]);
        self.wait_until_settled();
    }

    /// Waits until the sentinels that run agree, and a replica that runs follows the primary.
    pub fn wait_until_settled(&self) {
        wait_until(
            || format!("the sentinels agree: {}", self.describe()),
            || self.is_settled(),
        );
    }

    fn named_by(&self, sentinel: &Server) -> Option<usize> {
        let address = sentinel.redis_cli(&["SENTINEL", "GET-MASTER-ADDR-BY-NAME", NAME]);
        let port = address.lines().nth(1)?.parse::<u16>().ok()?;
        self.servers.iter().position(|server| server.port == port)
    }

    fn is_settled(&self) -> bool {
        let primary = self.primary();
        let (primary, replica) = (&self.servers[primary], &self.servers[1 - primary]);
        primary.is_running()
            && role(primary).as_deref() == Some("master")
            && (!replica.is_running() || follows(replica, primary))
            && self
                .sentinels
                .iter()
                .all(|sentinel| !sentinel.is_running() || self.agrees(sentinel, primary, replica))
    }

    /// Answers `true` if the sentinel names this primary, knows the others, and sees both servers as
    /// they are.
    fn agrees(&self, sentinel: &Server, primary: &Server, replica: &Server) -> bool {
        let named = self.named_by(sentinel);
        let seen = sentinel.redis_cli(&["SENTINEL", "MASTER", NAME]);
        let others = (self.sentinels.len() - 1).to_string();
        let replicas = sentinel.redis_cli(&["SENTINEL", "REPLICAS", NAME]);
        named.is_some_and(|named| self.servers[named].port == primary.port)
            && value(&seen, "flags") == Some("master")
            && value(&seen, "num-other-sentinels") == Some(&others)
            && value(&replicas, "port") == Some(&replica.port.to_string())
            && (!replica.is_running()
                || value(&replicas, "flags") == Some("slave")
                    && value(&replicas, "master-link-status") == Some("ok"))
    }

    fn describe(&self) -> String {
        let running = self.sentinels.iter().filter(|server| server.is_running());
        let logs = running.map(|sentinel| format!("\n{}:\n{}", sentinel.url(), sentinel.log()));
        logs.collect()
    }
}

/// Makes a sentinel ask the servers and tell the other sentinels five times a second. By default it
/// does so every ten seconds and every two. It forgets this when it ends.
fn shorten_periods(sentinel: &Server) {
    let periods = ["info-period", "200", "publish-period", "200"];
    let answer = sentinel.redis_cli(&[["SENTINEL", "DEBUG"].as_slice(), &periods].concat());
    assert_eq!(answer, "OK");
}

fn role(server: &Server) -> Option<String> {
    let info = server.redis_cli(&["INFO", "replication"]);
    field(&info, "role").map(str::to_owned)
}

fn follows(replica: &Server, primary: &Server) -> bool {
    let info = replica.redis_cli(&["INFO", "replication"]);
    field(&info, "master_port") == Some(&primary.port.to_string())
        && field(&info, "master_link_status") == Some("up")
}

/// Returns a value of an answer in which lines with names and values alternate.
fn value<'a>(answer: &'a str, name: &str) -> Option<&'a str> {
    let mut names = answer
        .lines()
        .step_by(2)
        .zip(answer.lines().skip(1).step_by(2));
    names.find_map(|(field, value)| (field == name).then_some(value))
}
