//! Expired sessions are removed from the store, a batch at a time.

use std::{
    sync::{Arc, Mutex},
    time::Duration,
};

use customer_session::{
    CustomerId, CustomerSessions, SessionRegistry, StoreError, async_trait,
    store::MemoryStore,
    testing::{Fault, FaultyStore},
};

use test_support::{HOUR, RegistryExt as _, StoreWrapper, Wrapped, clock, customer};

const EVERY: Duration = Duration::from_secs(600);

type Sessions = CustomerSessions<FaultyStore<Arc<MemoryStore>>>;

async fn count(sessions: &MemoryStore) -> usize {
    let listed = sessions.summaries(&"cus_1".into()).await;
    listed.expect("listed").len()
}

async fn issue(sessions: &Sessions, how_many: usize, ttl: Duration) {
    for _ in 0..how_many {
        sessions
            .issue(customer("cus_1"), ttl)
            .await
            .expect("issued");
    }
}

#[tokio::test(start_paused = true)]
async fn expired_sessions_are_removed_and_no_others() {
    let (store, clock) = (Arc::new(MemoryStore::new()), clock());
    let faulty = FaultyStore::new(Arc::clone(&store));
    let sessions = CustomerSessions::builder(faulty.clone())
        .clock(clock.clone())
        .purge_margin(Duration::ZERO)
        .build();
    issue(&sessions, 2500, HOUR).await;
    issue(&sessions, 10, HOUR * 2).await;
    let purge = tokio::spawn(sessions.purge(EVERY));

    tokio::time::sleep(EVERY * 3).await;
    assert_eq!(count(&store).await, 2510, "nothing has expired");

    // A store that fails is asked again the next time.
    clock.advance(HOUR);
    for fault in [Fault::Error, Fault::Panic, Fault::Hang] {
        faulty.fail_with(fault);
        tokio::time::sleep(EVERY * 3).await;
        assert_eq!(count(&store).await, 2510);
    }
    faulty.recover();
    tokio::time::sleep(EVERY * 3).await;
    assert_eq!(count(&store).await, 10, "all batches in one go");

    assert!(!purge.is_finished());
    drop(sessions);
    tokio::time::timeout(EVERY * 2, purge)
        .await
        .expect("it ends by itself")
        .expect("no panic");
}

#[tokio::test(start_paused = true)]
async fn purging_may_be_stopped_at_any_time() {
    let (store, clock) = (Arc::new(MemoryStore::new()), clock());
    let faulty = FaultyStore::new(Arc::clone(&store));
    let sessions = CustomerSessions::builder(faulty)
        .clock(clock.clone())
        .purge_margin(Duration::ZERO)
        .build();
    issue(&sessions, 2500, HOUR).await;
    clock.advance(HOUR);
    // Every second, the shortest there is. Stopped after the first batch, and taken up again.
    let purge = tokio::spawn(sessions.purge(Duration::ZERO));
    while count(&store).await == 2500 {
        tokio::time::sleep(Duration::from_millis(1)).await;
    }
    purge.abort();
    assert!(purge.await.is_err_and(|error| error.is_cancelled()));
    let left = count(&store).await;
    assert!(left > 0 && left % 10 == 0, "whole batches: {left} are left");
    let purge = tokio::spawn(sessions.purge(Duration::ZERO));
    tokio::time::sleep(Duration::from_secs(5)).await;
    assert_eq!(count(&store).await, 0);
    purge.abort();
}

#[tokio::test(start_paused = true)]
async fn a_clock_that_is_ahead_deletes_no_live_session() {
    const DAY: Duration = Duration::from_secs(24 * 3600);

    let (store, right, ahead) = (Arc::new(MemoryStore::new()), clock(), clock());
    let good = CustomerSessions::builder(Arc::clone(&store))
        .clock(right.clone())
        .build();
    let bad = CustomerSessions::builder(Arc::clone(&store))
        .clock(ahead.clone())
        .build();
    let session = good.issue(customer("cus_1"), HOUR).await.expect("issued");
    ahead.advance(DAY - Duration::from_secs(1));
    let purge = tokio::spawn(bad.purge(EVERY));
    tokio::time::sleep(EVERY * 3).await;
    let answer = good.authenticate(&session.token).await;
    assert!(answer.is_ok(), "its clock is ahead, and it purges");

    // What has been expired for a day by its clock is purged.
    ahead.advance(HOUR + Duration::from_secs(1));
    tokio::time::sleep(EVERY * 3).await;
    assert_eq!(count(&store).await, 0);
    purge.abort();
}

/// Counts what it is asked to purge, and reports ten customers, each a page of its own.
struct Counting {
    inner: MemoryStore,
    asked_after: Mutex<Vec<Option<String>>>,
}

#[async_trait]
impl StoreWrapper for Counting {
    fn inner(&self) -> &dyn SessionRegistry {
        &self.inner
    }

    async fn purge_customers(
        &self,
        after: Option<&CustomerId>,
        _limit: u32,
    ) -> Result<Option<CustomerId>, StoreError> {
        let after = after.map(ToString::to_string);
        let number = after
            .as_ref()
            .map_or(0, |after| after.parse().expect("a number"));
        self.asked_after.lock().expect("no panic").push(after);
        match number {
            // The store fails in the middle of the first pass, once.
            4 if self.asked_after.lock().expect("no panic").len() == 5 => {
                Err(StoreError::unavailable("away"))
            }
            0..10 => Ok(Some((number + 1).to_string().into())),
            _ => Ok(None),
        }
    }
}

#[tokio::test(start_paused = true)]
async fn customers_are_looked_at_once_a_day_and_from_where_a_failure_left_off() {
    let store = Arc::new(Wrapped(Counting {
        inner: MemoryStore::new(),
        asked_after: Mutex::default(),
    }));
    let sessions = CustomerSessions::builder(Arc::clone(&store)).build();
    let purge = tokio::spawn(sessions.purge(EVERY));
    let asked = || store.asked_after.lock().expect("no panic").clone();

    // Two rounds: the intervals vary, and so does the first.
    tokio::time::sleep(EVERY * 3).await;
    assert_eq!(asked().len(), 12);
    assert_eq!(asked()[0], None);
    // The page that failed again, and the rest.
    assert_eq!(asked()[4..6], [Some("4".to_owned()), Some("4".to_owned())]);
    tokio::time::sleep(Duration::from_secs(23 * 3600)).await;
    assert_eq!(asked().len(), 12, "one pass a day");
    tokio::time::sleep(Duration::from_secs(3600) + EVERY * 2).await;
    assert_eq!(asked().len(), 23, "the next day");
    purge.abort();
}
