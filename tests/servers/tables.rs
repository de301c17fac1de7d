//! The tables of the SQL stores: how they come about, beside what else is in a database, through
//! upgrades, and for roles with few privileges.

use std::{future::Future, time::Duration};

use customer_session::{
    CustomerData, CustomerSessions, Invalidation, SessionRegistry, SessionStore as _, SessionUse,
    StoreErrorKind,
    store::{Peppers, PostgresInvalidations, PostgresStore, SqliteStore},
};
use sqlx::{Executor as _, PgPool, SqlitePool, sqlite::SqliteConnectOptions};

use crate::{
    invalidations::receive_until,
    persistent_store::{self, assert_error, inserted, peppers, unique},
};
use test_support::{
    RegistryExt as _,
    servers::{self, Server},
};

const UNAVAILABLE: StoreErrorKind = StoreErrorKind::Unavailable;

/// A later migration, made up: it expands the tables. A release that knows version 1 goes on working.
const EXPANDED: &str = "ALTER TABLE customer_sessions ADD COLUMN label text; \
     INSERT INTO customer_session_schema (version, oldest_reader) VALUES (2, 1)";

/// And one that contracts them.
const CONTRACTED: &str =
    "INSERT INTO customer_session_schema (version, oldest_reader) VALUES (3, 2)";

fn postgres() -> Option<Server> {
    let server = Server::postgres();
    if server.is_none() {
        servers::missing("PostgreSQL");
    }
    server
}

async fn connected(url: &str) -> PostgresStore {
    let store = PostgresStore::connect(url, peppers()).await;
    store.expect("connected")
}

/// Opens a new database in memory, for one connection.
async fn in_memory() -> (SqlitePool, SqliteStore) {
    let options: SqliteConnectOptions = "sqlite::memory:".parse().expect("a URL");
    let one = sqlx::sqlite::SqlitePoolOptions::new().max_connections(1);
    let pool = one.connect_with(options).await.expect("opened");
    (pool.clone(), SqliteStore::new(pool, peppers()))
}

#[tokio::test]
async fn a_release_works_with_the_tables_of_the_next() {
    let (pool, store) = in_memory().await;
    store.migrate().await.expect("migrated");
    sqlx::raw_sql(EXPANDED).execute(&pool).await.expect("done");
    let old = SqliteStore::new(pool.clone(), peppers());
    old.migrate().await.expect("nothing to be done");
    inserted(&old).await;
    sqlx::raw_sql(CONTRACTED)
        .execute(&pool)
        .await
        .expect("done");
    let old = SqliteStore::new(pool, peppers());
    let says = ["version 3", "knows version 2", "newer release"];
    assert_error(old.migrate().await, UNAVAILABLE, &says);
    assert_error(old.check().await, UNAVAILABLE, &says);
    let token = persistent_store::session(&old, "cus_1").token;
    assert_error(old.find(&token).await, UNAVAILABLE, &says);

    let Some(server) = postgres() else { return };
    let pool = PgPool::connect(&server.url()).await.expect("connected");
    let store = connected(&server.url()).await;
    store.migrate().await.expect("migrated");
    pool.execute(EXPANDED).await.expect("done");
    let old = connected(&server.url()).await;
    old.migrate().await.expect("nothing to be done");
    inserted(&old).await;
    pool.execute(CONTRACTED).await.expect("done");
    let old = connected(&server.url()).await;
    assert_error(old.migrate().await, UNAVAILABLE, &says);
    assert_error(old.check().await, UNAVAILABLE, &says);
    assert_error(old.find(&token).await, UNAVAILABLE, &says);
}

#[tokio::test]
async fn what_was_applied_by_hand_counts() {
    let (pool, store) = in_memory().await;
    for sql in SqliteStore::MIGRATIONS {
        sqlx::raw_sql(*sql).execute(&pool).await.expect("applied");
    }
    store.migrate().await.expect("nothing to be done");
    inserted(&store).await;

    let Some(server) = postgres() else { return };
    let pool = PgPool::connect(&server.url()).await.expect("connected");
    for sql in PostgresStore::MIGRATIONS {
        sqlx::raw_sql(*sql).execute(&pool).await.expect("applied");
    }
    let store = connected(&server.url()).await;
    store.migrate().await.expect("nothing to be done");
    inserted(&store).await;
    let changed = "UPDATE customer_session_schema SET checksum = 'of other SQL'";
    pool.execute(changed).await.expect("changed");
    let says = ["version 1", "other SQL", "customer_session_schema"];
    assert_error(store.check().await, UNAVAILABLE, &says);
    assert_error(store.migrate().await, UNAVAILABLE, &says);
}

