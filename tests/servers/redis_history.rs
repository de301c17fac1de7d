//! Clients that sign customers in and out while a nemesis disturbs the servers, and that check each
//! answer.

use std::{
    sync::{
        Arc,
        atomic::{AtomicBool, AtomicU64, Ordering::Relaxed},
    },
    time::{Duration, Instant},
};

use customer_session::{
    CustomerSession, Revocation, SessionRegistry as _, SessionStore as _, StoreError,
    store::RedisStore,
};
use tokio::{
    sync::watch,
    task::JoinSet,
    time::{sleep, timeout},
};

use crate::persistent_store::{session, text, unique};
use test_support::RegistryExt as _;

/// The time in which a failover must be over, on a busy machine.
pub(crate) const DEADLINE: Duration = Duration::from_secs(30);

/// The time before a call is repeated that has failed.
const BEFORE_RETRY: Duration = Duration::from_millis(2);

/// Clients at work. A confirmed change must not be lost, so the nemesis waits for replication before it
/// kills a primary.
pub(crate) struct History {
    counts: Arc<Counts>,
    is_over: Arc<AtomicBool>,
    clients: JoinSet<()>,
}

/// Counts of what the clients have done.
pub(crate) struct Counts {
    answered: watch::Sender<u64>,
    failed: AtomicU64,
}

impl History {
    /// Lets clients work, each for a customer of its own.
    pub(crate) fn start(store: &RedisStore, clients: usize) -> Self {
        let counts = Arc::new(Counts {
            answered: watch::Sender::new(0),
            failed: AtomicU64::new(0),
        });
        let is_over = Arc::new(AtomicBool::new(false));
        let clients = (0..clients).map(|_| {
            let client = Client {
                store: store.clone(),
                customer: unique("cus"),
                counts: Arc::clone(&counts),
            };
            client.run(Arc::clone(&is_over))
        });
        Self {
            clients: clients.collect(),
            counts,
            is_over,
        }
    }

    /// Waits until the clients have got 300 more answers.
    pub(crate) async fn progress(&mut self) {
        let mut answered = self.counts.answered.subscribe();
        let target = *answered.borrow() + 300;
        let progress = answered.wait_for(|count| *count >= target);
        let progress = async {
            tokio::select! {
                progress = progress => drop(progress.expect("the counts are there")),
                ended = self.clients.join_next() => panic!("a client has failed: {ended:?}"),
            }
        };
        timeout(DEADLINE, progress).await.expect("it goes on");
    }

    /// Ends the clients, none of which has got a wrong answer. Returns the numbers of answers and of
    /// errors.
    pub(crate) async fn end(self) -> (u64, u64) {
        self.is_over.store(true, Relaxed);
        self.clients.join_all().await;
        let (answered, failed) = (
            *self.counts.answered.borrow(),
            self.counts.failed.load(Relaxed),
        );
        println!("{answered} answers, {failed} errors");
        (answered, failed)
    }
}

impl Counts {
    fn note_answer(&self) {
        self.answered.send_modify(|count| *count += 1);
    }

    fn note_failure(&self) {
        self.failed.fetch_add(1, Relaxed);
    }

    /// Tries until there is an answer.
    async fn answer<T, F: Future<Output = Result<T, StoreError>>>(&self, ask: impl Fn() -> F) -> T {
        let begun = Instant::now();
        loop {
            match ask().await {
                Ok(answer) => {
                    self.note_answer();
                    return answer;
                }
                Err(error) => {
                    self.note_failure();
                    assert!(
                        begun.elapsed() < DEADLINE,
                        "it does not heal: {}",
                        text(&error)
                    );
                    sleep(BEFORE_RETRY).await;
                }
            }
        }
    }
}

/// A client with a customer of its own.
struct Client {
    store: RedisStore,
    customer: String,
    counts: Arc<Counts>,
}

impl Client {
    /// Signs the customer in and out, in every way, until it is over.
    async fn run(self, is_over: Arc<AtomicBool>) {
        let mut round = 0;
        while !is_over.load(Relaxed) {
            round += 1;
            let new = session(&self.store, &self.customer);
            if let Ok(added) = self.store.add(&new).await {
                assert_eq!(self.found(&new).await, Some(added), "it was confirmed");
                self.rotate_and_sign_out(&new, round).await;
                continue;
            }
            // It may be there or not.
            self.counts.note_failure();
            self.counts
                .answer(|| self.store.end_customer(&new.customer_id))
                .await;
            assert_eq!(self.found(&new).await, None, "its customer was revoked");
        }
    }

    async fn rotate_and_sign_out(&self, old: &CustomerSession, round: u32) {
        let (store, counts) = (&self.store, &self.counts);
        let next = session(store, &self.customer);
        match store.swap(&old.id, &next).await {
            Ok(replaced) => {
                counts.note_answer();
                assert!(replaced.is_some(), "the session was live");
                assert_eq!(self.found(old).await, None, "it was replaced");
                assert_eq!(self.found(&next).await, replaced, "it took the place");
            }
            Err(_) => counts.note_failure(),
        }
        match round % 4 {
            // By the first id, which leads to the second session.
            0 => {
                counts.answer(|| store.end(&old.id)).await;
            }
            1 => {
                counts.answer(|| store.end_customer(&old.customer_id)).await;
            }
            2 => self.end_others(old, &next).await,
            _ => {
                counts.answer(|| store.end(&next.id)).await;
                counts.answer(|| store.end(&old.id)).await;
            }
        }
        for ended in [old, &next] {
            assert_eq!(self.found(ended).await, None, "it was revoked");
        }
        let listed = counts.answer(|| store.summaries(&old.customer_id)).await;
        assert_eq!(listed, []);
    }

    /// Signs in once more, ends all others of the customer, and then that one.
    async fn end_others(&self, old: &CustomerSession, next: &CustomerSession) {
        let (store, counts) = (&self.store, &self.counts);
        let kept = session(store, &self.customer);
        let added = store.add(&kept).await;
        let what = Revocation::Others {
            customer: kept.customer_id.clone(),
            keep: kept.id.clone(),
        };
        counts.answer(|| store.revoke(&what)).await;
        for ended in [old, next] {
            assert_eq!(self.found(ended).await, None, "another was kept");
        }
        if let Ok(added) = added {
            assert_eq!(self.found(&kept).await, Some(added), "it was kept");
        }
        counts
            .answer(|| store.end_customer(&kept.customer_id))
            .await;
        assert_eq!(self.found(&kept).await, None, "its customer was revoked");
    }

    async fn found(&self, session: &CustomerSession) -> Option<CustomerSession> {
        self.counts.answer(|| self.store.find(&session.token)).await
    }
}
