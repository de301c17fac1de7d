//! Everything at once: lookups, revocations, rotations, faults, requests that are cancelled.
//!
//! `STRESS_SECONDS` (10) and `STRESS_SEED` (from the clock, printed) may be set. The test is
//! known to fail if a guard of the engine is taken out: `scripts/mutants` shows it.

use std::{
    sync::{
        Arc, Mutex,
        atomic::{AtomicBool, AtomicI64, AtomicU64, Ordering::SeqCst},
    },
    time::{Duration, Instant},
};

use customer_session::{
    AuthenticateError, Customer, CustomerSession, CustomerSessions, Inserted, Invalidation,
    MetadataValue, Revocation, Revoked, SessionId, SessionLimit, SessionRegistry,
    SessionStore as _, SessionToken, SourceEvent, Statistics, StoreError, async_trait,
    store::MemoryStore,
};
use tokio::task::{JoinSet, yield_now};

use test_support::rng::{Rng, env};
use test_support::{HOUR, StoreWrapper, Wrapped, customer, receive};

const STORE_TIMEOUT: Duration = Duration::from_millis(20);
const SLOTS: u64 = 6;

/// Short, so that sessions live to be refreshed.
const CACHE_TTL: Duration = Duration::from_millis(20);

/// Waits for a random time, which may be none.
async fn delay(rng: &Rng) {
    match rng.below(4) {
        0 => tokio::time::sleep(Duration::from_micros(rng.below(3000))).await,
        1 => {}
        _ => yield_now().await,
    }
}

/// A store that is slow, and fails, hangs or panics now and then.
struct Faulty {
    inner: MemoryStore,
    rng: Arc<Rng>,
}

#[async_trait]
impl StoreWrapper for Faulty {
    fn inner(&self) -> &dyn SessionRegistry {
        &self.inner
    }

    async fn find(&self, token: &SessionToken) -> Result<Option<CustomerSession>, StoreError> {
        delay(&self.rng).await;
        match self.rng.below(200) {
            0 => return Err(StoreError::unavailable("a fault")),
            1 => panic!("a fault"),
            2 => std::future::pending().await,
            _ => {}
        }
        let found = self.inner.find(token).await;
        delay(&self.rng).await;
        found
    }

    async fn replace(
        &self,
        old: &SessionId,
        new: &CustomerSession,
        limit: Option<&SessionLimit>,
    ) -> Result<Option<Inserted>, StoreError> {
        delay(&self.rng).await;
        self.inner.replace(old, new, limit).await
    }

    async fn revoke(&self, what: &Revocation) -> Result<Revoked, StoreError> {
        delay(&self.rng).await;
        let revoked = self.inner.revoke(what).await;
        delay(&self.rng).await;
        revoked
    }

    async fn update_customer(&self, customer: &Customer) -> Result<bool, StoreError> {
        delay(&self.rng).await;
        self.inner.update_customer(customer).await
    }
}

/// A session and what is known of its end.
struct Subject {
    session: CustomerSession,
    /// Set before the store is asked to end it.
    ending: AtomicBool,
    /// Set once the call that ended it has returned.
    ended: AtomicBool,
    /// Set once a request was refused because of it.
    refused: AtomicBool,
    /// The newest version of the customer whose update has returned.
    version: AtomicI64,
    /// One update at a time, so that versions come in order.
    updating: tokio::sync::Mutex<()>,
}

struct World {
    sessions: CustomerSessions<Wrapped<Faulty>>,
    /// The store without its faults, which tells no cache of a change.
    store: MemoryStore,
    rng: Arc<Rng>,
    /// Guards the session of each slot.
    slots: Vec<Mutex<Arc<Subject>>>,
    stop: AtomicBool,
    requests: AtomicU64,
    /// Requests for sessions that nothing had begun to end when they were answered.
    live: AtomicU64,
    let_in: AtomicU64,
    ends: AtomicU64,
    stale: AtomicU64,
    /// Let in after another request was refused.
    back: AtomicU64,
    outdated: AtomicU64,
    falsely_refused: AtomicU64,
    stalled: AtomicU64,
}

impl World {
    fn subject(&self, slot: usize) -> Arc<Subject> {
        Arc::clone(&self.slots[slot].lock().expect("no panic"))
    }

