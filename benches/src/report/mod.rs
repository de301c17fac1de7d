//! The report: tables in Markdown, plots in SVG.

mod machine;
mod markdown;
mod plots;
mod targets;

use std::{fs, io, path::Path};

use crate::{
    measure::ratio,
    results::{Counts, Growths, Measured, Served, Threads, load},
};

/// All that was measured.
pub struct Results {
    compared: Vec<Measured>,
    counts: Counts,
    growths: Growths,
    threads: Vec<Threads>,
    servers: Vec<Served>,
}

impl Results {
    /// What the measuring programs have saved.
    pub fn load() -> io::Result<Self> {
        Ok(Self {
            compared: load("compare")?,
            counts: load("count")?,
            growths: load("growth")?,
            threads: load("threads")?,
            servers: load("server")?,
        })
    }

    /// Writes the report, and answers what the targets are and whether they were met.
    pub fn report(&self, folder: &Path) -> io::Result<String> {
        plots::draw(self, folder).map_err(|error| io::Error::other(error.to_string()))?;
        fs::write(folder.join("README.md"), markdown::report(self))?;
        Ok(markdown::targets(self))
    }

    fn compared(&self, name: &str) -> Option<&Measured> {
        find(&self.compared, name)
    }
}

fn find<'a>(all: &'a [Measured], name: &str) -> Option<&'a Measured> {
    all.iter().find(|it| it.name == name)
}

/// The median over the rounds of how much more `a` costs than `b`.
fn ratio_of(all: &[Measured], a: &str, b: &str) -> Option<f64> {
    Some(ratio(&find(all, a)?.times, &find(all, b)?.times))
}
