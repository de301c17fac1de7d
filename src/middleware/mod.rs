//! The edge: HTTP in, HTTP out.

mod bearer;
#[cfg(feature = "axum")]
mod extract;
mod future;
mod identity;
mod layer;
mod rejection;
mod service;

#[cfg(feature = "axum")]
pub use self::extract::CurrentSession;
pub use self::{
    future::{ResponseBody, ResponseFuture},
    layer::CustomerSessionLayer,
    rejection::{Rejection, RejectionKind},
    service::CustomerSessionService,
};
