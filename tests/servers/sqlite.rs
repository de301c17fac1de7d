//! Sessions in an SQLite file.

use std::{
    fs,
    path::PathBuf,
    sync::Arc,
    time::{Duration, Instant},
};

use customer_session::{
    SessionRegistry as _, SessionStore as _, StoreErrorKind,
    store::{Peppers, SqliteStore},
};
use sqlx::{SqlitePool, sqlite::SqlitePoolOptions};

use crate::persistent_store::{
    self, Database, assert_error, assert_says, inserted, peppers, shared_tests, unique,
};
use test_support::RegistryExt as _;

/// A folder for one database file, removed at the end.
struct Folder(PathBuf);

impl Folder {
    fn create() -> Self {
        let folder = std::env::temp_dir().join(unique("cst-sqlite"));
        fs::create_dir_all(&folder).expect("a folder");
        Self(folder)
    }

    fn url(&self) -> String {
        format!("sqlite:{}/sessions.db", self.0.display())
    }

    /// Opens another connection to the file.
    async fn pool(&self) -> SqlitePool {
        SqlitePool::connect(&self.url()).await.expect("opened")
    }
}

impl Drop for Folder {
    fn drop(&mut self) {
        let _ = fs::remove_dir_all(&self.0);
    }
}

impl Database for Folder {
    type Store = SqliteStore;

    async fn new() -> Option<Self> {
        Some(Self::create())
    }

    async fn open(&self) -> SqliteStore {
        let store = SqliteStore::connect(&self.url(), peppers()).await;
        let store = store.expect("opened");
        store.migrate().await.expect("migrated");
        store
    }

    async fn reopen(&self, peppers: Peppers) -> SqliteStore {
        let store = self.connect(peppers).await;
        // The first use shows whether the peppers are right.
        let _ = store.migrate().await;
        store
    }

    async fn connect(&self, peppers: Peppers) -> SqliteStore {
        let store = SqliteStore::connect(&self.url(), peppers).await;
        store.expect("opened")
    }

    async fn forget_peppers(&self) {
        let pool = self.pool().await;
        let forget = sqlx::query("DELETE FROM customer_session_peppers");
        forget.execute(&pool).await.expect("forgotten");
        pool.close().await;
    }
}

shared_tests!(Folder);

#[tokio::test(flavor = "multi_thread")]
async fn the_store_keeps_the_contract() {
    let folder = Folder::create();
    persistent_store::keeps_the_contract(folder.open().await).await;
}

#[tokio::test]
async fn a_store_in_memory_keeps_the_contract() {
    let store = SqliteStore::connect("sqlite::memory:", Peppers::none()).await;
    let store = store.expect("opened");
    store.migrate().await.expect("migrated");
    persistent_store::keeps_the_contract(store).await;
}

#[tokio::test]
async fn sessions_survive_a_restart_and_no_token_is_in_the_file() {
    let folder = Folder::create();
    let store = folder.open().await;
    let session = inserted(&store).await;
    let mut bytes = Vec::new();
    for file in fs::read_dir(&folder.0).expect("files") {
        bytes.extend(fs::read(file.expect("a file").path()).expect("read"));
    }
    let is_there = |text: &str| {
        bytes
            .windows(text.len())
            .any(|part| part == text.as_bytes())
    };
    assert!(is_there(session.id.as_str()), "the file was read");
    assert!(!is_there(session.token.expose()));
    drop(store);

    let found = folder.open().await.find(&session.token).await;
    assert_eq!(found.expect("an answer"), Some(session));
}

/// Whatever the umask of the process is. A file that exists keeps its mode.
#[tokio::test]
async fn only_the_owner_may_read_the_files() {
    use std::os::unix::fs::PermissionsExt as _;

    let modes = |folder: &Folder| {
        let files = fs::read_dir(&folder.0).expect("files");
        let files = files.map(|file| file.expect("a file"));
        let modes = files.map(|file| file.metadata().expect("a mode").permissions().mode() & 0o777);
        modes.collect::<Vec<_>>()
    };
    let folder = Folder::create();
    let store = folder.open().await;
    inserted(&store).await;
    assert_eq!(modes(&folder), [0o600; 3], "the file, -wal and -shm");

    let folder = Folder::create();
    let file = folder.0.join("sessions.db");
    fs::write(&file, "").expect("created");
    fs::set_permissions(&file, fs::Permissions::from_mode(0o640)).expect("set");
    let store = folder.open().await;
    inserted(&store).await;
    assert_eq!(modes(&folder), [0o640; 3]);

    for query in ["mode=ro", "mode=rw", "mode=memory"] {
        let folder = Folder::create();
        let url = format!("{}?{query}", folder.url());
        let opened = SqliteStore::connect(&url, peppers()).await;
        assert_eq!(opened.is_ok(), query == "mode=memory", "{query}");
        assert!(modes(&folder).is_empty(), "{query} creates nothing");
    }
}

