//! Pinning to a core. On two cores the scheduler's choice outweighs everything measured.

use std::{path::Path, process::Command};

/// Pins the calling thread to this core. Returns `false` if that cannot be done.
pub fn pin_thread(core: usize) -> bool {
    let Ok(thread) = std::fs::read_link("/proc/thread-self") else {
        return false;
    };
    let Some(thread) = thread.file_name() else {
        return false;
    };
    let pinned = Command::new("taskset")
        .args(["-p", "-c", &core.to_string()])
        .arg(thread)
        .output();
    pinned.is_ok_and(|output| output.status.success())
}

/// Returns a command that runs on this core, where the system can do that.
pub fn command_on(core: usize, program: &Path) -> Command {
    let core = core.to_string();
    let works = Command::new("taskset").args(["-c", &core, "true"]).output();
    if works.is_ok_and(|output| output.status.success()) {
        let mut command = Command::new("taskset");
        command.args(["-c", &core]).arg(program);
        command
    } else {
        Command::new(program)
    }
}
