//! Strangers and customers share the store: its permits, its circuit breaker, its failures.

use std::{
    pin::pin,
    sync::{
        Arc,
        atomic::{AtomicBool, AtomicUsize, Ordering::SeqCst},
    },
    task::{Context, Poll, Waker},
    time::Duration,
};

use customer_session::{
    AuthenticateError, CustomerSession, CustomerSessions, CustomerSessionsBuilder, Invalidation,
    SessionStore, SessionToken, StoreError, TokenFormat, async_trait,
    store::MemoryStore,
    testing::{Fault as StoreFault, FaultyStore, ManualClock},
};
use tokio::{
    task::JoinSet,
    time::{Instant, sleep},
};

use crate::fixture::{Fixture, TTL, settle};
use test_support::{Fault, HOUR, clock, customer, receive};

/// A store that treats tokens it has never issued in another way.
#[derive(Default)]
struct Uneven {
    inner: MemoryStore,
    /// The time that a lookup of a live session takes.
    latency: Duration,
    hangs: bool,
    hangs_for_strangers: bool,
    fails_for_strangers: bool,
    fails: AtomicBool,
    at_once: AtomicUsize,
    most_at_once: AtomicUsize,
}

struct InFlight<'a>(&'a Uneven);

impl Drop for InFlight<'_> {
    fn drop(&mut self) {
        self.0.at_once.fetch_sub(1, SeqCst);
    }
}

#[async_trait]
impl SessionStore for Uneven {
    async fn find(&self, token: &SessionToken) -> Result<Option<CustomerSession>, StoreError> {
        let at_once = self.at_once.fetch_add(1, SeqCst) + 1;
        self.most_at_once.fetch_max(at_once, SeqCst);
        let _in_flight = InFlight(self);
        let found = self.inner.find(token).await?;
        let is_stranger = found.is_none();
        if is_stranger && self.hangs_for_strangers || !is_stranger && self.hangs {
            std::future::pending().await
        }
        if self.fails.load(SeqCst) || is_stranger && self.fails_for_strangers {
            return Err(StoreError::unavailable("the server refuses this"));
        }
        sleep(self.latency).await;
        Ok(found)
    }

    fn token_format(&self) -> TokenFormat {
        self.inner.token_format()
    }
}

type Sessions = CustomerSessions<Arc<Uneven>>;

/// Sessions over `store`, `live` of which were verified a `cache_ttl` ago.
struct Shared {
    store: Arc<Uneven>,
    sessions: Sessions,
    clock: ManualClock,
    live: Vec<CustomerSession>,
}

impl Shared {
    async fn new(
        store: Uneven,
        live: usize,
        configure: impl FnOnce(
            CustomerSessionsBuilder<Arc<Uneven>>,
        ) -> CustomerSessionsBuilder<Arc<Uneven>>,
    ) -> Self {
        let clock = clock();
        // What has been looked up is known, however the store behaves later.
        let easy = CustomerSessions::builder(store.inner.clone());
        let easy = easy.clock(clock.clone()).build();
        let store = Arc::new(store);
        let builder = CustomerSessions::builder(Arc::clone(&store));
        let sessions = configure(builder.clock(clock.clone()).cache_ttl(TTL)).build();
        let mut issued = Vec::new();
        for number in 0..live {
            let session = easy.issue(customer(&format!("cus_{number}")), HOUR);
            issued.push(session.await.expect("issued"));
        }
        Self {
            store,
            sessions,
            clock,
            live: issued,
        }
    }

    async fn verify_all(&self) {
        for session in &self.live {
            let verified = self.sessions.authenticate(&session.token).await;
            verified.expect("live");
        }
    }

    /// Starts a request that takes the permit of a stranger.
    fn stranger(&self) -> tokio::task::JoinHandle<Result<(), AuthenticateError>> {
        self.request(TokenFormat::any().generate())
    }

    fn request(
        &self,
        token: SessionToken,
    ) -> tokio::task::JoinHandle<Result<(), AuthenticateError>> {
        let sessions = self.sessions.clone();
        tokio::spawn(async move { sessions.authenticate(&token).await.map(drop) })
    }
}

fn is_pending<F: Future>(future: F) -> bool {
    let mut context = Context::from_waker(Waker::noop());
    matches!(pin!(future).poll(&mut context), Poll::Pending)
}

fn unknown() -> SessionToken {
    TokenFormat::new("cst_").generate()
}

