//! What is asked of the nodes: requests at a steady rate, changes in between, and after each
//! ending a close look at the nodes that did not make it. Everything is written down.

use std::{
    collections::VecDeque,
    sync::{
        Arc, Mutex,
        atomic::{AtomicBool, AtomicI64, AtomicU32, Ordering::SeqCst},
    },
    time::{Duration, Instant},
};

use customer_session::{
    AuthenticateError, Customer, CustomerData, CustomerId, CustomerSession, CustomerSessions,
    MetadataValue, SessionId, SessionToken, StoreError,
};
use tokio::{
    runtime::Handle,
    task::JoinSet,
    time::{MissedTickBehavior, interval, sleep, timeout},
};

use super::{
    record::{Answer, Event, Lag, Span, What},
    store::{NodeStore, Planted},
};
use crate::rng::Dice;

/// One node: 200 requests a second.
const BETWEEN_REQUESTS: Duration = Duration::from_millis(5);

/// How many customers there are, with two sessions each.
const CUSTOMERS: u64 = 12;

/// How many dead sessions of a customer are still asked for.
const DEAD: usize = 6;

/// After an ending all nodes are asked again and again, until they refuse or it was too long: at
/// first as often as a timer can, then less.
const BETWEEN_FIRST_PROBES: Duration = Duration::from_millis(1);
const BETWEEN_PROBES: Duration = Duration::from_millis(4);
const FIRST_PROBES: usize = 10;
const PROBES: usize = 100;

/// How long anybody waits for a change.
const CHANGE_PATIENCE: Duration = Duration::from_millis(700);

const HOUR: Duration = Duration::from_secs(3600);

pub(crate) struct Node {
    pub(crate) number: usize,
    pub(crate) sessions: CustomerSessions<Arc<NodeStore>>,
    pub(crate) runtime: Handle,
    pub(crate) planted: Planted,
}

/// A session that was issued; it may be dead.
struct Known {
    number: u32,
    id: SessionId,
    token: SessionToken,
}

/// A customer and their sessions, as far as the load knows.
struct Person {
    number: u32,
    id: CustomerId,
    seats: [Option<Arc<Known>>; 2],
    dead: VecDeque<Arc<Known>>,
}

pub(crate) struct World {
    pub(crate) nodes: Vec<Node>,
    pub(crate) stop: AtomicBool,
    dice: Dice,
    begun: Instant,
    /// Makes the customers of one run differ from another's on the same server.
    run: u64,
    /// Each guards who is a customer and which sessions they have.
    people: Vec<Mutex<Person>>,
    next_session: AtomicU32,
    next_person: AtomicU32,
    next_version: AtomicI64,
    /// Guards what was written down.
    history: Mutex<Vec<Event>>,
    /// Guards when the nodes were late.
    lags: Mutex<Vec<Lag>>,
}

impl World {
    pub(crate) fn new(nodes: Vec<Node>, dice: Dice) -> Self {
        let run = dice.roll(u64::MAX);
        let world = Self {
            nodes,
            stop: AtomicBool::new(false),
            dice,
            begun: Instant::now(),
            run,
            people: Vec::new(),
            next_session: AtomicU32::new(0),
            next_person: AtomicU32::new(0),
            next_version: AtomicI64::new(0),
            history: Mutex::default(),
            lags: Mutex::default(),
        };
        let people = (0..CUSTOMERS).map(|_| {
            let (number, id) = world.new_person();
            let (seats, dead) = ([None, None], VecDeque::new());
            Mutex::new(Person {
                number,
                id,
                seats,
                dead,
            })
        });
        let people = people.collect();
        Self { people, ..world }
    }

    /// The time since the beginning.
    pub(crate) fn now(&self) -> Duration {
        self.begun.elapsed()
    }

    pub(crate) fn history(&self) -> Vec<Event> {
        self.history.lock().expect("no panic").clone()
    }

    pub(crate) fn lags(&self) -> Vec<Lag> {
        self.lags.lock().expect("no panic").clone()
    }

    fn stopped(&self) -> bool {
        self.stop.load(SeqCst)
    }

    fn note(&self, node: usize, start: Duration, what: What) {
        let end = self.now();
        let event = Event {
            node,
            start,
            end,
            what,
        };
        self.history.lock().expect("no panic").push(event);
    }

    fn new_person(&self) -> (u32, CustomerId) {
        let number = self.next_person.fetch_add(1, SeqCst);
        (number, format!("cus_{:x}_{number}", self.run).into())
    }

    /// A customer in a version that nobody has written yet.
    fn new_version(&self, id: &CustomerId) -> (i64, Customer) {
        let version = self.next_version.fetch_add(1, SeqCst) + 1;
        let mut data = CustomerData::new(id.clone(), "org_1");
        data.metadata.insert("version".into(), version.into());
        (version, data.into())
    }

