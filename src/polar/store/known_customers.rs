//! What earlier calls have told of a customer: whether it is one of the organization.

use std::{
    sync::{Arc, Mutex, PoisonError},
    time::Duration,
};

use chrono::{DateTime, TimeDelta, Utc};
use moka::{policy::EvictionPolicy, sync::Cache};

use super::call_budget::{CallBudget, CallPermit};
use crate::{clock::Clock, customer::CustomerId, store::error::StoreError, telemetry};

/// Customers of the organization that are remembered.
const MAX_OURS: u64 = 100_000;

/// Customers that Polar has not found, and that are remembered.
const MAX_ABSENT: u64 = 10_000;

/// Age below which a customer may be missing where Polar reads it, since a replica lags.
const NEW_FOR: TimeDelta = TimeDelta::minutes(2);

/// Time for which a customer of unknown age counts as another organization's.
const DEFAULT_FOREIGN_TTL: Duration = Duration::from_secs(60);

/// Time after which a missing customer is asked for again.
const MISSING_TTL: Duration = Duration::from_secs(1);

/// Customers by what Polar has said of them. Ids are remembered, never sessions: an id here lets
/// nothing in.
pub(super) struct KnownCustomers {
    clock: Arc<dyn Clock>,
    /// Customers of the organization, the least recently used ones forgotten first.
    ours: Cache<CustomerId, ()>,
    absent: Cache<CustomerId, AbsenceEntry>,
    budget: CallBudget,
    /// Guards the count of foreign sessions. Never held across an await.
    foreign_sessions: Mutex<ForeignSessions>,
}

/// Live sessions of other organizations' customers that were refused since the last log event.
#[derive(Default)]
struct ForeignSessions {
    count: u64,
    /// The monotonic time of the last event.
    logged_at: Option<Duration>,
}

#[derive(Clone, Copy)]
struct AbsenceEntry {
    is_foreign: bool,
    /// Monotonic time.
    until: Duration,
}

/// What is remembered of a customer that Polar has not found.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Absence {
    /// It is another organization's, or deleted.
    Foreign,
    /// It is too new to tell, or was found before. It may be asked for after this time.
    Missing(Duration),
}

impl KnownCustomers {
    /// `foreign_calls` are the calls per minute for customers of other organizations.
    pub(super) fn new(clock: Arc<dyn Clock>, foreign_calls: usize) -> Self {
        let lru = EvictionPolicy::lru();
        Self {
            budget: CallBudget::new(Arc::clone(&clock), foreign_calls),
            clock,
            ours: Cache::builder()
                .max_capacity(MAX_OURS)
                .eviction_policy(lru.clone())
                .build(),
            absent: Cache::builder()
                .max_capacity(MAX_ABSENT)
                .eviction_policy(lru)
                .build(),
            foreign_sessions: Mutex::default(),
        }
    }

