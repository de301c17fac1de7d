//! The circuit breaker: a store that has failed again and again is left alone for a moment,
//! then tried by one lookup.
//!
//! Only what says that the store is out of order counts as a failure. A record that cannot be
//! read concerns one session, and shows that the store answers.

use std::{
    sync::{
        Arc, Mutex, MutexGuard, PoisonError,
        atomic::{AtomicU64, Ordering::Relaxed},
    },
    time::Duration,
};

use crate::{
    clock::MonotonicTime,
    observe,
    store::{StoreError, StoreErrorKind},
};

/// So many lookups must fail in a row.
const FAILURES: u32 = 10;

/// Whether an error says that the store is out of order.
pub(crate) fn is_outage(error: &StoreError) -> bool {
    match error.kind() {
        StoreErrorKind::Timeout | StoreErrorKind::Unavailable => true,
        StoreErrorKind::Conflict | StoreErrorKind::Corrupt => false,
    }
}

pub(crate) struct Breaker {
    /// How long the store is left alone; `None`: it never is.
    pause: Option<Duration>,
    /// Guards the state. Held to look or to write, never across an await; hits do not come here.
    state: Mutex<State>,
    times_opened: AtomicU64,
}

#[derive(Clone, Copy)]
enum State {
    /// So many lookups have failed since the last that did not.
    Closed { failures: u32 },
    /// Nobody asks before this moment.
    Open { until: MonotonicTime },
    /// One lookup is under way to see how the store is. It may be on a runtime that stands still,
    /// so another may try after this moment.
    HalfOpen { until: MonotonicTime },
}

/// Leave to ask the store. Whoever asked reports how it went; if the lookup is stopped instead,
/// the next may try.
pub(crate) struct Pass {
    breaker: Arc<Breaker>,
    given: MonotonicTime,
    is_probe: bool,
}

impl Breaker {
    pub(crate) fn new(pause: Option<Duration>) -> Self {
        Self {
            pause,
            state: Mutex::new(State::Closed { failures: 0 }),
            times_opened: AtomicU64::new(0),
        }
    }

    /// Leave to ask the store, unless it is being left alone.
    pub(crate) fn pass(self: &Arc<Self>, now: MonotonicTime) -> Option<Pass> {
        let mut state = self.state();
        let is_probe = match *state {
            State::Closed { .. } => false,
            State::Open { until } | State::HalfOpen { until } if now >= until => {
                let until = now + self.pause.unwrap_or_default();
                *state = State::HalfOpen { until };
                true
            }
            State::Open { .. } | State::HalfOpen { .. } => return None,
        };
        Some(Pass {
            breaker: Arc::clone(self),
            given: now,
            is_probe,
        })
    }

    /// After which time it is worth asking again.
    pub(crate) fn retry_after(&self, now: MonotonicTime) -> Duration {
        match *self.state() {
            State::Open { until } | State::HalfOpen { until } => until.since(now),
            State::Closed { .. } => Duration::ZERO,
        }
    }

    pub(crate) fn is_open(&self) -> bool {
        !matches!(*self.state(), State::Closed { .. })
    }

    /// How often it has opened.
    pub(crate) fn times_opened(&self) -> u64 {
        self.times_opened.load(Relaxed)
    }

