//! The newest changes of customers that were heard of, for a while.

use std::{
    collections::{HashMap, VecDeque},
    sync::{
        Mutex, MutexGuard, PoisonError,
        atomic::{AtomicUsize, Ordering::Relaxed},
    },
};

use chrono::{DateTime, Utc};

use crate::customer::CustomerId;

/// Most changes that are remembered. Of more, the oldest are forgotten.
const MAX_CHANGES: usize = 10_000;

/// The time of each customer's newest change. `T` is the clock by which a change is forgotten.
pub(crate) struct NewestChanges<T> {
    /// Guards the changes. Held for a table access, never across an await. Hits do not take it.
    changes: Mutex<Changes<T>>,
    /// The number of changes, so that lookups need not take the lock.
    number: AtomicUsize,
}

struct Changes<T> {
    by_customer: HashMap<CustomerId, Change<T>>,
    /// The customers by the time at which they were recorded, some of them more than once.
    recorded: VecDeque<(CustomerId, T)>,
}

struct Change<T> {
    modified_at: DateTime<Utc>,
    until: T,
}

impl<T: Copy + Ord> NewestChanges<T> {
    /// Records that a customer was changed at `modified_at`, and forgets that after `until`.
    pub(crate) fn record(&self, id: &CustomerId, modified_at: DateTime<Utc>, until: T, now: T) {
        let mut changes = self.lock();
        changes.forget_before(now);
        let change = changes
            .by_customer
            .entry(id.clone())
            .or_insert(Change { modified_at, until });
        change.modified_at = change.modified_at.max(modified_at);
        change.until = change.until.max(until);
        changes.recorded.push_back((id.clone(), until));
        while changes.recorded.len() > MAX_CHANGES {
            changes.forget_oldest();
        }
        self.number.store(changes.by_customer.len(), Relaxed);
    }

    /// Returns the time of a customer's newest change, and the time at which it is forgotten, if it is
    /// remembered.
    pub(crate) fn newest(&self, id: &CustomerId, now: T) -> Option<(DateTime<Utc>, T)> {
        if self.number.load(Relaxed) == 0 {
            return None;
        }
        let mut changes = self.lock();
        changes.forget_before(now);
        self.number.store(changes.by_customer.len(), Relaxed);
        let change = changes.by_customer.get(id);
        change.map(|change| (change.modified_at, change.until))
    }

    fn lock(&self) -> MutexGuard<'_, Changes<T>> {
        self.changes.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl<T: Copy + Ord> Changes<T> {
    fn forget_before(&mut self, now: T) {
        while self
            .recorded
            .front()
            .is_some_and(|(_, until)| *until <= now)
        {
            self.forget_oldest();
        }
    }

    /// Forgets the customer that was recorded first, unless it was recorded again.
    fn forget_oldest(&mut self) {
        let Some((id, until)) = self.recorded.pop_front() else {
            return;
        };
        if self
            .by_customer
            .get(&id)
            .is_some_and(|change| change.until <= until)
        {
            self.by_customer.remove(&id);
        }
    }
}

impl<T> Default for NewestChanges<T> {
    fn default() -> Self {
        Self {
            changes: Mutex::new(Changes {
                by_customer: HashMap::new(),
                recorded: VecDeque::new(),
            }),
            number: AtomicUsize::new(0),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn at(second: i64) -> DateTime<Utc> {
        DateTime::from_timestamp(second, 0).expect("a time")
    }

    #[test]
    fn the_newest_change_is_remembered_for_a_while() {
        let changes = NewestChanges::default();
        let customer = CustomerId::from("cus_1");
        assert_eq!(changes.newest(&customer, 0), None);
        changes.record(&customer, at(7), 10, 0);
        changes.record(&customer, at(5), 12, 2);
        assert_eq!(changes.newest(&customer, 10), Some((at(7), 12)));
        assert_eq!(changes.newest(&"cus_2".into(), 10), None);
        assert_eq!(changes.newest(&customer, 12), None);
        assert_eq!(changes.number.load(Relaxed), 0);
    }

    #[test]
    fn there_is_a_limit_and_the_oldest_go_first() {
        let changes = NewestChanges::default();
        for number in 0..2 * MAX_CHANGES {
            let id = format!("cus_{number}").into();
            changes.record(&id, at(1), number + 1_000_000, 0);
            changes.record(&"cus_busy".into(), at(2), number + 1_000_000, 0);
        }
        let recorded = changes.lock().recorded.len();
        assert_eq!(recorded, MAX_CHANGES);
        assert_eq!(changes.newest(&"cus_0".into(), 0), None);
        for (id, modified_at) in [("cus_19999", at(1)), ("cus_busy", at(2))] {
            let newest = changes.newest(&id.into(), 0);
            assert_eq!(newest.map(|(newest, _)| newest), Some(modified_at));
        }
    }
}
