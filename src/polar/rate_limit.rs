//! Rate limits that Polar has told.

use std::{
    collections::HashMap,
    sync::{Arc, Mutex, PoisonError},
    time::Duration,
};

use chrono::{DateTime, Utc};

use crate::{clock::Clock, session::SessionId, token::SessionToken};

/// The credential of a call. Polar counts the calls of each separately.
#[derive(Clone, Copy)]
pub(super) enum Caller<'a> {
    Organization,
    Customer {
        token: &'a SessionToken,
        session: &'a SessionId,
    },
}

/// Customers whose limits are remembered. The calls of others are made, and refused by Polar.
const MAX_CUSTOMERS: usize = 4096;

/// Longest wait, whatever the answer says.
const MAX_WAIT: Duration = Duration::from_secs(15 * 60);

pub(super) struct RateLimits {
    clock: Arc<dyn Clock>,
    /// Guards the limits. Never held across an await.
    limits: Mutex<Limits>,
}

/// Times of the monotonic clock at which the limits end.
#[derive(Default)]
struct Limits {
    organization: Option<Duration>,
    customers: HashMap<SessionId, Duration>,
}

impl RateLimits {
    pub(super) fn new(clock: Arc<dyn Clock>) -> Self {
        Self {
            clock,
            limits: Mutex::default(),
        }
    }

    /// Returns how long `caller` must wait, if it must.
    pub(super) fn wait(&self, caller: Caller<'_>) -> Option<Duration> {
        let limits = self.limits.lock().unwrap_or_else(PoisonError::into_inner);
        let until = match caller {
            Caller::Organization => limits.organization,
            Caller::Customer { session, .. } => limits.customers.get(session).copied(),
        };
        drop(limits);
        let left = until?.saturating_sub(self.clock.monotonic());
        (!left.is_zero()).then_some(left)
    }

    /// Returns the wall-clock time, for limits that end at a date.
    pub(super) fn now(&self) -> DateTime<Utc> {
        self.clock.now()
    }

    /// Records that Polar has told `caller` to wait, and returns how long it must: a shorter wait
    /// does not end a longer one.
    pub(super) fn record_limit(&self, caller: Caller<'_>, wait: Duration) -> Duration {
        let now = self.clock.monotonic();
        let until = now.saturating_add(wait.min(MAX_WAIT));
        let mut limits = self.limits.lock().unwrap_or_else(PoisonError::into_inner);
        let until = match caller {
            Caller::Organization => {
                let until = limits
                    .organization
                    .map_or(until, |earlier| earlier.max(until));
                limits.organization = Some(until);
                until
            }
            Caller::Customer { session, .. } => {
                let customers = &mut limits.customers;
                let until = customers
                    .get(session)
                    .map_or(until, |earlier| until.max(*earlier));
                if customers.len() >= MAX_CUSTOMERS {
                    customers.retain(|_, until| *until > now);
                }
                if customers.len() < MAX_CUSTOMERS {
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
        assert_eq!(limits.record_limit(one, MINUTE), MINUTE);
        assert_eq!(
            limits.record_limit(one, MINUTE / 60),
            MINUTE,
            "the longer counts"
        );
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
        assert_eq!(
            limits.record_limit(Caller::Organization, Duration::MAX),
            MAX_WAIT
        );
        assert_eq!(limits.record_limit(Caller::Organization, MINUTE), MAX_WAIT);
        assert_eq!(limits.wait(Caller::Organization), Some(MAX_WAIT));
        let token = SessionToken::new("token");
        let is_recorded = |number: usize| {
            let session = SessionId::from(number.to_string());
            let caller = Caller::Customer {
                token: &token,
                session: &session,
            };
            limits.record_limit(caller, MINUTE);
            limits.wait(caller).is_some()
        };
        assert!((0..MAX_CUSTOMERS).all(is_recorded));
        assert!(!is_recorded(MAX_CUSTOMERS), "there is no room");
        clock.advance(MINUTE);
        assert!(
            is_recorded(MAX_CUSTOMERS),
            "the others need not wait any more"
        );
    }
}