    fn state(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Pass {
    /// Says how the lookup went, and when it ended: whether the store failed. An error with which
    /// the store itself says when to come back tells neither.
    pub(crate) fn report_answer<T>(self, answer: &Result<T, StoreError>, now: MonotonicTime) {
        match answer {
            Err(error) if error.retry_after().is_some() => drop(self),
            Err(error) => self.report(is_outage(error), now),
            Ok(_) => self.report(false, now),
        }
    }

    fn report(mut self, failed: bool, now: MonotonicTime) {
        let breaker = Arc::clone(&self.breaker);
        let mut state = breaker.state();
        let was_open = !matches!(*state, State::Closed { .. });
        let until = breaker.pause.map(|pause| now + pause);
        *state = match (*state, until) {
            _ if !failed => State::Closed { failures: 0 },
            (State::Closed { failures }, until) => {
                let failures = failures.saturating_add(1);
                match until {
                    Some(until) if failures >= FAILURES => State::Open { until },
                    _ => State::Closed { failures },
                }
            }
            (State::HalfOpen { .. }, Some(until)) if self.is_probe => State::Open { until },
            // Set out before it opened.
            (state, _) => state,
        };
        let is_open = !matches!(*state, State::Closed { .. });
        drop(state);
        self.is_probe = false;
        if is_open && !was_open {
            breaker.times_opened.fetch_add(1, Relaxed);
            observe::breaker_opened();
        } else if was_open && !is_open {
            observe::breaker_closed();
        }
    }
}

impl Drop for Pass {
    fn drop(&mut self) {
        if self.is_probe {
            let mut state = self.breaker.state();
            if let State::HalfOpen { .. } = *state {
                // Whoever comes next may try.
                *state = State::Open { until: self.given };
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const PAUSE: Duration = Duration::from_millis(500);

    fn breaker() -> (Arc<Breaker>, MonotonicTime) {
        (
            Arc::new(Breaker::new(Some(PAUSE))),
            MonotonicTime::default(),
        )
    }

    fn fail(breaker: &Arc<Breaker>, times: u32, now: MonotonicTime) {
        for _ in 0..times {
            breaker.pass(now).expect("closed").report(true, now);
        }
    }

    #[test]
    fn it_opens_when_enough_lookups_fail_in_a_row() {
        let (breaker, now) = breaker();
        fail(&breaker, FAILURES - 1, now);
        breaker.pass(now).expect("closed").report(false, now);
        fail(&breaker, FAILURES - 1, now);
        assert!(!breaker.is_open(), "one success in between");
        fail(&breaker, 1, now);
        assert!(breaker.is_open());
        assert!(breaker.pass(now).is_none());
        assert_eq!(breaker.retry_after(now), PAUSE);
        assert_eq!(breaker.times_opened(), 1);
    }

    #[test]
    fn one_lookup_tries_and_its_success_lets_all_through() {
        let (breaker, now) = breaker();
        fail(&breaker, FAILURES, now);
        let now = now + PAUSE;
        let probe = breaker.pass(now).expect("the pause is over");
        assert!(breaker.pass(now).is_none(), "one at a time");
        probe.report(true, now);
        assert!(breaker.pass(now).is_none(), "it failed");
        let now = now + PAUSE;
        let probe = breaker.pass(now).expect("the next pause is over");
        probe.report(false, now);
        assert!(breaker.pass(now).is_some() && breaker.pass(now).is_some());
        assert_eq!(breaker.times_opened(), 1, "it was one outage");
    }

    #[test]
    fn a_probe_that_is_stopped_makes_way_for_the_next() {
        let (breaker, now) = breaker();
        fail(&breaker, FAILURES, now);
        let now = now + PAUSE;
        drop(breaker.pass(now).expect("the pause is over"));
        assert!(breaker.pass(now).is_some());
    }

    #[test]
    fn a_probe_that_never_ends_does_not_keep_the_others_out() {
        let (breaker, now) = breaker();
        fail(&breaker, FAILURES, now);
        let now = now + PAUSE;
        let _lost = breaker.pass(now).expect("the pause is over");
        assert!(breaker.pass(now).is_none());
        assert_eq!(breaker.retry_after(now), PAUSE);
        let now = now + PAUSE;
        let probe = breaker.pass(now).expect("it has had its time");
        assert!(breaker.pass(now).is_none(), "one at a time");
        probe.report(false, now);
        assert!(!breaker.is_open());
    }

    #[test]
    fn a_store_that_says_when_to_come_back_tells_nothing_of_its_state() {
        let (breaker, now) = breaker();
        fail(&breaker, FAILURES - 1, now);
        let limited = Err::<(), _>(StoreError::unavailable("").with_retry_after(PAUSE));
        for _ in 0..FAILURES {
            let pass = breaker.pass(now).expect("closed");
            pass.report_answer(&limited, now);
        }
        assert!(!breaker.is_open());
        fail(&breaker, 1, now);
        assert!(breaker.is_open(), "the row goes on");
        let now = now + PAUSE;
        let probe = breaker.pass(now).expect("the pause is over");
        probe.report_answer(&limited, now);
        assert!(breaker.is_open());
        let probe = breaker.pass(now).expect("the next may try");
        probe.report_answer(&Ok(()), now);
        assert!(!breaker.is_open());
    }

    #[test]
    fn a_straggler_neither_prolongs_the_pause_nor_ends_the_probing() {
        let (breaker, now) = breaker();
        let straggler = breaker.pass(now).expect("closed");
        fail(&breaker, FAILURES, now);
        let later = now + PAUSE;
        let _probe = breaker.pass(later).expect("the pause is over");
        straggler.report(true, later);
        assert!(breaker.pass(later).is_none(), "the probe is under way");
    }

    #[test]
    fn without_a_pause_it_never_opens() {
        let (breaker, now) = (Arc::new(Breaker::new(None)), MonotonicTime::default());
        fail(&breaker, 10 * FAILURES, now);
        assert!(!breaker.is_open());
    }
}
