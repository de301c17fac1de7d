//! The edge: HTTP in, HTTP out.

mod answers;
mod caching;
mod config;
mod credentials;
#[cfg(feature = "axum")]
mod extract;
mod future;
// Only the extractors read what is left for an anonymous request; it is left in any case, for
// features never change behaviour.
#[cfg_attr(not(feature = "axum"), allow(dead_code))]
mod identity;
mod layer;
mod rejection;
mod service;

#[cfg(feature = "axum")]
pub use self::extract::CurrentSession;
#[cfg(feature = "testing")]
pub(crate) use self::identity::{clear, sign_in};
pub use self::{
    credentials::RequestHead,
    future::{ResponseBody, ResponseFuture},
    layer::CustomerSessionLayer,
    rejection::{Rejection, RejectionKind},
    service::CustomerSessionService,
};
