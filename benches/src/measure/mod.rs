//! Measuring: in turn, round after round, so that whatever the machine does to one it does to
//! all. Figures are medians over the rounds, ratios are medians of each round's ratio.

pub mod cores;
pub mod orders;
pub mod rounds;
pub mod single;
pub mod tasks;

use crate::{scene::request, stacks::Contender};

/// So many requests are made before the clock starts, and answered before it stops: few enough
/// to stay in the nearest cache, enough for the clock itself not to count.
pub const CHUNK: usize = 64;

fn fill(requests: &mut Vec<axum::extract::Request>, contender: &mut Contender, count: usize) {
    requests.extend((0..count).map(|_| request((contender.headers)())));
}

pub fn median(samples: &[f64]) -> f64 {
    quantile(samples, 0.5)
}

pub fn quantile(samples: &[f64], part: f64) -> f64 {
    let mut sorted = samples.to_vec();
    sorted.sort_by(f64::total_cmp);
    let last = sorted.len().saturating_sub(1) as f64;
    sorted
        .get((last * part).round() as usize)
        .copied()
        .unwrap_or(f64::NAN)
}

/// The median of each round's `a / b`.
pub fn ratio(a: &[f64], b: &[f64]) -> f64 {
    let ratios: Vec<_> = a.iter().zip(b).map(|(a, b)| a / b).collect();
    median(&ratios)
}
