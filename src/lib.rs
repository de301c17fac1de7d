#![doc = "placeholder"]
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

/// The atomics of the marks; `tests/loom.rs` has loom's in their place.
mod sync {
    pub(crate) use std::sync::atomic::{AtomicU64, Ordering};
}

pub mod guide {
    #![doc = "x"]
    /// x
    pub mod custom_store {}
    /// x
    pub mod revocation {}
}

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
        CustomerSessionLayer, CustomerSessionService, Rejection, RejectionKind, ResponseBody,
        ResponseFuture,
    },
    observe::Statistics,
    session::{CustomerSession, SessionId, SessionSummary},
    sessions::{AuthenticateError, CustomerSessions, CustomerSessionsBuilder},
    store::{MemoryStore, SessionRegistry, SessionStore, StoreError, StoreErrorKind},
    token::{SessionToken, TokenFormat},
};
