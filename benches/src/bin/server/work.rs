//! The processor time of a process. Unlike requests per second, it does not depend on other
//! processes that want the same core.

use std::{fs, io, ops::Sub, path::PathBuf};

pub struct Work {
    threads: PathBuf,
}

impl Work {
    /// Returns a reader of the times of this process.
    pub fn of(process: u32) -> Self {
        Self {
            threads: format!("/proc/{process}/task").into(),
        }
    }

    /// Returns the time of all its threads so far.
    pub fn so_far(&self) -> io::Result<Spent> {
        let mut sum = Spent {
            at_work: 0,
            wanted: 0,
        };
        for thread in fs::read_dir(&self.threads)? {
            let times = fs::read_to_string(thread?.path().join("schedstat"))?;
            let mut times = times
                .split(' ')
                .map(|time| time.parse::<u64>().unwrap_or(0));
            let running = times.next().unwrap_or(0);
            let queuing = times.next().unwrap_or(0);
            sum.at_work += running;
            sum.wanted += running + queuing;
        }
        Ok(sum)
    }
}

/// Processor time in nanoseconds.
pub struct Spent {
    pub at_work: u64,
    /// At work, or waiting for others to leave the core.
    pub wanted: u64,
}

impl Sub for Spent {
    type Output = Self;

    fn sub(self, before: Self) -> Self {
        Self {
            at_work: self.at_work - before.at_work,
            wanted: self.wanted - before.wanted,
        }
    }
}
