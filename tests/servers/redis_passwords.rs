//! Passwords of Redis that change while a service runs.

use std::{
    future::{Ready, pending, ready},
    sync::{
        Arc,
        atomic::{AtomicUsize, Ordering::Relaxed},
    },
    time::{Duration, Instant},
};

use customer_session::{
    CustomerSession, Invalidation, SessionStore as _, SourceEvent,
    store::{RedisInvalidations, RedisStore, RedisStoreBuilder},
};

use crate::{
    invalidations::receive_until,
    passwords::{FIRST, SECOND, UNAVAILABLE, Vault, assert_shows_no_password},
    persistent_store::{assert_error, inserted, peppers},
};
use test_support::{
    RegistryExt as _,
    servers::{self, RedisCluster, RedisSentinel, Server},
};

/// The rights of the user `service`, who has the first password to begin with.
const USERS: [(&str, &str); 2] = [
    ("user", "default off"),
    ("user", "service on >first-hunter2 ~* &* +@all"),
];

/// Time in which a lookup must be answered.
const DEADLINE: Duration = Duration::from_secs(5);

fn builder(vault: &Vault) -> RedisStoreBuilder {
    RedisStore::builder(peppers()).password_provider(vault.provider())
}

/// Returns a URL with the user `service` and this password, if there is one.
fn as_service(url: &str, password: &str) -> String {
    let user = match password {
        "" => "service@".to_owned(),
        password => format!("service:{password}@"),
    };
    url.replace("redis://", &format!("redis://{user}"))
}

fn change_password(server: &Server, password: &str) {
    let password = format!(">{password}");
    let change = ["ACL", "SETUSER", "service", "resetpass", &password];
    assert_eq!(server.redis_cli(&change), "OK");
}

/// Ends the connections of the user `service`, and returns their number.
fn end_connections(server: &Server) -> usize {
    let ended = server.redis_cli(&["CLIENT", "KILL", "USER", "service"]);
    ended.parse().expect("a number")
}

/// Changes the password, and ends the connections that were opened with another.
fn set_password(server: &Server, password: &str) {
    change_password(server, password);
    end_connections(server);
}

async fn assert_refused(url: &str, password: &str) {
    let client = redis::Client::open(as_service(url, password)).expect("a URL");
    let connection = client.get_multiplexed_async_connection().await;
    let error = connection.expect_err("the password is refused");
    assert_eq!(error.kind(), redis::ErrorKind::AuthenticationFailed);
}

/// A store that is in use, its source and a session.
struct Service {
    vault: Vault,
    store: RedisStore,
    source: RedisInvalidations,
    session: CustomerSession,
}

impl Service {
    async fn new(vault: Vault, store: RedisStore) -> Self {
        Self {
            vault,
            source: store.invalidations().await.expect("it listens"),
            session: inserted(&store).await,
            store,
        }
    }

    async fn finds(&self) {
        let asked = Instant::now();
        let found = self.store.find(&self.session.token).await;
        assert_eq!(found.expect("an answer").as_ref(), Some(&self.session));
        assert!(asked.elapsed() < DEADLINE, "{:?}", asked.elapsed());
    }

