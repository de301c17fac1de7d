//! PostgreSQL behind PgBouncer, in each of its modes.

use std::{
    sync::Arc,
    time::{Duration, Instant},
};

use customer_session::{
    Invalidation, SessionRegistry as _, SessionStore as _, StoreErrorKind,
    store::{PostgresStore, PostgresStoreBuilder},
};
use sqlx::{
    PgPool,
    postgres::{PgConnectOptions, PgPoolOptions},
};
use tokio::task::JoinSet;

use crate::{
    invalidations::receive_until,
    persistent_store::{self, assert_error, inserted, peppers, session, text, unique},
};
use test_support::{
    RegistryExt as _,
    servers::{self, Server},
    wire::Wire,
};

const UNAVAILABLE: StoreErrorKind = StoreErrorKind::Unavailable;
const TRANSACTION: (&str, &str) = ("pool_mode", "transaction");

/// The error that names the setting.
const SAYS: [&str; 2] = ["pooler in transaction mode", "transaction_pooling(true)"];

/// A server, and PgBouncer in front of it.
struct Servers {
    postgres: Server,
    pgbouncer: Server,
}

impl Servers {
    fn new(settings: &[(&str, &str)]) -> Option<Self> {
        let Some(postgres) = Server::postgres() else {
            servers::missing("PostgreSQL");
            return None;
        };
        let Some(pgbouncer) = Server::pgbouncer(&postgres, settings) else {
            servers::missing("PgBouncer");
            return None;
        };
        Some(Self {
            postgres,
            pgbouncer,
        })
    }

    /// Opens a store behind the pooler that is set up for it.
    async fn open(&self) -> PostgresStore {
        let store = builder().connect(&self.pgbouncer.url()).await;
        let store = store.expect("connected");
        store.migrate().await.expect("migrated");
        store
    }

    /// Opens a pool of the application's own behind the pooler.
    async fn pool(&self) -> PgPool {
        let options: PgConnectOptions = self.pgbouncer.url().parse().expect("a URL");
        let pool = PgPool::connect_with(options.extra_float_digits(None)).await;
        pool.expect("connected")
    }
}

fn builder() -> PostgresStoreBuilder {
    PostgresStore::builder(peppers())
        .transaction_pooling(true)
        .schema("public")
}

