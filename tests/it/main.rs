//! The crate as its users call it, within this process: no database, no other program but an
//! example.

mod bearer;
mod composition;
mod conformance;
mod cors;
mod documentation;
mod extractors;
mod guards;
mod json;
mod log;
mod memory_store;
mod permits;
#[cfg(feature = "polar")]
mod polar;
mod public_api;
mod purge;
mod refusals;
mod secrets;
mod shared_caches;
mod sources;
mod testing;
