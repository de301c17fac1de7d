//! Asks the store, and lets neither its silence nor its panics nor its mistakes through.

pub(crate) mod breaker;
pub(crate) mod refresh;
pub(crate) mod single_flight;

use std::{
    panic::{AssertUnwindSafe, catch_unwind},
    pin::pin,
    task::Poll,
    time::Duration,
};

use tokio::time::timeout;

use crate::{
    session::CustomerSession,
    store::{SessionStore, StoreError},
    token::SessionToken,
};

/// What the store answers within `limit` (`None`: whenever it does).
pub(crate) async fn find(
    store: &dyn SessionStore,
    token: &SessionToken,
    limit: Option<Duration>,
) -> Result<Option<CustomerSession>, StoreError> {
    let answer = catch_panic(async {
        match limit {
            Some(limit) => timeout(limit, store.find(token))
                .await
                .unwrap_or_else(|elapsed| Err(StoreError::timeout(elapsed))),
            None => store.find(token).await,
        }
    });
    let found = answer
        .await
        .unwrap_or_else(|Panicked| Err(StoreError::unavailable("the store panicked")))
        .map_err(|error| error.without(token))?;
    verified(found, token)
}

/// Refuses an answer that breaks the store's contract where that would let somebody in as
/// somebody else.
fn verified(
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

/// The message is not kept: it may hold anything.
pub(crate) struct Panicked;

/// Runs `future`, and catches its panic.
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
