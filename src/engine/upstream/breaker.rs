//! The circuit breaker: after repeated failures the store is not asked for a while, then probed by
//! one lookup.
//!
//! Only errors that mean an outage count. A record that cannot be read concerns one session, and
//! shows that the store answers.
//!
//! The store is judged by lookups of known tokens. A store may fail on a token that it never
//! issued, so what strangers send neither opens the breaker nor keeps it open for customers. Only
//! while no lookup has found a session, as after a start during an outage, do many different
//! unknown tokens count as well.

use std::{
    sync::{
        Arc, Mutex, MutexGuard, PoisonError,
        atomic::{AtomicU64, Ordering::Relaxed},
    },
    time::Duration,
};

use super::known::TokenClass;
use crate::{
    clock::MonotonicTime,
    engine::cache::key::TokenHash64,
    store::{StoreError, StoreErrorKind},
    telemetry,
};

/// Lookups of known tokens that fail in a row before the breaker opens. While none is known: unknown
/// tokens, all different.
const MAX_FAILURES: u32 = 10;

/// Different known tokens that must be among those that failed, if so many are known: the record of
/// one customer may be what the store fails on.
pub(crate) const QUORUM: usize = 3;

/// Returns `true` if the error means that the store is out of order.
pub(crate) fn is_outage(error: &StoreError) -> bool {
    match error.kind() {
        StoreErrorKind::Timeout | StoreErrorKind::Unavailable => true,
        StoreErrorKind::Conflict | StoreErrorKind::Corrupt | StoreErrorKind::Invalid => false,
    }
}

pub(crate) struct Breaker {
    /// `None`: the breaker never opens.
    cooldown: Option<Duration>,
    /// Guards the state. Held to read or write it, never across an await. Hits do not take it.
    inner: Mutex<Inner>,
    times_opened: AtomicU64,
}

struct Inner {
    state: State,
    /// `true` once a lookup has found a session.
    has_found: bool,
    /// Unknown tokens whose lookups have failed since the last answer; kept until a session is found.
    failed_unknown: Vec<TokenHash64>,
    /// Different known tokens whose lookups have failed since one was answered; as many as are needed.
    failed_known: Vec<TokenHash64>,
    next_probe: u64,
}

#[derive(Clone, Copy, PartialEq)]
enum State {
    /// The number of failures since a known token was answered.
    Closed { failures: u32 },
    /// Lookups of known tokens are refused until `until`, and those of unknown ones until
    /// `unknown_until`, which is not earlier.
    Open {
        until: MonotonicTime,
        unknown_until: MonotonicTime,
    },
    /// One lookup probes the store. Its runtime may stand still, so another lookup may probe after
    /// `until`; one of a known token need not wait for one of an unknown token.
    HalfOpen {
        until: MonotonicTime,
        probe: u64,
        class: TokenClass,
    },
}

/// Permission to ask the store. Its holder reports the outcome; if the lookup is aborted instead, the
/// next may probe.
pub(crate) struct Ticket {
    breaker: Arc<Breaker>,
    acquired: MonotonicTime,
    token: TokenHash64,
    class: TokenClass,
    probe: Option<u64>,
    /// Different known tokens that must fail before the breaker opens.
    quorum: usize,
}

impl Breaker {
    pub(crate) fn new(cooldown: Option<Duration>) -> Self {
        Self {
            cooldown,
            inner: Mutex::new(Inner {
                state: State::Closed { failures: 0 },
                has_found: false,
                failed_unknown: Vec::new(),
                failed_known: Vec::new(),
                next_probe: 0,
            }),
            times_opened: AtomicU64::new(0),
        }
    }

    /// Returns permission to look `token` up, unless the breaker is open.
    pub(crate) fn try_acquire(
        self: &Arc<Self>,
        token: TokenHash64,
        class: TokenClass,
        now: MonotonicTime,
    ) -> Option<Ticket> {
        let mut inner = self.inner();
        let probe = match inner.state {
            State::Closed { .. } => None,
            state if state.admits_probe(class, now) => {
                let probe = inner.next_probe;
                inner.next_probe += 1;
                inner.state = State::HalfOpen {
                    until: now + self.cooldown.unwrap_or_default(),
                    probe,
                    class,
                };
                Some(probe)
            }
            State::Open { .. } | State::HalfOpen { .. } => return None,
        };
        Some(Ticket {
            breaker: Arc::clone(self),
            acquired: now,
            token,
            class,
            probe,
            quorum: 1,
        })
    }