#[tokio::test]
async fn a_new_file_has_the_mode_that_was_set() {
    use std::os::unix::fs::PermissionsExt as _;

    for mode in [0o600, 0o640, 0o660, 0o666] {
        let folder = Folder::create();
        let builder = SqliteStore::builder(peppers()).file_mode(mode);
        let store = builder.connect(&folder.url()).await.expect("opened");
        store.migrate().await.expect("migrated");
        inserted(&store).await;
        for file in fs::read_dir(&folder.0).expect("files") {
            let file = file.expect("a file");
            let found = file.metadata().expect("a mode").permissions().mode() & 0o777;
            assert_eq!(found, mode, "{:?} has {found:#o}", file.file_name());
        }
    }
    for mode in [0, 600, 0o400, 0o200, 0o1600] {
        let folder = Folder::create();
        let builder = SqliteStore::builder(peppers()).file_mode(mode);
        let outcome = builder.connect(&folder.url()).await;
        let says = ["file_mode", "0o600", &format!("{mode:#o}")];
        assert_error(outcome, StoreErrorKind::Unavailable, &says);
        let files = fs::read_dir(&folder.0).expect("files");
        assert_eq!(files.count(), 0, "nothing is created");
    }
}

/// A change waits for another writer as long as it may, and then says what to do.
#[tokio::test]
async fn a_busy_database_is_named_after_the_busy_timeout() {
    let folder = Folder::create();
    // It stays open: the last connection that is closed locks the file.
    let first = folder.open().await;
    let session = inserted(&first).await;
    let writer = folder.pool().await;
    let says = ["another process", "busy_timeout", "database is locked"];
    for (timeout, most) in [(0, 1500), (300, 1800)] {
        let timeout = Duration::from_millis(timeout);
        let builder = SqliteStore::builder(peppers()).busy_timeout(timeout);
        let store = builder.connect(&folder.url()).await.expect("opened");
        store.check().await.expect("all is well");
        let transaction = writer.begin_with("BEGIN IMMEDIATE").await.expect("begun");
        let asked = Instant::now();
        let outcome = store.end(&session.id).await;
        let waited = asked.elapsed();
        assert_error(outcome, StoreErrorKind::Unavailable, &says);
        assert!(waited >= timeout, "{waited:?}");
        assert!(waited < Duration::from_millis(most), "{waited:?}");
        let found = store.find(&session.token).await.expect("an answer");
        assert_eq!(found.as_ref(), Some(&session), "nothing has changed");
        transaction.rollback().await.expect("ended");
    }
    // One that is longer than SQLite can count is taken, and what has waited succeeds.
    let builder = SqliteStore::builder(peppers()).busy_timeout(Duration::MAX);
    let store = builder.connect(&folder.url()).await.expect("opened");
    let transaction = writer.begin_with("BEGIN IMMEDIATE").await.expect("begun");
    let waiting = tokio::spawn(async move { store.end(&session.id).await });
    tokio::time::sleep(Duration::from_millis(100)).await;
    assert!(!waiting.is_finished());
    transaction.rollback().await.expect("ended");
    assert!(waiting.await.expect("no panic").expect("revoked"));
}

