//! How tables and numbers are written.

use std::fmt::Write as _;

/// Appends a table in Markdown.
pub fn table(
    text: &mut String,
    head: &[&str],
    rule: &str,
    fill: impl FnOnce(&mut Vec<Vec<String>>),
) {
    let mut rows = Vec::new();
    fill(&mut rows);
    let _ = writeln!(text, "| {} |\n{rule}", head.join(" | "));
    for row in rows {
        let _ = writeln!(text, "| {} |", row.join(" | "));
    }
}

/// Returns a number with a comma after each three digits.
pub fn thousands(number: usize) -> String {
    let digits = number.to_string();
    let mut text = String::new();
    for (place, digit) in digits.chars().enumerate() {
        if place > 0 && (digits.len() - place).is_multiple_of(3) {
            text.push(',');
        }
        text.push(digit);
    }
    text
}
