//! The layer between HTTP and the sessions.

mod body;
mod cache_headers;
mod config;
mod cookie;
mod credentials;
#[cfg(feature = "axum")]
mod extract;
mod future;
mod guards;
#[cfg_attr(
    not(all(feature = "axum", feature = "testing")),
    allow(
        dead_code,
        reason = "the extractors alone read the mark of an anonymous request, and tests the probe; features never change behaviour"
    )
)]
pub(crate) mod identity;
#[cfg(feature = "axum")]
mod into_response;
mod layer;
mod navigation;
mod rejection;
mod rejection_responses;
mod same_origin;
mod service;

#[cfg(feature = "axum")]
pub use self::extract::CustomerRejection;
pub use self::{
    body::ResponseBody,
    cookie::{SessionCookie, SetCookie},
    credentials::RequestHead,
    future::ResponseFuture,
    layer::CustomerSessionLayer,
    rejection::{Rejection, RejectionKind},
    same_origin::{SameOriginFuture, SameOriginLayer, SameOriginService},
    service::CustomerSessionService,
};
