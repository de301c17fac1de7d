//! Several caches in front of one store, in one process.

use std::time::Duration;

use customer_session::{
    CustomerSession, CustomerSessions, SessionStore, SessionToken, SharedCaches, StoreError,
    async_trait,
    store::MemoryStore,
    testing::{Fault, FaultyStore, ManualClock},
};

use crate::log::Log;
use test_support::{HOUR, clock, customer, one_session, receive};

#[tokio::test]
async fn a_revocation_by_one_reaches_the_others_before_it_returns() {
    let store = MemoryStore::new();
    // As `CustomerSessionLayer::new(store)` beside the sessions that revoke.
    let layer = CustomerSessions::builder(store.clone()).build();
    let wrapped = CustomerSessions::builder(FaultyStore::new(store.clone())).build();
    let sessions = CustomerSessions::builder(store).build();
    let mut issued = Vec::new();
    for number in 0..5 {
        let customer = customer(&format!("cus_{number}"));
        let session = sessions.issue(customer, HOUR).await.expect("issued");
        for cache in [&sessions, &layer] {
            assert!(cache.authenticate(&session.token).await.is_ok());
        }
        assert!(wrapped.authenticate(&session.token).await.is_ok());
        issued.push(session);
    }
    let [a, b, c, d, e] = &issued[..] else {
        unreachable!("five were issued");
    };
    assert!(sessions.revoke(&a.id).await.expect("an answer"));
    sessions
        .revoke_customer(&b.customer_id)
        .await
        .expect("done");
    let rotated = sessions.rotate(&c.token, HOUR).await.expect("an answer");
    assert!(rotated.is_some());
    assert!(sessions.revoke_token(&d.token).await.expect("an answer"));
    for session in [a, b, c, d] {
        assert!(layer.authenticate(&session.token).await.is_err());
        assert!(wrapped.authenticate(&session.token).await.is_err());
    }
    let mut renamed = (*e.customer).clone();
    renamed.name = Some("New".into());
    assert!(
        sessions
            .update_customer(&renamed.into())
            .await
            .expect("done")
    );
    let shown = layer.authenticate(&e.token).await.expect("live");
    assert_eq!(shown.customer.name.as_deref(), Some("New"));

    // One that is gone is not told, and the others still are.
    drop(wrapped);
    assert!(layer.revoke(&e.id).await.expect("an answer"));
    assert!(sessions.authenticate(&e.token).await.is_err());
}

#[tokio::test(start_paused = true)]
async fn what_a_late_change_of_one_may_concern_is_cached_by_none() {
    let store = MemoryStore::new();
    let faulty = FaultyStore::new(store.clone());
    let late = CustomerSessions::builder(faulty.clone()).build();
    let sessions = CustomerSessions::builder(store).build();
    let first = sessions.issue(customer("cus_1"), HOUR).await;
    let first = first.expect("issued");
    let second = sessions.rotate(&first.token, HOUR).await.expect("rotated");
    let second = second.expect("live");
    let lookups = async || {
        let before = sessions.statistics().lookups;
        for _ in 0..3 {
            sessions.authenticate(&second.token).await.expect("live");
        }
        sessions.statistics().lookups - before
    };
    assert_eq!(lookups().await, 1);
    faulty.fail_with(Fault::Hang);
    late.revoke(&first.id).await.expect_err("late");
    assert_eq!(lookups().await, 3);
    // It is given up.
    tokio::time::sleep(Duration::from_secs(301)).await;
    assert_eq!(lookups().await, 1);
}

#[tokio::test]
async fn other_stores_and_messages_of_other_nodes_concern_one_cache() {
    let (_, sessions, session) = one_session().await;
    let other = CustomerSessions::builder(MemoryStore::new()).build();
    assert!(sessions.authenticate(&session.token).await.is_ok());
    let before = sessions.statistics().invalidations;
    other.revoke(&session.id).await.expect("an answer");
    receive(&other, [customer_session::Invalidation::All]).await;
    assert_eq!(sessions.statistics().invalidations, before);
}

/// A store that does not know its caches, and has a source to listen to.
#[derive(Clone)]
struct Separate;

#[async_trait]
impl SessionStore for Separate {
    async fn find(&self, _: &SessionToken) -> Result<Option<CustomerSession>, StoreError> {
        Ok(None)
    }

    fn has_invalidation_source(&self) -> bool {
        true
    }
}

/// A store that keeps the set of its caches.
#[derive(Clone, Default)]
struct Shared(SharedCaches);

#[async_trait]
impl SessionStore for Shared {
    async fn find(&self, _: &SessionToken) -> Result<Option<CustomerSession>, StoreError> {
        Ok(None)
    }

    fn shared_caches(&self) -> Option<&SharedCaches> {
        Some(&self.0)
    }
}

#[test]
fn two_caches_that_do_not_know_of_each_other_are_logged_once() {
    const WARNING: &str = "two caches in front of stores of the same type";

    let log = Log::default();
    let _guard = log.listen();
    let shared = Shared::default();
    let _known = [&shared, &shared].map(|store| CustomerSessions::builder(store.clone()).build());
    let _first = CustomerSessions::builder(Separate).build();
    assert!(!log.text().contains(WARNING));
    let _others = [(); 3].map(|()| CustomerSessions::builder(Separate).build());
    assert_eq!(log.text().matches(WARNING).count(), 1);
}

#[tokio::test]
async fn an_engine_that_could_listen_and_does_not_says_so_once() {
    const WARNING: &str = "nothing listens to it";

    /// Looks up three tokens, a minute apart.
    async fn look_up(sessions: &CustomerSessions<impl SessionStore>, clock: &ManualClock) {
        for token in ["one", "two", "three"] {
            let _ = sessions.authenticate(&SessionToken::new(token)).await;
            clock.advance(Duration::from_secs(60));
        }
    }

    let log = Log::default();
    let _guard = log.listen();
    let clock = clock();
    let without = CustomerSessions::builder(Shared::default())
        .clock(clock.clone())
        .build();
    look_up(&without, &clock).await;
    assert!(
        !log.text().contains(WARNING),
        "there is nothing to listen to"
    );

    let clock = ManualClock::new(chrono::DateTime::UNIX_EPOCH);
    let deaf = CustomerSessions::builder(Separate)
        .clock(clock.clone())
        .build();
    look_up(&deaf, &clock).await;
    assert_eq!(log.text().matches(WARNING).count(), 1);

    let (_sender, source) = test_support::ChannelSource::new();
    let listening = CustomerSessions::builder(Separate)
        .clock(clock.clone())
        .build();
    let task = tokio::spawn(listening.listen(source));
    tokio::task::yield_now().await;
    look_up(&listening, &clock).await;
    assert_eq!(log.text().matches(WARNING).count(), 1);
    task.abort();
}