    /// Returns a permit for one call for the customer. Those of the organization need none.
    ///
    /// # Errors
    ///
    /// If the calls for customers that were never seen are used up.
    pub(super) async fn permit(&self, id: &CustomerId) -> Result<CallPermit<'_>, StoreError> {
        match self.is_ours(id) {
            true => Ok(CallPermit::unlimited(id)),
            false => self.budget.permit(id).await,
        }
    }

    /// Returns `true` if the customer was found to be the organization's.
    pub(super) fn is_ours(&self, id: &CustomerId) -> bool {
        self.ours.get(id).is_some()
    }

    pub(super) fn record_ours(&self, id: &CustomerId) {
        if !self.is_ours(id) {
            // Those of a replica that had not got the customer yet.
            self.budget.forgive(id);
        }
        self.ours.insert(id.clone(), ());
        self.absent.invalidate(id);
    }

    pub(super) fn forget_ours(&self, id: &CustomerId) {
        self.ours.invalidate(id);
    }

    /// Returns `true` if the customer was created so short a time ago that a replica may not have it.
    /// One that was created at an unknown time counts as old.
    pub(super) fn is_new(&self, created_at: Option<DateTime<Utc>>) -> bool {
        created_at.is_some_and(|at| self.clock.now() - at < NEW_FOR)
    }

    /// Returns what is remembered of a customer that Polar has not found.
    pub(super) fn absence(&self, id: &CustomerId) -> Option<Absence> {
        let absence = self.absent.get(id)?;
        let left = absence.until.saturating_sub(self.clock.monotonic());
        match absence.is_foreign {
            _ if left.is_zero() => None,
            // Found, or created, while a call for it was under way.
            true if self.is_ours(id) => None,
            true => Some(Absence::Foreign),
            false => Some(Absence::Missing(left)),
        }
    }

    /// Remembers a customer as another organization's: for a day, but not for longer than it has
    /// existed, since Polar may read an old copy.
    pub(super) fn record_foreign(&self, id: &CustomerId, created_at: Option<DateTime<Utc>>) {
        const DAY: Duration = Duration::from_secs(24 * 3600);
        let ttl = created_at.map_or(DEFAULT_FOREIGN_TTL, |at| {
            let age = (self.clock.now() - at).to_std();
            age.unwrap_or_default().min(DAY)
        });
        self.insert_absent(id, true, ttl);
        self.count_foreign_session();
    }

    /// Counts a live session of another organization's customer, and logs the count once a minute.
    pub(super) fn count_foreign_session(&self) {
        const PAUSE: Duration = Duration::from_secs(60);
        let now = self.clock.monotonic();
        let mut sessions = self
            .foreign_sessions
            .lock()
            .unwrap_or_else(PoisonError::into_inner);
        sessions.count += 1;
        let is_due = |at: Duration| now.saturating_sub(at) >= PAUSE;
        if sessions.logged_at.is_none_or(is_due) {
            let count = std::mem::take(&mut sessions.count);
            sessions.logged_at = Some(now);
            drop(sessions);
            telemetry::foreign_sessions(count);
        }
    }

    /// Remembers for a second that a customer is missing, and returns that time.
    pub(super) fn record_missing(&self, id: &CustomerId) -> Duration {
        self.insert_absent(id, false, MISSING_TTL);
        MISSING_TTL
    }

    fn insert_absent(&self, id: &CustomerId, is_foreign: bool, ttl: Duration) {
        let until = self.clock.monotonic().saturating_add(ttl);
        self.absent
            .insert(id.clone(), AbsenceEntry { is_foreign, until });
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::testing::ManualClock;

    const MINUTE: Duration = Duration::from_secs(60);

    fn known() -> (KnownCustomers, ManualClock) {
        let clock = ManualClock::new("2030-01-01T00:00:00Z".parse().expect("a time"));
        (KnownCustomers::new(Arc::new(clock.clone()), 60), clock)
    }

    #[test]
    fn a_foreign_customer_is_remembered_no_longer_than_it_has_existed_nor_than_a_day() {
        let (known, clock) = known();
        for (age, ttl) in [
            (None, MINUTE),
            (Some(TimeDelta::minutes(5)), 5 * MINUTE),
            (Some(TimeDelta::days(400)), 24 * 60 * MINUTE),
        ] {
            let id = CustomerId::from("cus_1");
            known.record_foreign(&id, age.map(|age| clock.now() - age));
            clock.advance(ttl - MINUTE / 60);
            assert_eq!(known.absence(&id), Some(Absence::Foreign), "{age:?}");
            clock.advance(MINUTE / 60);
            assert_eq!(known.absence(&id), None, "{age:?}");
        }
        let created_now = Some(clock.now());
        known.record_foreign(&"cus_2".into(), created_now);
        assert_eq!(known.absence(&"cus_2".into()), None);
    }

    #[test]
    fn a_customer_found_meanwhile_is_not_foreign() {
        let (known, _) = known();
        let id = CustomerId::from("cus_1");
        known.record_foreign(&id, None);
        known.record_ours(&id);
        assert_eq!(known.absence(&id), None);
        // The answer to a call that was made before.
        known.record_foreign(&id, None);
        assert_eq!(known.absence(&id), None);
    }

    #[test]
    fn customers_are_new_for_two_minutes() {
        let (known, clock) = known();
        let created_at = Some(clock.now());
        assert!(!known.is_new(None));
        clock.advance(2 * MINUTE - MINUTE / 60);
        assert!(known.is_new(created_at));
        clock.advance(MINUTE / 60);
        assert!(!known.is_new(created_at));
    }
}
