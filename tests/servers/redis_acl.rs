//! The rights that `RedisStore` needs, as the guide's page `operations` gives them.

use customer_session::{
    Invalidation, InvalidationSource as _, SourceEvent, StoreErrorKind, store::RedisStore,
};

use crate::persistent_store::{assert_error, inserted, keeps_the_contract, peppers};
use test_support::{
    RegistryExt as _,
    servers::{self, RedisCluster, Server},
};

const GUIDE: &str = include_str!("../../src/guide/operations.md");

/// Returns the rules of the guide's user: those for all servers, and those for a cluster.
fn rules() -> [Vec<&'static str>; 2] {
    let lines = GUIDE
        .lines()
        .filter_map(|line| line.strip_prefix("ACL SETUSER service "));
    let rules: Vec<Vec<_>> = lines.map(|line| line.split(' ').collect()).collect();
    rules.try_into().expect("two lines")
}

fn set_user(server: &Server, name: &str, rules: &[&str]) {
    let answer = server.redis_cli(&[&["ACL", "SETUSER", name], rules].concat());
    assert_eq!(answer, "OK", "{rules:?}");
}

fn as_user(url: &str, name: &str) -> String {
    url.replace("redis://", &format!("redis://{name}:PASSWORD@"))
}

/// Fails unless the store does all that it can, and a change reaches its source of invalidations.
async fn works(store: RedisStore) {
    let mut source = store.invalidations().await.expect("it listens");
    let session = inserted(&store).await;
    assert!(store.end(&session.id).await.expect("revoked"));
    let expected: SourceEvent = Invalidation::Session(session.id).into();
    loop {
        let event = source.recv().await.expect("it goes on");
        assert_ne!(event, SourceEvent::Disconnected);
        if event == expected {
            break;
        }
    }
    keeps_the_contract(store).await;
    // It has asked its question by now.
    let is_alive = |event| matches!(event, Some(SourceEvent::Alive { .. }));
    while !is_alive(source.recv().await) {}
}

#[tokio::test]
async fn the_user_of_the_guide_has_the_rights_that_it_takes() {
    let Some(server) = Server::redis() else {
        return servers::missing("Redis");
    };
    set_user(&server, "service", &rules()[0]);
    let store = RedisStore::connect(&as_user(&server.url(), "service"), peppers()).await;
    works(store.expect("connected")).await;
    let log = server.redis_cli(&["ACL", "LOG"]);
    assert!(!log.contains("\nservice\n") || only_setinfo(&log), "{log}");
}

/// Returns `true` if nothing but `CLIENT SETINFO` was refused, which the driver sends, and can do without.
fn only_setinfo(log: &str) -> bool {
    let lines: Vec<_> = log.lines().collect();
    let objects = lines.windows(2).filter(|pair| pair[0] == "object");
    objects.clone().count() > 0
        && objects
            .into_iter()
            .all(|pair| pair[1].starts_with("client|"))
}

#[tokio::test]
async fn the_user_of_the_guide_has_the_rights_that_it_takes_on_a_cluster() {
    let Some(cluster) = RedisCluster::new(2, 0) else {
        return servers::missing("Redis");
    };
    let [all, of_cluster] = rules();
    for node in 0..2 {
        let rules = [all.as_slice(), &of_cluster].concat();
        set_user(cluster.node(node), "service", &rules);
        // Without the state of the cluster, and without its nodes.
        for (name, right) in [("no-info", "-cluster|info"), ("no-slots", "-cluster|slots")] {
            set_user(
                cluster.node(node),
                name,
                &[rules.as_slice(), &[right]].concat(),
            );
        }
    }
    let urls = |name: &'static str| {
        cluster
            .urls()
            .into_iter()
            .map(move |url| as_user(&url, name))
    };
    let builder = || RedisStore::builder(peppers());
    let store = builder().connect_any(urls("service")).await;
    works(store.expect("connected")).await;
    for (name, says) in [("no-info", "CLUSTER INFO"), ("no-slots", "CLUSTER SLOTS")] {
        let outcome = builder().connect_any(urls(name)).await;
        assert_error(
            outcome,
            StoreErrorKind::Unavailable,
            &[says, "no permissions"],
        );
    }
}

#[tokio::test]
async fn a_right_that_is_missing_is_named() {
    let Some(server) = Server::redis() else {
        return servers::missing("Redis");
    };
    let unavailable = StoreErrorKind::Unavailable;
    for (right, says) in [
        ("-info", "INFO"),
        ("-evalsha", "EVALSHA"),
        ("-script|load", "SCRIPT LOAD"),
        ("-publish", "PUBLISH"),
        ("-subscribe", "SUBSCRIBE"),
        ("resetchannels", "cs:changes"),
        ("resetkeys", "cs:*"),
    ] {
        // Other scripts must not be there yet.
        server.redis_cli(&["SCRIPT", "FLUSH"]);
        let rules = [rules()[0].as_slice(), &[right]].concat();
        let name = right.trim_start_matches('-').replace('|', "-");
        set_user(&server, &name, &rules);
        let url = as_user(&server.url(), &name);
        let store = match RedisStore::connect(&url, peppers()).await {
            Ok(store) => store,
            Err(error) => {
                assert_error::<()>(Err(error), unavailable, &[says, "no permissions"]);
                continue;
            }
        };
        match store.check().await {
            Ok(()) => {
                let outcome = store.invalidations().await;
                assert_error(outcome, unavailable, &[says, "no permissions"]);
            }
            outcome => assert_error(outcome, unavailable, &[says, "no permissions"]),
        }
    }
}
