//! The targets, and whether they were met.

use super::format::thousands;
use crate::{
    results::{Results, Served, ratio_of},
    stacks::names::{
        BY_HAND, CUSTOMER_SESSION, FLOOR, OURS, PLAIN_MAP, QUICK_FROM_FN, QUICK_SERVICE,
    },
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
    let all = [
        of_a_request(results),
        of_growth(results),
        of_counts(results),
        of_load(results),
    ];
    all.into_iter().flatten().flatten().collect()
}

/// Unit and digits of a ratio.
const TIMES: (&str, usize) = ("x", 2);

fn of_a_request(results: &Results) -> Vec<Option<Target>> {
    let mut all = Vec::new();
    for (other, limit) in [(FLOOR, 1.9), (BY_HAND, 0.42), (QUICK_FROM_FN, 0.60)] {
        all.push(target(
            format!("one hot session, over {other}"),
            (AtMost, limit),
            ratio_of(&results.compared, OURS, other),
            ("x", 3),
        ));
    }
    let hit = results.compared(OURS);
    all.push(target(
        "p99 of one hit",
        (AtMost, 500.0),
        hit.and_then(|hit| hit.percentiles[1]),
        ("ns", 0),
    ));
    all
}

fn of_growth(results: &Results) -> Vec<Option<Target>> {
    let growths = &results.growths.growths;
    let mut all = Vec::new();
    for (other, limit) in [(PLAIN_MAP, 1.2), (BY_HAND, 0.65), (QUICK_SERVICE, 1.05)] {
        let ratios = growths.iter().filter_map(|growth| {
            let ratio = ratio_of(&growth.stacks, OURS, other)?;
            Some((ratio, growth))
        });
        let worst = ratios.max_by(|(one, _), (other, _)| one.total_cmp(other));
        let Some((ratio, growth)) = worst else {
            continue;
        };
        all.push(target(
            format!(
                "the worst of {} sizes and orders, over {other}: {}, {}, {}",
                growths.len(),
                thousands(growth.sessions),
                growth.order,
                growth.warmth
            ),
            (AtMost, limit),
            Some(ratio),
            TIMES,
        ));
    }
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

fn of_counts(results: &Results) -> Vec<Option<Target>> {
    let mut allocations = results.counts.allocations.iter();
    let allocations = allocations.find(|stack| stack.name == OURS);
    let allocations = target(
        "allocations of a hit",
        (AtMost, 3.0),
        allocations.map(|stack| stack.median as f64),
        ("", 0),
    );
    let mut memory = results.counts.memory.iter();
    let memory = memory
        .find(|cache| cache.name == CUSTOMER_SESSION)
        .and_then(|cache| {
            target(
                format!(
                    "memory of a cached session beyond the session itself, {} cached",
                    thousands(cache.sessions)
                ),
                (AtMost, 390.0),
                Some(cache.total - cache.payload),
                ("bytes", 0),
            )
        });
    let instructions = target(
        "instructions of a hit",
        (AtMost, 2750.0),
        results.instructions.get(OURS).map(|count| *count as f64),
        ("", 0),
    );
    vec![allocations, memory, instructions]
}

fn of_load(results: &Results) -> Vec<Option<Target>> {
    let mut all = Vec::new();
    for (sessions, what, limit) in [
        (1, "two threads on one hot session, over one thread", 1.6),
        (2, "two threads on a hot session each, over one thread", 1.8),
    ] {
        let mut threads = results.threads.iter();
        let threads = threads.find(|stack| stack.name == OURS && stack.sessions == sessions);
        all.push(target(
            what,
            (AtLeast, limit),
            threads.map(|stack| ratio(&stack.two, &stack.one)),
            TIMES,
        ));
    }
    for storm in &results.storms {
        all.push(target(
            format!(
                "hits under {:.0} revocations a second, over quiet: {}",
                storm.rate, storm.name
            ),
            (AtMost, 1.15),
            Some(ratio(&storm.storm, &storm.quiet)),
            TIMES,
        ));
    }
    let server = |name| Served::find(&results.servers, name);
    all.push(target(
        "core time of a whole server, over one with the floor layer",
        (AtMost, 1.04),
        server(OURS)
            .zip(server(FLOOR))
            .map(|(ours, floor)| ours.ratio_to(floor, |server| &server.work)),
        ("x", 3),
    ));
    all
}
