//! Help for the tests of a service and of a store (feature `testing`).
//!
//! | to | use |
//! |---|---|
//! | hold the time by hand | [`ManualClock`] |
//! | check a store of your own | [`conformance`] |
//! | check a store that only looks sessions up | [`conformance_of_lookups`] |
//! | see what an outage does | [`FaultyStore`] |
//! | test handlers without tokens | [`SignedIn`] |
//! | find a route that was left open | [`assert_protected`] |

mod clock;
mod conformance;
mod faulty;
mod signed_in;

pub use self::{
    clock::ManualClock,
    conformance::{Conformance, LookupTokens, conformance, conformance_of_lookups},
    faulty::{Fault, FaultyStore},
    signed_in::{SignedIn, SignedInService, assert_protected},
};
