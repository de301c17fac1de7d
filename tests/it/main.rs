//! The crate as its users meet it, in this process alone.

mod bearer;
mod composition;
mod conformance;
mod extractors;
mod json;
mod log;
#[cfg(feature = "polar")]
mod polar;
mod public_api;
mod purge;
mod secrets;
mod sources;
mod testing;
