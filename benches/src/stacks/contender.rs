//! A stack, and the requests that it answers.

use std::sync::Arc;

use axum::extract::Request;
use customer_session::SessionToken;
use http::HeaderMap;

use crate::scene::with_bearer;

/// A stack that answers requests at once: nothing in it waits.
pub trait Stack: Send {
    fn answer(&mut self, requests: &mut Vec<Request>);

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
