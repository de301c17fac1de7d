//! An API for customers who hold a token of Polar's.
//!
//! ```text
//! POLAR_ACCESS_TOKEN=polar_oat_... POLAR_WEBHOOK_SECRET=whsec_... \
//! POLAR_BASE_URL=https://sandbox-api.polar.sh \
//!     cargo run --example polar_upstream --features polar
//! ```
//!
//! The access token is made in Polar's settings, with the scope `customers:read`; the secret
//! belongs to a webhook endpoint that leads to `/webhooks/polar`.
//!
//! Without an account at Polar, against a stand-in that the program starts itself:
//!
//! ```text
//! cargo run --example polar_upstream --features polar -- --stand-in
//! ```

#[path = "common/server.rs"]
mod server;

use std::{env, error::Error, net::SocketAddr, process::ExitCode};

use axum::{Json, Router, routing::get};
use customer_session::{
    CurrentSession, Customer, CustomerSessions,
    polar::{PolarStore, Webhooks},
};
use serde_json::{Value, json};
use test_support::polar::{FOREIGN, FakePolar, JANE, OUR_TOKEN};
use tokio::signal::ctrl_c;

const SETTINGS: [(&str, &str); 3] = [
    (
        "POLAR_ACCESS_TOKEN",
        "an organization access token, polar_oat_...",
    ),
    (
        "POLAR_WEBHOOK_SECRET",
        "the secret of the webhook endpoint, whsec_...",
    ),
    (
        "POLAR_BASE_URL",
        "https://sandbox-api.polar.sh or https://api.polar.sh",
    ),
];

async fn me(customer: Customer, session: CurrentSession) -> Json<Value> {
    Json(json!({
        "customer_id": customer.id,
        "external_id": customer.external_id,
        "name": customer.name,
        "metadata": customer.metadata,
        "expires_at": session.expires_at,
        "member": session.details.member,
    }))
}

/// Starts a stand-in for Polar, and returns the three settings for it. Prints calls with tokens that it
/// has issued.
async fn stand_in(address: SocketAddr) -> [String; 3] {
    let polar = FakePolar::start().await;
    for (customer, expected) in [(JANE, "200"), (FOREIGN, "401, another organization's")] {
        let token = polar.customer_token(customer);
        println!(
            "curl -i http://{address}/me -H 'authorization: Bearer {}'  # {expected}",
            token.expose()
        );
    }
    let secret = "whsec_0123456789abcdef0123456789abcdef";
    [OUR_TOKEN.to_owned(), secret.to_owned(), polar.url()]
}

/// Returns the three settings, or a list of those that are missing.
fn settings() -> Result<[String; 3], String> {
    let values = SETTINGS.map(|(name, _)| env::var(name).unwrap_or_default());
    let missing = SETTINGS.iter().zip(&values);
    let missing = missing.filter(|(_, value)| value.is_empty());
    let lines: Vec<_> = missing
        .map(|((name, what), _)| format!("set {name} to {what}"))
        .collect();
    if lines.is_empty() {
        Ok(values)
    } else {
        Err(lines.join("\n"))
    }
}

async fn run() -> Result<(), Box<dyn Error>> {
    let listener = server::bind().await?;
    let address = listener.local_addr()?;
    let has_stand_in = env::args().any(|argument| argument == "--stand-in");
    let [access_token, webhook_secret, base_url] = match has_stand_in {
        true => stand_in(address).await,
        false => settings()?,
    };
    let store = PolarStore::builder(access_token)
        .base_url(base_url)
        .build()?;
    // A wrong access token or base URL ends the program here, not at the first request.
    store.check().await?;
    let sessions = CustomerSessions::builder(store).build();
    let (webhooks, invalidations) = Webhooks::new(webhook_secret)?.service();
    tokio::spawn(sessions.listen(invalidations));

    let app = Router::new()
        .route("/me", get(me))
        .layer(sessions.layer())
        // After the layer, so outside it: Polar has no session.
        .route_service("/webhooks/polar", webhooks);

    if !has_stand_in {
        println!("with a token that Polar issued to a customer of yours:\n");
        println!("curl -i http://{address}/me -H 'authorization: Bearer polar_cst_...'");
    }
    let stop = async {
        let _ = ctrl_c().await;
    };
    axum::serve(listener, app)
        .with_graceful_shutdown(stop)
        .await?;
    Ok(())
}

#[tokio::main]
async fn main() -> ExitCode {
    // Why a token could not be checked is only in the log: the client is not told.
    tracing_subscriber::fmt()
        .with_writer(std::io::stderr)
        .init();
    server::exit_code(run().await)
}
