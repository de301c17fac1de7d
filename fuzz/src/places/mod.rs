//! The places of a request where a token may be.

pub mod bearer;
pub mod cookie;
pub mod origin;
pub mod query;
pub mod websocket;
