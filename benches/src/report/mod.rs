//! The report: tables in Markdown, plots in SVG.

mod format;
mod machine;
mod markdown;
pub mod plots;
mod prose;
mod targets;

use std::{fs, io, path::Path};

use crate::results::Results;

/// Writes the report, and returns the machine, and the targets with what was measured.
pub fn write(results: &Results, folder: &Path) -> io::Result<String> {
    plots::draw(results, folder).map_err(|error| io::Error::other(error.to_string()))?;
    fs::write(folder.join("README.md"), markdown::report(results))?;
    let mut text = String::new();
    for (name, value) in machine::describe() {
        text += &format!("{name}: {value}\n");
    }
    Ok(text + "\n" + &markdown::targets(results))
}
