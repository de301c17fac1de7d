//! Changes that the store confirms late, or never.

use std::{
    sync::{Arc, Mutex},
    task::{Context, Waker},
    time::Duration,
};

use customer_session::{
    AuthenticateError, CustomerId, CustomerSession, CustomerSessions, Inserted, NewSession,
    Revocation, Revoked, SessionId, SessionLimit, SessionRegistry, SessionStore as _, SessionToken,
    StoreError, StoreErrorKind, WhenFull, async_trait, store::MemoryStore,
};
use tokio::{runtime::Handle, sync::watch, time::Instant};

use crate::fixture::settle;
use test_support::{HOUR, StoreWrapper, Wrapped, customer};

/// The way in which a revocation goes on.
#[derive(Clone, Copy, PartialEq)]
enum Stage {
    Asked,
    /// The change is committed, and the answer does not come.
    Committed,
    Answered,
}

/// A store that makes revocations and updates when it is told to.
struct Late {
    inner: MemoryStore,
    stage: watch::Sender<Stage>,
    lookups: Mutex<u32>,
}

impl Late {
    async fn reaches(&self, stage: Stage) {
        let mut stages = self.stage.subscribe();
        let reached = stages.wait_for(|now| *now as u8 >= stage as u8);
        reached.await.expect("the store lives");
    }

    fn lookups(&self) -> u32 {
        *self.lookups.lock().expect("no panic")
    }
}

#[async_trait]
impl StoreWrapper for Late {
    fn inner(&self) -> &dyn SessionRegistry {
        &self.inner
    }

    async fn find(&self, token: &SessionToken) -> Result<Option<CustomerSession>, StoreError> {
        *self.lookups.lock().expect("no panic") += 1;
        self.inner.find(token).await
    }

    async fn revoke(&self, what: &Revocation) -> Result<Revoked, StoreError> {
        self.reaches(Stage::Committed).await;
        let revoked = self.inner.revoke(what).await;
        self.reaches(Stage::Answered).await;
        revoked
    }
}

/// A store whose answers to insertions and rotations are lost.
struct Lossy(MemoryStore);

#[async_trait]
impl StoreWrapper for Lossy {
    fn inner(&self) -> &dyn SessionRegistry {
        &self.0
    }

    async fn insert(
        &self,
        session: &CustomerSession,
        limit: Option<&SessionLimit>,
    ) -> Result<Inserted, StoreError> {
        self.0.insert(session, limit).await?;
        Err(StoreError::unavailable("the answer is lost"))
    }

    async fn replace(
        &self,
        old: &SessionId,
        new: &CustomerSession,
        limit: Option<&SessionLimit>,
    ) -> Result<Option<Inserted>, StoreError> {
        self.0.replace(old, new, limit).await?;
        Err(StoreError::unavailable("the answer is lost"))
    }
}

type Store = Arc<Wrapped<Late>>;

async fn one_session() -> (Store, CustomerSessions<Store>, CustomerSession) {
    let store = Arc::new(Wrapped(Late {
        inner: MemoryStore::new(),
        stage: watch::Sender::new(Stage::Asked),
        lookups: Mutex::default(),
    }));
    let sessions = CustomerSessions::builder(Arc::clone(&store)).build();
    let issued = sessions.issue(customer("cus_1"), HOUR).await;
    (store, sessions, issued.expect("issued"))
}

type Change = fn(&CustomerSession) -> Revocation;

const CHANGES: [Change; 5] = [
    |session| Revocation::Session(session.id.clone()),
    |session| Revocation::Owned {
        customer: session.customer_id.clone(),
        session: session.id.clone(),
    },
    |session| Revocation::Customer(session.customer_id.clone()),
    |session| Revocation::CreatedBefore(session.created_at + Duration::from_secs(1)),
    |_| Revocation::All,
];

async fn revoke(sessions: &CustomerSessions<Store>, what: Revocation) -> Result<(), StoreError> {
    match what {
        Revocation::Session(id) => sessions.revoke(&id).await.map(drop),
        Revocation::Owned { customer, session } => {
            sessions.revoke_owned(&customer, &session).await.map(drop)
        }
        Revocation::Customer(id) => sessions.revoke_customer(&id).await,
        Revocation::CreatedBefore(time) => sessions.revoke_created_before(time).await,
        _ => sessions.revoke_all().await,
    }
}

