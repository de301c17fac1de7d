//! Sessions that are not used end, what was used last is recorded, and recording disturbs nothing.

use std::{
    sync::{
        Arc, Mutex,
        atomic::{AtomicBool, Ordering::SeqCst},
    },
    time::Duration,
};

use chrono::{DateTime, TimeDelta, Utc};
use customer_session::{
    AuthenticateError, Clock as _, CustomerData, CustomerSession, CustomerSessions,
    CustomerSessionsBuilder, NewSession, SessionEnd, SessionRegistry, SessionStore as _,
    SessionToken, SessionUse, StoreError, WhenFull, async_trait, store::MemoryStore,
    testing::ManualClock,
};
use test_support::{
    HOUR, StoreWrapper, Wrapped, clock, customer,
    model::agrees_with_the_model,
    rng::{Rng, env, seed},
};
use tokio::{
    runtime,
    sync::Notify,
    task::JoinHandle,
    time::{sleep, timeout},
};

use crate::fixture::{MILLISECOND, settle, without_details};

const MINUTE: Duration = Duration::from_secs(60);

const IDLE_TIMEOUT: Duration = Duration::from_secs(30 * 60);

/// The lifetime of a cached answer, which is a quarter of the idle timeout at most.
const TTL: Duration = Duration::from_secs(30 * 15);

/// Longer than it takes until a use is recorded.
const A_MOMENT: Duration = Duration::from_millis(1100);

/// A store that counts what it records, and fails on command.
#[derive(Default)]
struct Recorder {
    inner: MemoryStore,
    batches: Mutex<Vec<Vec<SessionUse>>>,
    reads_fail: AtomicBool,
    writes_fail: AtomicBool,
    writes_panic: AtomicBool,
    writes_are_invalid: AtomicBool,
    /// The next lookup reads, and waits until it may go on.
    holds_next_answer: AtomicBool,
    go_on: Notify,
}

#[async_trait]
impl StoreWrapper for Recorder {
    fn inner(&self) -> &dyn SessionRegistry {
        &self.inner
    }

    async fn find(&self, token: &SessionToken) -> Result<Option<CustomerSession>, StoreError> {
        match self.reads_fail.load(SeqCst) {
            true => Err(StoreError::unavailable("told to fail")),
            false => {
                let found = self.inner.find(token).await;
                if self.holds_next_answer.swap(false, SeqCst) {
                    self.go_on.notified().await;
                }
                found
            }
        }
    }

    async fn touch(&self, uses: &[SessionUse]) -> Result<(), StoreError> {
        assert!(!self.writes_panic.load(SeqCst), "told to panic");
        if self.writes_fail.load(SeqCst) {
            return Err(StoreError::unavailable("told to fail"));
        }
        if self.writes_are_invalid.load(SeqCst) {
            return Err(StoreError::invalid("told to refuse"));
        }
        self.batches.lock().expect("no panic").push(uses.to_vec());
        self.inner.touch(uses).await
    }
}

type Store = Arc<Wrapped<Recorder>>;
type Sessions = CustomerSessions<Store>;

/// One session of a day, on a clock that the test holds. Time of tokio must be paused.
struct Node {
    store: Store,
    clock: ManualClock,
    sessions: Sessions,
    session: CustomerSession,
}

impl Node {
    async fn new() -> Self {
        Self::with(|builder| builder).await
    }

    async fn with(
        configure: impl FnOnce(CustomerSessionsBuilder<Store>) -> CustomerSessionsBuilder<Store>,
    ) -> Self {
        let (store, clock) = (Arc::new(Wrapped(Recorder::default())), clock());
        let sessions = builder(&store, &clock, configure);
        let session = sessions.issue(customer("cus_1"), 24 * HOUR).await;
        Self {
            store,
            clock,
            sessions,
            session: session.expect("issued"),
        }
    }

    /// Returns another node over the same store.
    fn another(&self) -> Sessions {
        builder(&self.store, &self.clock, |builder| builder)
    }

