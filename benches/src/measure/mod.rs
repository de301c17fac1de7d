//! Measuring: contenders take turns in rounds, so that a disturbance of the machine hits all of
//! them alike. Figures are medians over the rounds, ratios are medians of each round's ratio.

pub mod cores;
pub mod orders;
pub mod rounds;
pub mod single;
pub mod tasks;

use crate::{scene::request, stacks::Contender};

/// Requests that are made before the clock starts and answered before it stops. They are few
/// enough to stay in the nearest cache, and enough for the clock itself not to count.
pub const CHUNK: usize = 64;

/// Makes the next requests of a contender.
fn fill(requests: &mut Vec<axum::extract::Request>, contender: &mut Contender, count: usize) {
    requests.extend((0..count).map(|_| request((contender.headers)())));
}
