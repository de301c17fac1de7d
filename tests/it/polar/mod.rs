//! `PolarStore` and Polar's webhooks, against a server that answers as Polar does.

mod create_session;
#[cfg(unix)]
mod example;
mod failures;
mod fake_polar;
mod recordings;
mod store;
mod webhooks;

use std::error::Error as _;

use customer_session::{
    CustomerSession, SessionStore as _, SessionToken, StoreError, polar::PolarStore,
};

async fn found(store: &PolarStore, token: &SessionToken) -> CustomerSession {
    let found = store.find(token).await.expect("Polar answers");
    found.expect("a session")
}

/// Returns all texts of an error and its sources.
fn error_text(error: &StoreError) -> String {
    let mut text = format!("{error:?} {error}");
    let mut cause = error.source();
    while let Some(error) = cause {
        text = format!("{text}: {error:?} {error}");
        cause = error.source();
    }
    text
}