    /// Fails unless lookups, changes and the source go on, whose connections were ended.
    async fn goes_on(&mut self) {
        for _ in 0..5 {
            self.finds().await;
        }
        receive_until(&mut self.source, SourceEvent::Disconnected).await;
        // It has the new password, and hears what is announced from now on.
        receive_until(&mut self.source, Invalidation::All).await;
        let other = inserted(&self.store).await;
        assert!(self.store.end(&other.id).await.expect("revoked"));
        receive_until(&mut self.source, Invalidation::Session(other.id)).await;
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_service_goes_on_when_the_password_changes() {
    let Some(server) = Server::redis_with(&USERS, &[]) else {
        return servers::missing("Redis");
    };
    // The password in the URL does not count.
    let url = as_service(&server.url(), "another");
    let socket = server.redis_cli(&["CONFIG", "GET", "unixsocket"]);
    let socket = socket.lines().nth(1).expect("a path");
    for url in [url, format!("unix://{socket}?user=service")] {
        set_password(&server, FIRST);
        let vault = Vault::new(FIRST);
        let store = builder(&vault).connect(&url).await.expect("connected");
        let mut service = Service::new(vault, store).await;
        let mut password = FIRST;
        for new in [SECOND, FIRST, SECOND] {
            service.vault.set(Ok(new));
            set_password(&server, new);
            assert_refused(&server.url(), password).await;
            password = new;
            service.goes_on().await;
        }
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_password_that_is_refused_at_first_is_asked_for_again_at_once() {
    let Some(server) = Server::redis_with(&USERS, &[]) else {
        return servers::missing("Redis");
    };
    let asked = Arc::new(AtomicUsize::new(0));
    let count = Arc::clone(&asked);
    let builder = RedisStore::builder(peppers()).password_provider(move || {
        let answers = ["old-hunter2", FIRST];
        ready(Ok::<_, String>(
            answers[count.fetch_add(1, Relaxed)].to_owned(),
        ))
    });
    let store = builder.connect(&as_service(&server.url(), "")).await;
    let store = store.expect("connected");
    let _source = store.invalidations().await.expect("it listens");
    assert_eq!(asked.load(Relaxed), 2);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_service_goes_on_when_the_password_of_a_cluster_changes() {
    let Some(cluster) = RedisCluster::with(3, 0, &USERS, &[]) else {
        return servers::missing("Redis");
    };
    let nodes = || (0..3).map(|node| cluster.node(node));
    let vault = Vault::new(FIRST);
    // Passwords that differ do not count, either.
    let urls = cluster.urls();
    let urls = [as_service(&urls[0], "one"), as_service(&urls[1], "another")];
    let store = builder(&vault).connect_any(&urls).await.expect("connected");
    let mut service = Service::new(vault, store).await;
    for new in [SECOND, FIRST, SECOND] {
        service.vault.set(Ok(new));
        nodes().for_each(|node| set_password(node, new));
        service.goes_on().await;
    }
    // The driver alone notices, and replaces its connection to one of the nodes.
    let customer = format!("cs:c:{{={}}}", service.session.customer_id);
    let owner = cluster.owner_of(cluster.slot_of(&customer));
    for new in [FIRST, SECOND] {
        // It is not asked for the driver twice in a second.
        tokio::time::sleep(Duration::from_millis(1100)).await;
        service.vault.set(Ok(new));
        nodes().for_each(|node| change_password(node, new));
        assert!(end_connections(cluster.node(owner)) > 0);
        service.finds().await;
        service.goes_on().await;
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_service_goes_on_when_the_password_behind_sentinels_changes() {
    let replication = [("masteruser", "tests-administrator"), ("masterauth", "any")];
    let of_servers = [USERS.as_slice(), &replication].concat();
    let of_primary = [
        ("sentinel", "auth-user mymaster tests-administrator"),
        ("sentinel", "auth-pass mymaster any"),
    ];
    let of_others = [
        ("sentinel", "sentinel-user tests-administrator"),
        ("sentinel", "sentinel-pass any"),
    ];
    let guarded = [of_primary.as_slice(), &of_others, &USERS].concat();
    for (of_sentinels, are_guarded) in [(of_primary.as_slice(), false), (&guarded, true)] {
        let Some(topology) = RedisSentinel::with(&of_servers, of_sentinels) else {
            return servers::missing("Redis");
        };
        let vault = Vault::new(FIRST);
        let urls = topology.sentinel_urls();
        let urls = urls.iter().map(|url| as_service(url, ""));
        let store = builder(&vault).sentinel("mymaster").connect_any(urls).await;
        let mut service = Service::new(vault, store.expect("connected")).await;
        for new in [SECOND, FIRST] {
            service.vault.set(Ok(new));
            if are_guarded {
                (0..3).for_each(|sentinel| set_password(topology.sentinel(sentinel), new));
            }
            (0..2).for_each(|server| set_password(topology.server(server), new));
            service.goes_on().await;
        }
        // Sentinels are asked every second, and they may refuse every password.
        assert!(
            service.vault.questions() <= 3,
            "{}",
            service.vault.questions()
        );
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_password_that_is_refused_or_missing_is_named_and_not_shown() {
    let Some(server) = Server::redis_with(&USERS, &[]) else {
        return servers::missing("Redis");
    };
    let url = as_service(&server.url(), "");
    let builder_of = || RedisStore::builder(peppers());
    let name = "RedisStoreBuilder::password_provider";
    let refused = ["refuses the user or the password", name, "WRONGPASS"];
    for (builder, url, says) in [
        (
            builder_of(),
            as_service(&url, "wrong-hunter2"),
            &refused[..],
        ),
        (builder(&Vault::new("wrong-hunter2")), url.clone(), &refused),
        (
            builder_of().password_provider(|| async { Err::<String, _>("the vault is sealed") }),
            url.clone(),
            &[name, "the vault is sealed", "127.0.0.1"],
        ),
        (
            builder_of()
                .password_provider(|| -> Ready<Result<String, String>> { panic!("on purpose") }),
            url.clone(),
            &[name, "panicked"],
        ),
        (
            builder_of().password_provider(pending::<Result<String, String>>),
            url.clone(),
            &[name, "not answered within 3s"],
        ),
    ] {
        let error = builder.connect(&url).await.expect_err("no password");
        assert_shows_no_password(&error);
        assert_error::<()>(Err(error), UNAVAILABLE, says);
    }

    // While it runs, its vault is sealed, and the server knows another password.
    let vault = Vault::new(FIRST);
    let store = builder(&vault).connect(&url).await.expect("connected");
    let session = inserted(&store).await;
    vault.set(Err("the vault is sealed, first-hunter2"));
    set_password(&server, SECOND);
    for error in [
        store.find(&session.token).await.expect_err("no password"),
        store.check().await.expect_err("no password"),
    ] {
        assert_shows_no_password(&error);
    }
    // It is asked once a second.
    let asked_before = vault.questions();
    let begun = Instant::now();
    let error = loop {
        let error = store.find(&session.token).await.expect_err("no password");
        if vault.questions() > asked_before {
            break error;
        }
        assert!(begun.elapsed() < DEADLINE, "it is not asked");
        tokio::time::sleep(Duration::from_millis(50)).await;
    };
    assert_shows_no_password(&error);
    let says = [name, "the vault is sealed, [password]"];
    assert_error::<()>(Err(error), UNAVAILABLE, &says);
    let error = store.invalidations().await.expect_err("no password");
    assert_shows_no_password(&error);
    vault.set(Ok(SECOND));
    while store.find(&session.token).await.is_err() {
        assert!(begun.elapsed() < 2 * DEADLINE, "it is not asked");
        tokio::time::sleep(Duration::from_millis(50)).await;
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_source_waits_for_as_long_as_an_answer_may_take() {
    let Some(server) = Server::redis_with(&USERS, &[]) else {
        return servers::missing("Redis");
    };
    let asked = AtomicUsize::new(0);
    let builder = RedisStore::builder(peppers()).password_provider(move || {
        let is_first = asked.fetch_add(1, Relaxed) == 0;
        async move {
            match is_first {
                true => Ok::<_, String>(FIRST.to_owned()),
                false => pending().await,
            }
        }
    });
    let store = builder.connect(&as_service(&server.url(), "")).await;
    let store = store.expect("connected");
    let session = inserted(&store).await;
    change_password(&server, SECOND);
    let found = store.find(&session.token).await;
    assert!(found.expect("connections that are open stay").is_some());
    let says = ["password_provider", "not answered within 3s"];
    assert_error(store.invalidations().await, UNAVAILABLE, &says);
}

#[tokio::test]
async fn a_provider_and_a_connection_of_the_applications_own_are_refused() {
    let Some(server) = Server::redis() else {
        return servers::missing("Redis");
    };
    let client = redis::Client::open(server.url()).expect("a URL");
    let connection = client.get_multiplexed_async_connection().await;
    let outcome = builder(&Vault::new(FIRST)).connection(connection.expect("connected"));
    assert_error(outcome, UNAVAILABLE, &["`password_provider`"]);
}
