//! What a careful engineer writes by hand: a cache without futures, ahash, an expiry check. It
//! looks up what is not cached. It cannot revoke, lets any number of requests look up the same
//! token at once, and remembers no unknown tokens.

use std::sync::Arc;

use ahash::RandomState;
use axum::{
    extract::{Request, State},
    middleware::{Next, from_fn_with_state},
    response::Response,
};
use chrono::Utc;
use customer_session::{CustomerSession, SessionStore as _, SessionToken};
use http::StatusCode;
use quick_cache::{UnitWeighter, sync::DefaultLifecycle};
use tower::Layer as _;

use super::{
    contender::{Contender, Headers},
    service::{bearer, insert_customer, reads_customer, refusal, served},
};
use crate::scene::{MadeUp, Scene, TTL, block_on};

/// A cache of sessions by their tokens.
pub trait Cache: Send + Sync + 'static {
    /// Returns an empty cache of this capacity.
    fn with_capacity(capacity: u64) -> Self;

    /// Returns a capacity of which a cache evicts none of this many sessions.
    fn capacity_for(sessions: usize) -> u64;

    fn get(&self, token: &str) -> Option<Arc<CustomerSession>>;

    fn insert(&self, token: String, session: Arc<CustomerSession>);
}

pub struct SyncCache<C> {
    held: Arc<Held<C>>,
}

struct Held<C> {
    cache: C,
    store: MadeUp,
}

impl<C> Clone for SyncCache<C> {
    fn clone(&self) -> Self {
        Self {
            held: Arc::clone(&self.held),
        }
    }
}

impl<C: Cache> SyncCache<C> {
    /// Returns the stack with an empty cache of this capacity.
    pub fn empty(scene: &Scene, capacity: u64) -> Self {
        let cache = C::with_capacity(capacity);
        let store = scene.store.clone();
        Self {
            held: Arc::new(Held { cache, store }),
        }
    }

    /// Returns the stack with all of the scene's sessions cached.
    pub fn new(scene: &Scene) -> Self {
        let all = Self::empty(scene, C::capacity_for(scene.tokens.len()));
        block_on(async {
            for token in &*scene.tokens {
                assert!(all.look_up(token.expose()).await.is_some());
            }
        });
        let mut tokens = scene.tokens.iter();
        assert!(tokens.all(|token| all.held.cache.get(token.expose()).is_some()));
        all
    }

    /// Returns the live session of a token if it is cached.
    pub fn cached(&self, token: &str) -> Option<Arc<CustomerSession>> {
        let session = self.held.cache.get(token)?;
        (Utc::now() < session.expires_at).then_some(session)
    }

    /// Looks a token up in the store, and caches its session.
    pub async fn look_up(&self, token: &str) -> Option<Arc<CustomerSession>> {
        let found = self.held.store.find(&SessionToken::new(token)).await;
        let session = Arc::new(found.ok()??);
        let cache = &self.held.cache;
        cache.insert(token.to_owned(), Arc::clone(&session));
        (Utc::now() < session.expires_at).then_some(session)
    }

    /// Returns the contender with `axum::middleware::from_fn`.
    pub fn hit(&self, name: &str, headers: Headers) -> Contender {
        let service = from_fn_with_state(self.clone(), authenticate::<C>);
        let service = service.layer(tower::service_fn(reads_customer));
        Contender::new(name, served(service, StatusCode::OK), headers)
    }
}

async fn authenticate<C: Cache>(
    State(cache): State<SyncCache<C>>,
    mut request: Request,
    next: Next,
) -> Response {
    let Some(token) = bearer(&request) else {
        return refusal();
    };
    let session = match cache.cached(token) {
        Some(session) => Some(session),
        None => cache.look_up(token).await,
    };
    let Some(session) = session else {
        return refusal();
    };
    insert_customer(&mut request, &session);
    next.run(request).await
}

/// moka's cache without futures.
pub struct Moka(moka::sync::Cache<String, Arc<CustomerSession>, RandomState>);

impl Cache for Moka {
    fn with_capacity(capacity: u64) -> Self {
        let cache = moka::sync::Cache::builder()
            .max_capacity(capacity)
            .time_to_live(TTL);
        Self(cache.build_with_hasher(RandomState::new()))
    }

    fn capacity_for(sessions: usize) -> u64 {
        sessions as u64 + 100
    }

    fn get(&self, token: &str) -> Option<Arc<CustomerSession>> {
        self.0.get(token)
    }

    fn insert(&self, token: String, session: Arc<CustomerSession>) {
        self.0.insert(token, session);
    }
}

/// quick_cache. It has no time to live: what is cached stays until it is evicted.
pub struct Quick(Sessions);

type Sessions = quick_cache::sync::Cache<String, Arc<CustomerSession>, UnitWeighter, RandomState>;

impl Cache for Quick {
    fn with_capacity(capacity: u64) -> Self {
        Self(Sessions::with(
            capacity as usize,
            capacity,
            UnitWeighter,
            RandomState::new(),
            DefaultLifecycle::default(),
        ))
    }

    /// Its shards fill unevenly, and each evicts by itself.
    fn capacity_for(sessions: usize) -> u64 {
        (sessions + sessions / 10 + 400) as u64
    }

    fn get(&self, token: &str) -> Option<Arc<CustomerSession>> {
        self.0.get(token)
    }

    fn insert(&self, token: String, session: Arc<CustomerSession>) {
        self.0.insert(token, session);
    }
}
