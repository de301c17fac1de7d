//! Three nodes on a stand-in for Polar whose replica lags, which fails, limits calls, and sends each
//! webhook to one of the nodes; with customers of this organization and of another. Every operation is
//! recorded, and the history is searched for wrong answers.
//!
//! `HISTORY_SECONDS` (60) and `HISTORY_SEED` (from the clock, printed) may be set.

use std::{
    collections::BTreeMap,
    convert::Infallible,
    sync::{
        Arc, Mutex,
        atomic::{AtomicBool, AtomicU32, Ordering::SeqCst},
    },
    time::{Duration, Instant},
};

use chrono::{TimeDelta, Utc};
use customer_session::{
    AuthenticateError, CustomerSessions, Invalidation, InvalidationSource, MetadataValue,
    SessionToken, SourceEvent, async_trait,
    polar::{PolarStore, WebhookService, Webhooks},
};
use http::{HeaderMap, HeaderName, HeaderValue};
use serde_json::{Value, json};
use test_support::{
    polar::{CUSTOMERS, FakePolar, Fault, OUR_TOKEN, sign},
    proxy::Proxy,
    rng::{Rng, env, seed},
};
use tokio::{
    runtime::Builder,
    sync::broadcast,
    task::JoinSet,
    time::{MissedTickBehavior, interval, sleep},
};

use crate::history::{
    checker::{Findings, Promise, check},
    record::{Answer, Event, What},
};

const SECRET: &str = "whsec_0123456789abcdef0123456789abcdef";

const NODES: usize = 3;

/// The changes at Polar itself are recorded as made by one more node, to which no request goes.
const POLAR: usize = NODES;

/// So long that what keeps the promises is the webhooks.
const CACHE_TTL: Duration = Duration::from_secs(300);

const STORE_TIMEOUT: Duration = Duration::from_secs(1);

const MAX_LAG: Duration = Duration::from_millis(1200);

/// The time after an acknowledged webhook within which every node has applied it.
const ANNOUNCING: Duration = Duration::from_millis(250);

/// The time for which an outdated answer of the replica is used, with some slack.
const OUTDATED: Duration = Duration::from_millis(1500);

/// The customers of another organization, each with a session.
const FOREIGN: u64 = 40;

struct Node {
    sessions: CustomerSessions<PolarStore>,
    webhooks: WebhookService,
    network: Proxy,
}

/// A session that Polar has issued.
struct Known {
    number: u32,
    customer: u32,
    id: String,
    token: SessionToken,
    is_foreign: bool,
}

struct World {
    polar: FakePolar,
    nodes: Vec<Node>,
    rng: Rng,
    begun: Instant,
    is_over: AtomicBool,
    next: AtomicU32,
    /// Requests of another organization's customers that were refused.
    foreign_refused: AtomicU32,
    /// Guards the sessions that are requested: live, ended and foreign ones.
    known: Mutex<Vec<Arc<Known>>>,
    /// Guards the recorded operations.
    history: Mutex<Vec<Event>>,
}

/// The invalidations that the nodes announce to each other.
struct Bus(broadcast::Receiver<Invalidation>);

#[async_trait]
impl InvalidationSource for Bus {
    async fn recv(&mut self) -> Option<SourceEvent> {
        match self.0.recv().await {
            Ok(invalidation) => Some(invalidation.into()),
            Err(broadcast::error::RecvError::Lagged(_)) => Some(Invalidation::All.into()),
            Err(broadcast::error::RecvError::Closed) => None,
        }
    }
}

/// Starts a node. One with a defect does not hear of what others announce.
async fn node(polar: &FakePolar, bus: &broadcast::Sender<Invalidation>, is_deaf: bool) -> Node {
    let network = Proxy::new(polar.address.port()).await;
    let store = PolarStore::builder(OUR_TOKEN)
        .base_url(format!("http://127.0.0.1:{}", network.port))
        // Customers sign up far faster here than strangers may be asked for.
        .foreign_customer_calls_per_minute(100_000)
        .timeout(STORE_TIMEOUT / 2)
        .build()
        .expect("a store");
    let sessions = CustomerSessions::builder(store)
        .cache_ttl(CACHE_TTL)
        .store_timeout(STORE_TIMEOUT)
        .build();
    let sender = bus.clone();
    let (webhooks, invalidations) = Webhooks::new(SECRET)
        .expect("a secret")
        .announce_with(move |invalidation| {
            let sender = sender.clone();
            async move {
                // It fails if no node listens.
                let _ = sender.send(invalidation);
                Ok::<_, Infallible>(())
            }
        })
        .service();
    tokio::spawn(sessions.listen(invalidations));
    if !is_deaf {
        tokio::spawn(sessions.listen(Bus(bus.subscribe())));
    }
    Node {
        sessions,
        webhooks,
        network,
    }
}