    async fn lets_in(&self) -> bool {
        lets_in(&self.sessions, &self.session.token).await
    }

    /// Lets time pass, in which what was noted is recorded.
    async fn pass(&self, time: Duration) {
        sleep(A_MOMENT).await;
        self.clock.advance(time);
    }

    /// Returns the times that were recorded for the session.
    fn recorded(&self) -> Vec<DateTime<Utc>> {
        let batches = self.store.batches.lock().expect("no panic");
        let uses = batches.iter().flatten();
        uses.filter(|used| used.session == self.session.id)
            .map(|used| used.at)
            .collect()
    }
}

fn builder(
    store: &Store,
    clock: &ManualClock,
    configure: impl FnOnce(CustomerSessionsBuilder<Store>) -> CustomerSessionsBuilder<Store>,
) -> Sessions {
    let builder = CustomerSessions::builder(Arc::clone(store)).clock(clock.clone());
    // As long as can be: a quarter of the idle timeout.
    let builder = builder.cache_ttl(HOUR).idle_timeout(IDLE_TIMEOUT);
    configure(builder.expect("it keeps uses")).build()
}

async fn lets_in(sessions: &Sessions, token: &SessionToken) -> bool {
    match sessions.authenticate(token).await {
        Ok(_) => true,
        Err(AuthenticateError::InvalidToken) => false,
        Err(error) => panic!("{error}"),
    }
}

#[tokio::test(start_paused = true)]
async fn a_session_ends_when_it_is_not_used_for_the_idle_timeout() {
    let node = Node::new().await;
    for _ in 0..3 {
        node.pass(IDLE_TIMEOUT - MILLISECOND).await;
        assert!(node.lets_in().await, "a millisecond before");
    }
    node.pass(IDLE_TIMEOUT).await;
    assert!(!node.lets_in().await);
    assert!(!lets_in(&node.another(), &node.session.token).await);
    // A request that was refused does not count as a use.
    node.pass(MINUTE).await;
    assert!(!node.lets_in().await);
    let found = node
        .store
        .find(&node.session.token)
        .await
        .expect("an answer");
    let found = found.expect("it is kept until it expires");
    assert_eq!(found.expires_at, node.session.expires_at, "no use moves it");
}

#[tokio::test(start_paused = true)]
async fn a_session_that_was_never_used_is_idle_since_its_creation() {
    let node = Node::new().await;
    node.pass(IDLE_TIMEOUT - MILLISECOND).await;
    let other = node.another();
    assert!(lets_in(&other, &node.session.token).await);
    let unused = node
        .sessions
        .issue(customer("cus_1"), HOUR)
        .await
        .expect("issued");
    node.pass(IDLE_TIMEOUT).await;
    assert!(!lets_in(&other, &unused.token).await);
}

#[tokio::test(start_paused = true)]
async fn a_use_on_one_node_keeps_the_session_on_another() {
    let node = Node::new().await;
    let other = node.another();
    for _ in 0..4 {
        node.pass(IDLE_TIMEOUT * 2 / 3).await;
        assert!(node.lets_in().await);
        // The other one has nothing cached any more.
        node.pass(IDLE_TIMEOUT * 2 / 3).await;
        assert!(lets_in(&other, &node.session.token).await);
    }
}

#[tokio::test(start_paused = true)]
async fn a_session_in_steady_use_is_recorded_once_in_a_cache_ttl_and_ends_early_by_no_more() {
    let node = Node::new().await;
    let (start, second) = (node.clock.now(), Duration::from_secs(1));
    let mut last = start;
    for _ in 0..10 * TTL.as_secs() {
        node.pass(second).await;
        assert!(node.lets_in().await);
        last = node.clock.now();
    }
    sleep(A_MOMENT).await;
    let recorded = node.recorded();
    assert!((9..=10).contains(&recorded.len()), "{recorded:?}");
    let apart = recorded.windows(2).map(|pair| pair[1] - pair[0]);
    assert!(
        apart
            .clone()
            .all(|apart| apart >= TimeDelta::from_std(TTL).expect("short"))
    );
    let late = last - *recorded.last().expect("some");
    assert!(late <= TimeDelta::from_std(TTL).expect("short"), "{late}");
    assert!(node.sessions.statistics().hits > 4000, "most were hits");

    // Exact, where no other node is behind: what this one has noted counts.
    let early = TTL + Duration::from_secs(1);
    node.pass(IDLE_TIMEOUT - early).await;
    assert!(lets_in(&node.another(), &node.session.token).await);
}

