//! The load of the nodes: requests at a steady rate, changes in between, and after each ending
//! frequent requests of all nodes. Every operation is recorded.

use std::{
    collections::VecDeque,
    sync::{
        Arc, Mutex,
        atomic::{AtomicBool, AtomicI64, AtomicU32, Ordering::SeqCst},
    },
    time::{Duration, Instant},
};

use chrono::{DateTime, Utc};
use customer_session::{
    AuthenticateError, Customer, CustomerData, CustomerId, CustomerSession, CustomerSessions,
    MetadataValue, NewSession, SessionId, SessionToken, StoreError,
};
use tokio::{
    runtime::Handle,
    task::JoinSet,
    time::{MissedTickBehavior, interval, sleep, timeout},
};

use super::{
    record::{Answer, Event, Lag, Span, What},
    store::{Defect, NodeStore},
};
use test_support::Wrapped;
use test_support::rng::Rng;

/// The time between two requests of one node: 200 a second.
const BETWEEN_REQUESTS: Duration = Duration::from_millis(5);

/// The number of customers, with two sessions each.
const CUSTOMERS: u64 = 12;

/// The number of ended sessions of a customer that are still requested.
const MAX_ENDED: usize = 6;

/// After an ending each node is probed until it refuses, or [`PROBES`] times: at first at this
/// interval, the shortest of a timer.
const BETWEEN_FIRST_PROBES: Duration = Duration::from_millis(1);
const BETWEEN_PROBES: Duration = Duration::from_millis(4);
const FIRST_PROBES: usize = 10;
const PROBES: usize = 100;

/// The time after which a caller gives a change up.
const CHANGE_TIMEOUT: Duration = Duration::from_millis(700);

const HOUR: Duration = Duration::from_secs(3600);

pub(crate) struct Node {
    pub(crate) number: usize,
    pub(crate) sessions: CustomerSessions<Arc<Wrapped<NodeStore>>>,
    pub(crate) runtime: Handle,
    pub(crate) defect: Defect,
}

/// A session that was issued; it may have ended.
struct KnownSession {
    number: u32,
    id: SessionId,
    token: SessionToken,
    /// The absolute end, which no rotation may change.
    ends_at: Option<DateTime<Utc>>,
    /// The session that it has replaced.
    replaces: Option<Arc<KnownSession>>,
}

/// A customer and their sessions, as far as the load knows.
struct Subject {
    number: u32,
    id: CustomerId,
    seats: [Option<Arc<KnownSession>>; 2],
    dead: VecDeque<Arc<KnownSession>>,
}

pub(crate) struct World {
    pub(crate) nodes: Vec<Node>,
    pub(crate) stop: AtomicBool,
    rng: Rng,
    begun: Instant,
    /// A number that keeps the customers of two runs on one server apart.
    run: u64,
    /// Each guards the identity and the sessions of one customer.
    subjects: Vec<Mutex<Subject>>,
    next_session: AtomicU32,
    next_customer: AtomicU32,
    next_version: AtomicI64,
    /// Guards the recorded operations.
    history: Mutex<Vec<Event>>,
    /// Guards the delays of the nodes' runtimes.
    lags: Mutex<Vec<Lag>>,
}

impl World {
    pub(crate) fn new(nodes: Vec<Node>, rng: Rng) -> Self {
        let run = rng.below(u64::MAX);
        let world = Self {
            nodes,
            stop: AtomicBool::new(false),
            rng,
            begun: Instant::now(),
            run,
            subjects: Vec::new(),
            next_session: AtomicU32::new(0),
            next_customer: AtomicU32::new(0),
            next_version: AtomicI64::new(0),
            history: Mutex::default(),
            lags: Mutex::default(),
        };
        let subjects = (0..CUSTOMERS).map(|_| {
            let (number, id) = world.new_customer();
            let (seats, dead) = ([None, None], VecDeque::new());
            Mutex::new(Subject {
                number,
                id,
                seats,
                dead,
            })
        });
        let subjects = subjects.collect();
        Self { subjects, ..world }
    }

    /// Returns the time since the beginning.
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

    fn new_customer(&self) -> (u32, CustomerId) {
        let number = self.next_customer.fetch_add(1, SeqCst);
        (number, format!("cus_{:x}_{number}", self.run).into())
    }

    /// Returns the customer in a version that was never written.
    fn new_version(&self, id: &CustomerId) -> (i64, Customer) {
        let version = self.next_version.fetch_add(1, SeqCst) + 1;
        let mut data = CustomerData::new(id.clone(), "org_1");
        data.metadata.insert("version".into(), version.into());
        (version, data.into())
    }

    fn know(
        &self,
        session: &CustomerSession,
        replaces: Option<&Arc<KnownSession>>,
    ) -> Arc<KnownSession> {
        Arc::new(KnownSession {
            number: self.next_session.fetch_add(1, SeqCst),
            id: session.id.clone(),
            token: session.token.clone(),
            ends_at: session.details.ends_at,
            replaces: replaces.cloned(),
        })
    }

