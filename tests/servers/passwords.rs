//! Passwords of PostgreSQL that change while a service runs.

use std::{
    error::Error,
    future::{Ready, pending, ready},
    sync::{
        Arc, Mutex, PoisonError,
        atomic::{AtomicUsize, Ordering::Relaxed},
    },
    time::{Duration, Instant},
};

use customer_session::{
    Invalidation, SessionStore as _, StoreError, StoreErrorKind,
    store::{PostgresStore, PostgresStoreBuilder},
};
use sqlx::{AssertSqlSafe, Connection as _, Executor as _, PgConnection, PgPool};

use crate::{
    invalidations::receive_until,
    persistent_store::{assert_error, inserted, peppers, text},
};
use test_support::{
    RegistryExt as _,
    servers::{self, Server},
};

pub(crate) const UNAVAILABLE: StoreErrorKind = StoreErrorKind::Unavailable;
pub(crate) const FIRST: &str = "first-hunter2";
pub(crate) const SECOND: &str = "second-hunter2";

/// A server that asks the role `service` for a password, and an administrator.
struct Guarded {
    server: Server,
    admin: PgPool,
}

impl Guarded {
    async fn new() -> Option<Self> {
        let rules = "host all tests all trust\nhost all service all scram-sha-256\n";
        let Some(server) = Server::postgres_with(&[], &[("pg_hba.conf", rules)]) else {
            servers::missing("PostgreSQL");
            return None;
        };
        let admin = PgPool::connect(&server.url()).await.expect("connected");
        admin
            .execute("CREATE ROLE service SUPERUSER LOGIN")
            .await
            .expect("created");
        let guarded = Self { server, admin };
        guarded.set_password(FIRST).await;
        Some(guarded)
    }

    /// Changes the password, and ends the connections that were opened with another.
    async fn set_password(&self, password: &str) {
        let change = format!("ALTER ROLE service PASSWORD '{password}'");
        let change = self.admin.execute(AssertSqlSafe(change));
        change.await.expect("changed");
        let end = "SELECT pg_terminate_backend(pid, 10000) FROM pg_stat_activity \
             WHERE usename = 'service'";
        self.admin.execute(end).await.expect("ended");
    }

    fn url(&self, password: &str) -> String {
        let user = match password {
            "" => "service@".to_owned(),
            password => format!("service:{password}@"),
        };
        self.server.url().replace("tests@", &user)
    }
}

/// What a provider returns: a password, or an error.
#[derive(Clone)]
pub(crate) struct Vault {
    answer: Arc<Mutex<Result<String, String>>>,
    questions: Arc<AtomicUsize>,
}

impl Vault {
    pub(crate) fn new(password: &str) -> Self {
        Self {
            answer: Arc::new(Mutex::new(Ok(password.to_owned()))),
            questions: Arc::default(),
        }
    }

    pub(crate) fn set(&self, answer: Result<&str, &str>) {
        let answer = answer.map(str::to_owned).map_err(str::to_owned);
        *self.answer.lock().unwrap_or_else(PoisonError::into_inner) = answer;
    }

    /// Returns the number of questions so far.
    pub(crate) fn questions(&self) -> usize {
        self.questions.load(Relaxed)
    }

    pub(crate) fn provider(&self) -> impl Fn() -> Ready<Result<String, String>> + use<> {
        let vault = self.clone();
        move || {
            vault.questions.fetch_add(1, Relaxed);
            let answer = vault.answer.lock().unwrap_or_else(PoisonError::into_inner);
            ready(answer.clone())
        }
    }

    fn builder(&self) -> PostgresStoreBuilder {
        PostgresStore::builder(peppers()).password_provider(self.provider())
    }
}

