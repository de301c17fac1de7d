//! What a service is told that starts with a PostgreSQL which will not do: one error each, which says
//! what to do. TLS, poolers and passwords have files of their own: `tls`, `poolers`, `passwords`.

use customer_session::{
    SessionStore as _, StoreErrorKind,
    store::{Peppers, PostgresInvalidations, PostgresStore},
};
use sqlx::{Executor as _, PgPool, postgres::PgPoolOptions};

use crate::persistent_store::{assert_error, inserted, peppers, session, text, unique};
use test_support::{
    RegistryExt as _,
    servers::{self, Server},
};

const UNAVAILABLE: StoreErrorKind = StoreErrorKind::Unavailable;

fn postgres() -> Option<Server> {
    let server = Server::postgres();
    if server.is_none() {
        servers::missing("PostgreSQL");
    }
    server
}

/// Starts a server with our tables. Returns a connection of its owner, too.
async fn with_tables() -> Option<(Server, PgPool)> {
    let server = postgres()?;
    let store = PostgresStore::connect(&server.url(), peppers()).await;
    let store = store.expect("connected");
    store.migrate().await.expect("migrated");
    let owner = PgPool::connect(&server.url()).await.expect("connected");
    Some((server, owner))
}

async fn connect(url: &str) -> Result<PostgresStore, customer_session::StoreError> {
    PostgresStore::connect(url, peppers()).await
}

/// A store over an application's pool, which `connect` has not checked. It waits for a connection as
/// briefly as the store's own pool.
async fn over_pool(url: &str) -> PostgresStore {
    let pool = PgPoolOptions::new().acquire_timeout(std::time::Duration::from_secs(1));
    PostgresStore::new(pool.connect_lazy(url).expect("a URL"), peppers())
}

/// Fails unless every method of a store refuses.
async fn assert_refuses(store: &PostgresStore, says: &[&str]) {
    let one = session(store, &unique("cus"));
    assert_error(store.check().await, UNAVAILABLE, says);
    assert_error(store.migrate().await, UNAVAILABLE, says);
    assert_error(store.find(&one.token).await, UNAVAILABLE, says);
    assert_error(store.add(&one).await, UNAVAILABLE, says);
    assert_error(store.end(&one.id).await, UNAVAILABLE, says);
    assert_error(store.summaries(&one.customer_id).await, UNAVAILABLE, says);
}

#[tokio::test]
async fn a_wrong_url() {
    for url in [
        "",
        "localhost",
        "mysql://u:hunter2@localhost/app",
        "postgres://u:hunter2@[/x",
        "postgres://u:hunter2@localhost:port/app",
        "postgres://u:hunter2@localhost/app?sslmode=sometimes",
    ] {
        for error in [
            connect(url).await.expect_err("no URL"),
            PostgresInvalidations::connect(url)
                .await
                .expect_err("no URL"),
        ] {
            let shown = format!("{} {error:?}", text(&error));
            assert!(!shown.contains("hunter2"), "{shown}");
            let says = ["postgres://user:password@host:5432/database"];
            assert_error::<()>(Err(error), UNAVAILABLE, &says);
        }
    }
}

#[tokio::test]
async fn a_server_that_does_not_answer() {
    let outcome = connect("postgres://u:hunter2@127.0.0.1:1/app").await;
    let error = outcome.expect_err("nothing listens there");
    assert!(!format!("{} {error:?}", text(&error)).contains("hunter2"));
    assert_error::<()>(Err(error), UNAVAILABLE, &["127.0.0.1:1", "refused"]);

    let Some(redis) = Server::redis() else {
        return servers::missing("Redis");
    };
    let url = format!("postgres://127.0.0.1:{}/app", redis.port);
    let place = format!("connecting to PostgreSQL at 127.0.0.1:{}", redis.port);
    let says = [&place, "no answer within 5s", "check host and port"];
    assert_error(connect(&url).await, StoreErrorKind::Timeout, &says);
}

#[tokio::test]
async fn a_database_that_does_not_exist() {
    let Some(server) = postgres() else { return };
    let url = server.url().replace("/postgres", "/nowhere");
    let says = ["no such database", "create it", "nowhere"];
    assert_error(connect(&url).await, UNAVAILABLE, &says);
    assert_refuses(&over_pool(&url).await, &says).await;
}

#[tokio::test]
async fn a_schema_that_does_not_exist() {
    let Some(server) = postgres() else { return };
    let builder = PostgresStore::builder(peppers()).schema("nowhere");
    let store = builder.connect(&server.url()).await.expect("connected");
    assert_error(store.check().await, UNAVAILABLE, &["call `migrate()`"]);
    let says = ["no such schema", "CREATE SCHEMA"];
    assert_error(store.migrate().await, UNAVAILABLE, &says);
}

#[tokio::test]
async fn tables_that_do_not_exist() {
    let Some(server) = postgres() else { return };
    let store = connect(&server.url()).await.expect("connected");
    let says = ["version 1 of the tables", "call `migrate()`", "MIGRATIONS"];
    let one = session(&store, &unique("cus"));
    assert_error(store.check().await, UNAVAILABLE, &says);
    assert_error(store.find(&one.token).await, UNAVAILABLE, &says);
    assert_error(store.add(&one).await, UNAVAILABLE, &says);
    let says = ["a table is missing", "call `migrate()`"];
    assert_error(store.invalidations().await, UNAVAILABLE, &says);
}