#[tokio::test(start_paused = true)]
async fn until_a_late_revocation_ends_its_session_is_not_cached() {
    for change in CHANGES {
        let (store, sessions, session) = one_session().await;
        let authenticate = || sessions.authenticate(&session.token);
        authenticate().await.expect("live");
        authenticate().await.expect("cached");
        assert_eq!(store.lookups(), 1);

        let begun = Instant::now();
        let error = revoke(&sessions, change(&session)).await.expect_err("late");
        assert_eq!(error.kind(), StoreErrorKind::Timeout);
        assert_eq!(begun.elapsed(), Duration::from_secs(10));
        authenticate().await.expect("not revoked yet");
        authenticate().await.expect("not revoked yet");
        assert_eq!(store.lookups(), 3, "asked each time");
        assert_eq!(sessions.statistics().changes_in_flight, 1);

        // It commits, and its answer is on the way: nothing tells the engine.
        store.stage.send_replace(Stage::Committed);
        settle().await;
        let refused = authenticate().await;
        assert!(matches!(refused, Err(AuthenticateError::InvalidToken)));
        let recorded = sessions.statistics().invalidations;
        store.stage.send_replace(Stage::Answered);
        settle().await;
        let statistics = sessions.statistics();
        assert!(statistics.invalidations > recorded, "recorded again");
        assert_eq!(statistics.changes_in_flight, 0);

        // Another session is cached as usual again.
        let another = sessions.issue(customer("cus_1"), HOUR).await;
        let token = another.expect("issued").token;
        for _ in 0..3 {
            sessions.authenticate(&token).await.expect("live");
        }
        assert_eq!(store.lookups(), 5);
    }
}

#[tokio::test(start_paused = true)]
async fn until_a_late_revocation_ends_what_its_session_was_rotated_into_is_not_cached() {
    let (store, sessions, first) = one_session().await;
    let bystander = sessions.issue(customer("cus_2"), HOUR).await;
    let bystander = bystander.expect("issued");
    let mut family = vec![first];
    for _ in 0..2 {
        let last = family.last().expect("one");
        let rotated = sessions.rotate(&last.token, HOUR).await.expect("rotated");
        family.push(rotated.expect("live"));
    }
    let last = &family[2];
    for session in [last, &bystander, last] {
        sessions.authenticate(&session.token).await.expect("live");
    }
    for named in &family {
        let revoked = sessions.revoke(&named.id);
        revoked.await.expect_err("late");
        let before = store.lookups();
        for _ in 0..3 {
            sessions.authenticate(&last.token).await.expect("live");
            let bystander = sessions.authenticate(&bystander.token);
            bystander.await.expect("live");
        }
        assert_eq!(store.lookups() - before, 3, "{named:?}");
    }
    store.stage.send_replace(Stage::Committed);
    settle().await;
    let refused = sessions.authenticate(&last.token).await;
    assert!(matches!(refused, Err(AuthenticateError::InvalidToken)));
}

#[tokio::test(start_paused = true)]
async fn a_revocation_that_never_ends_is_given_up() {
    let (_store, sessions, session) = one_session().await;
    sessions.revoke(&session.id).await.expect_err("late");
    tokio::time::sleep(Duration::from_secs(299)).await;
    assert_eq!(sessions.statistics().changes_in_flight, 1);
    tokio::time::sleep(Duration::from_secs(2)).await;
    assert_eq!(sessions.statistics().changes_in_flight, 0);
}

