//! The gain of a second thread on a second core. The threads share the cache, and ask for a hot
//! session each, or both for the same one.

use std::{
    sync::atomic::{
        AtomicUsize,
        Ordering::{Acquire, Release},
    },
    time::Instant,
};

use customer_session_benches::{
    full_or_quick,
    measure::cores,
    results::{Threads, save},
    scene::{Scene, request, with_bearer},
    stacks::{
        ByHand, Contender, Floor, Headers, Ours, PlainMap, Quick, SyncCache, always,
        names::{BY_HAND, OURS},
    },
    statistics::ratio,
};

/// Requests in a batch. They are made before either thread starts, so that the allocator is not
/// what is measured.
const BATCH: usize = 2048;

fn main() -> std::io::Result<()> {
    let scene = Scene::new(1000);
    let ours = Ours::new(&scene);
    let by_hand = ByHand::new(&scene);
    let quick = SyncCache::<Quick>::new(&scene);
    let map = PlainMap::new(&scene);
    let rounds = full_or_quick(1000, 40);
    let mut results = Vec::new();
    for sessions in [2, 1] {
        let pair = |hit: &dyn Fn(Headers) -> Contender| {
            [0, sessions - 1].map(|n| hit(always(with_bearer(scene.tokens[n].expose()))))
        };
        for pair in [
            pair(&|headers| ours.hit(OURS, headers)),
            pair(&|headers| map.hit(headers)),
            pair(&|headers| quick.service_hit(headers)),
            pair(&|headers| by_hand.hit(BY_HAND, headers)),
        ] {
            results.push(measure(sessions, pair, rounds));
        }
    }
    results.push(measure(1, [Floor::hit(&scene), Floor::hit(&scene)], rounds));
    for stack in &results {
        let Threads { name, sessions, .. } = stack;
        println!(
            "{name:<50} {sessions} hot {:.2} x",
            ratio(&stack.two, &stack.one)
        );
    }
    save("threads", &results)
}

/// Measures in rounds of three: the first thread alone, the second alone, both.
fn measure(sessions: usize, pair: [Contender; 2], rounds: usize) -> Threads {
    let name = pair[0].name.clone();
    let ready = AtomicUsize::new(0);
    let of_thread = |core: usize, mut contender: Contender| {
        let pinned = cores::pin_thread(core);
        let mut rates = Vec::new();
        for round in 0..3 * (rounds + 10) {
            let works = round % 3 == core || round % 3 == 2;
            let mut requests = Vec::new();
            if works {
                requests.extend((0..BATCH).map(|_| request((contender.headers)())));
            }
            // Waits for the other without going to sleep: waking up takes longer than a batch.
            ready.fetch_add(1, Release);
            while ready.load(Acquire) < 2 * (round + 1) {
                std::hint::spin_loop();
            }
            if works {
                let begun = Instant::now();
                contender.stack.answer(&mut requests);
                rates.push(BATCH as f64 / begun.elapsed().as_secs_f64());
            }
        }
        (rates, pinned)
    };
    let [first, second] = pair;
    let [(first, pinned), (second, _)] = std::thread::scope(|scope| {
        let first = scope.spawn(|| of_thread(0, first));
        let second = scope.spawn(|| of_thread(1, second));
        [first, second].map(|thread| thread.join().expect("no panic"))
    });
    // Each thread's rates are alone, together, alone, together; the first rounds warm up.
    let part = |rates: &[f64], which: usize| -> Vec<f64> {
        rates.iter().copied().skip(20 + which).step_by(2).collect()
    };
    let sum = |which: usize| -> Vec<f64> {
        let both = part(&first, which).into_iter().zip(part(&second, which));
        both.map(|(first, second)| first + second).collect()
    };
    Threads {
        name,
        sessions,
        one: sum(0).iter().map(|sum| sum / 2.0).collect(),
        two: sum(1),
        pinned,
    }
}
