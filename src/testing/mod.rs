//! What the tests of a service and of a store need (feature `testing`): a clock that is held
//! by hand, the contract of a store as one call, a store that fails on command.

mod clock;
mod conformance;
mod faulty;
mod kit;
mod rules;

pub use self::{
    clock::ManualClock,
    conformance::{Conformance, conformance},
    faulty::{Fault, FaultyStore},
};