#[tokio::test]
async fn five_thousand_abandoned_revocations_leave_a_bounded_number_behind() {
    let (store, sessions, session) = one_session().await;
    let abandon = |what: Revocation| {
        let mut change = Box::pin(revoke(&sessions, what));
        let mut context = Context::from_waker(Waker::noop());
        change.as_mut().poll(&mut context)
    };
    for number in 0..5000 {
        let id = SessionId::from(format!("ses_{number}"));
        let _ = abandon(Revocation::Session(id));
        tokio::task::yield_now().await;
    }
    let metrics = Handle::current().metrics();
    assert_eq!(metrics.num_alive_tasks(), 768);
    let recorded = sessions.statistics().invalidations;
    let refused = sessions.revoke(&session.id).await.expect_err("too many");
    assert_eq!(refused.kind(), StoreErrorKind::Unavailable);
    let cause = std::error::Error::source(&refused).expect("a cause");
    assert!(cause.to_string().contains("was not made"), "{cause}");
    let refused = sessions.issue(customer("cus_2"), HOUR).await;
    assert!(refused.is_err(), "a sign-in is one session, too");
    assert_eq!(sessions.statistics().invalidations, recorded);

    // Whole customers have a share of their own.
    for number in 0..5000 {
        let id = CustomerId::from(format!("cus_other_{number}"));
        let _ = abandon(Revocation::Customer(id));
        tokio::task::yield_now().await;
    }
    assert_eq!(metrics.num_alive_tasks(), 1024);
    assert_eq!(sessions.statistics().changes_in_flight, 1024);

    store.stage.send_replace(Stage::Answered);
    for _ in 0..10_000 {
        tokio::task::yield_now().await;
    }
    assert_eq!(sessions.statistics().changes_in_flight, 0);
    assert!(sessions.revoke(&session.id).await.expect("revoked"));
    assert!(sessions.statistics().invalidations > recorded);
}

#[tokio::test]
async fn a_session_that_a_limit_ended_is_refused_though_the_answer_is_lost() {
    let memory = MemoryStore::new();
    let issue = |new: NewSession| {
        let sessions = CustomerSessions::builder(memory.clone()).build();
        async move {
            sessions
                .issue_with(customer("cus_1"), new)
                .await
                .expect("issued")
        }
    };
    let link = CustomerSessions::builder(memory.clone()).build();
    let link = link.link(customer("cus_1"), HOUR).await.expect("a link");
    let limited = || NewSession::new(HOUR).at_most(1, WhenFull::EndOldest);
    let sessions = CustomerSessions::builder(Wrapped(Lossy(memory.clone()))).build();
    for exchanges in [false, true] {
        let old = issue(NewSession::new(HOUR)).await;
        sessions.authenticate(&old.token).await.expect("live");
        let lost = match exchanges {
            true => sessions.exchange(&link.token, limited()).await.map(drop),
            false => sessions
                .issue_with(customer("cus_1"), limited())
                .await
                .map(drop),
        };
        assert_eq!(lost.expect_err("lost").kind(), StoreErrorKind::Unavailable);
        assert!(memory.find(&old.token).await.expect("an answer").is_none());
        let refused = sessions.authenticate(&old.token).await;
        assert!(matches!(refused, Err(AuthenticateError::InvalidToken)));
    }

    // Where a limit ends nothing, what is cached stays.
    sessions
        .revoke_customer(&"cus_1".into())
        .await
        .expect("revoked");
    let old = issue(NewSession::new(HOUR)).await;
    sessions.authenticate(&old.token).await.expect("live");
    let lookups = sessions.statistics().lookups;
    let refusing = NewSession::new(HOUR).at_most(5, WhenFull::Refuse);
    let lost = sessions.issue_with(customer("cus_1"), refusing).await;
    lost.expect_err("lost");
    sessions.authenticate(&old.token).await.expect("live");
    assert_eq!(sessions.statistics().lookups, lookups);
}

#[tokio::test(start_paused = true)]
async fn until_a_late_revocation_ends_what_is_derived_from_its_session_is_not_cached() {
    let (store, sessions, parent) = one_session().await;
    let child = sessions.derive(&parent.token, NewSession::new(HOUR)).await;
    let child = child.expect("an answer").expect("live");
    sessions.authenticate(&child.token).await.expect("live");
    let revoked = sessions.revoke(&parent.id);
    revoked.await.expect_err("late");
    let before = store.lookups();
    for _ in 0..3 {
        sessions.authenticate(&child.token).await.expect("live");
    }
    assert_eq!(store.lookups() - before, 3);
    store.stage.send_replace(Stage::Committed);
    settle().await;
    let refused = sessions.authenticate(&child.token).await;
    assert!(matches!(refused, Err(AuthenticateError::InvalidToken)));
}