/// What the guide grants to the role of a running service.
const GRANTS: &str = "CREATE ROLE service LOGIN; \
     GRANT USAGE ON SCHEMA auth TO service; \
     GRANT SELECT, INSERT, UPDATE, DELETE ON ALL TABLES IN SCHEMA auth TO service; \
     ALTER DEFAULT PRIVILEGES IN SCHEMA auth \
     GRANT SELECT, INSERT, UPDATE, DELETE ON TABLES TO service";

#[tokio::test]
async fn a_role_that_reads_and_writes_rows_is_enough() {
    let Some(server) = postgres() else { return };
    let owner = PgPool::connect(&server.url()).await.expect("connected");
    owner.execute("CREATE SCHEMA auth").await.expect("created");
    let in_auth = |url: String| async move {
        let builder = PostgresStore::builder(peppers()).schema("auth");
        builder.connect(&url).await.expect("connected")
    };
    in_auth(server.url())
        .await
        .migrate()
        .await
        .expect("migrated");
    owner.execute(GRANTS).await.expect("granted");

    let url = server.url().replace("tests@", "service@");
    assert_ne!(url, server.url(), "another role");
    let store = in_auth(url.clone()).await;
    store.migrate().await.expect("nothing to be done");
    let source = store.invalidations().await.expect("it listens");
    drop(source);
    let sessions = CustomerSessions::builder(store.clone()).build();
    let session = inserted(&store).await;
    let rotated = sessions
        .rotate(&session.token, Duration::from_secs(60))
        .await;
    let rotated = rotated.expect("rotated").expect("live");
    let now = chrono::Utc::now();
    let used = SessionUse::new(rotated.id.clone(), rotated.customer_id.clone(), now);
    store.touch(&[used]).await.expect("recorded");
    let found = store.find(&rotated.token).await.expect("an answer");
    assert!(found.expect("live").details.last_used_at.is_some());
    assert!(sessions.revoke(&rotated.id).await.expect("revoked"));
    sessions
        .revoke_customer(&session.customer_id)
        .await
        .expect("revoked");
    sessions
        .update_customer(&session.customer)
        .await
        .expect("updated");
    sessions.revoke_all().await.expect("revoked");
    store
        .purge_expired(chrono::Utc::now(), 10)
        .await
        .expect("purged");

    // So it may with the tables of a later release.
    let later = "CREATE TABLE auth.customer_session_later (id int)";
    owner.execute(later).await.expect("created");
    let service = PgPool::connect(&url).await.expect("connected");
    let insert = "INSERT INTO auth.customer_session_later VALUES (1)";
    service.execute(insert).await.expect("inserted");

    // It may create no tables, and is told so.
    owner.execute("CREATE SCHEMA other").await.expect("created");
    let grant = "GRANT USAGE ON SCHEMA other TO service";
    owner.execute(grant).await.expect("granted");
    let builder = PostgresStore::builder(peppers()).schema("other");
    let store = builder.connect(&url).await.expect("connected");
    assert_error(store.migrate().await, UNAVAILABLE, &["privilege"]);
}

#[tokio::test(flavor = "multi_thread")]
async fn tables_of_the_application_are_left_alone() {
    let Some(server) = postgres() else { return };
    let pool = PgPool::connect(&server.url()).await.expect("connected");
    // In the schema that the search path leads to: one name of theirs, and one that is ours.
    let theirs = "CREATE TABLE customers (id int PRIMARY KEY, what text); \
         CREATE TABLE customer_sessions (id int PRIMARY KEY); \
         INSERT INTO customer_sessions VALUES (1); CREATE SCHEMA \"Auth-2\"";
    pool.execute(theirs).await.expect("created");
    let store = connected(&server.url()).await;
    let says = ["exist already", "schema"];
    assert_error(store.migrate().await, UNAVAILABLE, &says);

    let builder = PostgresStore::builder(peppers()).schema("Auth-2");
    let store = builder.connect(&server.url()).await.expect("connected");
    store.migrate().await.expect("migrated");
    let mut source = store.invalidations().await.expect("it listens");
    receive_until(&mut source, Invalidation::All).await;
    let session = inserted(&store).await;
    assert!(store.end(&session.id).await.expect("revoked"));
    receive_until(&mut source, Invalidation::Session(session.id)).await;
    persistent_store::keeps_the_contract(store).await;
    let left: i64 = sqlx::query_scalar("SELECT count(*) FROM public.customer_sessions")
        .fetch_one(&pool)
        .await
        .expect("a count");
    assert_eq!(left, 1);
    let ours = "SELECT count(*) FROM pg_class WHERE relnamespace = 'public'::regnamespace";
    let ours: i64 = sqlx::query_scalar(ours)
        .fetch_one(&pool)
        .await
        .expect("a count");
    assert_eq!(ours, 4, "two tables with their keys");
}

