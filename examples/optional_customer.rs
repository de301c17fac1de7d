//! A page for anonymous visitors that greets signed-in customers by name.
//!
//! `cargo run --example optional_customer` sends five requests through the layer and prints the
//! answers.

use std::{error::Error, time::Duration};

use axum::{
    Router,
    body::{Body, to_bytes},
    routing::get,
};
use customer_session::{Customer, CustomerData, CustomerSessions, store::MemoryStore};
use http::Request;
use tower::ServiceExt as _;

/// Greets the visitor. `Option<Customer>` is `None` for an anonymous request. If the layer were
/// missing, the answer would be 500: a missing check is never taken for an anonymous request.
async fn home(customer: Option<Customer>) -> String {
    match customer
        .as_ref()
        .and_then(|customer| customer.name.as_deref())
    {
        Some(name) => format!("welcome back, {name}"),
        None => "welcome".to_owned(),
    }
}

/// Lists orders. `Customer` answers an anonymous request with 401 and a challenge.
async fn orders(customer: Customer) -> String {
    format!("the orders of {}", customer.id)
}

#[tokio::main(flavor = "current_thread")]
async fn main() -> Result<(), Box<dyn Error>> {
    let sessions = CustomerSessions::builder(MemoryStore::new()).build();
    tokio::spawn(sessions.purge(Duration::from_secs(600)));
    let mut customer = CustomerData::new("cus_1", "org_1");
    customer.name = Some("Jane".into());
    let session = sessions.issue(customer, Duration::from_secs(3600)).await?;

    let app = Router::new()
        .route("/", get(home))
        .route("/orders", get(orders))
        .layer(sessions.layer().optional().realm("shop")?);

    for (path, token) in [
        ("/", None),
        ("/", Some(session.token.expose())),
        // A bad token is refused even where none is needed.
        ("/", Some("expired-or-mistyped")),
        ("/orders", None),
        ("/orders", Some(session.token.expose())),
    ] {
        let mut request = Request::get(path);
        if let Some(token) = token {
            request = request.header("authorization", format!("Bearer {token}"));
        }
        let response = app.clone().oneshot(request.body(Body::empty())?).await?;
        let status = response.status();
        let body = String::from_utf8(to_bytes(response.into_body(), 4096).await?.to_vec())?;
        let with = if token.is_some() {
            "with a token"
        } else {
            "without a token"
        };
        println!("{path} {with}: {status}\n  {body}");
    }
    Ok(())
}