#[tokio::test(start_paused = true)]
async fn lookups_that_nothing_caches_are_recorded_once_a_second_at_most() {
    let node = Node::with(|builder| builder.cache_ttl(Duration::ZERO)).await;
    for _ in 0..100 {
        assert!(node.lets_in().await);
        sleep(Duration::from_millis(50)).await;
        node.clock.advance(Duration::from_millis(50));
    }
    sleep(A_MOMENT).await;
    let recorded = node.recorded();
    assert!((5..=7).contains(&recorded.len()), "{recorded:?}");
    assert_eq!(
        recorded.last().copied(),
        Some(node.clock.now() - TimeDelta::milliseconds(50))
    );
}

#[tokio::test(start_paused = true)]
async fn many_sessions_are_recorded_in_batches_of_a_thousand() {
    const SESSIONS: usize = 2500;
    let node = Node::new().await;
    let mut tokens = Vec::new();
    for _ in 0..SESSIONS {
        let issued = node.sessions.issue(customer("cus_1"), HOUR).await;
        tokens.push(issued.expect("issued").token);
    }
    // The first is written at once, the others wait for a second.
    assert!(node.lets_in().await);
    settle().await;
    for token in &tokens {
        assert!(lets_in(&node.sessions, token).await);
    }
    assert_eq!(node.sessions.statistics().uses_waiting, SESSIONS as u64);
    sleep(A_MOMENT).await;
    let sizes: Vec<_> = node
        .store
        .batches
        .lock()
        .expect("no panic")
        .iter()
        .map(Vec::len)
        .collect();
    assert_eq!(sizes, [1, 1000, 1000, 500]);
    let statistics = node.sessions.statistics();
    assert_eq!((statistics.uses_waiting, statistics.uses_lost), (0, 0));
    assert_eq!(statistics.uses_recorded, SESSIONS as u64 + 1);
}

/// `IDLENESS_SESSIONS=100000` has more of them.
#[tokio::test(start_paused = true)]
async fn of_many_sessions_in_use_each_is_written_once_in_a_cache_ttl_at_most() {
    const USES_IN_TTL: u32 = 6;
    const TTLS: usize = 4;
    let node = Node::with(|builder| builder.cache_capacity(1 << 20)).await;
    let count = env("IDLENESS_SESSIONS", 2000) as usize;
    let mut tokens = Vec::new();
    for number in 0..count {
        let of = customer(&format!("cus_{number}"));
        let issued = node.sessions.issue(of, 24 * HOUR).await;
        tokens.push(issued.expect("issued").token);
    }
    for _ in 0..TTLS as u32 * USES_IN_TTL {
        for token in &tokens {
            assert!(lets_in(&node.sessions, token).await);
        }
        node.pass(TTL / USES_IN_TTL).await;
    }
    let statistics = node.sessions.statistics();
    let written = statistics.uses_recorded as usize;
    println!(
        "{count} sessions, {TTLS} ttls: {written} uses written, {} lost",
        statistics.uses_lost
    );
    assert!(written <= TTLS * count, "{written}");
    assert!(written >= (TTLS - 1) * count, "{written}");
    assert_eq!(statistics.uses_waiting, 0);
}

