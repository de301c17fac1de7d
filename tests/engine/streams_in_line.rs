//! Many streams whose sessions must be looked up at once.

use std::{
    sync::{Arc, Mutex},
    time::Duration,
};

use customer_session::{
    CustomerId, CustomerSession, CustomerSessions, Invalidation, SessionEnd, SessionStore,
    SessionToken, StoreError, async_trait, store::MemoryStore,
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
    registry: CustomerSessions<MemoryStore>,
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
            registry,
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
async fn a_stream_whose_own_customer_was_changed_does_not_wait_behind_the_others() {
    let mut crowd = Crowd::new().await;
    crowd.flush(Some(SECOND / 2)).await;
    // Behind all others.
    let [changed, revoked] = [(); 2].map(|()| crowd.streams.pop().expect("one"));
    sleep(SECOND).await;
    assert!(!changed.is_finished() && !revoked.is_finished());
    let [changed_customer, revoked_customer] =
        [1, 2].map(|last| CustomerId::from(format!("cus_{}", STREAMS - last)));
    let registry = &crowd.registry;
    registry
        .revoke_customer(&revoked_customer)
        .await
        .expect("revoked");
    receive(
        &crowd.sessions,
        [
            Invalidation::Customer(changed_customer),
            Invalidation::Customer(revoked_customer),
        ],
    )
    .await;
    // It looks once a second, and a lookup takes half a second.
    sleep(2 * SECOND).await;
    assert!(revoked.is_finished());
    assert_eq!(revoked.await.expect("no panic"), SessionEnd::Revoked);
    sleep(4 * SECOND).await;
    assert!(!changed.is_finished());
    assert_eq!(crowd.ended(), 0);
}
