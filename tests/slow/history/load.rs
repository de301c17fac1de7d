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

/// The number of derived sessions of a customer that are requested as often as the others.
const MAX_DERIVED: usize = 3;

/// The number of ended sessions of a customer that are still requested.
const MAX_ENDED: usize = 8;

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
    /// The number of the session that was issued, which its family began with or was derived from.
    tree: u32,
    is_derived: bool,
}

/// The origin of a session.
enum Origin<'a> {
    Issued,
    Replaces(&'a Arc<KnownSession>),
    DerivedFrom(&'a Arc<KnownSession>),
}

/// A customer and their sessions, as far as the load knows. A dead one may be live: its end is in doubt,
/// or another one has taken its place here.
struct Subject {
    number: u32,
    id: CustomerId,
    seats: [Option<Arc<KnownSession>>; 2],
    derived: VecDeque<Arc<KnownSession>>,
    dead: VecDeque<Arc<KnownSession>>,
}

impl Subject {
    /// Returns the sessions that are live, as far as is known.
    fn live(&self) -> Vec<Arc<KnownSession>> {
        let seats = self.seats.iter().flatten();
        seats.chain(&self.derived).cloned().collect()
    }

    fn bury(&mut self, ended: &[Arc<KnownSession>]) {
        self.dead.extend(ended.iter().cloned());
        while self.dead.len() > MAX_ENDED {
            self.dead.pop_front();
        }
    }

    /// Takes the live sessions that `ends` accepts out, and returns them.
    fn end(&mut self, ends: impl Fn(&KnownSession) -> bool) -> Vec<Arc<KnownSession>> {
        let mut ended: Vec<_> = (self.seats.iter_mut())
            .filter_map(|seat| seat.take_if(|known| ends(known)))
            .collect();
        let derived = self.derived.drain(..);
        let (gone, left): (VecDeque<_>, _) = derived.partition(|known| ends(known));
        self.derived = left;
        ended.extend(gone);
        self.bury(&ended);
        ended
    }
}

/// A customer and one of their sessions, which a change concerns.
struct Target {
    place: usize,
    customer: u32,
    id: CustomerId,
    known: Arc<KnownSession>,
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
            Mutex::new(Subject {
                number,
                id,
                seats: [None, None],
                derived: VecDeque::new(),
                dead: VecDeque::new(),
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

    fn know(&self, session: &CustomerSession, origin: Origin<'_>) -> Arc<KnownSession> {
        let number = self.next_session.fetch_add(1, SeqCst);
        let (replaces, tree, is_derived) = match origin {
            Origin::Issued => (None, number, false),
            Origin::Replaces(old) => (Some(Arc::clone(old)), old.tree, old.is_derived),
            Origin::DerivedFrom(parent) => (None, parent.tree, true),
        };
        Arc::new(KnownSession {
            number,
            id: session.id.clone(),
            token: session.token.clone(),
            ends_at: session.details.ends_at,
            replaces,
            tree,
            is_derived,
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
            let live = subject.live();
            match (live.len() as u64, subject.dead.len() as u64) {
                (0, 0) => return,
                (live_count, dead) if dead == 0 || (live_count > 0 && self.rng.below(6) > 0) => {
                    Arc::clone(&live[self.rng.below(live_count) as usize])
                }
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
        let known = issued.map(|session| self.know(&session, Origin::Issued));
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

    /// Adds a live session of a customer; `seat` is that of its tree.
    fn seat(&self, subject: usize, seat: usize, customer: u32, known: Arc<KnownSession>) {
        let mut subject = self.subjects[subject].lock().expect("no panic");
        // Another customer may have taken the place meanwhile.
        if subject.number != customer {
            return;
        }
        if !known.is_derived {
            subject.seats[seat] = Some(known);
            return;
        }
        subject.derived.push_back(known);
        if subject.derived.len() > MAX_DERIVED {
            let oldest = subject.derived.pop_front();
            subject.bury(oldest.as_slice());
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
        let place = self.rng.below(CUSTOMERS) as usize;
        let (customer, id, live) = {
            let subject = self.subjects[place].lock().expect("no panic");
            (subject.number, subject.id.clone(), subject.live())
        };
        if live.is_empty() {
            return;
        }
        let known = &live[self.rng.below(live.len() as u64) as usize];
        let target = Target {
            place,
            customer,
            id,
            known: Arc::clone(known),
        };
        let ended = match self.rng.below(11) {
            0..3 => self.revoke(node, &target).await,
            3 => self.revoke_others(node, &target).await,
            4 => self.revoke_customer(node, &target).await,
            5..7 => self.rotate(node, &target).await,
            7 | 8 => return self.derive(node, &target).await,
            _ => return self.update(node, &target).await,
        };
        self.probe_everywhere(&ended);
        self.issue_missing(node, place).await;
    }

    /// Revokes a session by any id that it had. Returns the sessions that have certainly ended, as the
    /// other changes do.
    async fn revoke(&self, node: usize, target: &Target) -> Vec<Arc<KnownSession>> {
        let (named, start) = (self.any_of_family(&target.known), self.now());
        let (session, sessions) = (named.number, &self.nodes[node].sessions);
        let found = match self.rng.below(2) {
            0 => self.change(sessions.revoke(&named.id)).await,
            _ => {
                let revoking = sessions.revoke_owned(&target.id, &named.id);
                self.change(revoking).await
            }
        };
        self.note(node, start, What::Revoke { session, found });
        let revoked = &target.known;
        let ends = |known: &KnownSession| match revoked.is_derived {
            true => known.number == revoked.number,
            false => known.tree == revoked.tree,
        };
        self.retire(target, ends, found.is_some())
    }

    /// Ends all sessions of a customer.
    async fn revoke_customer(&self, node: usize, target: &Target) -> Vec<Arc<KnownSession>> {
        let (customer, start) = (target.customer, self.now());
        let revoking = self.nodes[node].sessions.revoke_customer(&target.id);
        let ended = self.change(revoking).await;
        self.note(node, start, What::RevokeCustomer { customer, ended });
        let retired = self.retire(target, |_| true, ended.is_some());
        self.leave_if_in_doubt(target, ended);
        retired
    }

    /// Ends all sessions of a customer but those of one tree.
    async fn revoke_others(&self, node: usize, target: &Target) -> Vec<Arc<KnownSession>> {
        let (named, start) = (self.any_of_family(&target.known), self.now());
        let sessions = &self.nodes[node].sessions;
        let revoking = sessions.revoke_others(&target.id, &named.id);
        let ended = self.change(revoking).await;
        let (customer, keep) = (target.customer, named.number);
        self.note(
            node,
            start,
            What::RevokeOthers {
                customer,
                keep,
                ended,
            },
        );
        let ends = |known: &KnownSession| ended.is_none() || known.tree != named.tree;
        let retired = self.retire(target, ends, ended.is_some());
        self.leave_if_in_doubt(target, ended);
        retired
    }

    async fn rotate(&self, node: usize, target: &Target) -> Vec<Arc<KnownSession>> {
        let (known, start) = (&target.known, self.now());
        let rotating = self.nodes[node].sessions.rotate(&known.token, 2 * HOUR);
        let new = self.change(rotating).await;
        if let Some(Some(new)) = &new {
            let kept = (new.details.ends_at, Some(new.expires_at));
            assert_eq!(kept, (known.ends_at, known.ends_at), "the end of a session");
        }
        let new = new.map(|new| new.map(|new| self.know(&new, Origin::Replaces(known))));
        let what = What::Rotate {
            session: known.number,
            new: number_of(new.as_ref()),
        };
        self.note(node, start, what);
        let seat = self.seat_of(target);
        let is_rotated = |other: &KnownSession| other.number == known.number;
        let retired = self.retire(target, is_rotated, new.is_some());
        if let (Some(Some(new)), Some(seat)) = (new, seat) {
            self.seat(target.place, seat, target.customer, new);
        }
        retired
    }

    /// Derives a session from one, or from its parent.
    async fn derive(&self, node: usize, target: &Target) {
        let parent = {
            let subject = self.subjects[target.place].lock().expect("no panic");
            let mut seats = subject.seats.iter().flatten();
            seats.find(|known| known.tree == target.known.tree).cloned()
        };
        let Some(parent) = parent else { return };
        let (sessions, start) = (&self.nodes[node].sessions, self.now());
        let deriving = sessions.derive(&parent.token, NewSession::new(HOUR));
        let child = self.change(deriving).await;
        let child =
            child.map(|child| child.map(|child| self.know(&child, Origin::DerivedFrom(&parent))));
        let what = What::Derive {
            parent: parent.number,
            child: number_of(child.as_ref()),
        };
        self.note(node, start, what);
        if let Some(Some(child)) = child {
            self.seat(target.place, 0, target.customer, child);
        }
    }

    async fn update(&self, node: usize, target: &Target) {
        let (version, data) = self.new_version(&target.id);
        let start = self.now();
        let updating = self.nodes[node].sessions.update_customer(&data);
        let known = self.change(updating).await;
        let customer = target.customer;
        self.note(
            node,
            start,
            What::Update {
                customer,
                version,
                known,
            },
        );
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

    fn is_free(&self, place: usize, seat: usize) -> bool {
        let subject = self.subjects[place].lock().expect("no panic");
        subject.seats[seat].is_none()
    }

    /// Returns the seat of the session that a change concerns; any if it is a derived one.
    fn seat_of(&self, target: &Target) -> Option<usize> {
        let subject = self.subjects[target.place].lock().expect("no panic");
        let is_here = |seat: &Option<Arc<KnownSession>>| {
            seat.as_ref()
                .is_some_and(|known| known.number == target.known.number)
        };
        match target.known.is_derived {
            true => Some(0),
            false => subject.seats.iter().position(is_here),
        }
    }

    /// Moves sessions that have ended, or may have, to those that are requested now and then. Returns
    /// them if they certainly have.
    fn retire(
        &self,
        target: &Target,
        ends: impl Fn(&KnownSession) -> bool,
        is_sure: bool,
    ) -> Vec<Arc<KnownSession>> {
        let mut subject = self.subjects[target.place].lock().expect("no panic");
        if subject.number != target.customer {
            return Vec::new();
        }
        let ended = subject.end(ends);
        if is_sure { ended } else { Vec::new() }
    }

    /// Has another customer take the place of one whose sessions a change may yet end, those to come too.
    fn leave_if_in_doubt(&self, target: &Target, ended: Option<()>) {
        let mut subject = self.subjects[target.place].lock().expect("no panic");
        if ended.is_none() && subject.number == target.customer {
            (subject.number, subject.id) = self.new_customer();
        }
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

/// Returns the number of the session that a change has opened.
fn number_of(new: Option<&Option<Arc<KnownSession>>>) -> Option<Option<u32>> {
    new.map(|new| new.as_ref().map(|new| new.number))
}

fn version(customer: &Customer) -> i64 {
    match customer.metadata.get("version") {
        Some(MetadataValue::Integer(version)) => i64::try_from(*version).expect("small"),
        _ => 0,
    }
}
