//! The list of sessions that are kept elsewhere and were ended here, in every database.

use std::{sync::Arc, time::Duration};

use chrono::{TimeDelta, Utc};
use customer_session::{
    AuthenticateError, CustomerData, CustomerId, CustomerSession, CustomerSessions, Page,
    SessionRegistry, TokenFormat, store::Revocable,
};
use test_support::{HOUR, ProbeStore, RegistryExt as _};
use tokio::task::JoinSet;

use crate::persistent_store::{Database, unique};

type Node<R> = CustomerSessions<Revocable<Arc<ProbeStore>, Arc<R>>>;

/// A service that keeps sessions, of which ours only finds them.
#[derive(Default)]
struct Elsewhere(Arc<ProbeStore>);

impl Elsewhere {
    /// Returns a node with caches of its own.
    fn node<R: SessionRegistry>(&self, list: &Arc<R>) -> Node<R> {
        let store = Revocable::new(Arc::clone(&self.0), Arc::clone(list));
        let store = store.max_lifetime(HOUR).leeway(Duration::ZERO);
        CustomerSessions::builder(store).cache_capacity(100).build()
    }

    async fn session(&self, owner: &CustomerId) -> CustomerSession {
        let (token, end) = (
            TokenFormat::new("cst_").generate(),
            Utc::now() + TimeDelta::hours(1),
        );
        let customer = CustomerData::new(owner.clone(), "org_1");
        let session = CustomerSession::new(unique("ses"), token, customer, end);
        self.0.inner.add(&session).await.expect("created elsewhere")
    }
}

async fn is_live<R: SessionRegistry>(node: &Node<R>, session: &CustomerSession) -> bool {
    match node.authenticate(&session.token).await {
        Ok(_) => true,
        Err(AuthenticateError::InvalidToken) => false,
        Err(error) => panic!("{error:?}"),
    }
}

pub(crate) async fn ends_sessions_that_are_kept_elsewhere<D: Database>(database: &D) {
    let elsewhere = Elsewhere::default();
    let list = Arc::new(database.open().await);
    let here = elsewhere.node(&list);
    // A node that has cached nothing reads the list by connections of its own.
    let others = Arc::new(database.open().await);
    let is_live_there = async |session: &CustomerSession| {
        let there = elsewhere.node(&others);
        is_live(&there, session).await
    };
    let owner = CustomerId::from(unique("cus"));
    let foreign = elsewhere.session(&unique("cus").into()).await;
    let [one, two, three, kept] = [
        elsewhere.session(&owner).await,
        elsewhere.session(&owner).await,
        elsewhere.session(&owner).await,
        elsewhere.session(&owner).await,
    ];
    for session in [&one, &two, &three, &kept, &foreign] {
        assert!(is_live(&here, session).await && is_live_there(session).await);
    }

    assert!(here.revoke(&one.id).await.expect("ended"));
    assert!(!here.revoke(&one.id).await.expect("an answer"), "again");
    assert!(!is_live(&here, &one).await && !is_live_there(&one).await);
    here.revoke_owned(&owner, &foreign.id)
        .await
        .expect("an answer");
    assert!(is_live(&here, &foreign).await && is_live_there(&foreign).await);
    assert!(here.revoke_owned(&owner, &two.id).await.expect("ended"));
    assert!(!is_live_there(&two).await && is_live_there(&three).await);

    here.revoke_others(&owner, &kept.id).await.expect("done");
    assert!(!is_live_there(&three).await && is_live_there(&kept).await);

    // More than a page of them at once, on both nodes.
    let (mut calls, there) = (JoinSet::new(), elsewhere.node(&others));
    for number in 0..120 {
        let node = if number % 2 == 0 { &here } else { &there };
        let node = node.clone();
        let owner = owner.clone();
        calls.spawn(async move { node.revoke_customer(&owner).await });
    }
    for outcome in calls.join_all().await {
        outcome.expect("done");
    }
    assert!(!is_live(&elsewhere.node(&list), &kept).await && !is_live_there(&kept).await);
    let entries = CustomerId::from(format!("customer-session:ended-of:{owner}"));
    let entries_there = list.summaries(&entries).await.expect("listed").len();
    assert!(entries_there > 120, "{entries_there}");
    let later = elsewhere.session(&owner).await;
    assert!(is_live(&here, &later).await && is_live_there(&later).await);

    let direct = CustomerSessions::builder(Arc::clone(&list)).build();
    let shown = direct
        .list_page(&entries, &Page::default().with_expired())
        .await;
    assert_eq!(shown.expect("listed").sessions, [], "links are not shown");
    let end = Utc::now() + TimeDelta::minutes(50);
    let store = Revocable::new(Arc::clone(&elsewhere.0), Arc::clone(&list));
    let purged = store.purge_expired(end, 1000).await.expect("purged");
    assert_eq!(purged, 0, "the sessions may still live");

    here.revoke_all().await.expect("done");
    assert!(!is_live(&here, &later).await && !is_live_there(&foreign).await);
}

#[cfg(all(feature = "postgres", feature = "redis"))]
mod shared {
    //! With the source of invalidations of the list, and while its server is gone.

    use std::time::Instant;

    use customer_session::{
        InvalidationSource, StoreErrorKind,
        store::{PostgresStore, RedisStore},
    };
    use test_support::servers::Server;

    use super::*;
    use crate::{
        invalidations::{postgres, redis},
        persistent_store::peppers,
    };

    /// `lists` are those of two machines.
    async fn reaches_other_nodes<R: SessionRegistry>(
        lists: [R; 2],
        source: impl InvalidationSource + 'static,
        mut server: Server,
    ) {
        let elsewhere = Elsewhere::default();
        let [here, there] = lists.map(|list| elsewhere.node(&Arc::new(list)));
        tokio::spawn(there.listen(source));
        let owner = CustomerId::from("cus_1");
        let session = elsewhere.session(&owner).await;
        let cold = elsewhere.session(&owner).await;
        assert!(is_live(&there, &session).await);
        assert!(here.revoke(&session.id).await.expect("ended"));
        let begun = Instant::now();
        while is_live(&there, &session).await {
            assert!(begun.elapsed() < Duration::from_secs(5), "it is not told");
            tokio::task::yield_now().await;
        }

        server.kill();
        let unknown = here.authenticate(&cold.token).await;
        let error = unknown.expect_err("the list cannot be read");
        let AuthenticateError::Store(error) = error else {
            panic!("{error:?}");
        };
        let kind = error.kind();
        let is_outage = matches!(kind, StoreErrorKind::Unavailable | StoreErrorKind::Timeout);
        assert!(is_outage, "{error:?}");
    }

    #[tokio::test(flavor = "multi_thread")]
    async fn an_end_reaches_other_nodes_through_postgres() {
        if let Some((server, store)) = postgres().await {
            let source = store.invalidations().await.expect("it listens");
            let other = PostgresStore::connect(&server.url(), peppers()).await;
            let lists = [store, other.expect("connected")];
            reaches_other_nodes(lists, source, server).await;
        }
    }

    #[tokio::test(flavor = "multi_thread")]
    async fn an_end_reaches_other_nodes_through_redis() {
        if let Some((server, store)) = redis().await {
            let source = store.invalidations().await.expect("it listens");
            let other = RedisStore::connect(&server.url(), peppers()).await;
            let lists = [store, other.expect("connected")];
            reaches_other_nodes(lists, source, server).await;
        }
    }
}
