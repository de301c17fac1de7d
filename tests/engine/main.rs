//! The promises of the engine. `scripts/mutants` shows that they fail if a guard is taken out.

mod derive;
mod details;
mod expiry;
mod fixture;
mod idleness;
mod lagging_store;
mod late_changes;
mod lifetime;
mod links;
mod listing;
mod outage_policy;
mod overlap;
mod revocable;
mod revocation;
mod rotation;
mod shared_resources;
mod single_flight;
mod slow_store;
mod sources;
mod streams_in_line;
mod system_clock;
