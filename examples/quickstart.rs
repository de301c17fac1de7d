//! An API whose customers sign in with opaque tokens.
//!
//! `cargo run --example quickstart`, then paste the lines it prints. `PORT=0` takes a free
//! port; Ctrl-C ends it.

use std::{error::Error, time::Duration};

use axum::{
    Json, Router,
    extract::State,
    routing::{get, post},
};
use customer_session::{
    CurrentSession, Customer, CustomerData, CustomerSessions, store::MemoryStore,
};
use http::StatusCode;
use tokio::{net::TcpListener, signal};

type Sessions = CustomerSessions<MemoryStore>;

/// The layer has let the request in: here is whose it is.
async fn me(customer: Customer) -> Json<Customer> {
    Json(customer)
}

async fn sign_out(State(sessions): State<Sessions>, session: CurrentSession) -> StatusCode {
    match sessions.revoke(&session.id).await {
        Ok(_) => StatusCode::NO_CONTENT,
        Err(_) => StatusCode::SERVICE_UNAVAILABLE,
    }
}

#[tokio::main]
async fn main() -> Result<(), Box<dyn Error>> {
    let sessions = CustomerSessions::builder(MemoryStore::new()).build();

    let mut customer = CustomerData::new("cus_jane", "org_acme");
    customer.name = Some("Jane Doe".into());
    customer.email = Some("jane@example.com".into());
    let session = sessions.issue(customer, Duration::from_secs(3600)).await?;

    let app = Router::new()
        .route("/me", get(me))
        .route("/sign-out", post(sign_out))
        .layer(sessions.layer())
        .with_state(sessions);

    let port: u16 = match std::env::var("PORT") {
        Ok(port) => port
            .parse()
            .map_err(|_| "PORT must be a number up to 65535")?,
        Err(_) => 3000,
    };
    let listener = TcpListener::bind(("127.0.0.1", port))
        .await
        .map_err(|error| {
            format!("cannot listen on port {port} ({error}); choose another with PORT, or PORT=0")
        })?;
    let address = listener.local_addr()?;
    let bearer = format!("-H 'Authorization: Bearer {}'", session.token.expose());
    println!("listening on http://{address}\n");
    println!("# let in: prints the customer\ncurl -i {bearer} http://{address}/me\n");
    println!("# no token: 401 and a challenge\ncurl -i http://{address}/me\n");
    println!(
        "# sign out: revokes the session\ncurl -i -X POST {bearer} http://{address}/sign-out\n"
    );
    println!("# the same token again: refused\ncurl -i {bearer} http://{address}/me\n");

    axum::serve(listener, app)
        .with_graceful_shutdown(async {
            // Without a handler for Ctrl-C the process would end all the same, less politely.
            let _ = signal::ctrl_c().await;
        })
        .await?;
    println!("stopped");
    Ok(())
}
