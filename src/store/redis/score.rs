//! The scores of sessions in their customer's set.

use crate::details::SessionDetails;

/// Largest score of a session: a time in the year 2112.
const MAX_SCORE: i64 = (1 << 52) - 1;

/// Distance of the scores of what does not count for a limit. A sorted set holds integers of 53 bits exactly.
const UNCOUNTED: i64 = 1 << 53;

/// Distance of the scores of sessions that were just replaced and overlap. Below -2^53 a sorted set holds even
/// integers exactly.
const OVERLAPPING: i64 = 1 << 54;

/// Returns the score of a session that was just replaced, and whose overlap ends at a time, in microseconds since
/// 1970.
pub(super) fn score_of_overlap(micros: i64) -> i64 {
    2 * micros.clamp(0, MAX_SCORE) - OVERLAPPING
}

/// A part of a customer's set. Each is ordered by the time of creation, and that of sessions comes last, so
/// that a limit is found by rank, however many links there are.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Band {
    /// What does not count for a limit: links, and sessions that were derived from others.
    Uncounted,
    Sessions,
}

impl Band {
    pub(super) const ALL: [Self; 2] = [Self::Uncounted, Self::Sessions];

    /// Returns the part that a session belongs to.
    pub(super) fn of(details: &SessionDetails) -> Self {
        match details.counts_for_limits() {
            true => Self::Sessions,
            false => Self::Uncounted,
        }
    }

    /// Returns the score of what was created at a time, in microseconds since 1970.
    pub(super) fn score(self, micros: i64) -> i64 {
        match self {
            Self::Sessions => micros.clamp(-MAX_SCORE, MAX_SCORE),
            Self::Uncounted => micros.clamp(0, MAX_SCORE) - UNCOUNTED,
        }
    }

    /// Returns the lowest score, and the highest.
    pub(super) fn bounds(self) -> [i64; 2] {
        [self.score(i64::MIN), self.score(i64::MAX)]
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn scores_are_exact_and_the_parts_do_not_touch() {
        let below = -(1 << 52);
        assert!(Band::Uncounted.bounds()[1] < below && below < Band::Sessions.bounds()[0]);
        let common = include_str!("lua/common.lua");
        assert!(
            common.contains(&format!("< -{UNCOUNTED} "))
                && common.contains(&format!("+ {OVERLAPPING})"))
        );
        assert!(score_of_overlap(i64::MAX) < Band::Uncounted.bounds()[0]);
        for until in [0, 1_893_456_000_000_001, i64::MAX] {
            let (score, until) = (score_of_overlap(until), until.clamp(0, MAX_SCORE));
            assert_eq!(score as f64 as i64, score);
            assert_eq!((score as f64 + OVERLAPPING as f64) / 2.0, until as f64);
        }
        let room = include_str!("lua/room.lua");
        assert!(room.contains(&format!("'{below}'")));
        for band in Band::ALL {
            for score in band.bounds() {
                assert_eq!(score as f64 as i64, score);
            }
            assert!(band.score(1_893_456_000_000_001) > band.score(1_893_456_000_000_000));
        }
    }
}