impl World {
    async fn new(rng: Rng, is_deaf: bool) -> Self {
        let polar = FakePolar::start().await;
        let (bus, _) = broadcast::channel(10_000);
        let mut nodes = Vec::new();
        for _ in 0..NODES {
            nodes.push(node(&polar, &bus, is_deaf).await);
        }
        Self {
            polar,
            nodes,
            rng,
            begun: Instant::now(),
            is_over: AtomicBool::new(false),
            next: AtomicU32::new(0),
            foreign_refused: AtomicU32::new(0),
            known: Mutex::default(),
            history: Mutex::default(),
        }
    }

    fn now(&self) -> Duration {
        self.begun.elapsed()
    }

    fn is_over(&self) -> bool {
        self.is_over.load(SeqCst)
    }

    fn number(&self) -> u32 {
        self.next.fetch_add(1, SeqCst)
    }

    fn note(&self, node: usize, start: Duration, end: Duration, what: What) {
        let event = Event {
            node,
            start,
            end,
            what,
        };
        self.history.lock().expect("no panic").push(event);
    }

    fn any_known(&self) -> Arc<Known> {
        let known = self.known.lock().expect("no panic");
        // The newest are requested most.
        let recent = (known.len() as u64).min(60);
        let back = match self.rng.below(3) {
            0 => self.rng.below(known.len() as u64),
            _ => self.rng.below(recent),
        };
        Arc::clone(&known[known.len() - 1 - back as usize])
    }

    fn any_node(&self) -> usize {
        self.rng.below(NODES as u64) as usize
    }

    async fn authenticate(&self, node: usize, known: &Known) {
        let start = self.now();
        let answer = match self.nodes[node].sessions.authenticate(&known.token).await {
            Ok(session) if session.customer_id.as_str() != known.id => Answer::Mistaken,
            // Another organization's customer must never be let in.
            Ok(_) if known.is_foreign => Answer::Mistaken,
            Ok(session) => Answer::LetIn {
                version: match session.customer.metadata.get("version") {
                    Some(MetadataValue::Integer(version)) => {
                        i64::try_from(*version).expect("small")
                    }
                    _ => 0,
                },
            },
            Err(AuthenticateError::InvalidToken) => Answer::Refused,
            Err(_) => Answer::Failed,
        };
        if known.is_foreign && answer == Answer::Refused {
            self.foreign_refused.fetch_add(1, SeqCst);
            return;
        }
        let session = known.number;
        self.note(
            node,
            start,
            self.now(),
            What::Authenticate { session, answer },
        );
    }

    /// Adds a customer with a session, which is used at once.
    async fn sign_up(&self, is_foreign: bool) {
        let start = self.now();
        let (number, customer) = (self.number(), self.number());
        let version = i64::from(self.number());
        let mut fields = json!({ "metadata": { "version": version } });
        let id = match is_foreign {
            true => {
                // A new one cannot be told from one of ours that a replica lacks.
                if self.rng.below(2) == 0 {
                    fields["created_at"] = json!(Utc::now() - TimeDelta::days(1));
                }
                self.polar.sign_up_elsewhere(fields)
            }
            false => self.polar.sign_up(fields),
        };
        let kind = ["polar_cst_", "polar_mst_"][self.rng.below(2) as usize];
        let ttl = Duration::from_millis(match self.rng.below(3) {
            0 => 500 + self.rng.below(4000),
            _ => 3_600_000,
        });
        let token = self
            .polar
            .sign_in(&id, kind, TimeDelta::from_std(ttl).expect("short"));
        let latest_end = self.now() + ttl;
        if !is_foreign {
            let what = What::Issue {
                customer,
                version,
                session: Some(number),
                is_new: true,
            };
            self.note(POLAR, start, self.now(), what);
            let found = Some(true);
            let session = number;
            let earliest_end = start + ttl;
            self.note(
                POLAR,
                earliest_end,
                latest_end,
                What::Revoke { session, found },
            );
        }
        let known = Arc::new(Known {
            number,
            customer,
            id,
            token,
            is_foreign,
        });
        self.known
            .lock()
            .expect("no panic")
            .push(Arc::clone(&known));
        self.authenticate(self.any_node(), &known).await;
    }

