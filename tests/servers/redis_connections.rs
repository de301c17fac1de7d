//! Connections to Redis that were lost, or that went silent, since their last use.

use std::{future::Future, time::Duration};

use customer_session::{CustomerSession, SessionStore as _, StoreError, store::RedisStore};
use futures_util::future::join_all;
use tokio::time::{Instant, timeout};

use crate::{
    persistent_store::{inserted, peppers},
    redis_history::History,
};
use test_support::{
    RegistryExt as _,
    proxy::Proxy,
    servers::{self, Server},
};

/// A store that reaches its server by a proxy.
struct Watched {
    server: Server,
    proxy: Proxy,
    store: RedisStore,
    session: CustomerSession,
}

impl Watched {
    async fn new() -> Option<Self> {
        let Some(server) = Server::redis() else {
            servers::missing("Redis");
            return None;
        };
        let proxy = Proxy::new(server.port).await;
        let url = format!("redis://127.0.0.1:{}", proxy.port);
        let store = RedisStore::connect(&url, peppers()).await;
        let store = store.expect("connected");
        let session = inserted(&store).await;
        Some(Self {
            server,
            proxy,
            store,
            session,
        })
    }

    async fn finds(&self) -> Result<(), StoreError> {
        let found = self.store.find(&self.session.token).await?;
        assert_eq!(found.as_ref(), Some(&self.session));
        Ok(())
    }

    async fn lists(&self) -> Result<(), StoreError> {
        let listed = self.store.summaries(&self.session.customer_id).await?;
        assert_eq!(listed.len(), 1);
        Ok(())
    }

    /// Has the server close all connections, as it does with idle ones.
    async fn close_all(&self) {
        let client = redis::Client::open(self.server.url()).expect("a URL");
        let connection = client.get_multiplexed_async_connection().await;
        let mut kill = redis::cmd("CLIENT");
        kill.arg(&["KILL", "TYPE", "normal", "SKIPME", "yes"]);
        let killed: u32 = kill
            .query_async(&mut connection.expect("connected"))
            .await
            .expect("killed");
        assert!(killed > 0, "the store had a connection");
    }
}

/// Returns what `future` does within two seconds.
async fn soon<T>(future: impl Future<Output = T>) -> T {
    let output = timeout(Duration::from_secs(2), future).await;
    output.expect("it is back within two seconds")
}

#[tokio::test]
async fn lookups_and_lists_survive_connections_that_were_closed_while_idle() {
    let Some(watched) = Watched::new().await else {
        return;
    };
    for _ in 0..3 {
        watched.close_all().await;
        watched.finds().await.expect("found");
        watched.close_all().await;
        watched.lists().await.expect("listed");
        watched.close_all().await;
        let all = (0..50).map(|_| watched.finds());
        for found in join_all(all).await {
            found.expect("found");
        }
    }
    // The first check after a long time finds the connection closed, too.
    watched.close_all().await;
    watched.store.check().await.expect("checked");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_connection_that_went_silent_is_replaced() {
    let Some(watched) = Watched::new().await else {
        return;
    };
    watched.proxy.freeze();
    let asked = Instant::now();
    soon(watched.finds()).await.expect("found");
    assert!(
        asked.elapsed() > Duration::from_millis(500),
        "it was silent"
    );
    for _ in 0..20 {
        watched.finds().await.expect("found");
    }

    watched.proxy.freeze();
    soon(watched.lists()).await.expect("listed");

    // Its first step changes nothing.
    watched.proxy.freeze();
    let ended = soon(watched.store.end(&watched.session.id)).await;
    assert!(ended.expect("an answer by a new connection"));
    let found = watched.store.find(&watched.session.token).await;
    assert_eq!(found.expect("an answer"), None);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_server_that_went_silent_is_asked_by_one_call_at_a_time() {
    let Some(watched) = Watched::new().await else {
        return;
    };
    watched.server.pause();
    let all = (0..200).map(|_| watched.finds());
    let asked = Instant::now();
    for outcome in join_all(all).await {
        outcome.expect_err("the server is silent");
    }
    assert!(
        asked.elapsed() < Duration::from_secs(6),
        "they wait together, not one after the other: {:?}",
        asked.elapsed()
    );
    watched.server.resume();
    soon(async {
        while watched.finds().await.is_err() {
            tokio::task::yield_now().await;
        }
    })
    .await;
}

#[tokio::test(flavor = "multi_thread")]
async fn connections_that_are_closed_and_a_server_that_pauses_change_no_answer() {
    let Some(Watched { server, store, .. }) = Watched::new().await else {
        return;
    };
    let mut history = History::start(&store, 8);
    for _ in 0..5 {
        for disturbance in [
            ["CLIENT", "KILL", "TYPE", "normal"].as_slice(),
            &["SCRIPT", "FLUSH"],
            &["CLIENT", "PAUSE", "100", "WRITE"],
            &["CLIENT", "KILL", "TYPE", "normal"],
            &["CLIENT", "PAUSE", "100", "ALL"],
        ] {
            let answer = server.redis_cli(disturbance);
            assert!(!answer.starts_with('-'), "{disturbance:?}: {answer}");
            history.progress().await;
        }
    }
    let (_, failed) = history.end().await;
    assert!(
        failed > 0,
        "the clients have felt that connections were closed"
    );
}
