//! Writes the report of what the other programs have measured: `report FOLDER`. Prints the machine
//! and the targets.

use std::{env, io, path::PathBuf};

use customer_session_benches::{report, results::Results};

fn main() -> io::Result<()> {
    let folder = env::args_os().nth(1).map(PathBuf::from);
    let folder = folder.ok_or_else(|| io::Error::other("usage: report FOLDER"))?;
    print!("{}", report::write(&Results::load()?, &folder)?);
    Ok(())
}
