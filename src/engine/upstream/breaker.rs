//! The circuit breaker: after repeated failures the store is not asked for a while, then probed by
//! one lookup.
//!
//! Only errors that mean an outage count. A record that cannot be read concerns one session, and
//! shows that the store answers.

use std::{
    sync::{
        Arc, Mutex, MutexGuard, PoisonError,
        atomic::{AtomicU64, Ordering::Relaxed},
    },
    time::Duration,
};

use crate::{
    clock::MonotonicTime,
    store::{StoreError, StoreErrorKind},
    telemetry,
};

/// Lookups that fail in a row before the breaker opens.
const MAX_FAILURES: u32 = 10;

/// Returns `true` if the error means that the store is out of order.
pub(crate) fn is_outage(error: &StoreError) -> bool {
    match error.kind() {
        StoreErrorKind::Timeout | StoreErrorKind::Unavailable => true,
        StoreErrorKind::Conflict | StoreErrorKind::Corrupt => false,
    }
}

pub(crate) struct Breaker {
    /// `None`: the breaker never opens.
    cooldown: Option<Duration>,
    /// Guards the state. Held to read or write it, never across an await. Hits do not take it.
    state: Mutex<State>,
    times_opened: AtomicU64,
}

#[derive(Clone, Copy)]
enum State {
    /// The number of failures since the last success.
    Closed { failures: u32 },
    /// Lookups are refused until then.
    Open { until: MonotonicTime },
    /// One lookup probes the store. Its runtime may stand still, so another lookup may probe after
    /// this time.
    HalfOpen { until: MonotonicTime },
}

/// Permission to ask the store. Its holder reports the outcome; if the lookup is aborted instead, the
/// next may probe.
pub(crate) struct Ticket {
    breaker: Arc<Breaker>,
    acquired: MonotonicTime,
    is_probe: bool,
}

impl Breaker {
    pub(crate) fn new(cooldown: Option<Duration>) -> Self {
        Self {
            cooldown,
            state: Mutex::new(State::Closed { failures: 0 }),
            times_opened: AtomicU64::new(0),
        }
    }

    /// Returns permission to ask the store, unless the breaker is open.
    pub(crate) fn try_acquire(self: &Arc<Self>, now: MonotonicTime) -> Option<Ticket> {
        let mut state = self.state();
        let is_probe = match *state {
            State::Closed { .. } => false,
            State::Open { until } | State::HalfOpen { until } if now >= until => {
                let until = now + self.cooldown.unwrap_or_default();
                *state = State::HalfOpen { until };
                true
            }
            State::Open { .. } | State::HalfOpen { .. } => return None,
        };
        Some(Ticket {
            breaker: Arc::clone(self),
            acquired: now,
            is_probe,
        })
    }

    /// Returns the time until a lookup may be permitted again.
    pub(crate) fn retry_after(&self, now: MonotonicTime) -> Duration {
        match *self.state() {
            State::Open { until } | State::HalfOpen { until } => until.since(now),
            State::Closed { .. } => Duration::ZERO,
        }
    }

    pub(crate) fn is_open(&self) -> bool {
        !matches!(*self.state(), State::Closed { .. })
    }

    pub(crate) fn times_opened(&self) -> u64 {
        self.times_opened.load(Relaxed)
    }

    fn state(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Ticket {
    /// Reports the answer of the store. An error with which the store itself says when to try again
    /// is neither a failure nor a success.
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
        let until = breaker.cooldown.map(|cooldown| now + cooldown);
        *state = match (*state, until) {
            _ if !failed => State::Closed { failures: 0 },
            (State::Closed { failures }, until) => {
                let failures = failures.saturating_add(1);
                match until {
                    Some(until) if is_tripped(failures) => State::Open { until },
                    _ => State::Closed { failures },
                }
            }
            (State::HalfOpen { .. }, Some(until)) if self.is_probe => State::Open { until },
            // The lookup began before the breaker opened.
            (state, _) => state,
        };
        let is_open = !matches!(*state, State::Closed { .. });
        drop(state);
        self.is_probe = false;
        if is_open && !was_open {
            breaker.times_opened.fetch_add(1, Relaxed);
            telemetry::breaker_opened();
        } else if was_open && !is_open {
            telemetry::breaker_closed();
        }
    }
}

impl Drop for Ticket {
    fn drop(&mut self) {
        if self.is_probe {
            let mut state = self.breaker.state();
            if let State::HalfOpen { .. } = *state {
                // The next lookup may probe at once.
                *state = State::Open {
                    until: self.acquired,
                };
            }
        }
    }
}

/// Returns `true` after so many failures in a row that the breaker opens.
fn is_tripped(failures: u32) -> bool {
    failures >= MAX_FAILURES
}

#[cfg(test)]
mod tests {
    use super::*;

