//! `PolarStore` and Polar's webhooks, against a server that answers as Polar does.

mod check;
mod create_session;
mod customers;
#[cfg(unix)]
mod example;
mod failures;
mod members;
mod recordings;
mod revocable;
mod store;
mod webhook_lag;
mod webhook_nodes;
mod webhooks;

use std::error::Error as _;

/// The stand-in for Polar, and stores that ask it.
mod fake_polar {
    use std::ops::Deref;

    use customer_session::polar::{PolarStore, PolarStoreBuilder};
    pub(crate) use test_support::polar::*;

    pub(crate) struct FakePolar(test_support::polar::FakePolar);

    impl FakePolar {
        pub(crate) async fn start() -> Self {
            Self(test_support::polar::FakePolar::start().await)
        }

        pub(crate) fn builder(&self) -> PolarStoreBuilder {
            PolarStore::builder(OUR_TOKEN).base_url(self.url())
        }

        pub(crate) fn store(&self) -> PolarStore {
            self.builder().build().expect("it can be built")
        }
    }

    impl Deref for FakePolar {
        type Target = test_support::polar::FakePolar;

        fn deref(&self) -> &Self::Target {
            &self.0
        }
    }
}

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
