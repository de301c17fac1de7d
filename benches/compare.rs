//! `cargo bench`: starts `benches/run quick`, which compares a request through the layer with one
//! through its alternatives. `benches/run` measures properly and writes `docs/performance`.

use std::{env, process::Command};

fn main() {
    // `cargo test --all-targets` starts this too, without the argument.
    if !env::args().any(|argument| argument == "--bench") {
        return;
    }
    let script = concat!(env!("CARGO_MANIFEST_DIR"), "/benches/run");
    let status = Command::new("bash").args([script, "quick"]).status();
    if !status.expect("bash starts").success() {
        panic!("{script} has failed");
    }
}
