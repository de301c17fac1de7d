//! Tests of what cannot be reached from outside: an insertion that is delayed, keys that collide,
//! and a lookup that is overtaken.

use std::{
    ops::RangeInclusive,
    sync::{Arc, Mutex, OnceLock, Weak},
    time::Duration,
};

use async_trait::async_trait;
use chrono::{DateTime, Utc};

use super::{AuthenticateError, Authenticated, CacheLookup, Engine, config::Config};
use crate::{
    customer::CustomerData,
    invalidation::Invalidation,
    session::CustomerSession,
    store::{SessionStore, StoreError},
    testing::ManualClock,
    token::{SessionToken, TokenFormat},
};

const HOUR: Duration = Duration::from_secs(3600);

type Change = fn(&Engine, &CustomerSession);

/// A store that holds a few sessions, and changes something during some of its lookups.
#[derive(Default)]
struct Store {
    sessions: Mutex<Vec<CustomerSession>>,
    change: Option<Change>,
    /// The lookups, counted from one, during which it changes something.
    when: Option<RangeInclusive<u64>>,
    engine: OnceLock<Weak<Engine>>,
}

#[async_trait]
impl SessionStore for Store {
    async fn find(&self, token: &SessionToken) -> Result<Option<CustomerSession>, StoreError> {
        let sessions = self.sessions.lock().expect("no panic");
        let found = sessions.iter().find(|session| session.token == *token);
        let engine = self.engine.get().and_then(Weak::upgrade);
        let engine = engine.expect("it is running");
        let when = self.when.as_ref();
        if when.is_some_and(|when| when.contains(&engine.statistics().lookups)) {
            let change = self.change.expect("a change");
            change(&engine, found.expect("a session"));
        }
        Ok(found.cloned())
    }
}

fn session(number: u32) -> CustomerSession {
    let id = format!("ses_{number}");
    let customer = CustomerData::new(format!("cus_{number}"), "org_1");
    CustomerSession::new(
        id,
        TokenFormat::any().generate(),
        customer,
        DateTime::<Utc>::MAX_UTC,
    )
}

/// Returns an engine whose sessions all share one entry of the revocation table.
fn on_one_stripe(store: Store) -> (Arc<Store>, Arc<Engine>) {
    with_config(store, |config| config.stripes = Some(1))
}

fn with_config(store: Store, configure: impl FnOnce(&mut Config)) -> (Arc<Store>, Arc<Engine>) {
    let mut config = Config::new(TokenFormat::any());
    config.cache_capacity = 100;
    config.cache_ttl = HOUR;
    config.negative_ttl = HOUR;
    config.breaker_cooldown = Duration::ZERO;
    config.max_concurrent_lookups = 1;
    configure(&mut config);
    let store = Arc::new(store);
    let port = Arc::clone(&store) as Arc<dyn SessionStore>;
    let engine = Engine::new(port, None, config);
    let weak = Arc::downgrade(&engine);
    store.engine.set(weak).expect("set once");
    (store, engine)
}

fn with_two_sessions() -> (Arc<Store>, Arc<Engine>, [CustomerSession; 2]) {
    let sessions = [session(1), session(2)];
    let (store, engine) = on_one_stripe(Store::default());
    store
        .sessions
        .lock()
        .expect("no panic")
        .extend(sessions.clone());
    (store, engine, sessions)
}

async fn result_of(engine: &Arc<Engine>, token: &SessionToken) -> super::LookupResult {
    let key = engine.cache.key(token.expose().as_bytes());
    assert!(engine.authenticate(token.clone()).await.is_ok(), "live");
    super::LookupResult::Session(engine.cache.session(key).expect("cached"))
}

#[tokio::test]
async fn a_result_inserted_after_the_revocation_is_dead_on_arrival() {
    let (_, engine, [session, _]) = with_two_sessions();
    let token = session.token.expose().as_bytes();
    for invalidation in [
        Invalidation::Session(session.id.clone()),
        Invalidation::Customer(session.customer_id.clone()),
        Invalidation::All,
    ] {
        let result = result_of(&engine, &session.token).await;
        assert!(engine.may_land(&result, token), "before the insertion");
        engine.invalidate(&invalidation);
        engine
            .cache
            .insert(engine.cache.key(token), result, |_| true);
        let lookup = engine.lookup_cached(token);
        assert!(matches!(lookup, CacheLookup::Miss), "{invalidation:?}");
    }
}

