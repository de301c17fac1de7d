//! The trivial service that every stack wraps, and how a Tower service becomes a stack.

use std::{
    convert::Infallible,
    future::poll_fn,
    hint::black_box,
    pin::{Pin, pin},
    task::{Context, Poll, Waker},
};

use axum::{body::Body, extract::Request, response::Response};
use customer_session::{Customer, CustomerSession};
use http::StatusCode;
use tower::Service;

use super::contender::Stack;

/// A Tower service whose every response must have this status.
struct Served<S> {
    service: S,
    status: StatusCode,
}

/// Wraps a service whose every response must have this status.
pub fn served<S>(service: S, status: StatusCode) -> Box<dyn Stack>
where
    S: Service<Request, Error = Infallible, Response: Status> + Send + 'static,
{
    Box::new(Served { service, status })
}

impl<S> Stack for Served<S>
where
    S: Service<Request, Error = Infallible, Response: Status> + Send,
{
    fn answer(&mut self, requests: &mut Vec<Request>) {
        for request in requests.drain(..) {
            self.answer_one(request);
        }
    }

    fn answer_awaiting<'a>(
        &'a mut self,
        requests: &'a mut Vec<Request>,
    ) -> Pin<Box<dyn Future<Output = ()> + 'a>> {
        Box::pin(async move {
            for request in requests.drain(..) {
                let Ok(()) = poll_fn(|context| self.service.poll_ready(context)).await;
                let Ok(response) = self.service.call(request).await;
                assert_eq!(response.status(), self.status);
                black_box(response);
            }
        })
    }

    #[inline]
    fn answer_one(&mut self, request: Request) {
        let mut context = Context::from_waker(Waker::noop());
        assert!(self.service.poll_ready(&mut context).is_ready());
        let mut response = pin!(self.service.call(request));
        loop {
            if let Poll::Ready(Ok(response)) = response.as_mut().poll(&mut context) {
                assert_eq!(response.status(), self.status);
                black_box(response);
                break;
            }
        }
    }
}

/// A response whose status can be checked.
pub trait Status {
    fn status(&self) -> StatusCode;
}

impl<B> Status for http::Response<B> {
    fn status(&self) -> StatusCode {
        http::Response::status(self)
    }
}

/// Answers as the trivial service does: reads the customer, and fails if there is none.
pub async fn reads_customer(request: Request) -> Result<Response, Infallible> {
    let customer = request.extensions().get::<Customer>();
    Ok(answer(customer.map(|customer| customer.id.as_str())))
}

/// Puts the customer of a session into the request's extensions.
pub fn insert_customer(request: &mut Request, session: &CustomerSession) {
    request.extensions_mut().insert(session.customer.clone());
}

/// Returns 200 if there is an identity, and 500 otherwise.
pub fn answer(identity: Option<&str>) -> Response {
    let mut response = Response::new(Body::empty());
    if black_box(identity).is_none() {
        *response.status_mut() = StatusCode::INTERNAL_SERVER_ERROR;
    }
    response
}

/// Returns an empty 401.
pub fn refusal() -> Response {
    let mut response = Response::new(Body::empty());
    *response.status_mut() = StatusCode::UNAUTHORIZED;
    response
}

/// Returns the token of a request, read as a hand-written middleware reads it.
pub fn bearer(request: &Request) -> Option<&str> {
    let value = request.headers().get(http::header::AUTHORIZATION)?;
    value.to_str().ok()?.strip_prefix("Bearer ")
}