#[tokio::test(start_paused = true)]
async fn an_outage_ends_no_session() {
    let node = Node::new().await;
    let other = node.another();
    assert!(node.lets_in().await);
    node.pass(IDLE_TIMEOUT / 2).await;
    node.store.reads_fail.store(true, SeqCst);
    for _ in 0..3 * IDLE_TIMEOUT.as_secs() / MINUTE.as_secs() {
        for sessions in [&node.sessions, &other] {
            let answer = sessions.authenticate(&node.session.token).await;
            assert!(
                matches!(answer, Err(AuthenticateError::Store(_))),
                "{answer:?}"
            );
        }
        node.pass(MINUTE).await;
    }
    node.store.reads_fail.store(false, SeqCst);
    // The time before the outage counts.
    assert!(lets_in(&other, &node.session.token).await);
    node.pass(IDLE_TIMEOUT).await;
    assert!(!lets_in(&other, &node.session.token).await, "it is over");
}

#[tokio::test(start_paused = true)]
async fn one_failure_is_no_outage_of_hours() {
    let node = Node::new().await;
    assert!(node.lets_in().await);
    node.pass(IDLE_TIMEOUT / 2).await;
    node.store.reads_fail.store(true, SeqCst);
    let answer = node.sessions.authenticate(&node.session.token).await;
    assert!(answer.is_err());
    node.store.reads_fail.store(false, SeqCst);
    // Nothing is heard of the store meanwhile.
    node.pass(IDLE_TIMEOUT).await;
    assert!(!node.lets_in().await);
}

#[tokio::test(start_paused = true)]
async fn a_session_that_has_ended_is_not_served_stale() {
    let node = Node::with(|builder| builder.stale_if_error(4 * IDLE_TIMEOUT)).await;
    assert!(node.lets_in().await);
    node.pass(IDLE_TIMEOUT + MINUTE).await;
    node.store.reads_fail.store(true, SeqCst);
    let answer = node.sessions.authenticate(&node.session.token).await;
    assert!(
        matches!(answer, Err(AuthenticateError::Store(_))),
        "{answer:?}"
    );
    node.store.reads_fail.store(false, SeqCst);
    sleep(MINUTE).await;
    assert_eq!(node.recorded().len(), 1);
    node.clock.advance(MINUTE);
    assert!(!node.lets_in().await);
}

#[tokio::test(start_paused = true)]
async fn a_message_on_a_stream_revives_no_session() {
    let node = Node::new().await;
    let session = node.sessions.authenticate(&node.session.token).await;
    let lifetime = session.expect("live").lifetime();
    node.pass(IDLE_TIMEOUT).await;
    lifetime.record_use();
    sleep(A_MOMENT).await;
    assert_eq!(node.recorded().len(), 1);
    assert!(!node.lets_in().await);
}

#[tokio::test(start_paused = true)]
async fn a_use_that_the_store_refuses_holds_up_no_other() {
    let node = Node::new().await;
    node.store.writes_are_invalid.store(true, SeqCst);
    assert!(node.lets_in().await);
    sleep(A_MOMENT).await;
    let statistics = node.sessions.statistics();
    assert_eq!((statistics.uses_lost, statistics.uses_waiting), (1, 0));
    node.store.writes_are_invalid.store(false, SeqCst);
    node.pass(IDLE_TIMEOUT - MINUTE).await;
    assert!(node.lets_in().await);
    sleep(A_MOMENT).await;
    assert_eq!(node.recorded().len(), 1);
}

#[tokio::test(start_paused = true)]
async fn uses_that_could_not_be_recorded_are_recorded_later() {
    let node = Node::new().await;
    node.store.writes_fail.store(true, SeqCst);
    for _ in 0..4 {
        assert!(node.lets_in().await, "what this node has noted counts");
        node.pass(IDLE_TIMEOUT - MINUTE).await;
    }
    assert_eq!(node.sessions.statistics().uses_waiting, 1);
    assert!(node.recorded().is_empty());
    // Another node learns that writes fail by its own.
    let other = node.another();
    assert!(!lets_in(&other, &node.session.token).await);
    assert!(node.lets_in().await);
    let used_at = node.clock.now();
    node.store.writes_fail.store(false, SeqCst);
    sleep(MINUTE).await;
    assert_eq!(node.recorded(), [used_at]);
    assert_eq!(node.sessions.statistics().uses_waiting, 0);
}