    /// Returns the time until a lookup of a known token may be permitted again.
    pub(crate) fn retry_after(&self, now: MonotonicTime) -> Duration {
        match self.inner().state {
            State::Open { until, .. } | State::HalfOpen { until, .. } => until.since(now),
            State::Closed { .. } => Duration::ZERO,
        }
    }

    pub(crate) fn is_open(&self) -> bool {
        self.inner().state.is_open()
    }

    pub(crate) fn times_opened(&self) -> u64 {
        self.times_opened.load(Relaxed)
    }

    fn inner(&self) -> MutexGuard<'_, Inner> {
        self.inner.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl State {
    fn is_open(self) -> bool {
        !matches!(self, Self::Closed { .. })
    }

    fn admits_probe(self, class: TokenClass, now: MonotonicTime) -> bool {
        match (self, class) {
            (Self::Closed { .. }, _) => false,
            (Self::Open { until, .. }, TokenClass::Known) => now >= until,
            (Self::Open { unknown_until, .. }, TokenClass::Unknown) => now >= unknown_until,
            (
                Self::HalfOpen {
                    until, class: by, ..
                },
                class,
            ) => now >= until || (by, class) == (TokenClass::Unknown, TokenClass::Known),
        }
    }
}

impl Inner {
    /// Returns the state after an answer.
    fn after_answer(&mut self, class: TokenClass) -> State {
        self.failed_unknown.clear();
        if class == TokenClass::Known {
            self.failed_known.clear();
        }
        match (class, self.state) {
            // Strangers may be answered where customers are not: a customer has the last word.
            (TokenClass::Unknown, closed @ State::Closed { .. }) if self.has_found => closed,
            (TokenClass::Unknown, _) if self.has_found => State::Closed {
                failures: MAX_FAILURES - 1,
            },
            _ => State::Closed { failures: 0 },
        }
    }

    /// Returns the state after a failure. `until` is the end of a cooldown that begins now.
    fn after_failure(&mut self, ticket: &Ticket, until: MonotonicTime) -> State {
        let open = State::Open {
            until,
            unknown_until: until,
        };
        match (self.state, ticket.class) {
            (State::Closed { failures }, TokenClass::Known) => {
                let failed = &mut self.failed_known;
                if failed.len() < QUORUM && !failed.contains(&ticket.token) {
                    failed.push(ticket.token);
                }
                match failures.saturating_add(1) {
                    failures if is_tripped(failures) && failed.len() >= ticket.quorum => open,
                    failures => State::Closed { failures },
                }
            }
            (closed @ State::Closed { .. }, TokenClass::Unknown) => {
                if !self.has_found && !self.failed_unknown.contains(&ticket.token) {
                    self.failed_unknown.push(ticket.token);
                }
                let failures = self.failed_unknown.len() as u32;
                if is_tripped(failures) { open } else { closed }
            }
            (State::HalfOpen { probe, .. }, class) if ticket.probe == Some(probe) => match class {
                TokenClass::Unknown if self.has_found => State::Open {
                    until: ticket.acquired,
                    unknown_until: until,
                },
                _ => open,
            },
            // The lookup began before the breaker opened.
            (state, _) => state,
        }
    }
}

impl Ticket {
    /// Sets how many tokens are known: failures of one do not open the breaker for others.
    pub(crate) fn among(mut self, known: usize) -> Self {
        self.quorum = known.clamp(1, QUORUM);
        self
    }

    /// Reports the answer of the store. An error with which the store itself says when to try again
    /// is neither a failure nor a success.
    pub(crate) fn report_answer<T>(
        self,
        answer: &Result<Option<T>, StoreError>,
        now: MonotonicTime,
    ) {
        match answer {
            Err(error) if error.retry_after().is_some() => drop(self),
            Err(error) => self.report(is_outage(error), false, now),
            Ok(found) => self.report(false, found.is_some(), now),
        }
    }

