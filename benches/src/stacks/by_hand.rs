//! What most services have: `axum::middleware::from_fn`, `moka::future` with keys of type `String`
//! and the standard hasher, an expiry check. It looks up what is not cached. It cannot revoke, lets
//! any number of requests look up the same token at once, and remembers no unknown tokens.

use std::sync::Arc;

use axum::{
    Extension, Router,
    extract::{Request, State},
    middleware::{Next, from_fn_with_state},
    response::Response,
    routing::get,
};
use chrono::Utc;
use customer_session::{Customer, CustomerSession, SessionStore as _, SessionToken};
use http::StatusCode;
use moka::future::Cache;
use tower::Layer as _;

use super::{
    contender::{Contender, Headers, always},
    names::BY_HAND,
    service::{bearer, insert_customer, reads_customer, refusal, served},
};
use crate::scene::{MadeUp, Scene, TTL, block_on, with_bearer};

#[derive(Clone)]
pub struct ByHand {
    held: Arc<Held>,
}

struct Held {
    cache: Cache<String, Arc<CustomerSession>>,
    store: MadeUp,
}

impl ByHand {
    /// Returns the stack with an empty cache of this capacity.
    pub fn empty(scene: &Scene, capacity: u64) -> Self {
        let cache = Cache::builder()
            .max_capacity(capacity)
            .time_to_live(TTL)
            .build();
        let store = scene.store.clone();
        Self {
            held: Arc::new(Held { cache, store }),
        }
    }

    /// Returns the stack with all of the scene's sessions cached.
    pub fn new(scene: &Scene) -> Self {
        let by_hand = Self::empty(scene, scene.capacity());
        block_on(async {
            for token in &*scene.tokens {
                let known = by_hand.session(token.expose()).await;
                assert!(known.is_some());
            }
        });
        by_hand
    }

    /// Returns the live session of a token, from the cache if it is there.
    pub async fn session(&self, token: &str) -> Option<Arc<CustomerSession>> {
        let session = match self.held.cache.get(token).await {
            Some(session) => session,
            None => {
                let found = self.held.store.find(&SessionToken::new(token)).await;
                let session = Arc::new(found.ok()??);
                self.held
                    .cache
                    .insert(token.to_owned(), Arc::clone(&session))
                    .await;
                session
            }
        };
        (Utc::now() < session.expires_at).then_some(session)
    }

    pub fn hit(&self, name: &str, headers: Headers) -> Contender {
        let service = from_fn_with_state(self.clone(), authenticate);
        let service = service.layer(tower::service_fn(reads_customer));
        Contender::new(name, served(service, StatusCode::OK), headers)
    }

    pub fn one_hit(&self, scene: &Scene) -> Contender {
        let headers = always(with_bearer(scene.hot().expose()));
        self.hit(BY_HAND, headers)
    }

    pub fn router(&self) -> Router {
        let me = async |Extension(customer): Extension<Customer>| {
            std::hint::black_box(customer);
            "hello"
        };
        Router::new()
            .route("/me", get(me))
            .layer(from_fn_with_state(self.clone(), authenticate))
    }
}

async fn authenticate(State(by_hand): State<ByHand>, mut request: Request, next: Next) -> Response {
    let Some(token) = bearer(&request) else {
        return refusal();
    };
    let Some(session) = by_hand.session(token).await else {
        return refusal();
    };
    insert_customer(&mut request, &session);
    next.run(request).await
}
