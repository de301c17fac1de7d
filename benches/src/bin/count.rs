//! Allocations of a request, and the memory of a cached session. Counting them costs time, so
//! this is a program of its own.

use allocation_counter::measure;
use customer_session_benches::{
    full_or_quick,
    results::{Allocations, Counts, Memory, save},
    scene::{Scene, request},
    stacks::{
        ByHand, Contender, Ours, PlainMap, Quick, SyncCache, every_stack,
        names::{BY_HAND, CUSTOMER_SESSION, PLAIN_MAP, QUICK_SERVICE},
    },
    statistics::median,
};

fn main() -> std::io::Result<()> {
    let scene = Scene::new(1000);
    let allocations: Vec<_> = every_stack(&scene, &scene).iter_mut().map(count).collect();
    println!("{:<50} {:>8} {:>8}", "allocations", "median", "mean");
    for Allocations { name, median, mean } in &allocations {
        println!("{name:<50} {median:>8} {mean:>8.2}");
    }
    drop(scene);

    let scene = Scene::new(full_or_quick(1_000_000, 20_000));
    let memory = vec![
        weigh(CUSTOMER_SESSION, &scene, Ours::new),
        weigh(QUICK_SERVICE, &scene, SyncCache::<Quick>::new),
        weigh(BY_HAND, &scene, ByHand::new),
        weigh(PLAIN_MAP, &scene, PlainMap::new),
    ];
    println!("{:<50} {:>8} {:>8}", "bytes a session", "total", "payload");
    for cache in &memory {
        let (name, total, payload) = (&cache.name, cache.total, cache.payload);
        println!("{name:<50} {total:>8.0} {payload:>8.0}");
    }
    save(
        "count",
        &Counts {
            allocations,
            memory,
        },
    )
}

fn count(contender: &mut Contender) -> Allocations {
    const CALLS: usize = 4096;
    let mut counts = Vec::with_capacity(CALLS);
    for call in 0..2 * CALLS {
        let request = request((contender.headers)());
        let count = measure(|| contender.stack.answer_one(request)).count_total;
        // The first calls fill the caches.
        if call >= CALLS {
            counts.push(count as f64);
        }
    }
    Allocations {
        name: contender.name.clone(),
        median: median(&counts) as u64,
        mean: counts.iter().sum::<f64>() / CALLS as f64,
    }
}

/// Measures by how much the live bytes of this thread grow when all of the sessions are cached.
fn weigh<T>(name: &str, scene: &Scene, fill: impl FnOnce(&Scene) -> T) -> Memory {
    let mut filled = None;
    let all = measure(|| filled = Some(fill(scene))).bytes_current;
    let sample = &scene.tokens[..1000];
    let mut sessions = Vec::with_capacity(sample.len());
    let payload = measure(|| {
        let some = sample.iter().map(|token| scene.store.session(token));
        sessions.extend(some.map(Box::new));
    });
    Memory {
        name: name.to_owned(),
        sessions: scene.tokens.len(),
        total: all as f64 / scene.tokens.len() as f64,
        payload: payload.bytes_current as f64 / sample.len() as f64,
    }
}