#[tokio::test]
async fn a_wrong_pepper() {
    let Some((server, _)) = with_tables().await else {
        return;
    };
    for (other, says) in [
        (Peppers::new([9; 32]), "another pepper than those given"),
        (Peppers::none(), "another pepper than those given"),
        (Peppers::new("short"), "shorter than 16 bytes"),
    ] {
        let store = PostgresStore::connect(&server.url(), other).await;
        assert_refuses(&store.expect("connected"), &[says]).await;
    }
}

/// A function that hides the one of the server tells a version that is not its own.
#[tokio::test]
async fn an_old_server() {
    let Some((server, owner)) = with_tables().await else {
        return;
    };
    let older = "CREATE SCHEMA older; \
         CREATE FUNCTION older.current_setting(name text) RETURNS text LANGUAGE sql AS \
         $$ SELECT CASE name WHEN 'server_version_num' THEN '120022' \
         ELSE pg_catalog.current_setting(name) END $$";
    owner.execute(older).await.expect("created");
    let url = format!("{}?options=-csearch_path%3Dolder,pg_catalog", server.url());
    let says = ["PostgreSQL 12", "13 or newer", "upgrade"];
    assert_error(connect(&url).await, UNAVAILABLE, &says);
    assert_refuses(&over_pool(&url).await, &says).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_replica() {
    let Some((mut server, _)) = with_tables().await else {
        return;
    };
    let running = connect(&server.url()).await.expect("connected");
    let existing = inserted(&running).await;
    running.find(&existing.token).await.expect("an answer");
    server.kill();
    server.add_file("standby.signal");
    server.start();
    let says = [
        "replica",
        "must be written",
        "name the primary",
        "target_session_attrs",
    ];
    assert_error(connect(&server.url()).await, UNAVAILABLE, &says);
    let allowed = PostgresStore::builder(peppers())
        .transaction_pooling(true)
        .schema("public");
    assert_error(allowed.connect(&server.url()).await, UNAVAILABLE, &says);
    assert_refuses(&over_pool(&server.url()).await, &says).await;
    // As after a failover, by a name that leads to another server now.
    assert_error(running.find(&existing.token).await, UNAVAILABLE, &says);
    assert_error(running.add(&existing).await, UNAVAILABLE, &says);

    let says = ["replica", "name the primary"];
    let source = PostgresInvalidations::connect(&server.url()).await;
    assert_error(source, UNAVAILABLE, &says);
}

#[tokio::test]
async fn missing_privileges() {
    let Some((server, owner)) = with_tables().await else {
        return;
    };
    let url = server.url().replace("tests@", "service@");
    let says = ["lacks a privilege", "USAGE", "read and write"];
    let prepare = "CREATE ROLE service LOGIN; REVOKE ALL ON SCHEMA public FROM public; \
         REVOKE CONNECT ON DATABASE postgres FROM public";
    owner.execute(prepare).await.expect("prepared");
    let says_database = ["lacks a privilege", "permission denied for database"];
    assert_error(connect(&url).await, UNAVAILABLE, &says_database);

    let grant = "GRANT CONNECT ON DATABASE postgres TO service";
    owner.execute(grant).await.expect("granted");
    let in_public = || PostgresStore::builder(peppers()).schema("public");
    let store = in_public().connect(&url).await.expect("connected");
    assert_refuses(
        &store,
        &[&says[..], &["permission denied for schema"]].concat(),
    )
    .await;

    owner
        .execute("GRANT USAGE ON SCHEMA public TO service")
        .await
        .expect("granted");
    assert_refuses(
        &store,
        &[&says[..], &["permission denied for table"]].concat(),
    )
    .await;

    // A service that only reads. What it may not do is refused when it tries.
    let grant = "GRANT SELECT ON ALL TABLES IN SCHEMA public TO service";
    owner.execute(grant).await.expect("granted");
    let existing = inserted(&connect(&server.url()).await.expect("connected")).await;
    store.check().await.expect("all is well");
    let found = store.find(&existing.token).await.expect("an answer");
    assert_eq!(found.as_ref(), Some(&existing));
    let one = session(&store, &unique("cus"));
    assert_error(store.add(&one).await, UNAVAILABLE, &says);
    assert_error(store.end(&existing.id).await, UNAVAILABLE, &says);
    let ended = store.end_customer(&existing.customer_id).await;
    assert_error(ended, UNAVAILABLE, &says);
    assert_error(store.invalidations().await, UNAVAILABLE, &says);

    // So is a role that the server keeps from writing.
    let read_only = "GRANT ALL ON ALL TABLES IN SCHEMA public TO service; \
         ALTER ROLE service SET default_transaction_read_only = on";
    owner.execute(read_only).await.expect("altered");
    let store = in_public().connect(&url).await.expect("connected");
    let says = ["nothing can be written here", "role that may write"];
    assert_error(store.add(&one).await, UNAVAILABLE, &says);
    assert_error(store.invalidations().await, UNAVAILABLE, &says);
}

#[tokio::test]
async fn too_many_connections() {
    let Some(server) = Server::postgres_with(&["max_connections=5"], &[]) else {
        return servers::missing("PostgreSQL");
    };
    let ordinary = PgPool::connect(&server.url()).await.expect("connected");
    let role = "CREATE ROLE service LOGIN CONNECTION LIMIT 1";
    ordinary.execute(role).await.expect("created");
    let url = server.url().replace("tests@", "service@");
    let one = PgPool::connect(&url).await.expect("connected");
    let _held = one.acquire().await.expect("acquired");
    let says = ["no connection left", "max_connections"];
    assert_error(connect(&url).await, UNAVAILABLE, &says);
}