    async fn request(&self) {
        let subject = self.subject(self.rng.below(SLOTS) as usize);
        let ended_before = subject.ended.load(SeqCst);
        let refused_before = subject.refused.load(SeqCst);
        let version_before = subject.version.load(SeqCst);
        let begun = Instant::now();
        let request = self.sessions.authenticate(&subject.session.token);
        let answer = if self.rng.below(20) == 0 {
            let patience = Duration::from_micros(self.rng.below(2000));
            match tokio::time::timeout(patience, request).await {
                Ok(answer) => answer,
                Err(_) => return,
            }
        } else {
            request.await
        };
        self.requests.fetch_add(1, SeqCst);
        if !subject.ending.load(SeqCst) {
            self.live.fetch_add(1, SeqCst);
            self.let_in.fetch_add(answer.is_ok().into(), SeqCst);
        }
        if matches!(answer, Err(AuthenticateError::InvalidToken)) {
            subject.refused.store(true, SeqCst);
        }
        match answer {
            Ok(_) if ended_before => {
                self.stale.fetch_add(1, SeqCst);
            }
            Ok(_) if refused_before => {
                self.back.fetch_add(1, SeqCst);
            }
            Ok(session) if version(&session.customer) < version_before => {
                self.outdated.fetch_add(1, SeqCst);
            }
            Err(AuthenticateError::InvalidToken) if !subject.ending.load(SeqCst) => {
                self.falsely_refused.fetch_add(1, SeqCst);
            }
            _ => {}
        }
        // Generous: the machine may be busy. A stall is a wait that no limit ends.
        if begun.elapsed() > STORE_TIMEOUT + Duration::from_secs(2) {
            self.stalled.fetch_add(1, SeqCst);
        }
    }

    /// Ends a session in one of six ways, and puts another in its slot.
    async fn end_one(&self) {
        let slot = self.rng.below(SLOTS) as usize;
        let old = self.subject(slot);
        // Each session is ended once: revoking a customer also ends what another task has rotated
        // for that customer.
        if old.ending.swap(true, SeqCst) {
            return;
        }
        let mut next = None;
        let (id, customer) = (&old.session.id, &old.session.customer_id);
        let ended = match self.rng.below(6) {
            0 => self.sessions.revoke(id).await.is_ok(),
            1 => self.sessions.revoke_customer(customer).await.is_ok(),
            2 => self.sessions.revoke_owned(customer, id).await.is_ok(),
            3 => self.end_rotated(&old.session).await,
            4 => {
                // By hand, without an announcement: what is cached may be used for a while.
                let revocation = Revocation::Session(id.clone());
                self.store.revoke(&revocation).await.expect("an answer");
                false
            }
            _ => match self.sessions.rotate(&old.session.token, HOUR).await {
                Ok(Some(new)) => {
                    next = Some(new);
                    true
                }
                _ => false,
            },
        };
        if ended {
            old.ended.store(true, SeqCst);
            self.ends.fetch_add(1, SeqCst);
        }
        // Requests for the ended session go on for a while.
        for _ in 0..self.rng.below(20) {
            delay(&self.rng).await;
        }
        let session = match next {
            Some(next) => next,
            None => new_session(&self.sessions, &self.rng).await,
        };
        *self.slots[slot].lock().expect("no panic") = subject(session);
    }

    /// Rotates a session, and ends its successor by the id of the first. Returns `true` if that has
    /// returned.
    async fn end_rotated(&self, session: &CustomerSession) -> bool {
        let Ok(Some(new)) = self.sessions.rotate(&session.token, HOUR).await else {
            return false;
        };
        let _ = self.sessions.authenticate(&new.token).await;
        if self.sessions.revoke(&session.id).await.is_err() {
            return false;
        }
        if self.sessions.authenticate(&new.token).await.is_ok() {
            self.stale.fetch_add(1, SeqCst);
        }
        true
    }

    /// Changes a customer or sends a message, without ending a session.
    async fn change_without_ending(&self) {
        let subject = self.subject(self.rng.below(SLOTS) as usize);
        let message = match self.rng.below(5) {
            0 => Invalidation::All,
            1 => Invalidation::Session(subject.session.id.clone()),
            2 => Invalidation::Customer(subject.session.customer_id.clone()),
            3 => {
                let gap = [SourceEvent::Disconnected, Invalidation::All.into()];
                receive(&self.sessions, gap).await;
                return;
            }
            _ => {
                let _turn = subject.updating.lock().await;
                let next = subject.version.load(SeqCst) + 1;
                let mut data = (*subject.session.customer).clone();
                data.metadata.insert("version".into(), next.into());
                if self.sessions.update_customer(&data.into()).await.is_ok() {
                    subject.version.store(next, SeqCst);
                }
                return;
            }
        };
        receive(&self.sessions, [message]).await;
        // Now and then nothing changes for a while, so that sessions are refreshed.
        if self.rng.below(20) == 0 {
            tokio::time::sleep(CACHE_TTL * 3).await;
        }
    }
}

fn subject(session: CustomerSession) -> Arc<Subject> {
    Arc::new(Subject {
        session,
        ending: AtomicBool::new(false),
        ended: AtomicBool::new(false),
        refused: AtomicBool::new(false),
        version: AtomicI64::new(0),
        updating: tokio::sync::Mutex::default(),
    })
}