#[tokio::test]
async fn a_schema_that_will_not_do_is_named() {
    let Some(server) = postgres() else { return };
    for name in ["", "a\"b", "a'b"] {
        let builder = PostgresStore::builder(peppers()).schema(name);
        let outcome = builder.connect(&server.url()).await;
        assert_error(outcome, UNAVAILABLE, &["a schema's name"]);
    }
    let builder = PostgresStore::builder(peppers()).schema("nowhere");
    let store = builder.connect(&server.url()).await.expect("connected");
    assert_error(
        store.migrate().await,
        UNAVAILABLE,
        &["no such schema", "CREATE SCHEMA"],
    );
    assert_error(store.check().await, UNAVAILABLE, &["migrate()"]);
}

#[tokio::test]
async fn missing_triggers_are_noticed() {
    let Some(server) = postgres() else { return };
    let store = connected(&server.url()).await;
    store.migrate().await.expect("migrated");
    let pool = PgPool::connect(&server.url()).await.expect("connected");
    for (off, on) in [
        (
            "ALTER TABLE customer_sessions DISABLE TRIGGER customer_sessions_updated",
            "ALTER TABLE customer_sessions ENABLE TRIGGER customer_sessions_updated",
        ),
        (
            "ALTER TABLE customer_session_customers DISABLE TRIGGER USER",
            "ALTER TABLE customer_session_customers ENABLE TRIGGER USER",
        ),
    ] {
        pool.execute(off).await.expect("off");
        let says = ["triggers", "switched off"];
        assert_error(store.check().await, UNAVAILABLE, &says);
        assert_error(store.migrate().await, UNAVAILABLE, &says);
        let source = PostgresInvalidations::connect(&server.url()).await;
        assert_error(source, UNAVAILABLE, &says);
        pool.execute(on).await.expect("on");
        store.check().await.expect("all is well");
    }
}

#[tokio::test]
async fn a_failed_migration_changes_nothing_and_blocks_nobody() {
    let Some(server) = postgres() else { return };
    let pool = PgPool::connect(&server.url()).await.expect("connected");
    let store = connected(&server.url()).await;
    // The last of the tables is in the way.
    let in_the_way = "CREATE TABLE customer_session_peppers (id int)";
    pool.execute(in_the_way).await.expect("created");
    store.migrate().await.expect_err("the table exists already");
    let there = "SELECT to_regclass('customer_sessions') IS NULL";
    let is_gone: bool = sqlx::query_scalar(there)
        .fetch_one(&pool)
        .await
        .expect("an answer");
    assert!(is_gone);
    let away = "DROP TABLE customer_session_peppers; CREATE SCHEMA other";
    pool.execute(away).await.expect("dropped");

    let other = PostgresStore::builder(peppers()).schema("other");
    let other = other.connect(&server.url()).await.expect("connected");
    let migrated = tokio::time::timeout(Duration::from_secs(20), other.migrate()).await;
    migrated.expect("it does not wait").expect("migrated");
    for _ in 0..3 {
        let migrated = tokio::time::timeout(Duration::from_secs(20), store.migrate()).await;
        migrated.expect("nor does this").expect("migrated");
    }
}

#[tokio::test]
async fn connections_carry_the_name_of_the_application_and_are_counted() {
    let Some(server) = postgres() else { return };
    let builder = PostgresStore::builder(peppers());
    let name = unique("api");
    let builder = builder.max_connections(2).application_name(&name);
    let store = builder.connect(&server.url()).await.expect("connected");
    store.migrate().await.expect("migrated");
    let session = inserted(&store).await;
    let many = (0..50).map(|_| store.find(&session.token));
    let found = futures_util::future::join_all(many).await;
    assert!(found.iter().all(|found| found.is_ok()));
    // A change finds a connection, although lookups keep one at hand.
    assert!(store.end(&session.id).await.expect("revoked"));
    let pool = PgPool::connect(&server.url()).await.expect("connected");
    let count = "SELECT count(*) FROM pg_stat_activity WHERE application_name = $1";
    let count: i64 = sqlx::query_scalar(count)
        .bind(&name)
        .fetch_one(&pool)
        .await
        .expect("a count");
    assert!((1..=2).contains(&count), "{count} connections");
}

