//! How long a process has been at work: unlike requests per second, that does not depend on
//! who else wants its core.

use std::{fs, io, path::PathBuf};

pub struct Work {
    threads: PathBuf,
}

impl Work {
    pub fn of(process: u32) -> Self {
        Self {
            threads: format!("/proc/{process}/task").into(),
        }
    }

    /// Of all its threads.
    pub fn nanoseconds(&self) -> io::Result<u64> {
        let mut sum = 0;
        for thread in fs::read_dir(&self.threads)? {
            let times = fs::read_to_string(thread?.path().join("schedstat"))?;
            let running = times.split(' ').next().unwrap_or_default();
            sum += running.parse::<u64>().map_err(io::Error::other)?;
        }
        Ok(sum)
    }
}
