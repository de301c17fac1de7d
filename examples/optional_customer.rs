//! A page for everybody that knows those who are signed in.
//!
//! `cargo run --example optional_customer` sends five requests through the layer and prints
//! what becomes of them.

use std::{error::Error, time::Duration};

use axum::{
    Router,
    body::{Body, to_bytes},
    routing::get,
};
use customer_session::{Customer, CustomerData, CustomerSessions, store::MemoryStore};
use http::Request;
use tower::ServiceExt as _;

/// `Option<Customer>` is `None` for an anonymous request. If the layer were missing, the
/// answer would be 500: "nobody looked" is never taken for "nobody is there".
async fn home(customer: Option<Customer>) -> String {
    match customer
        .as_ref()
        .and_then(|customer| customer.name.as_deref())
    {
        Some(name) => format!("welcome back, {name}"),
        None => "welcome, stranger".to_owned(),
    }
}

/// `Customer` alone answers 401 with a challenge to an anonymous request.
async fn orders(customer: Customer) -> String {
    format!("the orders of {}", customer.id)
}

#[tokio::main(flavor = "current_thread")]
async fn main() -> Result<(), Box<dyn Error>> {
    let sessions = CustomerSessions::builder(MemoryStore::new()).build();
    let mut customer = CustomerData::new("cus_1", "org_1");
    customer.name = Some("Jane".into());
    let session = sessions.issue(customer, Duration::from_secs(3600)).await?;

    let app = Router::new()
        .route("/", get(home))
        .route("/orders", get(orders))
        .layer(sessions.layer().optional().realm("shop"));

    for (path, token) in [
        ("/", None),
        ("/", Some(session.token.expose())),
        // A token that opens nothing is refused even where none is needed.
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
