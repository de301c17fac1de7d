//! The engine's promises, which `scripts/mutants` holds the tests to: no database is linked here.

mod expiry;
mod fixture;
mod lifetime;
mod outage_policy;
mod revocation;
mod single_flight;
