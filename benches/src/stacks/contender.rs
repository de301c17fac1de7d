//! A stack, and the requests that it answers.

use std::{pin::Pin, sync::Arc};

use axum::extract::Request;
use customer_session::SessionToken;
use http::HeaderMap;

use crate::scene::with_bearer;

/// A stack that answers requests.
pub trait Stack: Send {
    /// Answers requests one after another. Nothing in them may wait.
    fn answer(&mut self, requests: &mut Vec<Request>);

    /// Answers requests one after another, in a runtime: a request may wait for a lookup.
    fn answer_awaiting<'a>(
        &'a mut self,
        requests: &'a mut Vec<Request>,
    ) -> Pin<Box<dyn Future<Output = ()> + 'a>>;

    /// Answers a request in which nothing waits.
    fn answer_one(&mut self, request: Request);
}

/// A stack and the requests it is to answer.
pub struct Contender {
    pub name: String,
    pub stack: Box<dyn Stack>,
    pub headers: Headers,
}

/// A source of the next request's headers.
pub type Headers = Box<dyn FnMut() -> HeaderMap + Send>;

impl Contender {
    pub fn new(name: impl Into<String>, stack: Box<dyn Stack>, headers: Headers) -> Self {
        Self {
            name: name.into(),
            stack,
            headers,
        }
    }
}

/// Repeats the same headers.
pub fn always(headers: HeaderMap) -> Headers {
    Box::new(move || headers.clone())
}

/// Repeats the tokens in this order.
pub fn in_turn(tokens: &Arc<[SessionToken]>, order: &Arc<[u32]>) -> Headers {
    let (tokens, order, mut next) = (Arc::clone(tokens), Arc::clone(order), 0);
    Box::new(move || {
        let token = &tokens[order[next] as usize];
        next = (next + 1) % order.len();
        with_bearer(token.expose())
    })
}