#[tokio::test]
async fn a_session_that_was_looked_up_is_in_the_front_cache_at_once() {
    let (_, engine, [session, _]) = with_two_sessions();
    let token = session.token.expose().as_bytes();
    result_of(&engine, &session.token).await;
    let hash = engine.cache.hash64(token);
    let found = engine
        .cache
        .front(hash, |cached| Some(cached.session.id.clone()));
    assert_eq!(found, Some(session.id));
}

#[tokio::test]
async fn the_entry_of_another_session_is_not_used_even_under_the_same_key() {
    let (_, engine, [mine, other]) = with_two_sessions();
    let token = mine.token.expose().as_bytes();
    let result = result_of(&engine, &other.token).await;
    engine
        .cache
        .insert(engine.cache.key(token), result, |_| true);
    assert!(matches!(engine.lookup_cached(token), CacheLookup::Miss));
}

#[tokio::test]
async fn on_one_stripe_a_revocation_ends_its_own_session_and_no_other() {
    let (store, engine, sessions) = with_two_sessions();
    let [one, two] = &sessions;
    for session in &sessions {
        let authenticated = engine.authenticate(session.token.clone()).await;
        assert!(authenticated.is_ok());
    }
    store.sessions.lock().expect("no panic").remove(0);
    engine.invalidate(&Invalidation::Session(one.id.clone()));
    let revoked = engine.authenticate(one.token.clone()).await;
    assert!(matches!(revoked, Err(AuthenticateError::InvalidToken)));
    let live = engine.authenticate(two.token.clone()).await.ok();
    assert_eq!(live.expect("live").session.session.id, two.id);
}

#[tokio::test]
async fn what_was_revoked_leaves_memory_with_the_first_lookup_a_minute_later_and_nothing_else_does()
{
    let clock = ManualClock::new(Utc::now());
    let (store, engine) = with_config(Store::default(), |config| {
        config.stripes = Some(1 << 20);
        config.clock = Some(Arc::new(clock.clone()));
    });
    let sessions = [1, 2].map(session);
    store
        .sessions
        .lock()
        .expect("no panic")
        .extend(sessions.clone());
    let mut held = Vec::new();
    for session in &sessions {
        let cached = engine.authenticate(session.token.clone()).await;
        held.push(Arc::downgrade(&cached.expect("live").session));
    }
    let look_up = async |engine: &Arc<Engine>| {
        let unknown = TokenFormat::any().generate();
        assert!(engine.authenticate(unknown).await.is_err());
    };
    let is_held = |number: usize| held[number].strong_count() > 0;
    for (invalidation, left) in [
        (Invalidation::Customer("cus_1".into()), [false, true]),
        (Invalidation::All, [false, false]),
    ] {
        engine.invalidate(&invalidation);
        clock.advance(Duration::from_secs(59));
        look_up(&engine).await;
        // The sweep is made by a task.
        tokio::task::yield_now().await;
        assert!(is_held(1), "too early");
        clock.advance(Duration::from_secs(1));
        look_up(&engine).await;
        let start = std::time::Instant::now();
        while [0, 1].map(is_held) != left && start.elapsed() < Duration::from_secs(10) {
            tokio::task::yield_now().await;
        }
        assert_eq!([0, 1].map(is_held), left, "{invalidation:?}");
    }
}

/// Authenticates while `change` happens during the lookups `when`; returns the number of lookups.
async fn during(
    change: Change,
    when: RangeInclusive<u64>,
) -> (Result<Authenticated, AuthenticateError>, u64) {
    let (store, engine) = on_one_stripe(Store {
        change: Some(change),
        when: Some(when),
        ..Store::default()
    });
    let session = session(1);
    store
        .sessions
        .lock()
        .expect("no panic")
        .push(session.clone());
    let result = engine.authenticate(session.token).await;
    (result, engine.statistics().lookups)
}

/// Changes that make a lookup start over: those of another session on the same stripe, those of the
/// session itself, and a gap in the invalidations that is over when the lookup lands.
const CHANGES: [Change; 5] = [
    |engine, _| engine.invalidate(&Invalidation::Session("ses_other".into())),
    |engine, session| engine.invalidate(&Invalidation::Session(session.id.clone())),
    |engine, session| engine.invalidate(&Invalidation::Customer(session.customer_id.clone())),
    |engine, _| engine.invalidate(&Invalidation::All),
    |engine, _| {
        let source = engine.add_source();
        engine.on_disconnect(source);
        engine.on_reconnect(source);
    },
];

