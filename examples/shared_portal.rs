//! The example `portal` with sessions that several machines share.
//!
//! `STORE=postgres://user:password@host/database cargo run --example shared_portal
//! --features postgres,redis`, or `STORE=redis://host`; start it twice with `PORT=3000` and
//! `PORT=3001`, and a token of the one is let in by the other.

#[path = "portal/app.rs"]
mod app;

use std::{error::Error, process::ExitCode};

use customer_session::store::{PostgresStore, RedisStore};

#[tokio::main]
async fn main() -> ExitCode {
    match run().await {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => app::explain(&*error),
    }
}

async fn run() -> Result<(), Box<dyn Error>> {
    let url = std::env::var("STORE").unwrap_or_default();
    match url.split(':').next() {
        Some("postgres" | "postgresql") => {
            let store = PostgresStore::connect(&url, app::peppers()).await?;
            store.migrate().await?;
            app::serve(store).await
        }
        Some("redis" | "rediss") => {
            let store = RedisStore::connect(&url, app::peppers()).await?;
            app::serve(store).await
        }
        _ => Err("set STORE to postgres://user:password@host/database or redis://host".into()),
    }
}