    /// Changes a customer, and waits until a node has acknowledged the webhook.
    async fn update(&self, known: &Known) {
        let start = self.now();
        let version = i64::from(self.number());
        let fields = json!({ "metadata": { "version": version }, "modified_at": Utc::now() });
        self.polar.update(&known.id, fields);
        let mut kinds = ["customer.updated", "customer.state_changed"];
        if self.rng.below(2) == 0 {
            kinds.reverse();
        }
        let mut known_there = Some(true);
        for kind in kinds {
            let delivered = self.deliver(kind, self.polar.customer(&known.id)).await;
            known_there = known_there.filter(|_| delivered.is_some());
        }
        let (customer, known) = (known.customer, known_there);
        let what = What::Update {
            customer,
            version,
            known,
        };
        self.note(POLAR, start, self.now(), what);
    }

    async fn delete(&self, known: &Known) {
        let start = self.now();
        self.polar.delete(&known.id);
        let data = self.polar.customer(&known.id);
        let ended = self.deliver("customer.deleted", data).await;
        let customer = known.customer;
        let what = What::RevokeCustomer { customer, ended };
        self.note(POLAR, start, self.now(), what);
    }

    /// Sends a delivery to one node or another until one acknowledges it, and now and then once more.
    /// Returns `None` if the run ends before.
    async fn deliver(&self, kind: &str, data: Value) -> Option<()> {
        let id = format!("msg_{}", self.number());
        let body = json!({ "type": kind, "timestamp": Utc::now(), "data": data }).to_string();
        let timestamp = Utc::now().timestamp().to_string();
        let signature = sign(SECRET, &id, &timestamp, &body);
        let headers: HeaderMap = [
            ("webhook-id", &id),
            ("webhook-timestamp", &timestamp),
            ("webhook-signature", &signature),
        ]
        .into_iter()
        .map(|(name, value)| {
            let value = HeaderValue::from_str(value).expect("a value");
            (HeaderName::from_static(name), value)
        })
        .collect();
        let send = async || {
            let webhooks = &self.nodes[self.any_node()].webhooks;
            webhooks.receive(&headers, body.as_bytes()).await
        };
        while send().await.is_err() {
            if self.is_over() {
                return None;
            }
            sleep(Duration::from_millis(20)).await;
        }
        if self.rng.below(4) == 0 {
            let _ = send().await;
        }
        Some(())
    }

    /// Makes one change after the other.
    async fn changes(self: Arc<Self>) {
        while !self.is_over() {
            sleep(Duration::from_millis(self.rng.below(150))).await;
            let known = self.any_known();
            match self.rng.below(4) {
                0 | 1 => self.sign_up(false).await,
                _ if known.is_foreign
                    || !self.polar.customer(&known.id)["deleted_at"].is_null() => {}
                2 => self.update(&known).await,
                _ => self.delete(&known).await,
            }
        }
    }

    /// Sends requests to a node at a steady rate, however long each takes.
    async fn requests(self: Arc<Self>, node: usize) {
        let mut ticks = interval(Duration::from_millis(5));
        ticks.set_missed_tick_behavior(MissedTickBehavior::Delay);
        let mut requests = JoinSet::new();
        while !self.is_over() {
            ticks.tick().await;
            let world = Arc::clone(&self);
            let known = self.any_known();
            requests.spawn(async move { world.authenticate(node, &known).await });
            while let Some(done) = requests.try_join_next() {
                done.expect("no request panics");
            }
        }
        while let Some(done) = requests.join_next().await {
            done.expect("no request panics");
        }
    }

    /// Injects one fault after the other.
    async fn faults(self: Arc<Self>) {
        let html = || b"<html>default backend - 404</html>".to_vec();
        let page = |status| {
            let headers = vec![("content-type", "text/html".to_owned())];
            Fault::Answer(status, headers, html())
        };
        let mut round = self.rng.below(9);
        while !self.is_over() {
            let lag = self.rng.below(MAX_LAG.as_millis() as u64);
            self.polar.set_replica_lag(Duration::from_millis(lag));
            sleep(Duration::from_millis(700)).await;
            let length = Duration::from_millis(300 + self.rng.below(700));
            let network = &self.nodes[self.any_node()].network;
            match round % 9 {
                0 => network.cut(),
                1 => network.refuse(true),
                2 => network.delay(Duration::from_millis(20 + self.rng.below(150))),
                3 => self.polar.fault(CUSTOMERS, page(404)),
                4 => self.polar.fault("/v1/customer-portal/", page(401)),
                5 => self.polar.fault("/v1/", Fault::down()),
                6 => self.polar.fault("/v1/", Fault::Hang),
                7 => self.polar.fault(CUSTOMERS, Fault::too_many(1)),
                _ => self.polar.fault("/v1/customers/", Fault::Cut),
            }
            if round % 9 == 1 {
                network.cut();
            }
            sleep(length).await;
            network.refuse(false);
            network.delay(Duration::ZERO);
            self.polar.clear_faults();
            round += 1;
        }
    }
}

