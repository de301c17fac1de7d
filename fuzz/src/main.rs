//! Fuzzes parsers, verification and the memory store.
//!
//! Each target makes its inputs by a grammar and a dictionary, and checks an oracle: a slow parser
//! that was written from the specification, or a model. `fuzz [TARGET...]` runs them, two at a
//! time, for `FUZZ_SECONDS` each (10). A failure prints its seed; `FUZZ_SEED` repeats that case.

mod json;
mod memory_model;
mod memory_store;
mod places;
mod random;
mod request;
mod webhook;

use std::{
    env,
    panic::{AssertUnwindSafe, catch_unwind},
    process::ExitCode,
    sync::Mutex,
    thread,
    time::{Duration, Instant, SystemTime, UNIX_EPOCH},
};

use random::{Random, Target};

type MakeTarget = fn() -> Target;

const TARGETS: [(&str, MakeTarget); 8] = [
    ("bearer", places::bearer::target),
    ("cookie", places::cookie::target),
    ("query", places::query::target),
    ("websocket", places::websocket::target),
    ("origin", places::origin::target),
    ("webhook", webhook::target),
    ("json", json::target),
    ("memory_store", memory_store::target),
];

const THREADS: usize = 2;

fn main() -> ExitCode {
    let wanted: Vec<String> = env::args().skip(1).collect();
    let is_wanted = |name: &str| wanted.is_empty() || wanted.iter().any(|wanted| wanted == name);
    let number = |name| env::var(name).ok().and_then(|value| value.parse().ok());
    let time = Duration::from_secs(number("FUZZ_SECONDS").unwrap_or(10));
    let given: Option<u64> = number("FUZZ_SEED");
    let waiting: Vec<_> = TARGETS
        .into_iter()
        .filter(|(name, _)| is_wanted(name))
        .collect();
    if waiting.is_empty() || waiting.len() < wanted.len() {
        eprintln!("targets: {}", TARGETS.map(|(name, _)| name).join(" "));
        return ExitCode::from(2);
    }
    let waiting = Mutex::new(waiting.into_iter());
    let next = || waiting.lock().expect("no panic").next();
    let failed = thread::scope(|scope| {
        let threads: Vec<_> = (0..THREADS)
            .map(|_| {
                scope.spawn(|| {
                    let mut failed = false;
                    while let Some((name, target)) = next() {
                        failed |= !run(name, target(), time, given);
                    }
                    failed
                })
            })
            .collect();
        threads
            .into_iter()
            .any(|thread| thread.join().unwrap_or(true))
    });
    if failed {
        ExitCode::FAILURE
    } else {
        ExitCode::SUCCESS
    }
}

/// Runs cases until the time is over, or the one case of a given seed. Returns `false` after a
/// failure.
fn run(name: &str, mut target: Target, time: Duration, given: Option<u64>) -> bool {
    let now = SystemTime::now()
        .duration_since(UNIX_EPOCH)
        .unwrap_or_default();
    let mut seeds = Random::new(now.as_nanos() as u64);
    let start = Instant::now();
    let mut cases = 0_u64;
    while start.elapsed() < time {
        let seed = given.unwrap_or_else(|| seeds.number());
        let case = catch_unwind(AssertUnwindSafe(|| target(&mut Random::new(seed))));
        cases += 1;
        if case.is_err() {
            println!("{name}: FAILED in case {cases}; repeat it by FUZZ_SEED={seed} and `{name}`");
            return false;
        }
        if given.is_some() {
            break;
        }
    }
    println!("{name}: {cases} cases in {:.0?}", start.elapsed());
    true
}