    fn know(&self, session: &CustomerSession) -> Arc<Known> {
        Arc::new(Known {
            number: self.next_session.fetch_add(1, SeqCst),
            id: session.id.clone(),
            token: session.token.clone(),
        })
    }

    /// Everybody gets their sessions; to be called before anything goes wrong.
    pub(crate) async fn settle_in(&self) {
        for person in 0..self.people.len() {
            for seat in 0..2 {
                // The caller gives some of them up.
                let mut tries = 0;
                while !self.issue(0, person, seat).await {
                    tries += 1;
                    assert!(tries < 100, "the store works at first");
                }
            }
        }
    }

    /// One request of a node, by whatever session.
    async fn request(&self, node: usize) {
        let known = {
            let person = self.people[self.dice.roll(CUSTOMERS) as usize].lock();
            let person = person.expect("no panic");
            let seat = person.seats[self.dice.roll(2) as usize].clone();
            match (seat, person.dead.len() as u64) {
                (None, 0) => return,
                (Some(live), 0) => live,
                (Some(live), _) if self.dice.roll(6) > 0 => live,
                (_, dead) => Arc::clone(&person.dead[self.dice.roll(dead) as usize]),
            }
        };
        let leaves = self.dice.roll(8) == 0;
        self.authenticate(node, &known, leaves).await;
    }

    async fn authenticate(&self, node: usize, known: &Known, leaves: bool) -> Answer {
        let sessions = &self.nodes[node].sessions;
        let start = self.now();
        let request = sessions.authenticate(&known.token);
        let outcome = match leaves {
            true => timeout(Duration::from_millis(self.dice.roll(3)), request).await,
            false => Ok(request.await),
        };
        if self.nodes[node].planted == Planted::Stall && self.dice.roll(100) == 0 {
            sleep(Duration::from_millis(400)).await;
        }
        let answer = match outcome {
            Ok(Ok(session)) if session.id != known.id => Answer::Mistaken,
            Ok(Ok(session)) => Answer::LetIn {
                version: version(&session.customer),
            },
            Ok(Err(AuthenticateError::InvalidToken)) => Answer::Refused,
            Ok(Err(_)) => Answer::Failed,
            Err(_) => Answer::Left,
        };
        let session = known.number;
        self.note(node, start, What::Authenticate { session, answer });
        answer
    }

    /// Opens a session for whoever `person` is now. Whether that is certain.
    async fn issue(&self, node: usize, person: usize, seat: usize) -> bool {
        let (customer, id) = {
            let person = self.people[person].lock().expect("no panic");
            (person.number, person.id.clone())
        };
        let (version, data) = self.new_version(&id);
        let start = self.now();
        let issued = self
            .change(self.nodes[node].sessions.issue(data, HOUR))
            .await;
        let known = issued.map(|session| self.know(&session));
        let session = known.as_ref().map(|known| known.number);
        self.note(
            node,
            start,
            What::Issue {
                customer,
                version,
                session,
            },
        );
        let Some(known) = known else {
            return false;
        };
        self.seat(person, seat, customer, known);
        true
    }

    fn seat(&self, person: usize, seat: usize, customer: u32, known: Arc<Known>) {
        let mut person = self.people[person].lock().expect("no panic");
        // Somebody else may have come meanwhile.
        if person.number == customer {
            person.seats[seat] = Some(known);
        }
    }

    /// What came of a change; `None` if that is unknown.
    async fn change<T>(&self, change: impl Future<Output = Result<T, StoreError>>) -> Option<T> {
        let patience = match self.dice.roll(20) {
            0 => Duration::from_micros(self.dice.roll(3000)),
            _ => CHANGE_PATIENCE,
        };
        timeout(patience, change).await.ok()?.ok()
    }

