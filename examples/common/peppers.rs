//! The pepper of the examples.

use customer_session::store::Peppers;

/// Returns the pepper that `SESSION_PEPPER` holds, or else one that every reader of this line
/// knows.
pub(crate) fn peppers() -> Peppers {
    let pepper = std::env::var("SESSION_PEPPER");
    Peppers::new(pepper.unwrap_or_else(|_| "known to all, for trying out".to_owned()))
}
