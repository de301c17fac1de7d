//! The examples, as cargo builds them.

use std::{path::PathBuf, process::Command};

/// Beside this test's own binary, where cargo builds the examples.
pub fn example(name: &str) -> PathBuf {
    let mut path = std::env::current_exe().expect("a path");
    path.pop();
    path.pop();
    path.push("examples");
    path.push(name);
    // Nothing to do after `cargo test --all-features`; after `--test portal` it may be old.
    let cargo = Command::new(env!("CARGO"))
        .args(["build", "--quiet", "--all-features", "--example", name])
        .status();
    assert!(cargo.expect("cargo runs").success());
    path
}