/// What an application spawns must be `Send`.
#[test]
fn all_futures_may_be_spawned() {
    fn spawned(_: impl Future + Send) {}
    #[allow(clippy::unwrap_used, unused)]
    fn all(sqlite: SqliteStore, postgres: PostgresStore, url: &'static str) {
        spawned(async move {
            sqlite.migrate().await;
            sqlite.check().await;
            SqliteStore::connect(url, Peppers::none()).await;
        });
        spawned(async move {
            postgres.migrate().await;
            postgres.check().await;
            postgres.invalidations().await;
            PostgresStore::connect(url, Peppers::none()).await;
            PostgresInvalidations::connect(url).await;
        });
    }
    let _ = all;
}

/// Such as an import from elsewhere writes.
#[tokio::test]
async fn rows_without_an_end_and_a_family_are_read() {
    let (pool, store) = in_memory().await;
    store.migrate().await.expect("migrated");
    let rows = "INSERT INTO customer_session_customers (id, organization_id, created_at, name) \
         VALUES ('cus_1', 'org_1', 0, 'Jane'); \
         INSERT INTO customer_session_epochs (customer_id) VALUES ('cus_1'); \
         INSERT INTO customer_sessions (id, token_hash, customer_id, created_at, expires_at) \
         VALUES ('ses_old', zeroblob(32), 'cus_1', 0, 4000000000000000)";
    sqlx::raw_sql(rows).execute(&pool).await.expect("inserted");
    let listed = store.summaries(&"cus_1".into()).await.expect("a list");
    assert_eq!(listed.len(), 1);
    assert_eq!(listed[0].details.ends_at, None);
    let new = persistent_store::session(&store, "cus_1");
    let replaced = store.swap(&"ses_old".into(), &new).await;
    assert!(replaced.expect("replaced").is_some());
    assert!(store.end(&"ses_old".into()).await.expect("revoked"));
    assert_eq!(store.find(&new.token).await.expect("an answer"), None);
}

async fn purge_customers(store: &impl SessionRegistry) {
    let mut after = None;
    loop {
        let next = store.purge_customers(after.as_ref(), 3).await;
        after = next.expect("purged");
        if after.is_none() {
            return;
        }
    }
}

/// Inserts a customer of each kind, purges, and returns the rows that must be left.
async fn forgets_whom_it_may(store: &impl SessionRegistry) -> [(String, String); 2] {
    let [live, gone, deleted] = [(); 3].map(|()| persistent_store::session(store, &unique("cus")));
    for session in [&live, &gone, &deleted] {
        store.add(session).await.expect("inserted");
    }
    let mut data = CustomerData::clone(&deleted.customer);
    data.email = Some("jane@example.com".to_owned());
    data.deleted_at = Some(chrono::Utc::now());
    let updated = store.update_customer(&data.into()).await;
    assert!(updated.expect("updated"));
    for session in [&gone, &deleted] {
        assert!(store.end(&session.id).await.expect("revoked"));
    }
    purge_customers(store).await;
    let found = store.find(&live.token).await.expect("an answer");
    assert_eq!(found.as_ref(), Some(&live));
    let known = store.update_customer(&gone.customer).await;
    assert!(!known.expect("an answer"), "it is forgotten");
    let back = persistent_store::session(store, deleted.customer_id.as_str());
    assert_error(store.add(&back).await, StoreErrorKind::Conflict, &[]);
    let (live, deleted) = (live.customer_id, deleted.customer_id);
    let mut left = [
        (live.to_string(), "org_1".to_owned()),
        (deleted.to_string(), String::new()),
    ];
    left.sort();
    left
}

const LEFT: &str = "SELECT id, coalesce(organization_id || email || name, organization_id) \
     FROM customer_session_customers ORDER BY id";