/// Runs the nodes for a while, and returns the history.
fn run(length: Duration, is_deaf: bool) -> Vec<Event> {
    let seed = seed("HISTORY_SEED");
    println!("HISTORY_SEED={seed}");
    let runtime = Builder::new_multi_thread()
        .worker_threads(2)
        .enable_all()
        .build()
        .expect("a runtime");
    runtime.block_on(async {
        let world = Arc::new(World::new(Rng::new(seed), is_deaf).await);
        for _ in 0..20 {
            world.sign_up(false).await;
        }
        for _ in 0..FOREIGN {
            world.sign_up(true).await;
        }
        let mut tasks = JoinSet::new();
        for node in 0..NODES {
            tasks.spawn(Arc::clone(&world).requests(node));
            tasks.spawn(Arc::clone(&world).changes());
        }
        tasks.spawn(Arc::clone(&world).faults());
        sleep(length).await;
        world.is_over.store(true, SeqCst);
        while let Some(done) = tasks.join_next().await {
            done.expect("no task panics");
        }
        assert!(world.foreign_refused.load(SeqCst) > 0, "none was refused");
        world.history.lock().expect("no panic").clone()
    })
}

/// Finds broken promises: ended customers and sessions are refused as soon as the webhook has reached
/// every node, and changed ones are seen once the replica has them.
fn findings(history: &[Event]) -> Findings {
    let promise = |bound| Promise {
        bound,
        max_wait: STORE_TIMEOUT + Duration::from_millis(250),
        store_lag: MAX_LAG + OUTDATED,
    };
    let ended = check(history, &promise(ANNOUNCING), &[]);
    let changed = check(history, &promise(MAX_LAG + OUTDATED), &[]);
    Findings {
        outdated: changed.outdated,
        ..ended
    }
}

#[test]
fn three_nodes_on_polar_give_no_wrong_answer() {
    let _alone = crate::ALONE.blocking_lock();
    let length = Duration::from_secs(env("HISTORY_SECONDS", 60));
    let history = run(length, false);
    let findings = findings(&history);
    let mut answers = BTreeMap::new();
    let mut changes = BTreeMap::new();
    for event in &history {
        match &event.what {
            What::Authenticate { answer, .. } => {
                let name = match answer {
                    Answer::LetIn { .. } => "let in",
                    Answer::Mistaken => "mistaken",
                    Answer::Refused => "refused",
                    Answer::Failed => "failed",
                    Answer::Left => "left",
                };
                *answers.entry(name).or_insert(0) += 1;
            }
            What::Update { .. } => *changes.entry("updates").or_insert(0) += 1,
            What::RevokeCustomer { .. } => *changes.entry("deletions").or_insert(0) += 1,
            _ => {}
        }
    }
    println!("{answers:?}, {changes:?}");
    for (what, violations) in findings.all() {
        for violation in violations.iter().take(5) {
            println!("{what}: {violation}");
        }
    }
    let counts = findings.all().map(|(what, found)| (what, found.len()));
    assert!(counts.iter().all(|(_, found)| *found == 0), "{counts:?}");
    let seconds = length.as_secs() as usize;
    assert!(answers["let in"] > 50 * seconds, "few were let in");
    assert!(answers["refused"] > seconds, "few were refused");
    assert!(changes["deletions"] > seconds / 2, "few were deleted");
    assert!(changes["updates"] > seconds / 2, "few were changed");
}

#[test]
fn nodes_that_do_not_hear_each_other_are_found() {
    let _alone = crate::ALONE.blocking_lock();
    let (mut stale, mut outdated) = (0, 0);
    // A short history on a slow machine may not meet it.
    for _ in 0..10 {
        let findings = findings(&run(Duration::from_secs(5), true));
        stale += findings.stale.len();
        outdated += findings.outdated.len();
        if stale > 0 && outdated > 0 {
            return;
        }
    }
    panic!("let in after the end: {stale}, saw an old customer: {outdated}");
}
