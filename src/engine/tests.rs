//! What can only be tested from inside: an insertion that is delayed, and keys that collide.

use std::{
    sync::{Arc, OnceLock, Weak},
    time::Duration,
};

use super::{AuthenticateError, CacheLookup, Engine, Settings};
use crate::{
    clock::TimeSource,
    customer::CustomerData,
    invalidation::{Invalidation, SourceEvent},
    session::CustomerSession,
    sessions::{CustomerSessions, listener::Listener},
    store::{MemoryStore, SessionStore, StoreError},
    token::SessionToken,
};

const HOUR: Duration = Duration::from_secs(3600);

/// Sessions whose identifiers all share one mark.
fn on_one_stripe() -> CustomerSessions<MemoryStore> {
    let store = Arc::new(MemoryStore::new());
    let engine = Engine::new(Settings {
        store: Arc::clone(&store) as Arc<dyn SessionStore>,
        time: TimeSource::new(None),
        token_format: store.token_format(),
        cache_capacity: 100,
        cache_ttl: HOUR,
        negative_ttl: HOUR,
        stale_if_error: Duration::ZERO,
        breaker_cooldown: None,
        store_timeout: Some(Duration::from_secs(2)),
        max_concurrent_lookups: Some(10),
        stripes: 1,
    });
    CustomerSessions { store, engine }
}

async fn issue(sessions: &CustomerSessions<MemoryStore>, customer: &str) -> CustomerSession {
    let customer = CustomerData::new(customer, "org_1");
    sessions.issue(customer, HOUR).await.expect("issued")
}

#[tokio::test]
async fn an_answer_inserted_after_the_revocation_is_dead_on_arrival() {
    let sessions = on_one_stripe();
    let session = issue(&sessions, "cus_1").await;
    let token = session.token.expose().as_bytes();
    let engine = &sessions.engine;
    for invalidation in [
        Invalidation::Session(session.id.clone()),
        Invalidation::Customer(session.customer_id.clone()),
        Invalidation::All,
    ] {
        let answer = engine.ask(&session.token).await;
        let answer = answer.expect("found");
        assert!(
            engine.passes(&answer, token),
            "checked before the insertion"
        );
        engine.invalidate(&invalidation);
        engine.cache.insert(engine.cache.key(token), answer);
        assert!(
            matches!(engine.lookup_cached(token), CacheLookup::Miss),
            "{invalidation:?}"
        );
    }
}

#[tokio::test]
async fn another_session_s_answer_is_not_used_even_under_the_same_key() {
    let sessions = on_one_stripe();
    let (mine, other) = (
        issue(&sessions, "cus_1").await,
        issue(&sessions, "cus_2").await,
    );
    let engine = &sessions.engine;
    let answer = engine.ask(&other.token).await;
    let key = engine.cache.key(mine.token.expose().as_bytes());
    engine.cache.insert(key, answer.expect("found"));
    assert!(matches!(
        engine.lookup_cached(mine.token.expose().as_bytes()),
        CacheLookup::Miss
    ));
}

#[tokio::test]
async fn on_one_stripe_a_revocation_ends_its_own_session_and_no_other() {
    let sessions = on_one_stripe();
    let (one, two) = (
        issue(&sessions, "cus_1").await,
        issue(&sessions, "cus_2").await,
    );
    for session in [&one, &two] {
        sessions.authenticate(&session.token).await.expect("live");
    }
    assert!(sessions.revoke(&one.id).await.expect("revoked"));
    assert!(sessions.authenticate(&one.token).await.is_err());
    let still = sessions.authenticate(&two.token).await.expect("live");
    assert_eq!(still.id, two.id);
}

/// A store during each of whose lookups something changes.
struct Storm {
    inner: MemoryStore,
    change: SourceEvent,
    /// In which lookups it changes.
    when: std::ops::RangeInclusive<u64>,
    engine: OnceLock<Weak<Engine>>,
}

#[crate::async_trait]
impl SessionStore for Storm {
    async fn find(&self, token: &SessionToken) -> Result<Option<CustomerSession>, StoreError> {
        let found = self.inner.find(token).await;
        let engine = self.engine.get().and_then(Weak::upgrade);
        let engine = engine.expect("it is running");
        if self.when.contains(&engine.statistics().lookups) {
            let mut listener = Listener::new(engine);
            listener.apply(&self.change);
            if self.change == SourceEvent::Disconnected {
                listener.apply(&Invalidation::All.into());
            }
        }
        found
    }
}

async fn in_a_storm(
    change: impl FnOnce(&CustomerSession) -> SourceEvent,
    when: std::ops::RangeInclusive<u64>,
) -> (Result<Arc<CustomerSession>, AuthenticateError>, u64) {
    let calm = on_one_stripe();
    let session = issue(&calm, "cus_1").await;
    let storm = Arc::new(Storm {
        inner: MemoryStore::clone(&calm.store),
        change: change(&session),
        when,
        engine: OnceLock::new(),
    });
    let engine = Engine::new(Settings {
        store: Arc::clone(&storm) as Arc<dyn SessionStore>,
        time: TimeSource::new(None),
        token_format: calm.store.token_format(),
        cache_capacity: 100,
        cache_ttl: HOUR,
        negative_ttl: HOUR,
        stale_if_error: Duration::ZERO,
        breaker_cooldown: None,
        store_timeout: None,
        max_concurrent_lookups: Some(1),
        stripes: 1,
    });
    storm.engine.set(Arc::downgrade(&engine)).expect("set once");
    let answer = engine.authenticate(session.token.clone()).await;
    (
        answer.map(|it| Arc::clone(&it.found.session)),
        engine.statistics().lookups,
    )
}

/// Changes that make a lookup start over: those of others on the same stripe, those of the session
/// itself, and a gap in what was heard that is over by the time the lookup lands.
const CHANGES: [fn(&CustomerSession) -> SourceEvent; 5] = [
    |_| Invalidation::Session("ses_other".into()).into(),
    |session| Invalidation::Session(session.id.clone()).into(),
    |session| Invalidation::Customer(session.customer_id.clone()).into(),
    |_| Invalidation::All.into(),
    |_| SourceEvent::Disconnected,
];

#[tokio::test]
async fn a_lookup_that_is_overtaken_is_made_again() {
    for change in CHANGES {
        // The store still has the session, as after a mere change.
        let (answer, lookups) = in_a_storm(change, 1..=4).await;
        answer.expect("live");
        assert_eq!(lookups, 5);
    }
}

#[tokio::test]
async fn under_changes_without_end_the_answer_is_an_outage_after_eight_lookups() {
    for change in CHANGES {
        let (answer, lookups) = in_a_storm(change, 1..=u64::MAX).await;
        assert!(matches!(answer, Err(AuthenticateError::Store(_))));
        assert_eq!(lookups, 8);
    }
}