#[tokio::test]
async fn purging_forgets_customers_and_keeps_that_they_are_deleted() {
    let (pool, store) = in_memory().await;
    store.migrate().await.expect("migrated");
    let expected = forgets_whom_it_may(&store).await;
    let left: Vec<(String, String)> = sqlx::query_as(LEFT).fetch_all(&pool).await.expect("rows");
    assert_eq!(left, expected);

    let Some(server) = postgres() else { return };
    let pool = PgPool::connect(&server.url()).await.expect("connected");
    let store = connected(&server.url()).await;
    store.migrate().await.expect("migrated");
    let expected = forgets_whom_it_may(&store).await;
    let left: Vec<(String, String)> = sqlx::query_as(LEFT).fetch_all(&pool).await.expect("rows");
    assert_eq!(left, expected);

    // Nothing of it is announced, but what comes next is.
    let other = inserted(&store).await;
    assert!(store.end(&other.id).await.expect("revoked"));
    let mut source = store.invalidations().await.expect("it listens");
    receive_until(&mut source, Invalidation::All).await;
    purge_customers(&store).await;
    let next = inserted(&store).await;
    assert!(store.end(&next.id).await.expect("revoked"));
    let heard = crate::invalidations::next(&mut source).await;
    assert_eq!(heard, Invalidation::Session(next.id).into());
}

/// A sign-in that is not committed yet, of a customer who had no session when the purge looked.
#[tokio::test(flavor = "multi_thread")]
async fn a_sign_in_under_way_is_not_purged() {
    let Some(server) = postgres() else { return };
    let pool = PgPool::connect(&server.url()).await.expect("connected");
    let store = connected(&server.url()).await;
    store.migrate().await.expect("migrated");
    for _ in 0..20 {
        let old = inserted(&store).await;
        assert!(store.end(&old.id).await.expect("revoked"));
        let new = persistent_store::session(&store, old.customer_id.as_str());
        let mut sign_in = pool.begin().await.expect("begun");
        let lock = "SELECT 1 FROM customer_session_epochs WHERE customer_id = $1 FOR NO KEY UPDATE";
        let lock = sqlx::query(lock).bind(old.customer_id.as_str());
        lock.execute(&mut *sign_in).await.expect("locked");
        let insert = "INSERT INTO customer_sessions \
             (id, token_hash, customer_id, created_at, expires_at) \
             VALUES ($1, sha256($1::bytea), $2, now(), now() + interval '1 hour')";
        let insert = sqlx::query(insert).bind(new.id.as_str());
        let insert = insert.bind(old.customer_id.as_str());
        insert.execute(&mut *sign_in).await.expect("inserted");
        let purging = tokio::spawn({
            let store = store.clone();
            async move { purge_customers(&store).await }
        });
        // It does not wait for the sign-in either, which goes on until then.
        let purged = tokio::time::timeout(Duration::from_secs(20), purging).await;
        purged.expect("in time").expect("no panic");
        sign_in.commit().await.expect("committed");
        purge_customers(&store).await;
        let left = store.summaries(&old.customer_id).await.expect("a list");
        assert_eq!(left.len(), 1, "the session is there");
    }
}

/// The search path leads to them, but they are those of another service.
#[tokio::test]
async fn tables_further_down_the_search_path_are_not_ours() {
    let Some(server) = postgres() else { return };
    let theirs = connected(&server.url()).await;
    theirs.migrate().await.expect("migrated");
    let session = inserted(&theirs).await;
    let pool = PgPool::connect(&server.url()).await.expect("connected");
    pool.execute("CREATE SCHEMA ours").await.expect("created");
    let url = format!("{}?options=-csearch_path%3Dours%2Cpublic", server.url());
    let ours = connected(&url).await;
    assert_error(ours.find(&session.token).await, UNAVAILABLE, &["migrate()"]);
    ours.migrate().await.expect("migrated");
    assert_eq!(ours.find(&session.token).await.expect("an answer"), None);
    let found = theirs.find(&session.token).await;
    assert_eq!(found.expect("an answer"), Some(session));
}

#[tokio::test]
async fn a_server_that_will_not_do_is_left_as_it_is() {
    let Some(server) = postgres() else { return };
    let level = "?options=-cdefault_transaction_isolation%3Dserializable";
    let store = connected(&format!("{}{level}", server.url())).await;
    let says = ["transactions are serializable"];
    assert_error(store.migrate().await, UNAVAILABLE, &says);
    let pool = PgPool::connect(&server.url()).await.expect("connected");
    let is_empty = "SELECT to_regclass('customer_sessions') IS NULL";
    let is_empty: bool = sqlx::query_scalar(is_empty)
        .fetch_one(&pool)
        .await
        .expect("an answer");
    assert!(is_empty, "nothing was created");
}
