//! Sessions over a store and a clock that the test holds.

use std::{sync::Arc, time::Duration};

use customer_session::{
    AuthenticateError, CurrentSession, CustomerSession, CustomerSessions, CustomerSessionsBuilder,
    Keeps, SessionRegistry, SourceEvent, Statistics, async_trait, store::MemoryStore,
    testing::ManualClock,
};
use test_support::{
    ChannelSource, HOUR, ProbeStore, RegistryExt as _, Sessions, StoreWrapper, Wrapped, clock,
    customer,
};
use tokio::{sync::mpsc, task::JoinHandle};

/// The lifetime of a cached answer.
pub(crate) const TTL: Duration = Duration::from_secs(60);

pub(crate) const MILLISECOND: Duration = Duration::from_millis(1);

pub(crate) type Builder = CustomerSessionsBuilder<Arc<ProbeStore>>;

/// One session of an hour, which has not been looked up.
pub(crate) struct Fixture {
    pub(crate) store: Arc<ProbeStore>,
    pub(crate) clock: ManualClock,
    pub(crate) sessions: Sessions,
    pub(crate) session: CustomerSession,
}

impl Fixture {
    /// Creates a fixture that caches answers for [`TTL`], with further settings by `configure`.
    pub(crate) async fn new(configure: impl FnOnce(Builder) -> Builder) -> Self {
        let (store, clock) = (Arc::new(ProbeStore::default()), clock());
        let builder = CustomerSessions::builder(Arc::clone(&store))
            .clock(clock.clone())
            .cache_ttl(TTL);
        let sessions = configure(builder).build();
        let session = sessions.issue(customer("cus_1"), HOUR).await;
        Self {
            store,
            clock,
            sessions,
            session: session.expect("issued"),
        }
    }

    pub(crate) async fn authenticate(&self) -> Result<CurrentSession, AuthenticateError> {
        self.sessions.authenticate(&self.session.token).await
    }

    pub(crate) fn statistics(&self) -> Statistics {
        self.sessions.statistics()
    }

    /// Starts to listen to a source, which goes on until the connection is dropped.
    pub(crate) fn listen(&self) -> Connection {
        let (sender, source) = ChannelSource::new();
        let listening = tokio::spawn(self.sessions.listen(source));
        Connection { sender, listening }
    }

    /// Revokes the session in the store without telling the engine.
    pub(crate) async fn revoke_behind_its_back(&self) {
        let revoked = self.store.inner.end(&self.session.id).await;
        assert!(revoked.expect("an answer"), "it was live");
    }
}

/// The other end of a source.
pub(crate) struct Connection {
    sender: mpsc::UnboundedSender<SourceEvent>,
    pub(crate) listening: JoinHandle<()>,
}

impl Connection {
    /// Sends an event and waits until it has been applied.
    pub(crate) async fn send(&self, event: impl Into<SourceEvent>) {
        self.sender.send(event.into()).expect("a listener");
        settle().await;
    }
}

/// Lets spawned tasks run until they wait.
pub(crate) async fn settle() {
    for _ in 0..20 {
        tokio::task::yield_now().await;
    }
}

/// A store from before there were details: it keeps the times alone, and says nothing of `keeps`.
struct WithoutDetails(MemoryStore);

#[async_trait]
impl StoreWrapper for WithoutDetails {
    fn inner(&self) -> &dyn SessionRegistry {
        &self.0
    }

    fn keeps(&self) -> Keeps {
        Keeps::default()
    }
}

/// Returns `store` such that it says that it keeps no details.
pub(crate) fn without_details(store: MemoryStore) -> Arc<impl SessionRegistry> {
    Arc::new(Wrapped(WithoutDetails(store)))
}
