//! An API whose customers sign in with opaque tokens, and stay signed in when it restarts.
//!
//! `cargo run --example portal --features sqlite`, then paste the lines it prints. `PORT=0`
//! takes a free port, `STORE=sqlite:other.db` another file, `SESSION_PEPPER` a pepper of your
//! own; Ctrl-C ends it. The example `shared_portal` is the same on PostgreSQL or Redis.

mod app;

use std::{error::Error, process::ExitCode};

use customer_session::store::SqliteStore;

#[tokio::main]
async fn main() -> ExitCode {
    match run().await {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => app::explain(&*error),
    }
}

async fn run() -> Result<(), Box<dyn Error>> {
    let url = std::env::var("STORE").unwrap_or_else(|_| "sqlite:portal.db".to_owned());
    let store = SqliteStore::connect(&url, app::peppers()).await?;
    store.migrate().await?;
    app::serve(store).await
}