#[tokio::test(start_paused = true)]
async fn a_lookup_that_read_before_a_use_was_recorded_ends_no_session() {
    let node = Node::new().await;
    node.pass(IDLE_TIMEOUT - MILLISECOND).await;
    node.store.holds_next_answer.store(true, SeqCst);
    // It has read that the session was never used.
    let (sessions, token) = (node.sessions.clone(), node.session.token.clone());
    let rotated = tokio::spawn(async move { sessions.rotate(&token, HOUR).await });
    settle().await;
    assert!(node.lets_in().await, "the answer of another lookup");
    sleep(A_MOMENT).await;
    assert_eq!(node.recorded().len(), 1);
    node.clock.advance(MILLISECOND);
    node.store.go_on.notify_one();
    let rotated = rotated.await.expect("no panic").expect("an answer");
    assert!(rotated.is_some(), "it was used a millisecond ago");
}

#[tokio::test(start_paused = true)]
async fn sessions_served_stale_in_an_outage_are_in_use() {
    let node = Node::with(|builder| builder.stale_if_error(4 * IDLE_TIMEOUT)).await;
    assert!(node.lets_in().await);
    sleep(A_MOMENT).await;
    node.store.reads_fail.store(true, SeqCst);
    for _ in 0..4 {
        node.pass(IDLE_TIMEOUT * 2 / 3).await;
        assert!(node.lets_in().await, "stale");
    }
    let used_at = node.clock.now();
    node.store.reads_fail.store(false, SeqCst);
    sleep(A_MOMENT).await;
    assert_eq!(node.recorded().last(), Some(&used_at));
    assert!(lets_in(&node.another(), &node.session.token).await);
}

#[tokio::test(start_paused = true)]
async fn a_store_that_panics_or_hangs_while_it_records_disturbs_no_request() {
    let node = Node::new().await;
    node.store.writes_panic.store(true, SeqCst);
    for _ in 0..3 {
        assert!(node.lets_in().await);
        node.pass(TTL).await;
    }
    node.store.writes_panic.store(false, SeqCst);
    sleep(MINUTE).await;
    assert_eq!(node.sessions.statistics().uses_waiting, 0);
}

/// Waits for the end of a stream, for an hour of paused time.
async fn end(ended: JoinHandle<SessionEnd>) -> SessionEnd {
    let ended = timeout(HOUR, ended).await;
    ended.expect("it ends").expect("no panic")
}

#[tokio::test(start_paused = true)]
async fn an_open_stream_does_not_count_as_a_use() {
    let node = Node::new().await;
    let lifetime = node
        .sessions
        .authenticate(&node.session.token)
        .await
        .expect("live");
    let ended = tokio::spawn(lifetime.lifetime().ended());
    let mut name = 0;
    let mut passed = Duration::ZERO;
    while passed < IDLE_TIMEOUT {
        settle().await;
        assert!(!ended.is_finished(), "after {passed:?}");
        // A change has the stream look again.
        name += 1;
        let mut data = CustomerData::clone(&node.session.customer);
        data.name = Some(name.to_string());
        assert!(
            node.sessions
                .update_customer(&data.into())
                .await
                .expect("updated")
        );
        node.pass(MINUTE).await;
        passed += MINUTE;
    }
    assert_eq!(end(ended).await, SessionEnd::Expired);
    assert_eq!(node.recorded().len(), 1, "the request that opened it");
}

#[tokio::test(start_paused = true)]
async fn a_stream_whose_messages_are_uses_goes_on() {
    let node = Node::new().await;
    let session = node
        .sessions
        .authenticate(&node.session.token)
        .await
        .expect("live");
    let lifetime = session.lifetime();
    let ended = tokio::spawn(lifetime.ended());
    for _ in 0..10 {
        node.pass(IDLE_TIMEOUT / 3).await;
        for _ in 0..10 {
            lifetime.record_use();
        }
        settle().await;
        assert!(!ended.is_finished());
    }
    assert_eq!(
        node.recorded().len(),
        1 + 10,
        "the request, and one in each ttl"
    );
    node.sessions
        .revoke(&node.session.id)
        .await
        .expect("revoked");
    lifetime.record_use();
    assert_eq!(end(ended).await, SessionEnd::Revoked);
}