    /// Returns a session, or one that it has replaced, of any generation.
    fn any_of_family(&self, known: &Arc<KnownSession>) -> Arc<KnownSession> {
        let mut named = Arc::clone(known);
        while let Some(earlier) = named.replaces.clone().filter(|_| self.rng.below(3) > 0) {
            named = earlier;
        }
        named
    }

    /// Issues all sessions. To be called before the first fault.
    pub(crate) async fn issue_all(&self) {
        for subject in 0..self.subjects.len() {
            for seat in 0..2 {
                // Some calls are given up by the caller.
                let mut tries = 0;
                while !self.issue(0, subject, seat).await {
                    tries += 1;
                    assert!(tries < 100, "the store works at first");
                }
            }
        }
    }

    /// Sends one request to a node, with a random session.
    async fn request(&self, node: usize) {
        let known = {
            let subject = self.subjects[self.rng.below(CUSTOMERS) as usize].lock();
            let subject = subject.expect("no panic");
            let seat = subject.seats[self.rng.below(2) as usize].clone();
            match (seat, subject.dead.len() as u64) {
                (None, 0) => return,
                (Some(live), 0) => live,
                (Some(live), _) if self.rng.below(6) > 0 => live,
                (_, dead) => Arc::clone(&subject.dead[self.rng.below(dead) as usize]),
            }
        };
        let leaves = self.rng.below(8) == 0;
        self.authenticate(node, &known, leaves).await;
    }

