//! Authenticates the customers of a Tower or axum service by opaque bearer tokens.
//!
//! A *customer session* is a token that opens an API to one customer of an organization, until
//! it expires or is revoked. Put a [`CustomerSessionLayer`] on a router, and handlers get the
//! [`Customer`]. Sessions come from a [`SessionStore`]: one of those in [`store`], or your own.
//! A cache stands in front of it, and this is what sets the crate apart: **once a revocation has
//! returned, no request that starts later is let in by it**, and still a request whose session
//! is cached waits for nothing.
//!
//! ```
//! use std::time::Duration;
//!
//! use axum::{
//!     Extension, Router,
//!     body::Body,
//!     extract::State,
//!     http::{Request, StatusCode},
//!     routing::{get, post},
//! };
//! use customer_session::{
//!     CurrentSession, Customer, CustomerData, CustomerSessions, store::MemoryStore,
//! };
//! use tower::ServiceExt;
//!
//! type Sessions = CustomerSessions<MemoryStore>;
//!
//! async fn me(Extension(customer): Extension<Customer>) -> String {
//!     format!("hello, {}", customer.name.as_deref().unwrap_or("customer"))
//! }
//!
//! async fn sign_out(State(sessions): State<Sessions>, session: CurrentSession) -> StatusCode {
//!     match sessions.revoke(&session.id).await {
//!         Ok(_) => StatusCode::NO_CONTENT,
//!         Err(_) => StatusCode::SERVICE_UNAVAILABLE,
//!     }
//! }
//!
//! # #[tokio::main(flavor = "current_thread")]
//! # async fn main() -> Result<(), Box<dyn std::error::Error>> {
//! let sessions = CustomerSessions::builder(MemoryStore::new()).build();
//! let app = Router::new()
//!     .route("/me", get(me))
//!     .route("/sign-out", post(sign_out))
//!     .layer(sessions.layer())
//!     .with_state(sessions.clone());
//!
//! // Wherever your customers sign in:
//! let customer = CustomerData::new("cus_1", "org_1");
//! let session = sessions.issue(customer, Duration::from_secs(3600)).await?;
//!
//! let request = |method, path| {
//!     Request::builder()
//!         .method(method)
//!         .uri(path)
//!         .header("authorization", format!("Bearer {}", session.token.expose()))
//!         .body(Body::empty())
//! };
//! let let_in = app.clone().oneshot(request("GET", "/me")?).await?;
//! assert_eq!(let_in.status(), StatusCode::OK);
//! let signed_out = app.clone().oneshot(request("POST", "/sign-out")?).await?;
//! assert_eq!(signed_out.status(), StatusCode::NO_CONTENT);
//! let refused = app.oneshot(request("GET", "/me")?).await?;
//! assert_eq!(refused.status(), StatusCode::UNAUTHORIZED);
//! # Ok(())
//! # }
//! ```
//!
//! # Where to look
//!
//! | for | see |
//! |---|---|
//! | what happens to a request, what a handler gets, what a client hears | [`guide::walk`] |
//! | WebSockets, `EventSource`, cookies: where a browser puts its token | [`guide::browsers`] |
//! | sessions that another service or an existing table keeps | [`guide::custom_store`] |
//! | the sessions of Polar's customers | `guide::polar`, with the feature `polar` |
//! | which store to take, how to set it up and look after it | [`guide::operations`] |
//! | what a revocation promises, on one machine and on several | [`guide::revocation`] |
//! | what is defended against what | [`guide::security`] |
//! | use outside HTTP | [`CustomerSessions::authenticate`] |
//!
//! # Features
//!
//! They add names and never change behaviour.
//!
//! | feature | adds |
//! |---|---|
//! | `axum` (default) | the extractors `Customer`, `Option<Customer>`, [`CurrentSession`], [`SessionLifetime`] |
//! | `tracing` (default) | events for what an operator should see; none carries a token |
//! | `sqlite` | `SqliteStore`: sessions in a file; asks for Rust 1.94 |
//! | `postgres` | `PostgresStore`, `PostgresInvalidations`: sessions that several machines share; asks for Rust 1.94 |
//! | `redis` | `RedisStore`, `RedisInvalidations`: sessions in Redis or Valkey |
//! | `polar` | `PolarStore` and the module `polar`: the customer sessions that Polar issues |
//! | `rustls` (default) | TLS for the client that `PolarStore` makes itself; nothing without `polar` |
//! | `testing` | the module `testing`: a clock held by hand, a store's contract as one call, and more |
//! | `full` | all but `testing` |

#![cfg_attr(docsrs, feature(doc_cfg))]

mod clock;
mod customer;
mod invalidation;
mod middleware;
mod observe;
mod session;
mod sessions;
pub mod store;
#[cfg(feature = "testing")]
pub mod testing;
mod token;

/// The atomics of the marks; `tests/loom.rs` puts loom's in their place.
mod sync {
    pub(crate) use std::sync::atomic::{AtomicU64, Ordering};
}

/// Longer texts, with examples that are compiled and run.
pub mod guide {
    #[doc = include_str!("guide/walk.md")]
    pub mod walk {}

    #[doc = include_str!("guide/browsers.md")]
    pub mod browsers {}

    #[doc = include_str!("guide/custom_store.md")]
    pub mod custom_store {}

    #[doc = include_str!("guide/operations.md")]
    pub mod operations {}

    #[cfg(feature = "polar")]
    #[doc = include_str!("guide/polar.md")]
    pub mod polar {}

    #[doc = include_str!("guide/revocation.md")]
    pub mod revocation {}

    #[doc = include_str!("guide/security.md")]
    pub mod security {}
}

/// What belongs to [`PolarStore`](store::PolarStore): how it is built, sessions it opens, Polar's
/// webhooks.
#[cfg(feature = "polar")]
pub mod polar {
    pub use crate::store::polar::{
        ConfigError, CreateError, CreatedSession, CustomerRef, Event, EventKind, FieldError,
        PolarInvalidations, PolarStoreBuilder, PortalUrl, SessionOptions, WebhookError,
        WebhookService, Webhooks,
    };
}

#[cfg(all(doctest, feature = "postgres", feature = "polar"))]
#[doc = include_str!("../README.md")]
struct Readme;

pub use async_trait::async_trait;

#[cfg(feature = "axum")]
pub use self::middleware::CurrentSession;
pub use self::{
    clock::{Clock, SystemClock},
    customer::{
        Address, Customer, CustomerData, CustomerId, CustomerKind, Metadata, MetadataValue,
        OrganizationId, TaxId,
    },
    invalidation::{Invalidation, InvalidationSource},
    middleware::{
        CustomerSessionLayer, CustomerSessionService, Rejection, RejectionKind, RequestHead,
        ResponseBody, ResponseFuture,
    },
    observe::Statistics,
    session::{CustomerSession, SessionId, SessionSummary},
    sessions::{
        AuthenticateError, CustomerSessions, CustomerSessionsBuilder, LimitedStream, SessionEnd,
        SessionLifetime, Verdict,
    },
    store::{MemoryStore, SessionRegistry, SessionStore, StoreError, StoreErrorKind},
    token::{SessionToken, TokenFormat},
};
