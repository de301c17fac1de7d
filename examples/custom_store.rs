//! A store of your own: here, sessions that another service checks.
//!
//! `cargo run --example custom_store` sends three requests through the layer and prints the
//! answers.

use std::{collections::HashMap, error::Error};

use axum::{Router, body::Body, routing::get};
use customer_session::{
    Customer, CustomerSession, CustomerSessionLayer, SessionStore, SessionToken, StoreError,
    TokenFormat, async_trait,
};
use http::Request;
use tower::ServiceExt as _;

/// A stand-in for the other service: tokens, and the JSON that it answers with.
struct Upstream(HashMap<String, String>);

#[async_trait]
impl SessionStore for Upstream {
    async fn find(&self, token: &SessionToken) -> Result<Option<CustomerSession>, StoreError> {
        println!("  (upstream is asked)");
        let Some(json) = self.0.get(token.expose()) else {
            return Ok(None);
        };
        // JSON that cannot be read is an error, not "no such session".
        serde_json::from_str(json)
            .map(Some)
            .map_err(StoreError::corrupt)
    }

    // Tokens that are not of this form never reach `find`.
    fn token_format(&self) -> TokenFormat {
        TokenFormat::new("acme_cst_")
    }
}

async fn me(customer: Customer) -> String {
    format!("hello, {}", customer.name.as_deref().unwrap_or("customer"))
}

#[tokio::main(flavor = "current_thread")]
async fn main() -> Result<(), Box<dyn Error>> {
    let token = TokenFormat::new("acme_cst_").generate();
    let json = serde_json::json!({
        "id": "ses_1", "token": token, "customer_id": "cus_1",
        "created_at": "2026-01-01T00:00:00Z", "expires_at": "2126-01-01T00:00:00Z",
        "customer": {
            "id": "cus_1", "organization_id": "org_1", "name": "Jane",
            "created_at": "2026-01-01T00:00:00Z",
        },
    });
    let store = Upstream([(token.expose().to_owned(), json.to_string())].into());
    let app = Router::new()
        .route("/me", get(me))
        .layer(CustomerSessionLayer::new(store));

    for (what, token) in [
        ("a cold token", token.expose()),
        ("the same token again, from the cache", token.expose()),
        ("a token that was never issued, screened", "nonsense"),
    ] {
        println!("{what}:");
        let request = Request::get("/me").header("authorization", format!("Bearer {token}"));
        let response = app.clone().oneshot(request.body(Body::empty())?).await?;
        println!("  {}", response.status());
    }
    Ok(())
}