    fn report(mut self, failed: bool, found: bool, now: MonotonicTime) {
        let breaker = Arc::clone(&self.breaker);
        let mut inner = breaker.inner();
        let was_open = inner.state.is_open();
        inner.has_found |= found;
        if inner.has_found {
            inner.failed_unknown = Vec::new();
        }
        inner.state = match breaker.cooldown {
            Some(cooldown) if failed => inner.after_failure(&self, now + cooldown),
            None if failed => inner.state,
            _ => inner.after_answer(self.class),
        };
        let is_open = inner.state.is_open();
        drop(inner);
        self.probe = None;
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
        let Some(own) = self.probe else { return };
        let mut inner = self.breaker.inner();
        if matches!(inner.state, State::HalfOpen { probe, .. } if probe == own) {
            // The next lookup may probe at once.
            inner.state = State::Open {
                until: self.acquired,
                unknown_until: self.acquired,
            };
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

    const NOT_FOUND: Result<Option<()>, StoreError> = Ok(None);
    const FOUND: Result<Option<()>, StoreError> = Ok(Some(()));

    fn token(number: u64) -> TokenHash64 {
        TokenHash64::from_bits(number)
    }

    /// Asks for permission to look up a known token.
    fn known(breaker: &Arc<Breaker>, now: MonotonicTime) -> Option<Ticket> {
        breaker.try_acquire(token(0), TokenClass::Known, now)
    }

    /// Asks for permission to look up an unknown token.
    fn unknown(breaker: &Arc<Breaker>, number: u64, now: MonotonicTime) -> Option<Ticket> {
        breaker.try_acquire(token(number), TokenClass::Unknown, now)
    }

    /// Returns a breaker of a service that has found a session.
    fn in_use() -> (Arc<Breaker>, MonotonicTime) {
        let (breaker, now) = breaker();
        let first = unknown(&breaker, 0, now).expect("closed");
        first.report_answer(&FOUND, now);
        (breaker, now)
    }

    fn failed() -> Result<Option<()>, StoreError> {
        Err(StoreError::unavailable("it fails"))
    }

    fn fail(breaker: &Arc<Breaker>, times: u32, now: MonotonicTime) {
        for _ in 0..times {
            let ticket = known(breaker, now).expect("closed");
            ticket.report_answer(&failed(), now);
        }
    }

    #[test]
    fn no_failure_of_unknown_tokens_opens_it_once_a_session_was_found() {
        let (breaker, now) = in_use();
        for number in 1..1000 {
            let ticket = unknown(&breaker, number, now).expect("closed");
            ticket.report_answer(&failed(), now);
        }
        assert!(!breaker.is_open());
        // Nor do their successes keep it closed.
        for _ in 0..MAX_FAILURES {
            fail(&breaker, 1, now);
            let ticket = unknown(&breaker, 1, now);
            ticket
                .into_iter()
                .for_each(|ticket| ticket.report_answer(&NOT_FOUND, now));
        }
        assert!(breaker.is_open());
    }

    #[test]
    fn before_a_session_was_found_many_different_tokens_open_it() {
        let (breaker, now) = breaker();
        let fail = |number: u64| {
            let ticket = unknown(&breaker, number, now).expect("closed");
            ticket.report_answer(&failed(), now);
        };
        (0..1000).for_each(|_| fail(1));
        assert!(!breaker.is_open(), "one token alone");
        (2..10).for_each(fail);
        let ticket = unknown(&breaker, 99, now).expect("closed");
        ticket.report_answer(&NOT_FOUND, now);
        (1..10).for_each(fail);
        assert!(!breaker.is_open(), "an answer in between");
        fail(10);
        assert!(breaker.is_open());
        let now = now + COOLDOWN;
        let probe = unknown(&breaker, 11, now).expect("the cooldown is over");
        probe.report_answer(&failed(), now);
        assert_eq!(
            breaker.retry_after(now),
            COOLDOWN,
            "another cooldown, for all"
        );
    }

    #[test]
    fn an_unknown_token_that_probes_neither_keeps_known_ones_out_nor_prolongs_the_cooldown() {
        let (breaker, now) = in_use();
        fail(&breaker, MAX_FAILURES, now);
        let now = now + COOLDOWN;
        let hanging = unknown(&breaker, 1, now).expect("the cooldown is over");
        assert!(unknown(&breaker, 2, now).is_none(), "one at a time");
        let probe = known(&breaker, now).expect("it does not wait for a stranger");
        assert!(known(&breaker, now).is_none() && unknown(&breaker, 2, now).is_none());
        hanging.report_answer(&failed(), now);
        assert!(
            known(&breaker, now).is_none(),
            "the known token still probes"
        );
        probe.report_answer(&failed(), now);
        assert_eq!(breaker.retry_after(now), COOLDOWN);

        let now = now + COOLDOWN;
        let probe = unknown(&breaker, 1, now).expect("the cooldown is over");
        probe.report_answer(&failed(), now);
        assert!(unknown(&breaker, 2, now).is_none(), "strangers wait");
        assert_eq!(breaker.retry_after(now), Duration::ZERO);
        let probe = known(&breaker, now).expect("customers do not");
        probe.report_answer(&FOUND, now);
        assert!(!breaker.is_open());
    }

    #[test]
    fn after_the_answer_to_a_stranger_one_failure_of_a_customer_opens_it_again() {
        let (breaker, now) = in_use();
        fail(&breaker, MAX_FAILURES, now);
        let now = now + COOLDOWN;
        let probe = unknown(&breaker, 1, now).expect("the cooldown is over");
        probe.report_answer(&NOT_FOUND, now);
        assert!(!breaker.is_open());
        fail(&breaker, 1, now);
        assert!(breaker.is_open());
    }

    #[test]
    fn it_opens_when_enough_lookups_fail_in_a_row() {
        let (breaker, now) = breaker();
        fail(&breaker, MAX_FAILURES - 1, now);
        known(&breaker, now)
            .expect("closed")
            .report_answer(&NOT_FOUND, now);
        fail(&breaker, MAX_FAILURES - 1, now);
        assert!(!breaker.is_open(), "one success in between");
        fail(&breaker, 1, now);
        assert!(breaker.is_open());
        assert!(known(&breaker, now).is_none());
        assert_eq!(breaker.retry_after(now), COOLDOWN);
        assert_eq!(breaker.times_opened(), 1);
    }

    #[test]
    fn one_lookup_probes_the_store_and_its_success_lets_all_through() {
        let (breaker, now) = breaker();
        fail(&breaker, MAX_FAILURES, now);
        let now = now + COOLDOWN;
        let probe = known(&breaker, now).expect("the cooldown is over");
        assert!(known(&breaker, now).is_none(), "one at a time");
        probe.report_answer(&failed(), now);
        assert!(known(&breaker, now).is_none(), "it failed");
        let now = now + COOLDOWN;
        let probe = known(&breaker, now).expect("the next cooldown is over");
        probe.report_answer(&NOT_FOUND, now);
        assert!(known(&breaker, now).is_some() && known(&breaker, now).is_some());
        assert_eq!(breaker.times_opened(), 1, "it was one outage");
    }

    #[test]
    fn a_probe_that_is_aborted_makes_way_for_the_next() {
        let (breaker, now) = breaker();
        fail(&breaker, MAX_FAILURES, now);
        let now = now + COOLDOWN;
        drop(known(&breaker, now).expect("the cooldown is over"));
        assert!(known(&breaker, now).is_some());
    }

    #[test]
    fn a_probe_that_never_ends_does_not_keep_the_others_out() {
        let (breaker, now) = breaker();
        fail(&breaker, MAX_FAILURES, now);
        let now = now + COOLDOWN;
        let _lost = known(&breaker, now).expect("the cooldown is over");
        assert!(known(&breaker, now).is_none());
        assert_eq!(breaker.retry_after(now), COOLDOWN);
        let now = now + COOLDOWN;
        let probe = known(&breaker, now).expect("it has had its time");
        assert!(known(&breaker, now).is_none(), "one at a time");
        probe.report_answer(&NOT_FOUND, now);
        assert!(!breaker.is_open());
    }

    #[test]
    fn an_error_with_its_own_retry_after_is_neither_success_nor_failure() {
        let (breaker, now) = breaker();
        fail(&breaker, MAX_FAILURES - 1, now);
        let limited = Err::<Option<()>, _>(StoreError::unavailable("").with_retry_after(COOLDOWN));
        for _ in 0..MAX_FAILURES {
            let ticket = known(&breaker, now).expect("closed");
            ticket.report_answer(&limited, now);
        }
        assert!(!breaker.is_open());
        fail(&breaker, 1, now);
        assert!(breaker.is_open(), "the row goes on");
        let now = now + COOLDOWN;
        let probe = known(&breaker, now).expect("the cooldown is over");
        probe.report_answer(&limited, now);
        assert!(breaker.is_open());
        let probe = known(&breaker, now).expect("the next may try");
        probe.report_answer(&FOUND, now);
        assert!(!breaker.is_open());
    }

    #[test]
    fn a_late_failure_neither_prolongs_the_cooldown_nor_ends_the_probe() {
        let (breaker, now) = breaker();
        let late = known(&breaker, now).expect("closed");
        fail(&breaker, MAX_FAILURES, now);
        let later = now + COOLDOWN;
        let _probe = known(&breaker, later).expect("the cooldown is over");
        late.report_answer(&failed(), later);
        assert!(known(&breaker, later).is_none(), "the probe is under way");
    }

    #[test]
    fn without_a_cooldown_it_never_opens() {
        let (breaker, now) = (Arc::new(Breaker::new(None)), MonotonicTime::default());
        fail(&breaker, 10 * MAX_FAILURES, now);
        assert!(!breaker.is_open());
    }
}
