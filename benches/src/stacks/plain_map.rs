//! A sharded map that never forgets, and the smallest middleware around it, which answers the
//! request itself. It cannot revoke, is never full, and looks nothing up.

use std::{
    collections::HashMap,
    convert::Infallible,
    future::{Ready, ready},
    sync::{Arc, RwLock},
    task::{Context, Poll},
};

use ahash::RandomState;
use axum::{extract::Request, response::Response};
use chrono::Utc;
use customer_session::{Customer, CustomerSession};
use http::StatusCode;
use tower::Service;

use super::{
    contender::{Contender, Headers, always},
    names::PLAIN_MAP,
    service::{answer, bearer, insert_customer, refusal, served},
};
use crate::scene::{Scene, with_bearer};

const SHARDS: usize = 64;

type Shard = RwLock<HashMap<String, Arc<CustomerSession>, RandomState>>;

#[derive(Clone)]
pub struct PlainMap {
    shards: Arc<[Shard; SHARDS]>,
    hasher: RandomState,
}

impl PlainMap {
    pub fn new(scene: &Scene) -> Self {
        let hasher = RandomState::new();
        let shard = |_| RwLock::new(HashMap::with_hasher(hasher.clone()));
        let map = Self {
            shards: Arc::new(std::array::from_fn(shard)),
            hasher,
        };
        for token in &*scene.tokens {
            let session = Arc::new(scene.store.session(token).expect("known"));
            let mut shard = map.shard(token.expose()).write().expect("no panic");
            shard.insert(token.expose().to_owned(), session);
        }
        map
    }

    fn shard(&self, token: &str) -> &Shard {
        // The map takes the low bits for the place and the high ones for the tag.
        let hash = self.hasher.hash_one(token) >> 32;
        &self.shards[hash as usize % SHARDS]
    }

    fn session(&self, token: &str) -> Option<Arc<CustomerSession>> {
        let shard = self.shard(token).read().expect("no panic");
        let session = shard.get(token).cloned()?;
        (Utc::now() < session.expires_at).then_some(session)
    }

    pub fn hit(&self, headers: Headers) -> Contender {
        let stack = served(self.clone(), StatusCode::OK);
        Contender::new(PLAIN_MAP, stack, headers)
    }

    pub fn one_hit(&self, scene: &Scene) -> Contender {
        self.hit(always(with_bearer(scene.hot().expose())))
    }
}

impl Service<Request> for PlainMap {
    type Response = Response;
    type Error = Infallible;
    type Future = Ready<Result<Response, Infallible>>;

    fn poll_ready(&mut self, _: &mut Context<'_>) -> Poll<Result<(), Infallible>> {
        Poll::Ready(Ok(()))
    }

    fn call(&mut self, mut request: Request) -> Self::Future {
        let Some(session) = bearer(&request).and_then(|token| self.session(token)) else {
            return ready(Ok(refusal()));
        };
        insert_customer(&mut request, &session);
        // The trivial service, in place.
        let customer = request.extensions().get::<Customer>();
        let response = answer(customer.map(|customer| customer.id.as_str()));
        ready(Ok(response))
    }
}