#[tokio::test(start_paused = true)]
async fn a_use_that_is_recorded_late_revives_nothing() {
    let node = Node::new().await;
    node.store.writes_fail.store(true, SeqCst);
    assert!(node.lets_in().await);
    sleep(A_MOMENT).await;
    assert!(
        node.sessions
            .revoke(&node.session.id)
            .await
            .expect("an answer")
    );
    node.store.writes_fail.store(false, SeqCst);
    sleep(MINUTE).await;
    assert_eq!(node.recorded().len(), 1, "it was handed in");
    assert!(!node.lets_in().await);
    assert!(!lets_in(&node.another(), &node.session.token).await);
    let listed = node.sessions.list(&node.session.customer_id).await;
    assert_eq!(listed.expect("an answer"), []);
}

#[tokio::test(start_paused = true)]
async fn a_rotation_is_a_use_and_an_idle_session_is_not_rotated() {
    let node = Node::new().await;
    assert!(node.lets_in().await);
    node.pass(IDLE_TIMEOUT - MILLISECOND).await;
    let new = node.sessions.rotate(&node.session.token, HOUR).await;
    let new = new.expect("an answer").expect("it is live");
    assert_eq!(new.details.last_used_at, None);
    node.pass(IDLE_TIMEOUT - MILLISECOND).await;
    assert!(lets_in(&node.sessions, &new.token).await);
    node.pass(IDLE_TIMEOUT).await;
    for new in [
        node.sessions.rotate(&new.token, HOUR).await,
        node.sessions.reauthenticated(&new.token, HOUR).await,
    ] {
        assert_eq!(new.expect("an answer"), None);
    }
}

#[tokio::test(start_paused = true)]
async fn a_list_shows_the_last_use_and_leaves_idle_sessions_out() {
    let node = Node::new().await;
    let idle = node
        .sessions
        .issue(customer("cus_1"), 24 * HOUR)
        .await
        .expect("issued");
    node.pass(IDLE_TIMEOUT - MILLISECOND).await;
    assert!(node.lets_in().await);
    let customer = &node.session.customer_id;
    // What is noted and not recorded yet is shown, too.
    let listed = node.sessions.list(customer).await.expect("an answer");
    let uses: Vec<_> = listed
        .iter()
        .map(|session| session.details.last_used_at)
        .collect();
    assert_eq!((listed.len(), uses.iter().flatten().count()), (2, 1));
    assert!(uses.contains(&Some(node.clock.now())));
    node.pass(MINUTE).await;
    for sessions in [&node.sessions, &node.another()] {
        let listed = sessions.list(customer).await.expect("an answer");
        let ids: Vec<_> = listed.iter().map(|session| &session.id).collect();
        assert_eq!(ids, [&node.session.id]);
    }
    let page = customer_session::Page::default().with_expired();
    let all = node
        .sessions
        .list_page(customer, &page)
        .await
        .expect("an answer");
    assert!(all.sessions.iter().any(|session| session.id == idle.id));
}

#[tokio::test(start_paused = true)]
async fn idle_sessions_do_not_count_for_a_limit() {
    let node = Node::new().await;
    let refuse = NewSession::new(24 * HOUR).at_most(2, WhenFull::Refuse);
    let issue = async || {
        let issued = node
            .sessions
            .issue_with(customer("cus_1"), refuse.clone())
            .await;
        issued.is_ok()
    };
    node.pass(MINUTE).await;
    assert!(issue().await);
    assert!(!issue().await, "there are two");
    node.pass(IDLE_TIMEOUT - MINUTE).await;
    assert!(issue().await, "the first has ended");
    assert!(!issue().await);
}

