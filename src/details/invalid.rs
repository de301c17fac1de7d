//! Details that no session can have.

use std::{error::Error, fmt};

/// Details that no session can have. `Display` says which, and what the bounds are; it never repeats
/// the value.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct InvalidDetails {
    problem: &'static str,
}

impl InvalidDetails {
    pub(super) const fn new(problem: &'static str) -> Self {
        Self { problem }
    }
}

impl fmt::Display for InvalidDetails {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.problem)
    }
}

impl Error for InvalidDetails {}

/// Returns `true` if a text is short enough, and safe to show in one line.
pub(super) fn is_short_line(text: &str, max_len: usize) -> bool {
    text.len() <= max_len && !text.contains(char::is_control)
}
