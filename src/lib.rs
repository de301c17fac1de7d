//! Bearer-token authentication for axum and Tower: opaque session tokens, a cache in front of your
//! session store, and revocation that no cached answer survives.
//!
//! A *customer session* is an expiring token with which one customer of an organization
//! authenticates. Put a [`CustomerSessionLayer`] on a router, and handlers get the [`Customer`].
//! Sessions come from a [`SessionStore`]: one of those in [`store`], or your own. A cache stands in
//! front of it. **Once a revocation has returned, no request that starts later is let in by it**;
//! still, a request whose session is cached waits for nothing.
//!
//! ```
//! use std::time::Duration;
//!
//! use axum::{
//!     Json, Router,
//!     body::{Body, to_bytes},
//!     extract::State,
//!     http::{Request, StatusCode},
//!     routing::{get, post},
//! };
//! use customer_session::{
//!     CurrentSession, Customer, CustomerData, CustomerSession, CustomerSessions, StoreError,
//!     store::MemoryStore,
//! };
//! use tower::ServiceExt as _;
//!
//! type Sessions = CustomerSessions<MemoryStore>;
//!
//! /// Check the password, the passkey or the OAuth answer here.
//! async fn sign_in(State(sessions): State<Sessions>) -> Result<Json<CustomerSession>, StoreError> {
//!     let customer = CustomerData::new("cus_1", "org_1");
//!     let session = sessions.issue(customer, Duration::from_secs(3600)).await?;
//!     Ok(Json(session))
//! }
//!
//! async fn me(customer: Customer) -> String {
//!     format!("hello, {}", customer.id)
//! }
//!
//! async fn sign_out(
//!     State(sessions): State<Sessions>,
//!     session: CurrentSession,
//! ) -> Result<StatusCode, StoreError> {
//!     sessions.revoke(&session.id).await?; // an error answers 503 with `Retry-After`
//!     Ok(StatusCode::NO_CONTENT)
//! }
//!
//! # #[tokio::main(flavor = "current_thread")]
//! # async fn main() -> Result<(), Box<dyn std::error::Error>> {
//! let sessions = CustomerSessions::builder(MemoryStore::new()).build();
//! let app: Router = Router::new()
//!     .route("/me", get(me))
//!     .route("/sign-out", post(sign_out))
//!     .route_layer(sessions.layer()) // protects the routes above it
//!     .route("/sign-in", post(sign_in))
//!     .with_state(sessions);
//!
//! let request = Request::post("/sign-in").body(Body::empty())?;
//! let signed_in = app.clone().oneshot(request).await?;
//! let body = to_bytes(signed_in.into_body(), 4096).await?;
//! let session: CustomerSession = serde_json::from_slice(&body)?;
//!
//! for (method, path, status) in [
//!     ("GET", "/me", StatusCode::OK),
//!     ("POST", "/sign-out", StatusCode::NO_CONTENT),
//!     ("GET", "/me", StatusCode::UNAUTHORIZED), // the same token, revoked
//! ] {
//!     let request = Request::builder()
//!         .method(method)
//!         .uri(path)
//!         .header("authorization", format!("Bearer {}", session.token.expose()))
//!         .body(Body::empty())?;
//!     assert_eq!(app.clone().oneshot(request).await?.status(), status);
//! }
//! # Ok(())
//! # }
//! ```
//!
//! The crate verifies, issues and ends sessions. It is not a login framework: it has no passwords,
//! no OAuth, no passkeys, no login forms and no CSRF tokens.
//!
//! # Where to look
//!
//! | for | see |
//! |---|---|
//! | a complete service, and where its layer stands | [`guide::quick_start`] |
//! | what happens to a request, what a handler gets, what the client is told | [`guide::requests`] |
//! | cookies, WebSockets, `EventSource`: where a browser puts its token | [`guide::browsers`] |
//! | sessions that another service or an existing table keeps | [`guide::custom_store`] |
//! | customers in a table of the application's own | `guide::external_customers`, with the feature `postgres` |
//! | the sessions of Polar's customers | `guide::polar`, with the feature `polar` |
//! | choosing a store, setting it up, looking after it | [`guide::operations`] |
//! | what a revocation promises, on one machine and on several | [`guide::revocation`] |
//! | what is defended against what | [`guide::security`] |
//! | how long a session should live, and what the standards demand | [`guide::session_lifetime`] |
//! | tests of your service | [`guide::testing`] |
//! | use outside HTTP | [`CustomerSessions::authenticate`] |
//!
//! # Features
//!
//! Features add names and never change behaviour.
//!
//! | feature | adds |
//! |---|---|
//! | `axum` (default) | the extractors `Customer`, `Option<Customer>`, `CurrentSession`, `SessionLifetime`; `StoreError` and `AuthenticateError` as responses |
//! | `tracing` (default) | log events for operators; none carries a token |
//! | `sqlite` | `SqliteStore`: sessions in a file; needs Rust 1.94 |
//! | `postgres` | `PostgresStore`, `PostgresInvalidations`: sessions that several machines share; needs Rust 1.94 |
//! | `postgres-rustls` | TLS by rustls for the connections to PostgreSQL |
//! | `redis` | `RedisStore`, `RedisInvalidations`: sessions in Redis or Valkey |
//! | `redis-rustls` | TLS by rustls for the connections to Redis |
//! | `polar` | `PolarStore` and the module `polar`: the customer sessions that Polar issues |
//! | `rustls` (default) | TLS for the client that `PolarStore` makes itself; nothing without `polar` |
//! | `testing` | the module `testing`: `ManualClock`, `conformance` and `conformance_of_lookups`, `FaultyStore`, `SignedIn`, `assert_protected` |
//! | `full` | all of these but `testing` |

