//! The cost of a hit as the cache grows, and as a customer's metadata does.

use std::time::Duration;

use customer_session_benches::{
    full_or_quick,
    measure::{
        orders,
        rounds::{Plan, measure},
    },
    results::{Growth, Growths, Measured, save},
    scene::Scene,
    stacks::{ByHand, Contender, Ours, PlainMap, in_turn, names::BY_HAND},
};

fn main() -> std::io::Result<()> {
    let plan = Plan {
        rounds: full_or_quick(200, 10),
        batch: Duration::from_micros(full_or_quick(3000, 500)),
        singles: 0,
    };
    let sizes: &[usize] = full_or_quick(&[1000, 10_000, 100_000, 1_000_000], &[1000, 10_000]);
    println!(
        "{:>10} {:<8} {:>8} {:>8} {:>8}",
        "sessions", "order", "ours", "map", "by hand"
    );
    let mut growths = Vec::new();
    for &sessions in sizes {
        let scene = Scene::new(sessions);
        let ours = Ours::new(&scene);
        let map = PlainMap::new(&scene);
        let by_hand = ByHand::new(&scene);
        // Long enough for the busiest not to come round in the same order too soon.
        let zipf = orders::zipf(sessions, full_or_quick(1_000_000, 20_000));
        for (order, indices) in [("uniform", orders::uniform(sessions)), ("Zipf", zipf)] {
            let headers = || in_turn(&scene.tokens, &indices);
            let mut contenders = [
                ours.hit("ours", headers()),
                map.hit(headers()),
                by_hand.hit(BY_HAND, headers()),
            ];
            let stacks = measure(&mut contenders, &plan);
            let ns: Vec<_> = stacks.iter().map(Measured::ns).collect();
            println!(
                "{sessions:>10} {order:<8} {:>8.0} {:>8.0} {:>8.0}",
                ns[0], ns[1], ns[2]
            );
            growths.push(Growth {
                sessions,
                order: order.to_owned(),
                stacks,
            });
        }
        // None was forgotten: every request was a hit.
        assert_eq!(ours.lookups(), sessions as u64 + 1);
    }
    let metadata = metadata(&plan);
    for stack in &metadata {
        println!("{:<28} {:>8.0} ns", stack.name, stack.ns());
    }
    save("growth", &Growths { growths, metadata })
}

fn metadata(plan: &Plan) -> Vec<Measured> {
    let contender = |entries: usize| -> Contender {
        let scene = Scene::with_metadata(1000, entries);
        Ours::new(&scene).one_hit(&format!("{entries} entries of metadata"), &scene)
    };
    measure(&mut [contender(0), contender(50)], plan)
}