#[tokio::test]
async fn the_builder_sets_connections_and_options() {
    let folder = Folder::create();
    for max in [0, 1, 2, 6] {
        let builder = SqliteStore::builder(peppers()).max_connections(max);
        let builder = builder.connect_options(|options| options.pragma("user_version", "77"));
        let store = builder.connect(&folder.url()).await.expect("opened");
        store.migrate().await.expect("migrated");
        let session = inserted(&store).await;
        let many = (0..50).map(|_| store.find(&session.token));
        let found = futures_util::future::join_all(many).await;
        assert!(found.iter().all(|found| found.is_ok()));
        // Others find a connection, although lookups keep some.
        assert_eq!(
            store
                .summaries(&session.customer_id)
                .await
                .expect("a list")
                .len(),
            1
        );
        assert!(store.end(&session.id).await.expect("revoked"));
        let shown = format!("{store:?}");
        let connections = shown.split("connections: ").nth(1).expect("a field");
        let connections: u32 = connections
            .split(',')
            .next()
            .expect("one")
            .parse()
            .expect("a number");
        assert!((1..=max.max(1)).contains(&connections), "{shown}");
    }
    let pool = folder.pool().await;
    let version: i64 = sqlx::query_scalar("PRAGMA user_version")
        .fetch_one(&pool)
        .await
        .expect("a number");
    assert_eq!(version, 77);
    let store = SqliteStore::builder(peppers()).build(pool);
    inserted(&store).await;
}

/// SQLite ends the transaction by itself when the disk is full, which the driver does not know.
#[tokio::test]
async fn a_store_recovers_from_a_full_disk() {
    let folder = Folder::create();
    folder.open().await;
    let pool = SqlitePoolOptions::new()
        .max_connections(1)
        .connect(&folder.url())
        .await
        .expect("opened");
    let store = SqliteStore::new(pool.clone(), peppers());
    let session = inserted(&store).await;
    let pages: i64 = sqlx::query_scalar("PRAGMA page_count")
        .fetch_one(&pool)
        .await
        .expect("a count");
    let limit = |pages: i64| sqlx::AssertSqlSafe(format!("PRAGMA max_page_count = {pages}"));
    sqlx::query(limit(pages))
        .execute(&pool)
        .await
        .expect("limited");
    let full = loop {
        let mut large = persistent_store::session(&store, &unique("cus"));
        let mut data = customer_session::CustomerData::clone(&large.customer);
        data.name = Some("x".repeat(5000));
        large.customer = data.into();
        if let Err(error) = store.add(&large).await {
            break error;
        }
    };
    assert_says(&full, "full");
    // There is room again, whatever connection the pool has now.
    let _ = sqlx::query(limit(1_000_000)).execute(&pool).await;
    assert!(store.end(&session.id).await.expect("it works again"));
}

/// Also not if the token is stored under an older pepper.
#[tokio::test]
async fn a_lookup_does_not_wait_for_writers() {
    let folder = Folder::create();
    let session = inserted(&folder.open().await).await;
    let writer = folder.pool().await;
    let store = folder
        .reopen(Peppers::new([1; 32]).or(persistent_store::PEPPER))
        .await;
    let transaction = writer.begin_with("BEGIN IMMEDIATE").await.expect("begun");
    let asked = Instant::now();
    for _ in 0..3 {
        let found = store.find(&session.token).await.expect("an answer");
        assert_eq!(found.as_ref(), Some(&session));
    }
    assert!(
        asked.elapsed() < Duration::from_secs(2),
        "{:?}",
        asked.elapsed()
    );
    transaction.rollback().await.expect("ended");
}

#[test]
fn a_store_may_outlive_its_runtime() {
    let folder = Folder::create();
    let runtime = tokio::runtime::Runtime::new().expect("a runtime");
    let store = runtime.block_on(async {
        let store = folder.open().await;
        let session = inserted(&store).await;
        for _ in 0..2 {
            store.find(&session.token).await.expect("found");
        }
        store
    });
    drop(runtime);
    drop(store);
}

#[tokio::test]
async fn a_damaged_row_is_named() {
    let folder = Folder::create();
    let store = folder.open().await;
    let session = inserted(&store).await;
    let pool = folder.pool().await;
    for (damage, column) in [
        (
            "UPDATE customer_session_customers SET metadata = '{\"a\":'",
            "metadata",
        ),
        (
            "UPDATE customer_session_customers SET metadata = '{}', tax_id = '[1]'",
            "tax_id",
        ),
        (
            "UPDATE customer_session_customers SET tax_id = NULL, deleted_at = 9223372036854775807",
            "deleted_at",
        ),
    ] {
        sqlx::query(damage).execute(&pool).await.expect("damaged");
        let says = [session.id.as_str(), column];
        assert_error(
            store.find(&session.token).await,
            StoreErrorKind::Corrupt,
            &says,
        );
    }
    // Written by a later release, and perhaps a restriction.
    let damage = "UPDATE customer_sessions SET details = '{\"tenant\": \"x\"}'";
    sqlx::query(damage).execute(&pool).await.expect("damaged");
    let says = [session.id.as_str(), "details"];
    assert_error(
        store.summaries(&session.customer_id).await,
        StoreErrorKind::Corrupt,
        &says,
    );
    let damage = "UPDATE customer_sessions SET details = NULL, expires_at = 9223372036854775807";
    sqlx::query(damage).execute(&pool).await.expect("damaged");
    let says = [session.id.as_str(), "expires_at"];
    assert_error(
        store.summaries(&session.customer_id).await,
        StoreErrorKind::Corrupt,
        &says,
    );
}

