//! Batches of requests, interleaved.

use std::time::{Duration, Instant};

use axum::extract::Request;
use tokio::runtime::Runtime;

use super::{CHUNK, fill, single};
use crate::{results::Measured, stacks::Contender};

pub struct Plan {
    pub rounds: usize,
    /// Time of each contender's batch in each round.
    pub batch: Duration,
    /// Single calls of each contender in each round, unless it is slow.
    pub singles: usize,
}

/// Limit of the time of single calls in a round, so that a slow contender does not take all of
/// the run.
const MAX_SINGLES_TIME: Duration = Duration::from_millis(10);

pub fn measure(contenders: &mut [Contender], plan: &Plan) -> Vec<Measured> {
    let mut requests = Vec::with_capacity(CHUNK);
    let sizes: Vec<_> = contenders
        .iter_mut()
        .map(|contender| {
            // The first calls warm up caches and branch predictors.
            batch(contender, 32 * CHUNK, &mut requests);
            let nanoseconds = batch(contender, 32 * CHUNK, &mut requests);
            let fits = |time: Duration| (time.as_nanos() as f64 / nanoseconds) as usize;
            let requests = fits(plan.batch).clamp(CHUNK, 512 * CHUNK) / CHUNK * CHUNK;
            (requests, plan.singles.min(fits(MAX_SINGLES_TIME)))
        })
        .collect();
    let mut times = vec![Vec::with_capacity(plan.rounds); contenders.len()];
    let mut singles = vec![Vec::new(); contenders.len()];
    let warm_up = plan.rounds / 10;
    for round in 0..warm_up + plan.rounds {
        for turn in 0..contenders.len() {
            let which = (round + turn) % contenders.len();
            let (of_batch, of_singles) = sizes[which];
            let contender = &mut contenders[which];
            let nanoseconds = batch(contender, of_batch, &mut requests);
            if round >= warm_up {
                times[which].push(nanoseconds);
                single::calls(contender, of_singles, &mut requests, &mut singles[which]);
            }
        }
    }
    let clock = single::clock();
    contenders
        .iter()
        .zip(times)
        .zip(singles)
        .map(|((contender, times), mut singles)| {
            singles.sort_unstable();
            let at = |part: f64| single::percentile(&singles, part, clock);
            Measured {
                name: contender.name.clone(),
                times,
                singles: singles.len(),
                percentiles: [at(0.5), at(0.99), at(0.999)],
            }
        })
        .collect()
}

/// Answers this many requests with each contender, in turns and without warming up. Returns the
/// nanoseconds per request of each contender in each round. The contender at place `first` begins.
pub fn first_pass(contenders: &mut [Contender], count: usize, first: usize) -> Vec<Vec<f64>> {
    const TURN: usize = 5000;
    let mut buffer = Vec::with_capacity(CHUNK);
    let mut times = vec![Vec::new(); contenders.len()];
    for (round, begin) in (0..count).step_by(TURN).enumerate() {
        for turn in 0..contenders.len() {
            let which = (first + round + turn) % contenders.len();
            let requests = TURN.min(count - begin);
            times[which].push(batch(&mut contenders[which], requests, &mut buffer));
        }
    }
    times
}

/// Answers requests one after another in a runtime, in which they may wait for lookups, as long as
/// `goes_on` returns `true` for the number of requests so far. Returns the nanoseconds per request.
pub fn batch_in(
    runtime: &Runtime,
    contender: &mut Contender,
    goes_on: impl Fn(usize) -> bool,
) -> f64 {
    let mut buffer = Vec::with_capacity(CHUNK);
    let (mut spent, mut count) = (Duration::ZERO, 0);
    runtime.block_on(async {
        while goes_on(count) {
            fill(&mut buffer, contender, CHUNK);
            let begun = Instant::now();
            contender.stack.answer_awaiting(&mut buffer).await;
            spent += begun.elapsed();
            count += CHUNK;
        }
    });
    spent.as_nanos() as f64 / count as f64
}

/// Returns the nanoseconds per request. Making the requests is not counted, dropping them is.
fn batch(contender: &mut Contender, count: usize, requests: &mut Vec<Request>) -> f64 {
    let mut spent = Duration::ZERO;
    for begin in (0..count).step_by(CHUNK) {
        fill(requests, contender, CHUNK.min(count - begin));
        let begun = Instant::now();
        contender.stack.answer(requests);
        spent += begun.elapsed();
    }
    spent.as_nanos() as f64 / count as f64
}
