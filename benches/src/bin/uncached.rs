//! The cost of requests whose sessions are not all cached: a miss, and a working set of twice the
//! capacity.
//!
//! One request after another in a runtime of one thread, on a store in memory that makes each
//! session up, with a count of lookups for each stack. Ours looks up in a task of its own; the
//! others look up in the request itself.

use std::time::Instant;

use customer_session_benches::{
    full_or_quick,
    measure::{orders, rounds::batch_in},
    results::{Measured, Uncached, save},
    scene::{MadeUp, Scene},
    stacks::{
        ByHand, Contender, Headers, Ours, Quick, SyncCache, in_turn,
        names::{BY_HAND, CUSTOMER_SESSION},
    },
};
use tokio::runtime::{Builder, Runtime};

/// Requests of a turn.
const TURN: usize = 2048;

/// A stack, and the store that counts its lookups.
struct Counted {
    contender: Contender,
    store: MadeUp,
}

fn main() -> std::io::Result<()> {
    let begun = Instant::now();
    let runtime = Builder::new_current_thread().enable_all().build()?;
    let capacity = full_or_quick(100_000, 2000);
    let rounds = full_or_quick(100, 4);
    let mut results = Vec::new();
    {
        let sessions = (rounds + 1) * TURN;
        let scene = Scene::new(sessions);
        let order = orders::uniform(sessions);
        let headers = || in_turn(&scene.tokens, &order);
        let all = contenders(&scene, scene.capacity(), headers);
        results.push(measure("a miss", &runtime, all, 0, rounds));
    }
    let scene = Scene::new(2 * capacity);
    let zipf = orders::zipf(2 * capacity, full_or_quick(1_000_000, 20_000));
    for (name, order) in [
        ("twice the capacity, uniform", orders::uniform(2 * capacity)),
        ("twice the capacity, Zipf", zipf),
    ] {
        let headers = || in_turn(&scene.tokens, &order);
        let all = contenders(&scene, capacity as u64, headers);
        // Until each session has been asked for twice, and the caches have chosen.
        let warm_up = 4 * capacity / TURN;
        results.push(measure(name, &runtime, all, warm_up, rounds));
    }
    println!("took {} s", begun.elapsed().as_secs());
    save("uncached", &results)
}

fn contenders(scene: &Scene, capacity: u64, headers: impl Fn() -> Headers) -> Vec<Counted> {
    let with = |stack: &dyn Fn(&Scene) -> Contender| {
        let scene = scene.with_own_count();
        Counted {
            contender: stack(&scene),
            store: scene.store,
        }
    };
    vec![
        with(&|scene| Ours::empty(scene, capacity).hit(CUSTOMER_SESSION, headers())),
        with(&|scene| SyncCache::<Quick>::empty(scene, capacity).service_hit(headers())),
        with(&|scene| ByHand::empty(scene, capacity).hit(BY_HAND, headers())),
    ]
}

fn measure(
    name: &str,
    runtime: &Runtime,
    mut all: Vec<Counted>,
    warm_up: usize,
    rounds: usize,
) -> Uncached {
    let mut times = vec![Vec::with_capacity(rounds); all.len()];
    let mut lookups = vec![0; all.len()];
    for round in 0..warm_up + rounds {
        if round == warm_up {
            lookups = all.iter().map(|counted| counted.store.lookups()).collect();
        }
        for turn in 0..all.len() {
            let which = (round + turn) % all.len();
            let time = batch_in(runtime, &mut all[which].contender, |count| count < TURN);
            if round >= warm_up {
                times[which].push(time);
            }
        }
    }
    let requests = (rounds * TURN) as f64;
    let counted = all.iter().zip(&lookups);
    let hits = counted.map(|(counted, before)| {
        let lookups = counted.store.lookups() - before;
        1.0 - lookups as f64 / requests
    });
    let hits = hits.collect();
    let names = all.iter().map(|counted| counted.contender.name.clone());
    let stacks = names.zip(times);
    let stacks = stacks.map(|(name, times)| Measured::of_times(name, times));
    let result = Uncached {
        name: name.to_owned(),
        stacks: stacks.collect(),
        hits,
    };
    for (stack, hits) in result.stacks.iter().zip(&result.hits) {
        println!(
            "{name:<28} {:<50} {:>8.0} ns {:>6.1} % hits",
            stack.name,
            stack.ns(),
            100.0 * hits
        );
    }
    result
}
