//! The fastest that can be written by hand: quick_cache below a Tower service of one's own, which
//! boxes nothing on a hit. It cannot revoke: a session stays open on a node until it is evicted or
//! expires.

use std::{
    convert::Infallible,
    future::ready,
    mem,
    pin::Pin,
    task::{Context, Poll},
};

use axum::{Extension, Router, extract::Request, response::Response, routing::get};
use customer_session::Customer;
use futures_util::future::Either;
use http::StatusCode;
use tower::{Service, layer::layer_fn};

use super::{
    contender::{Contender, Headers},
    names::QUICK_SERVICE,
    service::{bearer, insert_customer, reads_customer, refusal, served},
    sync_cache::{Cache, Quick, SyncCache},
};

struct OwnService<C, S> {
    cache: SyncCache<C>,
    inner: S,
}

impl<C, S: Clone> Clone for OwnService<C, S> {
    fn clone(&self) -> Self {
        Self {
            cache: self.cache.clone(),
            inner: self.inner.clone(),
        }
    }
}

type Answered = Result<Response, Infallible>;
type Boxed = Pin<Box<dyn Future<Output = Answered> + Send>>;

impl<C, S> Service<Request> for OwnService<C, S>
where
    C: Cache,
    S: Service<Request, Response = Response, Error = Infallible> + Clone + Send + 'static,
    S::Future: Send,
{
    type Response = Response;
    type Error = Infallible;
    type Future = Either<S::Future, Boxed>;

    fn poll_ready(&mut self, context: &mut Context<'_>) -> Poll<Result<(), Infallible>> {
        self.inner.poll_ready(context)
    }

    fn call(&mut self, mut request: Request) -> Self::Future {
        let Some(token) = bearer(&request) else {
            return Either::Right(Box::pin(ready(Ok(refusal()))));
        };
        if let Some(session) = self.cache.cached(token) {
            insert_customer(&mut request, &session);
            return Either::Left(self.inner.call(request));
        }
        let token = token.to_owned();
        let cache = self.cache.clone();
        // The one that is ready answers; the clone is for the next request.
        let clone = self.inner.clone();
        let mut inner = mem::replace(&mut self.inner, clone);
        Either::Right(Box::pin(async move {
            let Some(session) = cache.look_up(&token).await else {
                return Ok(refusal());
            };
            insert_customer(&mut request, &session);
            inner.call(request).await
        }))
    }
}

impl SyncCache<Quick> {
    /// Returns the contender with a Tower service of its own.
    pub fn service_hit(&self, headers: Headers) -> Contender {
        let service = OwnService {
            cache: self.clone(),
            inner: tower::service_fn(reads_customer),
        };
        Contender::new(QUICK_SERVICE, served(service, StatusCode::OK), headers)
    }

    pub fn router(&self) -> Router {
        let me = async |Extension(customer): Extension<Customer>| {
            std::hint::black_box(customer);
            "hello"
        };
        let cache = self.clone();
        let layer = layer_fn(move |inner| OwnService {
            cache: cache.clone(),
            inner,
        });
        Router::new().route("/me", get(me)).layer(layer)
    }
}
