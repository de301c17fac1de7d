//! Measuring tasks that time themselves, interleaved.

use crate::statistics::median;

pub struct Task<'a> {
    name: &'static str,
    /// Runs the task once, and returns a figure: for example a time for each item.
    run: Box<dyn FnMut() -> f64 + 'a>,
}

pub fn task<'a>(name: &'static str, run: impl FnMut() -> f64 + 'a) -> Task<'a> {
    Task {
        name,
        run: Box::new(run),
    }
}

/// Returns the median of each task, by its name.
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
        let which = names.iter().position(|task| *task == name);
        median(&samples[which.expect("one of the tasks")])
    }
}