#[tokio::test(start_paused = true)]
async fn while_the_store_hangs_strangers_hold_half_and_a_customer_is_served_stale() {
    let fixture = Fixture::new(|builder| builder.stale_if_error(HOUR).max_concurrent_lookups(8));
    let fixture = fixture.await;
    fixture.authenticate().await.expect("live");
    fixture.clock.advance(TTL);
    fixture.store.fault(Fault::Hang);
    let mut strangers = JoinSet::new();
    for _ in 0..8 {
        let sessions = fixture.sessions.clone();
        strangers.spawn(async move { sessions.authenticate(&unknown()).await.map(drop) });
    }
    settle().await;
    assert_eq!(fixture.store.lookups(), 1 + 4);
    let begun = Instant::now();
    fixture.authenticate().await.expect("stale");
    assert!(begun.elapsed() <= Duration::from_millis(2050));
    let statistics = fixture.sessions.statistics();
    assert_eq!((statistics.stale, statistics.overloaded), (1, 4));
}

#[tokio::test(start_paused = true)]
async fn customers_who_wait_for_permits_of_a_store_that_hangs_are_served_stale() {
    for stale_if_error in [HOUR, Duration::ZERO] {
        let fixture = Fixture::new(|builder| {
            builder
                .stale_if_error(stale_if_error)
                .max_concurrent_lookups(2)
                .breaker_cooldown(Duration::ZERO)
        });
        let fixture = fixture.await;
        let mut tokens = Vec::new();
        for number in 0..12 {
            let issued = fixture
                .sessions
                .issue(customer(&format!("cus_{number}")), HOUR);
            let token = issued.await.expect("issued").token;
            fixture.sessions.authenticate(&token).await.expect("live");
            tokens.push(token);
        }
        fixture.clock.advance(TTL);
        fixture.store.fault(Fault::Hang);
        let mut requests = JoinSet::new();
        for token in tokens {
            let sessions = fixture.sessions.clone();
            requests.spawn(async move { sessions.authenticate(&token).await.map(drop) });
        }
        let mut served = 0;
        while let Some(answer) = requests.join_next().await {
            served += u64::from(answer.expect("no panic").is_ok());
        }
        let statistics = fixture.sessions.statistics();
        assert_eq!(statistics.stale, served);
        assert_eq!(served, if stale_if_error.is_zero() { 0 } else { 12 });
        assert_eq!(statistics.overloaded > 0, stale_if_error.is_zero());
    }
}

#[tokio::test(start_paused = true)]
async fn a_flood_of_strangers_is_not_an_outage() {
    let store = Uneven {
        hangs_for_strangers: true,
        ..Uneven::default()
    };
    let shared = Shared::new(store, 1, |builder| {
        builder.stale_if_error(HOUR).max_concurrent_lookups(1)
    });
    let shared = shared.await;
    shared.verify_all().await;
    shared.clock.advance(TTL);
    let stranger = shared.stranger();
    sleep(Duration::from_millis(10)).await;
    let customer = shared.request(shared.live[0].token.clone());
    sleep(Duration::from_millis(10)).await;
    assert_eq!(shared.sessions.statistics().lookups_waiting, 1);
    // The only permit is a stranger's, for as long as that lookup may take.
    customer.await.expect("no panic").expect("let in");
    stranger.await.expect("no panic").expect_err("unknown");
    let statistics = shared.sessions.statistics();
    assert_eq!((statistics.stale, statistics.verified), (0, 2));
    assert_eq!(statistics.lookups_waiting, 0);
}

#[tokio::test]
async fn tokens_that_were_never_live_do_not_open_the_breaker() {
    let store = Uneven {
        fails_for_strangers: true,
        ..Uneven::default()
    };
    let shared = Shared::new(store, 4, |builder| builder).await;
    shared.verify_all().await;
    shared.clock.advance(TTL);
    for _ in 0..100 {
        let answer = shared.stranger().await.expect("no panic");
        assert!(matches!(answer, Err(AuthenticateError::Store(_))));
    }
    assert!(!shared.sessions.statistics().breaker_open);
    shared.verify_all().await;

    // They keep it open no longer than it was, either.
    shared.store.fails.store(true, SeqCst);
    shared.clock.advance(TTL);
    for _ in 0..100 {
        let answer = shared.sessions.authenticate(&shared.live[0].token).await;
        answer.expect_err("it fails");
    }
    let is_open = || shared.sessions.statistics().breaker_open;
    assert!(!is_open(), "the record of one customer may be damaged");
    for session in &shared.live[1..3] {
        assert!(!is_open(), "three must fail");
        let answer = shared.sessions.authenticate(&session.token).await;
        answer.expect_err("it fails");
    }
    assert!(is_open());
    shared.store.fails.store(false, SeqCst);
    shared.clock.advance(Duration::from_millis(500));
    for _ in 0..100 {
        let answer = shared.stranger().await.expect("no panic");
        assert!(matches!(answer, Err(AuthenticateError::Store(_))));
    }
    shared.verify_all().await;
    assert!(!shared.sessions.statistics().breaker_open);
}