    async fn authenticate(&self, node: usize, known: &KnownSession, leaves: bool) -> Answer {
        let sessions = &self.nodes[node].sessions;
        let start = self.now();
        let request = sessions.authenticate(&known.token);
        let outcome = match leaves {
            true => timeout(Duration::from_millis(self.rng.below(3)), request).await,
            false => Ok(request.await),
        };
        if self.nodes[node].defect == Defect::SlowRequests && self.rng.below(100) == 0 {
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

    /// Issues a session for the customer of `subject`. Returns `true` if that is certain.
    async fn issue(&self, node: usize, subject: usize, seat: usize) -> bool {
        let (customer, id) = {
            let subject = self.subjects[subject].lock().expect("no panic");
            (subject.number, subject.id.clone())
        };
        let (version, data) = self.new_version(&id);
        let start = self.now();
        let new = NewSession::new(HOUR).max_lifetime(HOUR + HOUR / 2);
        let issued = self
            .change(self.nodes[node].sessions.issue_with(data, new))
            .await;
        let stored = issued
            .as_ref()
            .map(|session| self::version(&session.customer));
        let known = issued.map(|session| self.know(&session, None));
        let session = known.as_ref().map(|known| known.number);
        self.note(
            node,
            start,
            What::Issue {
                customer,
                version,
                session,
                is_new: stored == Some(version),
            },
        );
        let Some(known) = known else {
            return false;
        };
        self.seat(subject, seat, customer, known);
        true
    }

    fn seat(&self, subject: usize, seat: usize, customer: u32, known: Arc<KnownSession>) {
        let mut subject = self.subjects[subject].lock().expect("no panic");
        // Another customer may have taken the place meanwhile.
        if subject.number == customer {
            subject.seats[seat] = Some(known);
        }
    }

    /// Waits for a change, for a while. Returns its result, or `None` if its outcome is unknown.
    async fn change<T>(&self, change: impl Future<Output = Result<T, StoreError>>) -> Option<T> {
        let patience = match self.rng.below(20) {
            0 => Duration::from_micros(self.rng.below(3000)),
            _ => CHANGE_TIMEOUT,
        };
        timeout(patience, change).await.ok()?.ok()
    }

    /// Makes one change on a node, then issues what is missing.
    async fn make_a_change(self: &Arc<Self>, node: usize) {
        let (place, seat) = (
            self.rng.below(CUSTOMERS) as usize,
            self.rng.below(2) as usize,
        );
        let (customer, id, known) = {
            let subject = self.subjects[place].lock().expect("no panic");
            (
                subject.number,
                subject.id.clone(),
                subject.seats[seat].clone(),
            )
        };
        let Some(known) = known else { return };
        let sessions = &self.nodes[node].sessions;
        let (session, start) = (known.number, self.now());
        let (ended, is_sure) = match self.rng.below(10) {
            0..3 => {
                let named = self.any_of_family(&known);
                let session = named.number;
                let found = match self.rng.below(2) {
                    0 => self.change(sessions.revoke(&named.id)).await,
                    _ => self.change(sessions.revoke_owned(&id, &named.id)).await,
                };
                self.note(node, start, What::Revoke { session, found });
                (vec![Arc::clone(&known)], found.is_some())
            }
            3 => return self.end_the_others(node, place, seat).await,
            4 => {
                let ended = self.change(sessions.revoke_customer(&id)).await;
                self.note(node, start, What::RevokeCustomer { customer, ended });
                let all = self.empty(place, customer, ended.is_none());
                (all, ended.is_some())
            }
            5..7 => {
                let new = self.change(sessions.rotate(&known.token, 2 * HOUR)).await;
                if let Some(Some(new)) = &new {
                    let kept = (new.details.ends_at, Some(new.expires_at));
                    assert_eq!(kept, (known.ends_at, known.ends_at), "the end of a session");
                }
                let new = new.map(|new| new.map(|new| self.know(&new, Some(&known))));
                let number = new.as_ref().map(|new| new.as_ref().map(|new| new.number));
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
                let known = self.change(sessions.update_customer(&data)).await;
                self.note(
                    node,
                    start,
                    What::Update {
                        customer,
                        version,
                        known,
                    },
                );
                return;
            }
        };
        self.retire(place, seat, &known);
        if is_sure {
            self.probe_everywhere(&ended);
        }
        self.issue_missing(node, place).await;
    }

    /// Requests sessions that have ended on all nodes.
    fn probe_everywhere(self: &Arc<Self>, ended: &[Arc<KnownSession>]) {
        for node in &self.nodes {
            for known in ended {
                let (world, known, number) = (Arc::clone(self), Arc::clone(known), node.number);
                let probe = async move { world.probe(number, &known).await };
                node.runtime.spawn(probe);
            }
        }
    }

    /// Issues the sessions that a customer lacks, after a while.
    async fn issue_missing(&self, node: usize, place: usize) {
        sleep(Duration::from_millis(self.rng.below(150))).await;
        for seat in 0..2 {
            while !self.stopped() && self.is_free(place, seat) {
                if !self.issue(node, place, seat).await {
                    sleep(Duration::from_millis(50)).await;
                }
            }
        }
    }

    /// Ends all sessions of a customer but that of one seat, and issues what is missing.
    async fn end_the_others(self: &Arc<Self>, node: usize, place: usize, seat: usize) {
        let (customer, id, kept) = {
            let subject = self.subjects[place].lock().expect("no panic");
            let kept = subject.seats[seat].clone();
            (subject.number, subject.id.clone(), kept)
        };
        let Some(kept) = kept else { return };
        let (named, start) = (self.any_of_family(&kept), self.now());
        let sessions = &self.nodes[node].sessions;
        let ended = self.change(sessions.revoke_others(&id, &named.id)).await;
        let keep = named.number;
        self.note(
            node,
            start,
            What::RevokeOthers {
                customer,
                keep,
                ended,
            },
        );
        let mut all = self.empty(place, customer, ended.is_none());
        if ended.is_some() {
            if let Some(kept) = all.iter().position(|known| known.number == kept.number) {
                self.seat(place, seat, customer, all.remove(kept));
            }
            self.probe_everywhere(&all);
        }
        self.issue_missing(node, place).await;
    }

    fn is_free(&self, place: usize, seat: usize) -> bool {
        let subject = self.subjects[place].lock().expect("no panic");
        subject.seats[seat].is_none()
    }

    /// Moves a session that has ended, or may have, to those that are requested now and then.
    fn retire(&self, place: usize, seat: usize, known: &Arc<KnownSession>) {
        let mut subject = self.subjects[place].lock().expect("no panic");
        if subject.seats[seat]
            .as_ref()
            .is_some_and(|seated| seated.number == known.number)
        {
            let ended = subject.seats[seat].take();
            subject.dead.extend(ended);
        }
        while subject.dead.len() > MAX_ENDED {
            subject.dead.pop_front();
        }
    }

    /// Removes all sessions of a customer and returns them. In doubt another customer takes the
    /// place, since the change may still be under way and end sessions to come.
    fn empty(&self, place: usize, customer: u32, in_doubt: bool) -> Vec<Arc<KnownSession>> {
        let mut subject = self.subjects[place].lock().expect("no panic");
        if subject.number != customer {
            return Vec::new();
        }
        let ended = std::mem::take(&mut subject.seats);
        let ended: Vec<_> = ended.into_iter().flatten().collect();
        subject.dead.extend(ended.iter().cloned());
        if in_doubt {
            (subject.number, subject.id) = self.new_customer();
        }
        ended
    }

    /// Requests an ended session until the node refuses it.
    async fn probe(&self, node: usize, known: &KnownSession) {
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

    /// Sends requests at a steady rate, however long each takes.
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

    /// Makes one change after the other.
    pub(crate) async fn changes(self: Arc<Self>, node: usize) {
        while !self.stopped() {
            sleep(Duration::from_millis(self.rng.below(150))).await;
            self.make_a_change(node).await;
        }
    }

    /// Records the delays of the node's runtime.
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