#[tokio::test(flavor = "multi_thread")]
async fn the_store_keeps_the_contract_behind_a_pooler_in_transaction_mode() {
    let Some(servers) = Servers::new(&[TRANSACTION, ("default_pool_size", "3")]) else {
        return;
    };
    persistent_store::keeps_the_contract(servers.open().await).await;
    let pool = servers.pool().await;
    let store = builder().build(pool).expect("built");
    persistent_store::keeps_the_contract(store).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn rotations_and_revocations_meet_behind_a_pooler_in_transaction_mode() {
    let Some(servers) = Servers::new(&[TRANSACTION, ("default_pool_size", "4")]) else {
        return;
    };
    let store = Arc::new(servers.open().await);
    persistent_store::revoking_a_customer_ends_rotations(Arc::clone(&store)).await;
    persistent_store::rotations_have_one_winner(Arc::clone(&store)).await;
    persistent_store::purging_spares_lookups(store).await;
}

/// Clients outnumber the connections of the server, so that each statement meets those of others.
#[tokio::test(flavor = "multi_thread")]
async fn no_statement_runs_in_place_of_another() {
    let Some(servers) = Servers::new(&[TRANSACTION, ("default_pool_size", "2")]) else {
        return;
    };
    let store = servers.open().await;
    let mut tasks = JoinSet::new();
    for _ in 0..8 {
        let store = store.clone();
        tasks.spawn(async move {
            for _ in 0..15 {
                let session = inserted(&store).await;
                let found = store.find(&session.token).await.expect("an answer");
                assert_eq!(found.as_ref(), Some(&session));
                let listed = store.summaries(&session.customer_id).await;
                assert_eq!(listed.expect("a list").len(), 1);
                assert!(store.end(&session.id).await.expect("an answer"));
                assert_eq!(store.find(&session.token).await.expect("an answer"), None);
            }
        });
    }
    let mut done = 0;
    while let Some(task) = tasks.join_next().await {
        task.expect("no wrong answer");
        done += 15 * 5;
    }
    assert_eq!(done, 600);
}

#[tokio::test]
async fn a_pooler_in_transaction_mode_is_refused_unless_the_store_is_set_up_for_it() {
    let in_turn = ("server_round_robin", "1");
    for settings in [
        &[("default_pool_size", "1")][..],
        &[("default_pool_size", "2"), in_turn],
        &[("default_pool_size", "5"), in_turn],
        &[],
    ] {
        let settings: Vec<_> = settings.iter().copied().chain([TRANSACTION]).collect();
        let Some(servers) = Servers::new(&settings) else {
            return;
        };
        // The tables are there, so that nothing else is wrong.
        let direct = PostgresStore::connect(&servers.postgres.url(), peppers()).await;
        direct
            .expect("connected")
            .migrate()
            .await
            .expect("migrated");

        let url = servers.pgbouncer.url();
        let outcome = PostgresStore::connect(&url, peppers()).await;
        assert_error(outcome, UNAVAILABLE, &SAYS);
        let options: PgConnectOptions = url.parse().expect("a URL");
        let outcome = PostgresStore::builder(peppers())
            .connect_with(options)
            .await;
        assert_error(outcome, UNAVAILABLE, &SAYS);

        let pool = servers.pool().await;
        let store = PostgresStore::new(pool, peppers());
        let session = session(&store, &unique("cus"));
        assert_error(store.find(&session.token).await, UNAVAILABLE, &SAYS);
        assert_error(store.add(&session).await, UNAVAILABLE, &SAYS);
        assert_error(store.end(&session.id).await, UNAVAILABLE, &SAYS);
        assert_error(store.check().await, UNAVAILABLE, &SAYS);
        assert_error(store.migrate().await, UNAVAILABLE, &SAYS);
    }
}

/// Others keep the pooler's connections busy while the store looks.
#[tokio::test(flavor = "multi_thread")]
async fn a_busy_pooler_in_transaction_mode_is_refused() {
    let Some(servers) = Servers::new(&[TRANSACTION, ("default_pool_size", "3")]) else {
        return;
    };
    let pool = servers.pool().await;
    let mut others = JoinSet::new();
    for _ in 0..6 {
        let pool = pool.clone();
        others.spawn(async move {
            loop {
                let slow = sqlx::raw_sql("SELECT pg_sleep(0.01)").execute(&pool);
                slow.await.expect("done");
            }
        });
    }
    for _ in 0..10 {
        let outcome = PostgresStore::connect(&servers.pgbouncer.url(), peppers()).await;
        assert_error(outcome, UNAVAILABLE, &SAYS);
    }
}

/// The pooler comes between while the store runs: it was in session mode before.
#[tokio::test]
async fn a_check_notices_that_a_connection_has_changed_its_process() {
    let Some(servers) = Servers::new(&[]) else {
        return;
    };
    let one = PgPoolOptions::new().max_connections(1);
    let options: PgConnectOptions = servers.pgbouncer.url().parse().expect("a URL");
    let options = options.extra_float_digits(None);
    let pool = one.connect_with(options).await.expect("connected");
    let store = PostgresStore::new(pool, peppers());
    store.migrate().await.expect("migrated");
    store.check().await.expect("all is well");

    let round_robin = [TRANSACTION, ("server_round_robin", "1")];
    servers.pgbouncer.configure(&round_robin);
    // Two connections of the server, which take turns.
    let other = servers.pool().await;
    let both = [other.begin().await, other.begin().await];
    drop(both);
    let deadline = Instant::now() + Duration::from_secs(20);
    let outcome = loop {
        let outcome = store.check().await;
        if outcome.is_err() || Instant::now() > deadline {
            break outcome;
        }
    };
    assert_error(outcome, UNAVAILABLE, &SAYS);
    // Connections of that time may be left when the pooler is in session mode again.
    let session_mode = [("pool_mode", "session"), ("server_round_robin", "0")];
    servers.pgbouncer.configure(&session_mode);
    drop(other);
    let begun = Instant::now();
    while let Err(error) = PostgresStore::connect(&servers.pgbouncer.url(), peppers()).await {
        let waited = begun.elapsed();
        assert!(waited < Duration::from_secs(20), "{}", text(&error));
    }
    let says = [SAYS[0], SAYS[1], "start the service again"];
    assert_error(store.check().await, UNAVAILABLE, &says);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_pooler_in_session_mode_needs_no_setting() {
    let Some(servers) = Servers::new(&[]) else {
        return;
    };
    let url = servers.pgbouncer.url();
    let builder = PostgresStore::builder(peppers()).max_connections(4);
    let store = builder.connect(&url).await.expect("connected");
    store.migrate().await.expect("migrated");
    store.check().await.expect("all is well");
    let session = inserted(&store).await;
    let found = store.find(&session.token).await.expect("an answer");
    assert_eq!(found.as_ref(), Some(&session));
    assert!(store.end(&session.id).await.expect("an answer"));

    let store = PostgresStore::new(servers.pool().await, peppers());
    store.check().await.expect("all is well");
    let session = inserted(&store).await;
    assert!(store.end(&session.id).await.expect("an answer"));
}

/// Named statements, and messages outside transactions, are what poolers mix up.
#[tokio::test(flavor = "multi_thread")]
async fn behind_a_pooler_every_statement_is_unnamed_and_in_a_transaction() {
    let Some(server) = Server::postgres() else {
        return servers::missing("PostgreSQL");
    };
    let wire = Wire::new(server.port).await;
    let port = wire.port;
    let url = format!("postgres://tests@127.0.0.1:{port}/postgres?sslmode=disable");
    let store = builder().connect(&url).await.expect("connected");
    store.migrate().await.expect("migrated");
    persistent_store::keeps_the_contract(store.clone()).await;
    store.check().await.expect("all is well");
    store
        .purge_expired(chrono::Utc::now(), 10)
        .await
        .expect("purged");
    store.purge_customers(None, 10).await.expect("purged");
    let parsed = wire.parsed();
    assert!(parsed.len() > 1000, "{} statements", parsed.len());
    for statement in &parsed {
        assert!(!statement.has_name, "{}", statement.text);
        assert!(statement.in_transaction, "{}", statement.text);
    }

    // The same proxy sees names where they are allowed.
    let store = PostgresStore::connect(&url, peppers()).await;
    inserted(&store.expect("connected")).await;
    let named = wire.parsed().into_iter().filter(|parsed| parsed.has_name);
    assert!(named.count() > 0);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_source_hears_behind_a_pooler_in_transaction_mode() {
    let Some(servers) = Servers::new(&[TRANSACTION, ("default_pool_size", "3")]) else {
        return;
    };
    let store = servers.open().await;
    let mut source = store.invalidations().await.expect("it listens");
    receive_until(&mut source, Invalidation::All).await;
    for _ in 0..20 {
        let one = inserted(&store).await;
        assert!(store.end(&one.id).await.expect("revoked"));
        receive_until(&mut source, Invalidation::Session(one.id)).await;
    }
}

/// The driver sends it unless told otherwise, and PgBouncer refuses it.
#[tokio::test]
async fn no_startup_parameter_is_sent_that_poolers_refuse() {
    let Some(servers) = Servers::new(&[]) else {
        return;
    };
    let plain = PgPool::connect(&servers.pgbouncer.url()).await;
    let plain = plain.expect_err("this test is about a parameter that is refused");
    assert!(plain.to_string().contains("extra_float_digits"), "{plain}");

    let store = PostgresStore::connect(&servers.pgbouncer.url(), peppers()).await;
    let store = store.expect("connected");
    store.migrate().await.expect("migrated");
    let listening = tokio::time::timeout(Duration::from_secs(20), store.invalidations());
    drop(listening.await.expect("in time").expect("it listens"));
    let pool = servers.pool().await;
    // An application's options, with the parameter.
    pool.set_connect_options(servers.pgbouncer.url().parse().expect("a URL"));
    let store = PostgresStore::new(pool, peppers());
    drop(store.invalidations().await.expect("it listens"));
}

/// A search path outlives the transaction of the client that has set it, and reaches the next one.
#[tokio::test(flavor = "multi_thread")]
async fn another_clients_search_path_leads_to_no_other_tables() {
    let Some(servers) = Servers::new(&[TRANSACTION, ("default_pool_size", "2")]) else {
        return;
    };
    let outcome = PostgresStore::builder(peppers())
        .transaction_pooling(true)
        .connect(&servers.pgbouncer.url())
        .await;
    let says = ["transaction_pooling(true)", "schema(\"public\")"];
    assert_error(outcome, UNAVAILABLE, &says);

    let owner = PgPool::connect(&servers.postgres.url())
        .await
        .expect("connected");
    let schema = "CREATE SCHEMA tenant";
    sqlx::raw_sql(schema)
        .execute(&owner)
        .await
        .expect("created");
    let tenant = PostgresStore::builder(peppers()).schema("tenant");
    let tenant = tenant
        .connect(&servers.postgres.url())
        .await
        .expect("connected");
    tenant.migrate().await.expect("migrated");
    let store = servers.open().await;
    let mut source = store.invalidations().await.expect("it listens");
    receive_until(&mut source, Invalidation::All).await;
    let one = inserted(&store).await;
    let other = servers.pool().await;
    // Each on one of the two connections of the server.
    let both = [other.begin().await, other.begin().await];
    for transaction in both {
        let mut transaction = transaction.expect("begun");
        let leak = sqlx::raw_sql("SET search_path TO tenant");
        leak.execute(&mut *transaction).await.expect("set");
        transaction.commit().await.expect("committed");
    }
    let shown = sqlx::raw_sql("SELECT current_schema()::text");
    let shown = shown.fetch_one(&other).await.expect("an answer");
    let shown: String = sqlx::Row::get(&shown, 0);
    assert_eq!(shown, "tenant", "it lasts");
    for _ in 0..3 {
        assert!(store.find(&one.token).await.expect("an answer").is_some());
    }
    assert!(store.end(&one.id).await.expect("revoked"));
    receive_until(&mut source, Invalidation::Session(one.id)).await;
}
