//! The cost of a request with each stack. Prints a table, of which `benches/run` makes the report.

use std::time::Duration;

use customer_session_benches::{
    full_or_quick,
    measure::{
        rounds::{Plan, measure},
        single,
    },
    results::save,
    scene::Scene,
    stacks::every_stack,
};

fn main() -> std::io::Result<()> {
    let scene = Scene::new(1000);
    let many = Scene::new(full_or_quick(1_000_000, 20_000));
    let mut contenders = every_stack(&scene, &many);
    let plan = Plan {
        rounds: full_or_quick(400, 10),
        batch: Duration::from_micros(full_or_quick(2500, 500)),
        singles: full_or_quick(1024, 128),
    };
    let results = measure(&mut contenders, &plan);
    println!(
        "{:<50} {:>8} {:>8} {:>8} {:>8}",
        "stack", "ns", "p50", "p99", "p99.9"
    );
    for result in &results {
        let [p50, p99, p999] = result.percentiles.map(|time| time.unwrap_or(f64::NAN));
        let (name, ns) = (&result.name, result.ns());
        println!("{name:<50} {ns:>8.0} {p50:>8.0} {p99:>8.0} {p999:>8.0}");
    }
    println!(
        "the clock takes {} ns, which is subtracted from each single call",
        single::clock()
    );
    save("compare", &results)
}