#[tokio::test]
async fn a_lookup_that_is_overtaken_is_made_again() {
    for change in CHANGES {
        // The store still has the session, as after a mere change.
        let (result, lookups) = during(change, 1..=4).await;
        assert!(result.is_ok());
        assert_eq!(lookups, 5);
    }
}

#[tokio::test]
async fn under_changes_without_end_the_answer_is_an_outage_after_eight_lookups() {
    for change in CHANGES {
        let (result, lookups) = during(change, 1..=u64::MAX).await;
        assert!(matches!(result, Err(AuthenticateError::Store(_))));
        assert_eq!(lookups, 8);
    }
}

impl Store {
    /// Changes the first session without telling the engine.
    fn edit(&self, edit: impl FnOnce(&mut CustomerSession)) {
        edit(&mut self.sessions.lock().expect("no panic")[0]);
    }
}

/// Looks the session up, changes it in the store without an announcement, looks it up again, and
/// then puts the first answer into the front cache, as a hit may do that was interrupted. Returns
/// what the next request gets from the cache, and the number of invalidations.
async fn after_unannounced(change: fn(&Store)) -> (CacheLookup, u64) {
    let (store, engine, [session, _]) = with_two_sessions();
    let token = session.token.expose().as_bytes();
    let super::LookupResult::Session(old) = result_of(&engine, &session.token).await else {
        unreachable!("it is live");
    };
    change(&store);
    let _ = engine.authenticate(session.token.clone()).await;
    engine.cache.promote(old, |_| false, true);
    assert_eq!(engine.statistics().lookups, 2, "its answer stays good");
    (
        engine.lookup_cached(token),
        engine.statistics().invalidations,
    )
}

#[tokio::test]
async fn a_copy_does_not_outlive_the_lookup_that_finds_the_session_gone() {
    let gone: [fn(&Store); 3] = [
        |store| drop(store.sessions.lock().expect("no panic").remove(0)),
        |store| store.edit(|session| session.expires_at = DateTime::UNIX_EPOCH),
        |store| {
            store.edit(|session| {
                let mut customer = (*session.customer).clone();
                customer.deleted_at = Some(DateTime::UNIX_EPOCH);
                session.customer = customer.into();
            });
        },
    ];
    for change in gone {
        let (lookup, invalidations) = after_unannounced(change).await;
        assert!(!matches!(lookup, CacheLookup::Hit(_)), "let in again");
        assert_eq!(invalidations, 1);
    }
}

#[tokio::test]
async fn a_copy_does_not_outlive_the_lookup_that_finds_the_session_changed() {
    const END: DateTime<Utc> = DateTime::<Utc>::MAX_UTC;

    let changed: [fn(&Store); 2] = [
        |store| store.edit(|session| session.expires_at = END - HOUR),
        |store| {
            store.edit(|session| {
                let mut customer = (*session.customer).clone();
                customer.name = Some("New".into());
                session.customer = customer.into();
            });
        },
    ];
    for change in changed {
        let (lookup, invalidations) = after_unannounced(change).await;
        // The copy is dead, but moka has the new answer.
        let CacheLookup::Hit(hit) = lookup else {
            panic!("another lookup is needed");
        };
        let session = &hit.session.session;
        assert!(session.expires_at < END || session.customer.name.is_some());
        assert_eq!(invalidations, 1);
    }
}

#[tokio::test]
async fn a_change_that_takes_nothing_away_is_not_recorded() {
    let (_, invalidations) = after_unannounced(|store| {
        store.edit(|session| session.modified_at = Some(Utc::now()));
    })
    .await;
    assert_eq!(invalidations, 0);
}

#[tokio::test]
async fn a_change_that_is_found_while_another_is_made_is_looked_up_again() {
    for change in CHANGES {
        let (store, engine) = on_one_stripe(Store {
            change: Some(change),
            when: Some(2..=2),
            ..Store::default()
        });
        let session = session(1);
        store
            .sessions
            .lock()
            .expect("no panic")
            .push(session.clone());
        assert!(engine.authenticate(session.token.clone()).await.is_ok());
        store.edit(|session| session.expires_at -= HOUR);
        assert!(engine.authenticate(session.token.clone()).await.is_ok());
        assert_eq!(engine.statistics().lookups, 3);
    }
}
