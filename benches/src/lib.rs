//! The cost of customer-session beside that of its alternatives. `benches/run` measures all of it.

pub mod measure;
pub mod report;
pub mod results;
pub mod scene;
pub mod stacks;
pub mod statistics;

/// Returns `true` if a run is only to show that everything works.
pub fn is_quick() -> bool {
    std::env::var_os("QUICK").is_some()
}

/// Returns the first value, or the second in a quick run.
pub fn full_or_quick<T>(full: T, quick: T) -> T {
    if is_quick() { quick } else { full }
}
