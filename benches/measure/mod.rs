//! Interleaved measuring: every contender runs a batch in every round, so that whatever the
//! machine does to one it does to all. Figures are medians over the rounds.
#![allow(dead_code, unreachable_pub, reason = "each bench uses its part")]

use std::time::Instant;

pub struct Contender<'a> {
    pub name: &'static str,
    /// Runs one batch and returns the nanoseconds per request.
    pub run: Box<dyn FnMut() -> f64 + 'a>,
}

pub fn contender<'a>(name: &'static str, run: impl FnMut() -> f64 + 'a) -> Contender<'a> {
    Contender {
        name,
        run: Box::new(run),
    }
}

/// The median nanoseconds per request of each contender.
pub fn medians(contenders: &mut [Contender<'_>], rounds: usize) -> Vec<f64> {
    let mut samples = vec![Vec::with_capacity(rounds); contenders.len()];
    for round in 0..rounds + rounds / 10 {
        for (contender, samples) in contenders.iter_mut().zip(&mut samples) {
            let nanoseconds = (contender.run)();
            // The first rounds warm caches and branch predictors.
            if round >= rounds / 10 {
                samples.push(nanoseconds);
            }
        }
    }
    samples.into_iter().map(median).collect()
}

fn median(mut samples: Vec<f64>) -> f64 {
    samples.sort_by(f64::total_cmp);
    samples[samples.len() / 2]
}

/// Nanoseconds per item that `act` takes for all `items`.
pub fn time<T>(items: Vec<T>, mut act: impl FnMut(T)) -> f64 {
    let count = items.len() as f64;
    let begun = Instant::now();
    for item in items {
        act(item);
    }
    begun.elapsed().as_nanos() as f64 / count
}