#[tokio::test(start_paused = true)]
async fn uses_are_recorded_without_an_idle_timeout_if_that_is_asked_for() {
    let (store, clock) = (Arc::new(Wrapped(Recorder::default())), clock());
    let builder = CustomerSessions::builder(Arc::clone(&store)).clock(clock.clone());
    for (sessions, is_recorded) in [
        (builder.clone().build(), false),
        (
            builder
                .clone()
                .idle_timeout(Duration::ZERO)
                .expect("none")
                .build(),
            false,
        ),
        (builder.record_uses().expect("it keeps uses").build(), true),
    ] {
        let session = sessions
            .issue(customer("cus_1"), 24 * HOUR)
            .await
            .expect("issued");
        assert!(lets_in(&sessions, &session.token).await);
        sleep(A_MOMENT).await;
        let found = store
            .find(&session.token)
            .await
            .expect("an answer")
            .expect("live");
        assert_eq!(found.details.last_used_at, is_recorded.then(|| clock.now()));
        clock.advance(5 * IDLE_TIMEOUT);
        assert!(lets_in(&sessions, &session.token).await);
        sleep(A_MOMENT).await;
    }
}

#[test]
fn settings_that_cannot_be_right_are_refused() {
    let builder = CustomerSessions::builder(MemoryStore::new());
    let too_short = builder.idle_timeout(Duration::from_secs(10) - MILLISECOND);
    let error = too_short.expect_err("it is too short").to_string();
    assert!(error.contains("ten seconds"), "{error}");
    type Builder = CustomerSessionsBuilder<MemoryStore>;
    let builder = CustomerSessions::builder(MemoryStore::new());
    let builder = builder.idle_timeout(Builder::MIN_IDLE_TIMEOUT);
    assert!(builder.is_ok(), "it is long enough");

    let builder = CustomerSessions::builder(without_details(MemoryStore::new()));
    let error = builder
        .record_uses()
        .expect_err("it keeps no uses")
        .to_string();
    assert!(error.contains("SessionRegistry::touch"), "{error}");
    let builder = CustomerSessions::builder(without_details(MemoryStore::new()));
    builder.idle_timeout(HOUR).expect_err("it keeps no uses");
}

#[test]
fn uses_are_recorded_after_the_runtime_of_the_first_has_ended() {
    let runtime = || {
        let mut builder = runtime::Builder::new_current_thread();
        builder
            .enable_all()
            .start_paused(true)
            .build()
            .expect("a runtime")
    };
    let first = runtime();
    let node = first.block_on(async {
        let node = Node::new().await;
        node.store.writes_fail.store(true, SeqCst);
        assert!(node.lets_in().await);
        sleep(A_MOMENT).await;
        node
    });
    drop(first);
    node.store.writes_fail.store(false, SeqCst);
    runtime().block_on(async {
        node.clock.advance(TTL + Duration::from_secs(1));
        assert!(node.lets_in().await);
        // The time that was let pass in the first runtime did not pass here.
        sleep(3 * A_MOMENT).await;
    });
    assert_eq!(node.recorded(), [node.clock.now()]);
}

#[tokio::test(start_paused = true)]
async fn an_engine_that_waits_for_its_store_is_dropped_with_its_last_handle() {
    let node = Node::new().await;
    node.store.writes_fail.store(true, SeqCst);
    assert!(node.lets_in().await);
    sleep(A_MOMENT).await;
    let Node {
        store, sessions, ..
    } = node;
    drop(sessions);
    settle().await;
    assert_eq!(Arc::strong_count(&store), 1);
}

/// `IDLENESS_WALKS=1000000 scripts/test --test engine idleness` walks more often.
#[tokio::test(start_paused = true)]
async fn random_sessions_end_as_in_the_model() {
    let seed = seed("IDLENESS_SEED");
    println!("IDLENESS_SEED={seed}");
    let rng = Rng::new(seed);
    for walk in 0..env("IDLENESS_WALKS", 2000) {
        let store = Arc::new(Wrapped(Recorder::default()));
        agrees_with_the_model(store, &format!("cus_{walk}"), 2, 40, &rng).await;
    }
}