/// Fails if an error, in whatever way it is shown, has a password.
pub(crate) fn assert_shows_no_password(error: &StoreError) {
    let mut shown = format!("{error} {error:?} {}", text(error));
    let mut source = error.source();
    while let Some(error) = source {
        shown = format!("{shown} {error:?}");
        source = error.source();
    }
    assert!(!shown.contains("hunter2"), "{shown}");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_service_goes_on_when_the_password_changes() {
    let Some(guarded) = Guarded::new().await else {
        return;
    };
    let vault = Vault::new(FIRST);
    // The one in the URL does not count.
    let url = guarded.url("another");
    let store = vault.builder().connect(&url).await.expect("connected");
    store.migrate().await.expect("migrated");
    let mut source = store.invalidations().await.expect("it listens");
    let session = inserted(&store).await;
    let mut password = FIRST;
    for new in [SECOND, FIRST, SECOND] {
        vault.set(Ok(new));
        guarded.set_password(new).await;
        let refused = PgConnection::connect(&guarded.url(password)).await;
        assert!(refused.is_err(), "the old one is refused");
        password = new;
        for _ in 0..5 {
            let found = store.find(&session.token).await.expect("an answer");
            assert_eq!(found.as_ref(), Some(&session));
        }
        let other = inserted(&store).await;
        assert!(store.end(&other.id).await.expect("revoked"));
        receive_until(&mut source, Invalidation::Session(other.id)).await;
    }
}

/// The source asks first, and the pool finds an old connection lost when it is to give it.
#[tokio::test(flavor = "multi_thread")]
async fn a_change_finds_the_password_that_the_source_has_asked_for() {
    let Some(guarded) = Guarded::new().await else {
        return;
    };
    let vault = Vault::new(FIRST);
    let store = vault.builder().connect(&guarded.url("")).await;
    let store = store.expect("connected");
    store.migrate().await.expect("migrated");
    let mut source = store.invalidations().await.expect("it listens");
    let session = inserted(&store).await;
    vault.set(Ok(SECOND));
    guarded.set_password(SECOND).await;
    let announce = "INSERT INTO customer_session_changes (message) VALUES ('session:by_hand')";
    guarded.admin.execute(announce).await.expect("announced");
    receive_until(&mut source, Invalidation::Session("by_hand".into())).await;
    // A pool trusts a connection that was idle for less than a second.
    tokio::time::sleep(Duration::from_millis(1100)).await;
    assert!(store.end(&session.id).await.expect("revoked"));
}

/// Without a provider, the application tells its own pool.
#[tokio::test(flavor = "multi_thread")]
async fn a_source_follows_the_options_of_the_applications_pool() {
    let Some(guarded) = Guarded::new().await else {
        return;
    };
    let pool = PgPool::connect(&guarded.url(FIRST))
        .await
        .expect("connected");
    let provider = Vault::new(FIRST).builder();
    let outcome = provider.build(pool.clone());
    assert_error(outcome, UNAVAILABLE, &["set_connect_options"]);
    let store = PostgresStore::new(pool.clone(), peppers());
    store.migrate().await.expect("migrated");
    let mut source = store.invalidations().await.expect("it listens");
    pool.set_connect_options(guarded.url(SECOND).parse().expect("a URL"));
    guarded.set_password(SECOND).await;
    let deadline = Instant::now() + Duration::from_secs(20);
    let session = inserted_in_the_end(&store, deadline).await;
    assert!(store.end(&session).await.expect("revoked"));
    receive_until(&mut source, Invalidation::Session(session)).await;
}

/// A change is not repeated, and its connection may have been lost.
async fn inserted_in_the_end(
    store: &PostgresStore,
    deadline: Instant,
) -> customer_session::SessionId {
    loop {
        let session =
            crate::persistent_store::session(store, &crate::persistent_store::unique("c"));
        match store.add(&session).await {
            Ok(_) => return session.id,
            Err(error) => assert!(Instant::now() < deadline, "{}", text(&error)),
        }
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_password_that_is_refused_or_missing_is_named_and_not_shown() {
    let Some(guarded) = Guarded::new().await else {
        return;
    };
    let url = guarded.url("");
    let builder = || PostgresStore::builder(peppers());
    let refused = ["refuses the password", "password_provider", "28P01"];
    for (builder, url, says) in [
        (builder(), guarded.url("wrong-hunter2"), &refused[..]),
        (Vault::new("wrong-hunter2").builder(), url.clone(), &refused),
        (
            builder().password_provider(|| async { Err::<String, _>("the vault is sealed") }),
            url.clone(),
            &["password_provider", "the vault is sealed", "127.0.0.1"],
        ),
        (
            builder()
                .password_provider(|| -> Ready<Result<String, String>> { panic!("on purpose") }),
            url.clone(),
            &["password_provider", "panicked"],
        ),
        (
            builder().password_provider(pending::<Result<String, String>>),
            url.clone(),
            &["password_provider", "not answered within 3s"],
        ),
    ] {
        let error = builder.connect(&url).await.expect_err("no password");
        assert_shows_no_password(&error);
        assert_error::<()>(Err(error), UNAVAILABLE, says);
    }

    // While it runs, its vault is sealed, and the server knows another password.
    let vault = Vault::new(FIRST);
    let store = vault.builder().connect(&url).await.expect("connected");
    store.migrate().await.expect("migrated");
    let session = inserted(&store).await;
    vault.set(Err("the vault is sealed, first-hunter2"));
    guarded.set_password(SECOND).await;
    let error = store.find(&session.token).await.expect_err("no password");
    assert_shows_no_password(&error);
    let says = ["password_provider", "the vault is sealed, [password]"];
    assert_error::<()>(Err(error), UNAVAILABLE, &says);
    // It is asked once a second.
    vault.set(Ok(SECOND));
    let begun = Instant::now();
    while store.find(&session.token).await.is_err() {
        assert!(begun.elapsed() < Duration::from_secs(20), "it is not asked");
        tokio::time::sleep(Duration::from_millis(50)).await;
    }
}
