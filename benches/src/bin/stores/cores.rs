//! Pinning this process and a server to cores.

use std::{
    process::{Command, id},
    sync::OnceLock,
};

use test_support::servers::{self, Server};

/// All cores. They are asked for before the first pinning, which changes the answer.
pub static ALL: OnceLock<String> = OnceLock::new();

/// Pins this process, the server and all that come of them to these cores.
pub fn run_on(cores: &str, server: Option<&Server>) {
    let mut processes = vec![id()];
    processes.extend(server.iter().flat_map(|server| server.processes()));
    for process in processes {
        let pinned = Command::new("taskset")
            .args(["-a", "-p", "-c", cores, &process.to_string()])
            .output();
        if !pinned.is_ok_and(|output| output.status.success()) {
            servers::say("taskset did not work: the scheduler's choice is in the figures");
        }
    }
}
