//! Many streams whose sessions must be looked up at once.

use std::{
    sync::{Arc, Mutex},
    time::Duration,
};

use customer_session::{
    CustomerSession, CustomerSessions, Invalidation, SessionEnd, SessionStore, SessionToken,
    StoreError, async_trait, store::MemoryStore,
};
use tokio::{task::JoinHandle, time::sleep};

use crate::fixture::MILLISECOND;
use test_support::{HOUR, customer, receive};

const STREAMS: usize = 2000;

const SECOND: Duration = Duration::from_secs(1);

/// A store that takes its time; `None` hangs.
struct Slow {
    inner: MemoryStore,
    delay: Mutex<Option<Duration>>,
}

#[async_trait]
impl SessionStore for Slow {
    async fn find(&self, token: &SessionToken) -> Result<Option<CustomerSession>, StoreError> {
        let delay = *self.delay.lock().expect("no panic");
        match delay {
            Some(delay) => sleep(delay).await,
            None => std::future::pending().await,
        }
        self.inner.find(token).await
    }
}

/// Sessions with eight lookups at once, four of them for streams.
struct Crowd {
    store: Arc<Slow>,
    sessions: CustomerSessions<Arc<Slow>>,
    streams: Vec<JoinHandle<SessionEnd>>,
}

impl Crowd {
    async fn new() -> Self {
        let inner = MemoryStore::new();
        let registry = CustomerSessions::builder(inner.clone()).build();
        let store = Arc::new(Slow {
            inner,
            delay: Mutex::new(Some(Duration::ZERO)),
        });
        let sessions = CustomerSessions::builder(Arc::clone(&store))
            .max_concurrent_lookups(8)
            .store_timeout(2 * SECOND)
            .build();
        let mut streams = Vec::new();
        for number in 0..STREAMS {
            let issued = registry
                .issue(customer(&format!("cus_{number}")), HOUR)
                .await;
            let issued = issued.expect("issued");
            let known = sessions.authenticate(&issued.token).await.expect("live");
            streams.push(tokio::spawn(known.lifetime().ended()));
        }
        sleep(MILLISECOND).await;
        Self {
            store,
            sessions,
            streams,
        }
    }

    /// Invalidates everything, at a store that takes `delay` from now on.
    async fn flush(&self, delay: Option<Duration>) {
        *self.store.delay.lock().expect("no panic") = delay;
        receive(&self.sessions, [Invalidation::All]).await;
    }

    fn ended(&self) -> usize {
        let streams = self.streams.iter();
        streams.filter(|stream| stream.is_finished()).count()
    }
}

#[tokio::test(start_paused = true)]
async fn streams_outlast_a_flush_while_the_store_answers_in_turn() {
    let crowd = Crowd::new().await;
    let before = crowd.sessions.statistics().lookups;
    crowd.flush(Some(20 * MILLISECOND)).await;
    sleep(40 * SECOND).await;
    assert_eq!(crowd.ended(), 0);
    let lookups = crowd.sessions.statistics().lookups - before;
    assert_eq!(lookups, STREAMS as u64, "each was confirmed once");
}

#[tokio::test(start_paused = true)]
async fn streams_in_line_end_when_the_store_hangs() {
    let crowd = Crowd::new().await;
    crowd.flush(Some(20 * MILLISECOND)).await;
    sleep(3 * SECOND).await;
    assert_eq!(crowd.ended(), 0);
    crowd.flush(None).await;
    sleep(8 * SECOND).await;
    assert_eq!(crowd.ended(), STREAMS);
    for stream in crowd.streams {
        assert_eq!(stream.await.expect("no panic"), SessionEnd::Unconfirmed);
    }
}

#[tokio::test(start_paused = true)]
async fn a_stream_stays_in_line_for_a_minute_and_not_longer() {
    let crowd = Crowd::new().await;
    crowd.flush(Some(SECOND / 2)).await;
    sleep(59 * SECOND).await;
    assert_eq!(crowd.ended(), 0);
    sleep(8 * SECOND).await;
    let confirmed = STREAMS - crowd.ended();
    assert!((400..=600).contains(&confirmed), "{confirmed}");
}

#[tokio::test(start_paused = true)]
async fn a_stream_whose_session_may_be_revoked_does_not_stay_in_line() {
    let mut crowd = Crowd::new().await;
    crowd.flush(Some(SECOND / 2)).await;
    // Behind all others.
    let last = crowd.streams.pop().expect("one");
    let customer = format!("cus_{}", STREAMS - 1);
    sleep(SECOND).await;
    assert!(!last.is_finished());
    receive(
        &crowd.sessions,
        [Invalidation::Customer(customer.as_str().into())],
    )
    .await;
    sleep(8 * SECOND).await;
    assert!(last.is_finished());
    assert_eq!(last.await.expect("no panic"), SessionEnd::Unconfirmed);
    assert!(crowd.ended() < STREAMS / 10);
}
