//! Measuring things that time themselves, interleaved.

use super::median;

pub struct Task<'a> {
    name: &'static str,
    /// Does it once, and returns what is measured: a time for each item, say.
    run: Box<dyn FnMut() -> f64 + 'a>,
}

pub fn task<'a>(name: &'static str, run: impl FnMut() -> f64 + 'a) -> Task<'a> {
    Task {
        name,
        run: Box::new(run),
    }
}

/// The median of each task, by its name.
pub fn medians(tasks: Vec<Task<'_>>, rounds: usize) -> impl Fn(&str) -> f64 + use<> {
    let mut tasks = tasks;
    let mut samples = vec![Vec::with_capacity(rounds); tasks.len()];
    let warm_up = rounds / 10;
    for round in 0..warm_up + rounds {
        for turn in 0..tasks.len() {
            let which = (round + turn) % tasks.len();
            let sample = (tasks[which].run)();
            if round >= warm_up {
                samples[which].push(sample);
            }
        }
    }
    let names: Vec<_> = tasks.iter().map(|task| task.name).collect();
    move |name| {
        let which = names.iter().position(|it| *it == name);
        median(&samples[which.expect("one of the tasks")])
    }
}