    const COOLDOWN: Duration = Duration::from_millis(500);

    fn breaker() -> (Arc<Breaker>, MonotonicTime) {
        (
            Arc::new(Breaker::new(Some(COOLDOWN))),
            MonotonicTime::default(),
        )
    }

    fn fail(breaker: &Arc<Breaker>, times: u32, now: MonotonicTime) {
        for _ in 0..times {
            breaker.try_acquire(now).expect("closed").report(true, now);
        }
    }

    #[test]
    fn it_opens_when_enough_lookups_fail_in_a_row() {
        let (breaker, now) = breaker();
        fail(&breaker, MAX_FAILURES - 1, now);
        breaker.try_acquire(now).expect("closed").report(false, now);
        fail(&breaker, MAX_FAILURES - 1, now);
        assert!(!breaker.is_open(), "one success in between");
        fail(&breaker, 1, now);
        assert!(breaker.is_open());
        assert!(breaker.try_acquire(now).is_none());
        assert_eq!(breaker.retry_after(now), COOLDOWN);
        assert_eq!(breaker.times_opened(), 1);
    }

    #[test]
    fn one_lookup_probes_the_store_and_its_success_lets_all_through() {
        let (breaker, now) = breaker();
        fail(&breaker, MAX_FAILURES, now);
        let now = now + COOLDOWN;
        let probe = breaker.try_acquire(now).expect("the cooldown is over");
        assert!(breaker.try_acquire(now).is_none(), "one at a time");
        probe.report(true, now);
        assert!(breaker.try_acquire(now).is_none(), "it failed");
        let now = now + COOLDOWN;
        let probe = breaker.try_acquire(now).expect("the next cooldown is over");
        probe.report(false, now);
        assert!(breaker.try_acquire(now).is_some() && breaker.try_acquire(now).is_some());
        assert_eq!(breaker.times_opened(), 1, "it was one outage");
    }

    #[test]
    fn a_probe_that_is_aborted_makes_way_for_the_next() {
        let (breaker, now) = breaker();
        fail(&breaker, MAX_FAILURES, now);
        let now = now + COOLDOWN;
        drop(breaker.try_acquire(now).expect("the cooldown is over"));
        assert!(breaker.try_acquire(now).is_some());
    }

    #[test]
    fn a_probe_that_never_ends_does_not_keep_the_others_out() {
        let (breaker, now) = breaker();
        fail(&breaker, MAX_FAILURES, now);
        let now = now + COOLDOWN;
        let _lost = breaker.try_acquire(now).expect("the cooldown is over");
        assert!(breaker.try_acquire(now).is_none());
        assert_eq!(breaker.retry_after(now), COOLDOWN);
        let now = now + COOLDOWN;
        let probe = breaker.try_acquire(now).expect("it has had its time");
        assert!(breaker.try_acquire(now).is_none(), "one at a time");
        probe.report(false, now);
        assert!(!breaker.is_open());
    }

    #[test]
    fn an_error_with_its_own_retry_after_is_neither_success_nor_failure() {
        let (breaker, now) = breaker();
        fail(&breaker, MAX_FAILURES - 1, now);
        let limited = Err::<(), _>(StoreError::unavailable("").with_retry_after(COOLDOWN));
        for _ in 0..MAX_FAILURES {
            let ticket = breaker.try_acquire(now).expect("closed");
            ticket.report_answer(&limited, now);
        }
        assert!(!breaker.is_open());
        fail(&breaker, 1, now);
        assert!(breaker.is_open(), "the row goes on");
        let now = now + COOLDOWN;
        let probe = breaker.try_acquire(now).expect("the cooldown is over");
        probe.report_answer(&limited, now);
        assert!(breaker.is_open());
        let probe = breaker.try_acquire(now).expect("the next may try");
        probe.report_answer(&Ok(()), now);
        assert!(!breaker.is_open());
    }

    #[test]
    fn a_late_failure_neither_prolongs_the_cooldown_nor_ends_the_probe() {
        let (breaker, now) = breaker();
        let late = breaker.try_acquire(now).expect("closed");
        fail(&breaker, MAX_FAILURES, now);
        let later = now + COOLDOWN;
        let _probe = breaker.try_acquire(later).expect("the cooldown is over");
        late.report(true, later);
        assert!(
            breaker.try_acquire(later).is_none(),
            "the probe is under way"
        );
    }

    #[test]
    fn without_a_cooldown_it_never_opens() {
        let (breaker, now) = (Arc::new(Breaker::new(None)), MonotonicTime::default());
        fail(&breaker, 10 * MAX_FAILURES, now);
        assert!(!breaker.is_open());
    }
}
