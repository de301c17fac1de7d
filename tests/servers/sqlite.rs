//! Sessions in an SQLite file.

use std::{fs, path::PathBuf, sync::Arc};

use customer_session::{
    SessionRegistry as _, SessionStore as _, StoreErrorKind,
    store::{Peppers, SqliteStore},
};
use sqlx::{SqlitePool, sqlite::SqlitePoolOptions};

use crate::persistent_store::{self, Reopen, assert_error, inserted, peppers, unique};

/// A folder for one file, removed in the end.
struct Folder(PathBuf);

impl Folder {
    fn new() -> Self {
        let folder = std::env::temp_dir().join(unique("cst-sqlite"));
        fs::create_dir_all(&folder).expect("a folder");
        Self(folder)
    }

    fn url(&self) -> String {
        format!("sqlite:{}/sessions.db", self.0.display())
    }

    async fn open(&self) -> SqliteStore {
        let store = SqliteStore::connect(&self.url(), peppers()).await;
        let store = store.expect("opened");
        store.migrate().await.expect("migrated");
        store
    }

    /// Another connection to the file.
    async fn pool(&self) -> SqlitePool {
        SqlitePool::connect(&self.url()).await.expect("opened")
    }
}

impl Drop for Folder {
    fn drop(&mut self) {
        let _ = fs::remove_dir_all(&self.0);
    }
}

impl Reopen for Folder {
    type Store = SqliteStore;

    async fn reopen(&self, peppers: Peppers) -> SqliteStore {
        let store = SqliteStore::connect(&self.url(), peppers).await;
        let store = store.expect("opened");
        // Whether the peppers are right, the first use will tell.
        let _ = store.migrate().await;
        store
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn the_store_keeps_the_contract() {
    let folder = Folder::new();
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
async fn metadata_is_kept_or_refused() {
    let folder = Folder::new();
    let store = folder.open().await;
    persistent_store::keeps_or_refuses_metadata(&store).await;
    persistent_store::refuses_nul(&store).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn revoking_a_customer_ends_rotations() {
    let folder = Folder::new();
    persistent_store::revoking_a_customer_ends_rotations(Arc::new(folder.open().await)).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn rotations_have_one_winner() {
    let folder = Folder::new();
    let store = folder.open().await;
    persistent_store::rotations_have_one_winner(Arc::new(store)).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn changes_do_not_hinder_each_other() {
    let folder = Folder::new();
    let store = folder.open().await;
    persistent_store::changes_do_not_hinder_each_other(Arc::new(store)).await;
}

#[tokio::test]
async fn peppers_form_a_ring() {
    persistent_store::peppers_form_a_ring(&Folder::new()).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn purging_spares_lookups() {
    let folder = Folder::new();
    persistent_store::purging_spares_lookups(Arc::new(folder.open().await)).await;
}

#[tokio::test]
async fn sessions_survive_a_restart_and_no_token_is_in_the_file() {
    let folder = Folder::new();
    let store = folder.open().await;
    let session = inserted(&store).await;
    let mut bytes = Vec::new();
    for file in fs::read_dir(&folder.0).expect("files") {
        bytes.extend(fs::read(file.expect("a file").path()).expect("read"));
    }
    let is_there = |text: &str| bytes.windows(text.len()).any(|it| it == text.as_bytes());
    assert!(is_there(session.id.as_str()), "the file was read");
    assert!(!is_there(session.token.expose()));
    drop(store);

    let found = folder.open().await.find(&session.token).await;
    assert_eq!(found.expect("an answer"), Some(session));
}

/// SQLite ends the transaction by itself then, and the driver does not know.
#[tokio::test]
async fn a_store_recovers_from_a_full_disk() {
    let folder = Folder::new();
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
        if let Err(error) = store.insert(&large).await {
            break error;
        }
    };
    assert!(
        persistent_store::text(&full).contains("full"),
        "{}",
        persistent_store::text(&full)
    );
    // There is room again, on whatever connection.
    let _ = sqlx::query(limit(1_000_000)).execute(&pool).await;
    assert!(store.revoke(&session.id).await.expect("it is well again"));
}

/// What is kept under an old pepper is found all the same while somebody else writes.
#[tokio::test]
async fn a_lookup_does_not_wait_for_writers() {
    let folder = Folder::new();
    let session = inserted(&folder.open().await).await;
    let writer = folder.pool().await;
    let turned = folder
        .reopen(Peppers::new([1; 32]).or(persistent_store::PEPPER))
        .await;
    let transaction = writer.begin_with("BEGIN IMMEDIATE").await.expect("begun");
    let asked = std::time::Instant::now();
    for _ in 0..3 {
        let found = turned.find(&session.token).await.expect("an answer");
        assert_eq!(found.as_ref(), Some(&session));
    }
    assert!(
        asked.elapsed() < std::time::Duration::from_secs(2),
        "{:?}",
        asked.elapsed()
    );
    transaction.rollback().await.expect("ended");
}

#[test]
fn a_store_may_outlive_its_runtime() {
    let folder = Folder::new();
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
    let folder = Folder::new();
    let store = folder.open().await;
    let session = inserted(&store).await;
    let pool = folder.pool().await;
    for (damage, column) in [
        ("UPDATE customers SET metadata = '{\"a\":'", "metadata"),
        (
            "UPDATE customers SET metadata = '{}', tax_id = '[1]'",
            "tax_id",
        ),
        (
            "UPDATE customers SET tax_id = NULL, deleted_at = 9223372036854775807",
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
    let damage = "UPDATE customer_sessions SET expires_at = 9223372036854775807";
    sqlx::query(damage).execute(&pool).await.expect("damaged");
    let says = [session.id.as_str(), "expires_at"];
    assert_error(
        store.list(&session.customer_id).await,
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

    let folder = Folder::new();
    let store = SqliteStore::connect(&folder.url(), peppers()).await;
    let store = store.expect("opened");
    let session = persistent_store::session(&store, "cus_1");
    assert_error(
        store.find(&session.token).await,
        unavailable,
        &["migrate()"],
    );
    assert_error(store.insert(&session).await, unavailable, &["migrate()"]);
    store.migrate().await.expect("migrated");
    store.insert(&session).await.expect("it heals");

    fs::write(
        folder.0.join("other.db"),
        "this is no database, it only looks like one",
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
async fn the_application_may_run_the_migrations() {
    let folder = Folder::new();
    let options: sqlx::sqlite::SqliteConnectOptions = folder.url().parse().expect("a URL");
    let pool = SqlitePool::connect_with(options.create_if_missing(true))
        .await
        .expect("opened");
    for sql in SqliteStore::MIGRATIONS {
        sqlx::raw_sql(*sql).execute(&pool).await.expect("applied");
    }
    let store = SqliteStore::new(pool, peppers());
    let session = inserted(&store).await;
    assert_eq!(
        store.find(&session.token).await.expect("an answer"),
        Some(session)
    );
}
