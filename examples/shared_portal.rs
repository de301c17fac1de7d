//! The example `portal` with sessions that several machines share.
//!
//! `STORE=postgres://user:password@host/database cargo run --example shared_portal
//! --features postgres,redis`, or `STORE=redis://host`. Start it twice, with `PORT=3000` and
//! `PORT=3001`: a token of one is accepted by the other, and when the customer signs out of one,
//! the other refuses the token at once.

#[path = "portal/app.rs"]
mod app;
#[path = "common/server.rs"]
mod server;
#[path = "common/shared_store.rs"]
mod shared_store;

use std::{error::Error, process::ExitCode};

#[tokio::main]
async fn main() -> ExitCode {
    server::exit_code(run().await)
}

async fn run() -> Result<(), Box<dyn Error>> {
    let url = std::env::var("STORE").unwrap_or_default();
    let sessions = shared_store::open(&url).await?;
    app::serve(sessions, server::bind().await?).await
}
