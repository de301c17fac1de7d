//! Single calls, each timed by itself, for the percentiles.

use std::time::Instant;

use axum::extract::Request;

use super::{CHUNK, fill};
use crate::stacks::Contender;

/// Measures this many calls one by one, in nanoseconds, clock included.
pub fn calls(
    contender: &mut Contender,
    count: usize,
    requests: &mut Vec<Request>,
    times: &mut Vec<u32>,
) {
    for _ in 0..count.div_ceil(CHUNK) {
        fill(requests, contender, CHUNK);
        for request in requests.drain(..) {
            let begun = Instant::now();
            contender.stack.answer_one(request);
            let time = begun.elapsed().as_nanos();
            times.push(u32::try_from(time).unwrap_or(u32::MAX));
        }
    }
}

/// Returns the time that the clock adds to a single call: the median of reading it twice with
/// nothing between.
pub fn clock() -> u32 {
    let mut times: Vec<_> = (0..100_000)
        .map(|_| Instant::now().elapsed().as_nanos() as u32)
        .collect();
    times.sort_unstable();
    times[times.len() / 2]
}

/// Returns a percentile in nanoseconds, without the clock; `None` if there were too few calls.
pub fn percentile(sorted: &[u32], part: f64, clock: u32) -> Option<f64> {
    let beyond = sorted.len() as f64 * (1.0 - part);
    if beyond < 5.0 {
        return None;
    }
    let place = (sorted.len() as f64 * part) as usize;
    Some(f64::from(sorted[place].saturating_sub(clock)))
}
