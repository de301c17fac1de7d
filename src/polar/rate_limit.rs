//! Who has asked Polar too often, and is not to ask before when.

use std::{
    collections::HashMap,
    sync::{Arc, Mutex, PoisonError},
    time::Duration,
};

use chrono::{DateTime, Utc};

use crate::{clock::Clock, session::SessionId, token::SessionToken};

/// What Polar is asked with. It counts requests for each by itself.
#[derive(Clone, Copy)]
pub(super) enum Caller<'a> {
    Organization,
    Customer {
        token: &'a SessionToken,
        session: &'a SessionId,
    },
}

/// So many customers' limits are kept in mind. Beyond them a call is tried, and Polar says no.
const MOST_REMEMBERED: usize = 4096;

/// Nobody is made to wait longer, whatever the answer says.
const LONGEST: Duration = Duration::from_secs(15 * 60);

pub(super) struct RateLimits {
    clock: Arc<dyn Clock>,
    /// Guards who waits until when. Held to look or to write, never across an await.
    waiting: Mutex<Waiting>,
}

/// Moments of the monotonic clock.
#[derive(Default)]
struct Waiting {
    organization: Option<Duration>,
    customers: HashMap<SessionId, Duration>,
}

impl RateLimits {
    pub(super) fn new(clock: Arc<dyn Clock>) -> Self {
        Self {
            clock,
            waiting: Mutex::default(),
        }
    }

    /// How long this caller has to wait.
    pub(super) fn wait(&self, caller: Caller<'_>) -> Option<Duration> {
        let waiting = self.waiting.lock().unwrap_or_else(PoisonError::into_inner);
        let until = match caller {
            Caller::Organization => waiting.organization,
            Caller::Customer { session, .. } => waiting.customers.get(session).copied(),
        };
        drop(waiting);
        let left = until?.saturating_sub(self.clock.monotonic());
        (!left.is_zero()).then_some(left)
    }

    /// The wall-clock time, for dates until which to wait.
    pub(super) fn now(&self) -> DateTime<Utc> {
        self.clock.now()
    }

    /// Polar has told this caller to wait. For how long it will have to: a shorter wait does not
    /// end a longer one.
    pub(super) fn impose(&self, caller: Caller<'_>, wait: Duration) -> Duration {
        let now = self.clock.monotonic();
        let until = now.saturating_add(wait.min(LONGEST));
        let mut waiting = self.waiting.lock().unwrap_or_else(PoisonError::into_inner);
        let until = match caller {
            Caller::Organization => {
                let until = waiting.organization.map_or(until, |it| it.max(until));
                waiting.organization = Some(until);
                until
            }
            Caller::Customer { session, .. } => {
                let customers = &mut waiting.customers;
                let until = customers.get(session).map_or(until, |it| until.max(*it));
                if customers.len() >= MOST_REMEMBERED {
                    customers.retain(|_, until| *until > now);
                }
                if customers.len() < MOST_REMEMBERED {
                    customers.insert(session.clone(), until);
                }
                until
            }
        };
        until.saturating_sub(now)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::testing::ManualClock;

    fn limits() -> (RateLimits, ManualClock) {
        let clock = ManualClock::new(DateTime::UNIX_EPOCH);
        (RateLimits::new(Arc::new(clock.clone())), clock)
    }

    const MINUTE: Duration = Duration::from_secs(60);

    #[test]
    fn one_caller_waits_and_the_others_do_not() {
        let (limits, clock) = limits();
        let token = SessionToken::new("token");
        let [one, other] = ["one", "other"].map(SessionId::from);
        let [one, other] = [&one, &other].map(|session| Caller::Customer {
            token: &token,
            session,
        });
        assert_eq!(limits.impose(one, MINUTE), MINUTE);
        assert_eq!(limits.impose(one, MINUTE / 60), MINUTE, "the longer counts");
        assert_eq!(limits.wait(one), Some(MINUTE));
        assert_eq!(limits.wait(other), None);
        assert_eq!(limits.wait(Caller::Organization), None);
        clock.advance(Duration::from_secs(59));
        assert_eq!(limits.wait(one), Some(Duration::from_secs(1)));
        clock.advance(Duration::from_secs(1));
        assert_eq!(limits.wait(one), None);
    }

    #[test]
    fn waits_and_memory_are_bounded() {
        let (limits, clock) = limits();
        assert_eq!(limits.impose(Caller::Organization, Duration::MAX), LONGEST);
        assert_eq!(limits.impose(Caller::Organization, MINUTE), LONGEST);
        assert_eq!(limits.wait(Caller::Organization), Some(LONGEST));
        let token = SessionToken::new("token");
        let impose = |number: usize| {
            let session = SessionId::from(number.to_string());
            let caller = Caller::Customer {
                token: &token,
                session: &session,
            };
            limits.impose(caller, MINUTE);
            limits.wait(caller).is_some()
        };
        assert!((0..MOST_REMEMBERED).all(impose));
        assert!(!impose(MOST_REMEMBERED), "there is no room");
        clock.advance(MINUTE);
        assert!(impose(MOST_REMEMBERED), "the others need not wait any more");
    }
}