#[tokio::test]
async fn after_a_start_in_an_outage_many_customers_open_the_breaker() {
    let shared = Shared::new(Uneven::default(), 11, |builder| builder).await;
    shared.store.fails.store(true, SeqCst);
    for _ in 0..20 {
        let answer = shared.sessions.authenticate(&shared.live[0].token).await;
        answer.expect_err("it fails");
    }
    assert!(!shared.sessions.statistics().breaker_open, "one token");
    for session in &shared.live[..10] {
        let answer = shared.sessions.authenticate(&session.token).await;
        answer.expect_err("it fails");
    }
    assert!(shared.sessions.statistics().breaker_open);
}

#[tokio::test(start_paused = true)]
async fn an_open_breaker_is_an_outage_even_if_all_permits_are_taken() {
    let store = Uneven {
        hangs_for_strangers: true,
        ..Uneven::default()
    };
    let shared = Shared::new(store, 1, |builder| builder.max_concurrent_lookups(2)).await;
    shared.verify_all().await;
    shared.clock.advance(TTL);
    let _stranger = shared.stranger();
    settle().await;
    let another = shared.stranger().await.expect("no panic");
    assert!(matches!(another, Err(AuthenticateError::Overloaded)));
    shared.store.fails.store(true, SeqCst);
    for _ in 0..10 {
        let answer = shared.sessions.authenticate(&shared.live[0].token).await;
        answer.expect_err("it fails");
    }
    let another = shared.stranger().await.expect("no panic");
    assert!(matches!(another, Err(AuthenticateError::Store(_))));
}

#[tokio::test(start_paused = true)]
async fn after_a_flush_all_live_customers_are_served_within_the_deadline() {
    let shared = Shared::new(
        Uneven {
            latency: Duration::from_millis(100),
            ..Uneven::default()
        },
        4000,
        |builder| builder,
    );
    let shared = shared.await;
    shared.verify_all().await;
    receive(&shared.sessions, [Invalidation::All]).await;
    let begun = Instant::now();
    let mut requests = JoinSet::new();
    for session in &shared.live {
        let (sessions, token) = (shared.sessions.clone(), session.token.clone());
        requests.spawn(async move { sessions.authenticate(&token).await.map(drop) });
    }
    while let Some(answer) = requests.join_next().await {
        answer.expect("no panic").expect("let in");
    }
    assert!(begun.elapsed() < Duration::from_secs(1));
    assert_eq!(shared.store.most_at_once.load(SeqCst), 1024);
    assert_eq!(shared.sessions.statistics().lookups, 8000);
}

#[tokio::test]
async fn a_known_token_waits_for_a_permit_and_an_unknown_one_does_not() {
    for permits in [1, 2] {
        let fixture = Fixture::new(|builder| builder.max_concurrent_lookups(permits)).await;
        fixture.store.shut();
        let mut waiting = Vec::new();
        for number in 0..=permits {
            let issued = fixture
                .sessions
                .issue(customer(&format!("cus_{number}")), HOUR);
            let token = issued.await.expect("issued").token;
            let sessions = fixture.sessions.clone();
            waiting.push(tokio::spawn(
                async move { sessions.authenticate(&token).await },
            ));
        }
        settle().await;
        assert_eq!(fixture.store.lookups(), permits);
        assert_eq!(fixture.sessions.statistics().lookups_waiting, 1);
        assert_eq!(
            fixture.sessions.statistics().lookups_in_flight,
            permits as u64
        );
        let token = unknown();
        assert!(
            !is_pending(fixture.sessions.authenticate(&token)),
            "refused"
        );
        assert_eq!(fixture.sessions.statistics().overloaded, 1);
        fixture.store.open();
        for request in waiting {
            request.await.expect("no panic").expect("live");
        }
        let answer = fixture.sessions.authenticate(&token).await;
        assert!(matches!(answer, Err(AuthenticateError::InvalidToken)));
    }
}

#[tokio::test]
async fn a_token_that_was_found_invalid_is_a_stranger_s_again() {
    let fixture = Fixture::new(|builder| {
        builder
            .max_concurrent_lookups(2)
            .negative_ttl(Duration::ZERO)
    });
    let fixture = fixture.await;
    fixture.authenticate().await.expect("live");
    fixture
        .sessions
        .revoke(&fixture.session.id)
        .await
        .expect("revoked");
    fixture.authenticate().await.expect_err("revoked");
    fixture.store.shut();
    let _stranger = tokio::spawn({
        let sessions = fixture.sessions.clone();
        async move { sessions.authenticate(&unknown()).await.map(drop) }
    });
    settle().await;
    let answer = fixture.authenticate().await;
    assert!(matches!(answer, Err(AuthenticateError::Overloaded)));
}

