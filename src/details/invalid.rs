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
    text.len() <= max_len && text.chars().all(is_shown)
}

/// Returns `true` if a character is shown in its place. Line separators and marks that change the
/// direction of writing could make one line of a list look like another.
pub(super) fn is_shown(character: char) -> bool {
    !character.is_control()
        && !matches!(character, '\u{2028}'..='\u{202e}' | '\u{2066}'..='\u{2069}')
}
