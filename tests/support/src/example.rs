//! The examples, as cargo builds them, each run as a process.

use std::{
    io::{BufRead as _, BufReader, Lines},
    path::PathBuf,
    process::{Child, ChildStdout, Command, Stdio},
};

/// Returns the command that runs an example, which is built first.
pub fn example(name: &str) -> Command {
    // Does nothing after `cargo test --all-features`; after `--test servers` it may be old.
    let cargo = Command::new(env!("CARGO"))
        .args(["build", "--quiet", "--all-features", "--example", name])
        .status();
    assert!(cargo.expect("cargo runs").success());
    Command::new(folder().join(name))
}

/// Returns the folder of the examples, which is beside that of the test's own binary.
fn folder() -> PathBuf {
    let mut folder = std::env::current_exe().expect("a path");
    folder.pop();
    folder.pop();
    folder.join("examples")
}

/// An example that listens on a free port, killed when this is dropped.
pub struct RunningExample {
    child: Child,
    /// The example must be able to print as long as it runs.
    lines: Lines<BufReader<ChildStdout>>,
}

impl RunningExample {
    /// Starts `command` with this environment.
    pub fn start(mut command: Command, environment: &[(&str, &str)]) -> Self {
        let mut child = command
            .env("PORT", "0")
            .envs(environment.iter().copied())
            .stdout(Stdio::piped())
            .spawn()
            .expect("it starts");
        let lines = BufReader::new(child.stdout.take().expect("piped")).lines();
        Self { child, lines }
    }

    /// Reads on until it prints a line that begins with `start`, and returns that line.
    pub fn line(&mut self, start: &str) -> String {
        let mut lines = self.lines.by_ref().map(|line| line.expect("text"));
        let line = lines.find(|line| line.starts_with(start));
        line.unwrap_or_else(|| panic!("no line begins with {start:?}"))
    }

    /// Interrupts it as Ctrl-C does, waits until it ends well, and returns its last line.
    pub fn interrupt(&mut self) -> String {
        let interrupt = Command::new("kill")
            .args(["-INT", &self.child.id().to_string()])
            .status();
        assert!(interrupt.expect("kill runs").success());
        assert!(self.child.wait().expect("it ends").success());
        let last = self.lines.by_ref().last().expect("a line");
        last.expect("text")
    }
}

impl Drop for RunningExample {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}