    /// One change on a node; then everybody has their sessions again.
    async fn make_a_change(self: &Arc<Self>, node: usize) {
        let (place, seat) = (
            self.dice.roll(CUSTOMERS) as usize,
            self.dice.roll(2) as usize,
        );
        let (customer, id, known) = {
            let person = self.people[place].lock().expect("no panic");
            (person.number, person.id.clone(), person.seats[seat].clone())
        };
        let Some(known) = known else { return };
        let sessions = &self.nodes[node].sessions;
        let (session, start) = (known.number, self.now());
        let (ended, is_sure) = match self.dice.roll(10) {
            0..3 => {
                let found = self.change(sessions.revoke(&known.id)).await;
                self.note(node, start, What::Revoke { session, found });
                (vec![Arc::clone(&known)], found.is_some())
            }
            3..5 => {
                let ended = self.change(sessions.revoke_customer(&id)).await;
                self.note(node, start, What::RevokeCustomer { customer, ended });
                let all = self.empty(place, customer, ended.is_none());
                (all, ended.is_some())
            }
            5..7 => {
                let new = self.change(sessions.rotate(&known.token, HOUR)).await;
                let new = new.map(|new| new.map(|new| self.know(&new)));
                let number = new.as_ref().map(|it| it.as_ref().map(|it| it.number));
                self.note(
                    node,
                    start,
                    What::Rotate {
                        session,
                        new: number,
                    },
                );
                let is_sure = new.is_some();
                self.retire(place, seat, &known);
                if let Some(Some(new)) = new {
                    self.seat(place, seat, customer, new);
                }
                (vec![Arc::clone(&known)], is_sure)
            }
            _ => {
                let (version, data) = self.new_version(&id);
                let sessions = self.change(sessions.update_customer(&data)).await;
                self.note(
                    node,
                    start,
                    What::Update {
                        customer,
                        version,
                        sessions,
                    },
                );
                return;
            }
        };
        self.retire(place, seat, &known);
        for node in self.nodes.iter().filter(|_| is_sure) {
            for known in &ended {
                let (world, known, number) = (Arc::clone(self), Arc::clone(known), node.number);
                let probe = async move { world.probe(number, &known).await };
                node.runtime.spawn(probe);
            }
        }
        sleep(Duration::from_millis(self.dice.roll(150))).await;
        for seat in 0..2 {
            while !self.stopped() && self.is_free(place, seat) {
                if !self.issue(node, place, seat).await {
                    sleep(Duration::from_millis(50)).await;
                }
            }
        }
    }

    fn is_free(&self, place: usize, seat: usize) -> bool {
        let person = self.people[place].lock().expect("no panic");
        person.seats[seat].is_none()
    }

    /// A session that ended, or may have, is asked for now and then.
    fn retire(&self, place: usize, seat: usize, known: &Arc<Known>) {
        let mut person = self.people[place].lock().expect("no panic");
        if person.seats[seat]
            .as_ref()
            .is_some_and(|it| it.number == known.number)
        {
            let ended = person.seats[seat].take();
            person.dead.extend(ended);
        }
        while person.dead.len() > DEAD {
            person.dead.pop_front();
        }
    }

    /// All of a customer's sessions ended, or may have. In doubt somebody else takes the place:
    /// what is still under way might end sessions to come. Which these were.
    fn empty(&self, place: usize, customer: u32, in_doubt: bool) -> Vec<Arc<Known>> {
        let mut person = self.people[place].lock().expect("no panic");
        if person.number != customer {
            return Vec::new();
        }
        let ended = std::mem::take(&mut person.seats);
        let ended: Vec<_> = ended.into_iter().flatten().collect();
        person.dead.extend(ended.iter().cloned());
        if in_doubt {
            (person.number, person.id) = self.new_person();
        }
        ended
    }

    /// Asks for a dead session until its node knows.
    async fn probe(&self, node: usize, known: &Known) {
        let mut refused = 0;
        for probe in 0..PROBES {
            refused = match self.authenticate(node, known, false).await {
                Answer::Refused => refused + 1,
                _ => 0,
            };
            if refused == 3 || self.stopped() {
                return;
            }
            let pause = match probe < FIRST_PROBES {
                true => BETWEEN_FIRST_PROBES,
                false => BETWEEN_PROBES,
            };
            sleep(pause).await;
        }
    }

    /// Requests at a steady rate, however long each takes.
    pub(crate) async fn requests(self: Arc<Self>, node: usize) {
        let mut ticks = interval(BETWEEN_REQUESTS);
        ticks.set_missed_tick_behavior(MissedTickBehavior::Burst);
        let mut requests = JoinSet::new();
        while !self.stopped() {
            ticks.tick().await;
            let world = Arc::clone(&self);
            requests.spawn(async move { world.request(node).await });
            while let Some(done) = requests.try_join_next() {
                done.expect("no request panics");
            }
        }
        while let Some(done) = requests.join_next().await {
            done.expect("no request panics");
        }
    }

    /// Changes, one after the other.
    pub(crate) async fn changes(self: Arc<Self>, node: usize) {
        while !self.stopped() {
            sleep(Duration::from_millis(self.dice.roll(150))).await;
            self.make_a_change(node).await;
        }
    }

    /// Notes when the node's runtime is late.
    pub(crate) async fn watch(self: Arc<Self>, node: usize) {
        let (nap, unremarkable) = (Duration::from_millis(5), Duration::from_millis(2));
        while !self.stopped() {
            let start = self.now();
            sleep(nap).await;
            let end = self.now();
            let by = (end - start).saturating_sub(nap);
            if by > unremarkable {
                let span = Span { start, end };
                self.lags
                    .lock()
                    .expect("no panic")
                    .push(Lag { node, span, by });
            }
        }
    }
}

fn version(customer: &Customer) -> i64 {
    match customer.metadata.get("version") {
        Some(MetadataValue::Integer(version)) => i64::try_from(*version).expect("small"),
        _ => 0,
    }
}
