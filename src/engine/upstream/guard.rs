//! Keeps panics and broken answers of the store away from the engine.

use std::{
    panic::{AssertUnwindSafe, catch_unwind},
    pin::pin,
    task::Poll,
};

use crate::{session::CustomerSession, store::StoreError, token::SessionToken};

/// Refuses an answer that breaks the store's contract where it would authenticate a customer as
/// another.
pub(super) fn verify(
    found: Option<CustomerSession>,
    token: &SessionToken,
) -> Result<Option<CustomerSession>, StoreError> {
    match found {
        Some(session) if session.token != *token => Err(StoreError::corrupt(format!(
            "session {} does not carry the token it was looked up by",
            session.id
        ))),
        Some(session) if session.customer_id != session.customer.id => {
            Err(StoreError::corrupt(format!(
                "session {} belongs to customer {} but carries customer {}",
                session.id, session.customer_id, session.customer.id
            )))
        }
        found => Ok(found),
    }
}

/// A panic of the store. Its message is not kept, since it may hold anything.
pub(crate) struct Panicked;

/// Runs `future`, and turns a panic into an error.
pub(crate) async fn catch_panic<F: Future>(future: F) -> Result<F::Output, Panicked> {
    let mut future = pin!(future);
    std::future::poll_fn(|context| {
        match catch_unwind(AssertUnwindSafe(|| future.as_mut().poll(context))) {
            Ok(Poll::Ready(output)) => Poll::Ready(Ok(output)),
            Ok(Poll::Pending) => Poll::Pending,
            Err(_) => Poll::Ready(Err(Panicked)),
        }
    })
    .await
}