#![cfg_attr(docsrs, feature(doc_cfg))]

mod clock;
mod config_error;
mod customer;
mod details;
mod engine;
mod family;
mod invalidation;
#[cfg(any(feature = "polar", feature = "postgres", feature = "redis"))]
mod loopback;
mod metadata;
mod middleware;
mod newest_changes;
mod page;
#[cfg(feature = "polar")]
pub mod polar;
mod random;
mod registry;
mod session;
mod session_id;
mod sessions;
mod shared_caches;
pub mod store;
mod telemetry;
#[cfg(feature = "testing")]
pub mod testing;
mod token;
mod unconfirmed_changes;

/// The atomics of the revocation table, and the slots of the front cache; `tests/loom.rs` puts its own
/// in their place.
mod sync {
    pub(crate) use std::sync::atomic::{AtomicU64, Ordering};

    /// A place for an `Arc` that is read without a lock.
    pub(crate) use arc_swap::ArcSwapOption as Slot;
}

/// Longer texts, with examples that are compiled and run.
pub mod guide {
    #[doc = include_str!("guide/quick_start.md")]
    pub mod quick_start {}

    #[doc = include_str!("guide/requests.md")]
    pub mod requests {}

    #[doc = include_str!("guide/browsers.md")]
    pub mod browsers {}

    #[doc = include_str!("guide/custom_store.md")]
    pub mod custom_store {}

    #[cfg(feature = "postgres")]
    #[doc = include_str!("guide/external_customers.md")]
    pub mod external_customers {}

    #[doc = include_str!("guide/operations.md")]
    pub mod operations {}

    #[cfg(feature = "polar")]
    #[doc = include_str!("guide/polar.md")]
    pub mod polar {}

    #[cfg(feature = "postgres")]
    #[doc = include_str!("guide/postgresql.md")]
    pub mod postgresql {}

    #[doc = include_str!("guide/revocation.md")]
    pub mod revocation {}

    #[doc = include_str!("guide/security.md")]
    pub mod security {}

    #[doc = include_str!("guide/session_lifetime.md")]
    pub mod session_lifetime {}

    #[doc = include_str!("guide/testing.md")]
    pub mod testing {}
}

#[cfg(all(doctest, feature = "postgres", feature = "polar"))]
#[doc = include_str!("../README.md")]
struct Readme;

pub use async_trait::async_trait;

#[cfg(feature = "axum")]
pub use self::middleware::CustomerRejection;
pub use self::{
    clock::{Clock, SystemClock},
    config_error::ConfigError,
    customer::{Address, Customer, CustomerData, CustomerId, CustomerKind, OrganizationId, TaxId},
    details::{
        Actor, Device, InsufficientScope, InvalidDetails, Member, MemberRole, Scopes,
        SessionDetails,
    },
    engine::{AuthenticateError, CacheStatus, SessionEnd},
    invalidation::{Invalidation, InvalidationSource, SourceEvent},
    metadata::{Metadata, MetadataValue},
    middleware::{
        CustomerSessionLayer, CustomerSessionService, Rejection, RejectionKind, RequestHead,
        ResponseBody, ResponseFuture, SameOriginFuture, SameOriginLayer, SameOriginService,
        SessionCookie, SetCookie,
    },
    page::{InvalidCursor, Page, PageCursor, SessionPage},
    registry::{Inserted, Keeps, Revocation, Revoked, SessionLimit, SessionUse, WhenFull},
    session::{CustomerSession, SessionId, SessionSummary},
    sessions::{
        CurrentSession, CustomerSessions, CustomerSessionsBuilder, DynCustomerSessions,
        LimitedStream, NewSession, SessionLifetime,
    },
    shared_caches::SharedCaches,
    store::{
        error::{StoreError, StoreErrorKind},
        traits::{SessionRegistry, SessionStore},
    },
    telemetry::Statistics,
    token::{SessionToken, TokenFormat},
};