fn version(customer: &Customer) -> i64 {
    match customer.metadata.get("version") {
        Some(MetadataValue::Integer(version)) => i64::try_from(*version).expect("small"),
        _ => 0,
    }
}

async fn new_session(sessions: &CustomerSessions<Wrapped<Faulty>>, rng: &Rng) -> CustomerSession {
    let customer = customer(&format!("cus_{}", rng.below(u64::MAX)));
    sessions.issue(customer, HOUR).await.expect("issued")
}

/// Runs the load for `seconds`, with a cache of `capacity` sessions and a revocation table of as many
/// stripes: the smaller, the more sessions share one. Returns what the engine has done.
async fn stress(capacity: u32, seconds: u64, seed: u64) -> Statistics {
    let rng = Arc::new(Rng::new(seed));
    let inner = MemoryStore::new();
    let store = Wrapped(Faulty {
        inner: inner.clone(),
        rng: Arc::clone(&rng),
    });
    let sessions = CustomerSessions::builder(store)
        .store_timeout(STORE_TIMEOUT)
        .cache_ttl(CACHE_TTL)
        .cache_capacity(capacity.into())
        .revocation_stripes(capacity as usize)
        .build();
    let mut slots = Vec::new();
    for _ in 0..SLOTS {
        slots.push(Mutex::new(subject(new_session(&sessions, &rng).await)));
    }
    let world = Arc::new(World {
        sessions,
        store: inner,
        rng,
        slots,
        stop: AtomicBool::new(false),
        requests: AtomicU64::default(),
        live: AtomicU64::default(),
        let_in: AtomicU64::default(),
        back: AtomicU64::default(),
        ends: AtomicU64::default(),
        stale: AtomicU64::default(),
        outdated: AtomicU64::default(),
        falsely_refused: AtomicU64::default(),
        stalled: AtomicU64::default(),
    });

    let mut tasks = JoinSet::new();
    for task in 0..28 {
        let world = Arc::clone(&world);
        tasks.spawn(async move {
            while !world.stop.load(SeqCst) {
                match task {
                    0..24 => world.request().await,
                    24..27 => world.end_one().await,
                    _ => world.change_without_ending().await,
                }
                yield_now().await;
            }
        });
    }
    tokio::time::sleep(Duration::from_secs(seconds)).await;
    world.stop.store(true, SeqCst);
    while let Some(task) = tasks.join_next().await {
        task.expect("no task panics");
    }

    let mut statistics = world.sessions.statistics();
    // The runtime drops a lookup without callers, but a moment later.
    for _ in 0..1000 {
        if statistics.lookups_in_flight == 0 {
            break;
        }
        yield_now().await;
        statistics = world.sessions.statistics();
    }
    let (live, let_in) = (world.live.load(SeqCst), world.let_in.load(SeqCst));
    println!(
        "seed {seed}, capacity {capacity}: {} requests, {let_in} of {live} for live sessions let \
         in, {} ends, {statistics:?}",
        world.requests.load(SeqCst),
        world.ends.load(SeqCst),
    );
    assert!(world.requests.load(SeqCst) > 1000, "too little load");
    assert!(world.ends.load(SeqCst) > 100, "too little load");
    assert!(let_in > live / 5 * 4, "most are let in; seed {seed}");
    assert!(
        statistics.hits > 1000 && statistics.verified > 100,
        "from the cache and from the store; seed {seed}"
    );
    assert_eq!(
        world.back.load(SeqCst),
        0,
        "let in after a refusal; seed {seed}"
    );
    assert_eq!(
        world.stale.load(SeqCst),
        0,
        "let in after the end; seed {seed}"
    );
    assert_eq!(
        world.outdated.load(SeqCst),
        0,
        "saw an old customer; seed {seed}"
    );
    assert_eq!(
        world.falsely_refused.load(SeqCst),
        0,
        "refused though live; seed {seed}"
    );
    assert_eq!(
        world.stalled.load(SeqCst),
        0,
        "waited without end; seed {seed}"
    );
    assert_eq!(statistics.lookups_in_flight, 0, "left behind; seed {seed}");
    statistics
}

#[tokio::test(flavor = "multi_thread", worker_threads = 4)]
async fn no_request_is_let_in_after_the_end_or_refused_before() {
    let _alone = crate::ALONE.lock().await;
    // The faults' panics are caught by the engine; their backtraces would drown the output.
    std::panic::set_hook(Box::new(|info| {
        if info.payload().downcast_ref::<&str>() != Some(&"a fault") {
            eprintln!("{info}");
        }
    }));
    let seed = test_support::rng::seed("STRESS_SEED");
    let seconds = env("STRESS_SECONDS", 10);
    let statistics = stress(1000, seconds, seed).await;
    assert!(statistics.refreshes > 0, "in the background; seed {seed}");
    stress(2, seconds.div_ceil(3), seed).await;
}
