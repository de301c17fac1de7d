//! The targets, and whether they were met.

use super::format::thousands;
use crate::{
    results::{Results, ratio_of},
    stacks::names::{AXUM_LOGIN, BY_HAND, FLOOR, HS256, OURS, PLAIN_MAP},
    statistics::ratio,
};

pub struct Target {
    pub what: String,
    pub limit: f64,
    pub bound: Bound,
    pub measured: f64,
    pub unit: &'static str,
    pub digits: usize,
}

#[derive(Clone, Copy, PartialEq)]
pub enum Bound {
    AtMost,
    AtLeast,
}
use Bound::{AtLeast, AtMost};

impl Target {
    pub fn is_met(&self) -> bool {
        match self.bound {
            AtMost => self.measured <= self.limit,
            AtLeast => self.measured >= self.limit,
        }
    }
}

fn target(
    what: impl Into<String>,
    (bound, limit): (Bound, f64),
    measured: Option<f64>,
    (unit, digits): (&'static str, usize),
) -> Option<Target> {
    Some(Target {
        what: what.into(),
        limit,
        bound,
        measured: measured?,
        unit,
        digits,
    })
}

/// Returns the targets for which something was measured.
pub fn targets(results: &Results) -> Vec<Target> {
    let all = [of_a_request(results), of_growth(results), of_load(results)];
    all.into_iter().flatten().flatten().collect()
}

/// Unit and digits of a ratio.
const TIMES: (&str, usize) = ("x", 2);

fn of_a_request(results: &Results) -> Vec<Option<Target>> {
    let mut all = Vec::new();
    for (other, limit) in [
        (FLOOR, 1.9),
        (BY_HAND, 0.40),
        (AXUM_LOGIN, 0.12),
        (HS256, 0.08),
    ] {
        all.push(target(
            format!("a hit, over {other}"),
            (AtMost, limit),
            ratio_of(&results.compared, OURS, other),
            ("x", 3),
        ));
    }
    let hit = results.compared(OURS);
    all.push(target(
        "p99 of single hits",
        (AtMost, 1000.0),
        hit.and_then(|hit| hit.percentiles[1]),
        ("ns", 0),
    ));
    let allocations = results.counts.allocations.iter();
    all.push(target(
        "allocations of a hit",
        (AtMost, 4.0),
        allocations
            .filter(|stack| stack.name == OURS)
            .map(|stack| stack.median as f64)
            .next(),
        ("", 0),
    ));
    all
}

fn of_load(results: &Results) -> Vec<Option<Target>> {
    let threads = results.threads.iter().find(|stack| stack.name == "ours");
    let threads = target(
        "throughput of two threads, over one",
        (AtLeast, 1.7),
        threads.map(|stack| ratio(&stack.two, &stack.one)),
        TIMES,
    );
    let server = |name| results.servers.iter().find(|server| server.name == name);
    let server = target(
        "requests a second of a whole server, over one without a layer",
        (AtLeast, 0.95),
        server("ours")
            .zip(server("no layer"))
            .map(|(ours, none)| ours.ratio_to(none, |server| &server.rates)),
        ("x", 3),
    );
    vec![threads, server]
}

fn of_growth(results: &Results) -> Vec<Option<Target>> {
    let mut all = Vec::new();
    for growth in &results.growths.growths {
        all.push(target(
            format!(
                "a hit over a plain sharded map, {} cached, {}, {}",
                thousands(growth.sessions),
                growth.order,
                growth.warmth
            ),
            (AtMost, 2.0),
            ratio_of(&growth.stacks, OURS, PLAIN_MAP),
            TIMES,
        ));
    }
    let memory = results
        .counts
        .memory
        .iter()
        .find(|cache| cache.name == "ours");
    all.push(target(
        "memory of a cached session beyond the session itself",
        (AtMost, 400.0),
        memory.map(|cache| cache.total - cache.payload),
        ("bytes", 0),
    ));
    // No more, as far as two measurements of the same thing can tell.
    all.push(target(
        "a hit for a customer with 50 entries of metadata, over one with none",
        (AtMost, 1.03),
        match &results.growths.metadata[..] {
            [none, many] => Some(ratio(&many.times, &none.times)),
            _ => None,
        },
        TIMES,
    ));
    all
}