#[tokio::test]
async fn an_unusable_database_is_named_in_the_error() {
    let unavailable = StoreErrorKind::Unavailable;
    for url in [
        "postgres://localhost/app",
        "sessions.db?mode=odd",
        "sqlite:x?nonsense=1",
    ] {
        let outcome = SqliteStore::connect(url, peppers()).await;
        assert_error(outcome, unavailable, &["sqlite:sessions.db"]);
    }
    let outcome = SqliteStore::connect("sqlite:/nowhere/at/all.db", peppers()).await;
    assert_error(outcome, unavailable, &["/nowhere/at/all.db"]);

    let folder = Folder::create();
    let store = SqliteStore::connect(&folder.url(), peppers()).await;
    let store = store.expect("opened");
    let session = persistent_store::session(&store, "cus_1");
    assert_error(
        store.find(&session.token).await,
        unavailable,
        &["migrate()"],
    );
    assert_error(store.add(&session).await, unavailable, &["migrate()"]);
    store.migrate().await.expect("migrated");
    store.add(&session).await.expect("it works once migrated");

    fs::write(
        folder.0.join("other.db"),
        "this is not a database, it only looks like one",
    )
    .expect("written");
    let url = format!("sqlite:{}/other.db", folder.0.display());
    let outcome = match SqliteStore::connect(&url, peppers()).await {
        Ok(store) => store.migrate().await,
        Err(error) => Err(error),
    };
    assert_error(outcome, unavailable, &["not a database"]);
}

#[tokio::test]
async fn purging_believes_the_machines_clock() {
    let folder = Folder::create();
    let store = SqliteStore::connect(&folder.url(), peppers()).await;
    let store = store.expect("opened");
    store.migrate().await.expect("migrated");
    persistent_store::purging_believes_the_databases_clock(&store).await;
    persistent_store::families_are_purged(&store).await;
}

#[tokio::test]
async fn what_a_revocation_leaves_behind_is_purged_in_steps() {
    let folder = Folder::create();
    let (store, pool) = (folder.open().await, folder.pool().await);
    let customer = unique("cus");
    for _ in 0..5 {
        let session = persistent_store::session(&store, &customer);
        store.add(&session).await.expect("inserted");
    }
    let other = inserted(&store).await;
    let revoked = store.end_customer(&customer.as_str().into()).await;
    assert!(revoked.expect("revoked"));
    let after = persistent_store::session(&store, &customer);
    store.add(&after).await.expect("inserted");
    let count = async |query: &'static str| -> i64 {
        let count = sqlx::query_scalar(query).bind(&customer);
        count.fetch_one(&pool).await.expect("a count")
    };
    let rows = "SELECT count(*) FROM customer_sessions WHERE customer_id = $1";
    let flagged =
        "SELECT count(*) FROM customer_session_epochs WHERE has_remains AND customer_id = $1";
    let purge = async |limit| {
        let purged = store.purge_expired(chrono::Utc::now(), limit).await;
        purged.expect("purged")
    };
    assert_eq!(count(rows).await, 6);
    assert_eq!(purge(3).await, 3);
    assert_eq!((count(rows).await, count(flagged).await), (3, 1));
    // A full step does not look whether something is left.
    assert_eq!(purge(2).await, 2);
    assert_eq!((count(rows).await, count(flagged).await), (1, 1));
    assert_eq!(purge(2).await, 0);
    assert_eq!((count(rows).await, count(flagged).await), (1, 0));
    for live in [&after, &other] {
        let found = store.find(&live.token).await.expect("an answer");
        assert!(found.is_some());
    }
}
