//! What customer-session costs, beside what else one might take. `benches/run` measures it all.

pub mod measure;
pub mod report;
pub mod results;
pub mod scene;
pub mod stacks;

/// Whether it is only to be seen that everything runs.
pub fn is_quick() -> bool {
    std::env::var_os("QUICK").is_some()
}

/// The first of these, or the second if it is only to be seen that everything runs.
pub fn full_or_quick<T>(full: T, quick: T) -> T {
    if is_quick() { quick } else { full }
}
