//! The times in which the store could not be read or written, as far as this engine has noticed.
//!
//! A session does not end by idleness while its uses cannot be recorded. So the time of an outage does
//! not count as time in which the session was idle.

use std::time::Duration;

use chrono::{DateTime, TimeDelta, Utc};

/// Outages that are remembered. Of more, the shortest is forgotten.
const MAX_OUTAGES: usize = 32;

/// Time after a failure for which the store counts as failing, if nothing else is heard of it: a node without
/// requests does not hear when an outage is over.
const MAX_SILENCE: Duration = Duration::from_secs(60);

#[derive(Debug, Default)]
pub(super) struct Outages {
    /// Those that are over. They may overlap.
    past: Vec<Span>,
    reads: Option<Failing>,
    writes: Option<Failing>,
}

/// The beginning and the end of an outage.
type Span = (DateTime<Utc>, DateTime<Utc>);

/// An access that fails.
#[derive(Debug)]
struct Failing {
    since: DateTime<Utc>,
    last_failure: DateTime<Utc>,
}

/// What is done with the store.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Access {
    Read,
    Write,
}

impl Failing {
    /// Returns the outage as far as it is known at `now`.
    fn span(&self, now: DateTime<Utc>) -> Span {
        (self.since, now.min(self.last_failure + MAX_SILENCE))
    }
}

impl Outages {
    /// Notes that the store has failed. Returns `true` if it did not before.
    pub(super) fn on_failure(&mut self, access: Access, now: DateTime<Utc>) -> bool {
        let is_over = |failing: &Failing| now > failing.last_failure + MAX_SILENCE;
        if self.failing(access).as_ref().is_some_and(is_over) {
            self.on_success(access, now);
        }
        let failing = self.failing(access);
        let is_first = failing.is_none();
        let failing = failing.get_or_insert(Failing {
            since: now,
            last_failure: now,
        });
        failing.last_failure = now;
        is_first
    }

    /// Notes that the store has answered.
    pub(super) fn on_success(&mut self, access: Access, now: DateTime<Utc>) {
        let Some(failing) = self.failing(access).take() else {
            return;
        };
        self.past.push(failing.span(now));
        if self.past.len() > MAX_OUTAGES {
            let lengths = self.past.iter().map(|(start, end)| *end - *start);
            let shortest = lengths.enumerate().min_by_key(|(_, length)| *length);
            self.past.remove(shortest.map_or(0, |(place, _)| place));
        }
    }

    /// Returns how long the store could not be used between two times.
    pub(super) fn between(&self, from: DateTime<Utc>, to: DateTime<Utc>) -> TimeDelta {
        let spans = self.spans(to).into_iter();
        let parts = spans.map(|(start, end)| end.min(to) - start.max(from));
        parts.map(|part| part.max(TimeDelta::zero())).sum()
    }

    /// Returns the time before `now` since when the store could be used for `time`, in all.
    pub(super) fn usable_for(&self, time: TimeDelta, now: DateTime<Utc>) -> Option<DateTime<Utc>> {
        let (mut left, mut end) = (time, now);
        for (start, stop) in self.spans(now).into_iter().rev() {
            let usable = end - stop;
            if left <= usable {
                break;
            }
            left -= usable;
            end = start;
        }
        end.checked_sub_signed(left)
    }

    /// Returns the outages until `now`, oldest first, which do not touch each other.
    fn spans(&self, now: DateTime<Utc>) -> Vec<Span> {
        let present = [&self.reads, &self.writes].into_iter().flatten();
        let mut spans = self.past.clone();
        spans.extend(present.map(|failing| failing.span(now)));
        spans.retain(|(start, end)| start < end && *start < now);
        spans.sort_unstable();
        let mut merged: Vec<Span> = Vec::new();
        for (start, end) in spans {
            let end = end.min(now);
            match merged.last_mut() {
                Some(last) if start <= last.1 => last.1 = last.1.max(end),
                _ => merged.push((start, end)),
            }
        }
        merged
    }

    fn failing(&mut self, access: Access) -> &mut Option<Failing> {
        match access {
            Access::Read => &mut self.reads,
            Access::Write => &mut self.writes,
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
        assert!(outages.on_failure(Access::Read, at(10)));
        assert!(outages.on_failure(Access::Write, at(15)));
        assert!(!outages.on_failure(Access::Read, at(18)));
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
    fn an_outage_of_which_nothing_is_heard_is_over_after_a_minute() {
        let mut outages = Outages::default();
        outages.on_failure(Access::Read, at(10));
        outages.on_failure(Access::Read, at(40));
        assert_eq!(outages.between(at(0), at(80)).num_seconds(), 70);
        assert_eq!(outages.between(at(0), at(9999)).num_seconds(), 90);
        assert!(outages.on_failure(Access::Read, at(9999)), "another one");
        outages.on_success(Access::Read, at(99_999));
        assert_eq!(outages.between(at(0), at(99_999)).num_seconds(), 90 + 60);
    }

    #[test]
    fn the_shortest_outage_is_forgotten() {
        let mut outages = Outages::default();
        for number in 0..=MAX_OUTAGES as i64 {
            outages.on_failure(Access::Write, at(100 * number));
            let seconds = if number == 0 { 50 } else { number };
            outages.on_success(Access::Write, at(100 * number + seconds));
        }
        assert_eq!(outages.between(at(0), at(100)).num_seconds(), 50);
        assert_eq!(outages.between(at(100), at(200)).num_seconds(), 0);
        assert_eq!(outages.between(at(200), at(300)).num_seconds(), 2);
    }

    #[test]
    fn the_time_for_which_the_store_could_be_used_agrees_with_the_outages() {
        let mut random = 1_u64;
        let mut below = |bound: u64| {
            random = random
                .wrapping_mul(6_364_136_223_846_793_005)
                .wrapping_add(1);
            ((random >> 33) % bound) as i64
        };
        for _ in 0..2000 {
            let (mut outages, mut now) = (Outages::default(), 0);
            for _ in 0..below(20) {
                now += below(100);
                let access = if below(2) == 0 {
                    Access::Read
                } else {
                    Access::Write
                };
                match below(3) {
                    0 => outages.on_success(access, at(now)),
                    _ => drop(outages.on_failure(access, at(now))),
                }
            }
            now += below(100);
            let time = TimeDelta::seconds(1 + below(300));
            let since = outages.usable_for(time, at(now)).expect("in range");
            let usable = |from| at(now) - from - outages.between(from, at(now));
            assert_eq!(usable(since), time);
            assert!(usable(since + TimeDelta::microseconds(1)) < time);
        }
    }
}
