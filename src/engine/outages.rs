//! The times in which the store could not be read or written, as far as this engine has noticed.
//!
//! A session does not end by idleness while its uses cannot be recorded. So the time of an outage does
//! not count as time in which the session was idle.

use std::collections::VecDeque;

use chrono::{DateTime, TimeDelta, Utc};

/// Outages that are remembered. Of more, the oldest is forgotten.
const MAX_OUTAGES: usize = 32;

#[derive(Debug, Default)]
pub(super) struct Outages {
    /// Those that are over, oldest first. They may overlap.
    past: VecDeque<(DateTime<Utc>, DateTime<Utc>)>,
    reads_fail_since: Option<DateTime<Utc>>,
    writes_fail_since: Option<DateTime<Utc>>,
}

/// What is done with the store.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Access {
    Read,
    Write,
}

impl Outages {
    /// Notes that the store has failed. Returns `true` if it did not before.
    pub(super) fn on_failure(&mut self, of: Access, now: DateTime<Utc>) -> bool {
        let since = self.fails_since(of);
        let is_first = since.is_none();
        since.get_or_insert(now);
        is_first
    }

    /// Notes that the store has answered.
    pub(super) fn on_success(&mut self, of: Access, now: DateTime<Utc>) {
        let Some(since) = self.fails_since(of).take() else {
            return;
        };
        self.past.push_back((since, now));
        if self.past.len() > MAX_OUTAGES {
            self.past.pop_front();
        }
    }

    /// Returns how long the store could not be used between two times.
    pub(super) fn between(&self, from: DateTime<Utc>, to: DateTime<Utc>) -> TimeDelta {
        let mut spans: Vec<_> = self.past.iter().copied().collect();
        let present = [self.reads_fail_since, self.writes_fail_since];
        spans.extend(present.into_iter().flatten().map(|since| (since, to)));
        spans.sort_unstable();
        let (mut total, mut counted_to) = (TimeDelta::zero(), from);
        for (start, end) in spans {
            let (start, end) = (start.max(counted_to), end.min(to));
            if start < end {
                total += end - start;
                counted_to = end;
            }
        }
        total
    }

    fn fails_since(&mut self, of: Access) -> &mut Option<DateTime<Utc>> {
        match of {
            Access::Read => &mut self.reads_fail_since,
            Access::Write => &mut self.writes_fail_since,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn at(second: i64) -> DateTime<Utc> {
        DateTime::UNIX_EPOCH + TimeDelta::seconds(second)
    }

    #[test]
    fn time_in_which_neither_reads_nor_writes_failed_counts() {
        let mut outages = Outages::default();
        outages.on_success(Access::Read, at(5));
        outages.on_failure(Access::Read, at(10));
        outages.on_failure(Access::Write, at(15));
        outages.on_failure(Access::Read, at(18));
        outages.on_success(Access::Read, at(20));
        let seconds = |from, to| outages.between(at(from), at(to)).num_seconds();
        assert_eq!(seconds(0, 10), 0);
        assert_eq!(seconds(0, 30), 20, "writes go on failing");
        assert_eq!(seconds(12, 14), 2);
        assert_eq!(seconds(12, 30), 18, "what overlaps counts once");
        outages.on_success(Access::Write, at(25));
        let seconds = |from, to| outages.between(at(from), at(to)).num_seconds();
        assert_eq!(seconds(0, 30), 15);
        assert_eq!(seconds(24, 1000), 1);
        assert_eq!(seconds(25, 1000), 0);
    }

    #[test]
    fn the_oldest_outage_is_forgotten() {
        let mut outages = Outages::default();
        for number in 0..=MAX_OUTAGES as i64 {
            outages.on_failure(Access::Write, at(10 * number));
            outages.on_success(Access::Write, at(10 * number + 1));
        }
        let all = outages.between(at(0), at(1000)).num_seconds();
        assert_eq!(all, MAX_OUTAGES as i64);
        assert_eq!(outages.between(at(0), at(10)).num_seconds(), 0);
    }
}