#[tokio::test]
async fn a_session_that_was_issued_or_rotated_here_is_not_a_stranger_s() {
    let fixture = Fixture::new(|builder| builder.max_concurrent_lookups(2)).await;
    let rotated = fixture.sessions.rotate(&fixture.session.token, HOUR).await;
    let rotated = rotated.expect("rotated").expect("live").token;
    let issued = fixture.sessions.issue(customer("cus_2"), HOUR).await;
    let issued = issued.expect("issued").token;
    fixture.store.shut();
    let _stranger = tokio::spawn({
        let sessions = fixture.sessions.clone();
        async move { sessions.authenticate(&unknown()).await.map(drop) }
    });
    settle().await;
    for token in [&rotated, &issued] {
        assert!(is_pending(fixture.sessions.authenticate(token)), "it waits");
    }
}

#[tokio::test]
async fn refreshes_leave_half_of_the_permits_to_requests() {
    let fixture = Fixture::new(|builder| builder.max_concurrent_lookups(4)).await;
    let mut tokens = Vec::new();
    for number in 0..8 {
        let issued = fixture
            .sessions
            .issue(customer(&format!("cus_{number}")), HOUR);
        let token = issued.await.expect("issued").token;
        fixture.sessions.authenticate(&token).await.expect("live");
        tokens.push(token);
    }
    fixture.clock.advance(TTL * 91 / 100);
    fixture.store.shut();
    for token in &tokens {
        fixture.sessions.authenticate(token).await.expect("fresh");
    }
    settle().await;
    assert_eq!(fixture.store.lookups(), 8 + 2);
    let request = fixture.authenticate();
    assert!(is_pending(request), "it is looked up");
    settle().await;
    assert_eq!(fixture.store.lookups(), 8 + 3);
}

#[tokio::test]
async fn a_session_that_only_the_front_cache_holds_is_served_stale_too() {
    let fixture = Fixture::new(|builder| {
        builder
            .stale_if_error(HOUR)
            .cache_capacity(100)
            .breaker_cooldown(Duration::ZERO)
    });
    let fixture = fixture.await;
    let mut tokens = Vec::new();
    for number in 0..200 {
        let issued = fixture
            .sessions
            .issue(customer(&format!("cus_{number}")), HOUR);
        let token = issued.await.expect("issued").token;
        for _ in 0..3 {
            fixture.sessions.authenticate(&token).await.expect("live");
        }
        tokens.push(token);
    }
    fixture.sessions.run_pending_tasks();
    fixture.store.fault(Fault::Fail);
    fixture.clock.advance(TTL);
    let mut served = 0;
    for token in tokens {
        served += u32::from(fixture.sessions.authenticate(&token).await.is_ok());
    }
    assert!(served > 110, "no more than moka holds: {served}");
    assert_eq!(fixture.sessions.statistics().stale, u64::from(served));
}

#[tokio::test]
async fn signing_out_with_unknown_tokens_takes_no_more_than_their_share() {
    let fixture = Fixture::new(|builder| builder.max_concurrent_lookups(4)).await;
    fixture.store.shut();
    let format = fixture.store.token_format();
    let mut sign_outs = JoinSet::new();
    for _ in 0..20 {
        let (sessions, token) = (fixture.sessions.clone(), format.generate());
        sign_outs.spawn(async move { sessions.revoke_token(&token).await });
    }
    settle().await;
    assert_eq!(fixture.store.lookups(), 2, "half of the permits");
    // Their clients are gone, but the store still has its work.
    sign_outs.abort_all();
    settle().await;
    assert!(
        fixture
            .sessions
            .revoke_token(&format.generate())
            .await
            .is_err()
    );
    assert_eq!(fixture.store.lookups(), 2);
    fixture.store.open();
    settle().await;
    let revoked = fixture.sessions.revoke_token(&fixture.session.token).await;
    assert!(revoked.expect("an answer"));
}

#[tokio::test]
async fn a_client_cannot_invalidate_sessions_of_others_while_the_store_fails() {
    let store = FaultyStore::new(MemoryStore::new());
    let clock = clock();
    let sessions = CustomerSessions::builder(store.clone())
        .clock(clock.clone())
        .cache_ttl(TTL)
        .stale_if_error(HOUR)
        .build();
    let issue = |id| sessions.issue(customer(id), HOUR);
    let victim = issue("cus_1").await.expect("issued");
    let attacker = issue("cus_2").await.expect("issued");
    for session in [&victim, &attacker] {
        sessions.authenticate(&session.token).await.expect("live");
    }
    clock.advance(TTL);
    for fault in [StoreFault::Error, StoreFault::Panic] {
        store.fail_with(fault);
        let owner = &attacker.customer_id;
        assert!(sessions.revoke_owned(owner, &victim.id).await.is_err());
        let stale = sessions.authenticate(&victim.token).await;
        assert!(stale.is_ok(), "as before: {stale:?}");
        // What the attacker may end is in doubt.
        assert!(sessions.authenticate(&attacker.token).await.is_err());
    }
}
