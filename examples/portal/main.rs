//! An API whose customers sign in with opaque tokens, and stay signed in when it restarts.
//!
//! `cargo run --example portal --features sqlite`, then paste the lines it prints. `PORT=0` takes
//! a free port, `STORE=sqlite:other.db` another file, `SESSION_PEPPER` a pepper of your own.
//! Ctrl-C ends it. The example `shared_portal` is the same on PostgreSQL or Redis.

mod app;
#[path = "../common/peppers.rs"]
mod peppers;
#[path = "../common/server.rs"]
mod server;

use std::{error::Error, process::ExitCode, time::Duration};

use customer_session::{CustomerSessions, store::SqliteStore};

/// A session that is not used for so long ends.
const WEEK: Duration = Duration::from_secs(7 * 24 * 3600);

#[tokio::main]
async fn main() -> ExitCode {
    server::exit_code(run().await)
}

async fn run() -> Result<(), Box<dyn Error>> {
    let url = std::env::var("STORE").unwrap_or_else(|_| "sqlite:portal.db".to_owned());
    let store = SqliteStore::connect(&url, peppers::peppers()).await?;
    store.migrate().await?;
    let sessions = CustomerSessions::builder(store).idle_timeout(WEEK)?;
    let sessions = sessions.build().into_dyn();
    tokio::spawn(sessions.purge(Duration::from_secs(600)));
    app::serve(sessions, server::bind().await?).await
}
