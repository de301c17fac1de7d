//! What the tests of a service and of a store need (feature `testing`).
//!
//! | to | use |
//! |---|---|
//! | hold the time by hand | [`ManualClock`] |
//! | check a store of your own | [`conformance`] |
//! | see what becomes of an outage | [`FaultyStore`] |
//! | test handlers without tokens | [`SignedIn`] |
//! | find a route that was left open | [`assert_protected`] |

mod clock;
mod conformance;
mod faulty;
mod kit;
mod rules;
mod signed_in;

pub use self::{
    clock::ManualClock,
    conformance::{Conformance, conformance},
    faulty::{Fault, FaultyStore},
    signed_in::{SignedIn, SignedInService, assert_protected},
};
