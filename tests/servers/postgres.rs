//! Sessions in PostgreSQL: a throw-away server, or the one that TEST_POSTGRES_URL names.

use std::{
    sync::{Arc, OnceLock},
    time::{Duration, Instant},
};

use customer_session::{
    CustomerSessions, Invalidation, Revocation, SessionLimit, SessionRegistry as _,
    SessionStore as _, SessionUse, StoreErrorKind,
    store::{Peppers, PostgresStore},
};
use sqlx::{PgPool, Row as _, postgres::PgPoolOptions};

use crate::persistent_store::{
    self, Database, assert_error, inserted, peppers, shared_tests, unique,
};
use test_support::{
    RegistryExt as _,
    proxy::Proxy,
    servers::{self, Server},
};

/// A schema of its own on a server.
pub(crate) struct Schema {
    pub(crate) url: String,
}

impl Schema {
    async fn on(server: &str) -> Self {
        let name = unique("tests");
        let pool = PgPool::connect(server).await.expect("connected");
        let create = sqlx::AssertSqlSafe(format!("CREATE SCHEMA {name}"));
        sqlx::query(create).execute(&pool).await.expect("created");
        let separator = if server.contains('?') { '&' } else { '?' };
        Self {
            url: format!("{server}{separator}options=-csearch_path%3D{name}"),
        }
    }

    pub(crate) async fn pool(&self) -> PgPool {
        PgPool::connect(&self.url).await.expect("connected")
    }
}

impl Database for Schema {
    type Store = PostgresStore;

    async fn new() -> Option<Self> {
        static SHARED: OnceLock<Option<Server>> = OnceLock::new();
        let server = match std::env::var("TEST_POSTGRES_URL") {
            Ok(url) => url,
            Err(_) => match SHARED.get_or_init(Server::postgres) {
                Some(server) => server.url(),
                None => {
                    servers::missing("PostgreSQL");
                    return None;
                }
            },
        };
        Some(Self::on(&server).await)
    }

    async fn open(&self) -> PostgresStore {
        let store = PostgresStore::connect(&self.url, peppers()).await;
        let store = store.expect("connected");
        store.migrate().await.expect("migrated");
        store
    }

    async fn reopen(&self, peppers: Peppers) -> PostgresStore {
        let store = self.connect(peppers).await;
        // The first use shows whether the peppers are right.
        let _ = store.migrate().await;
        store
    }

    async fn connect(&self, peppers: Peppers) -> PostgresStore {
        let store = PostgresStore::connect(&self.url, peppers).await;
        store.expect("connected")
    }

    async fn forget_peppers(&self) {
        let pool = self.pool().await;
        let forget = sqlx::query("DELETE FROM customer_session_peppers");
        forget.execute(&pool).await.expect("forgotten");
        pool.close().await;
    }
}

shared_tests!(Schema);

#[tokio::test(flavor = "multi_thread")]
async fn the_store_keeps_the_contract() {
    let Some(schema) = Schema::new().await else {
        return;
    };
    persistent_store::keeps_the_contract(schema.open().await).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn several_machines_may_migrate_at_once() {
    let Some(schema) = Schema::new().await else {
        return;
    };
    let machines = (0..4).map(|_| schema.open());
    let opened = futures_util::future::join_all(machines).await;
    let session = inserted(&opened[0]).await;
    for store in opened {
        let found = store.find(&session.token).await.expect("an answer");
        assert_eq!(found.as_ref(), Some(&session));
    }
}

#[tokio::test]
async fn no_token_is_in_the_tables() {
    let Some(schema) = Schema::new().await else {
        return;
    };
    let store = schema.open().await;
    let session = inserted(&store).await;
    let rows = "SELECT s::text || c::text FROM customer_sessions s, customer_session_customers c";
    let rows: Vec<String> = sqlx::query_scalar(rows)
        .fetch_all(&schema.pool().await)
        .await
        .expect("rows");
    assert!(rows[0].contains(session.id.as_str()));
    assert!(!rows[0].contains(session.token.expose()));
}

/// What the server says about a refused row holds the whole row.
#[tokio::test]
async fn an_error_shows_no_value_of_a_row() {
    const EMAIL: &str = "jane.doe@customer.example";
    for (change, code, names) in [
        (
            "ALTER TABLE customer_session_customers ADD CONSTRAINT local_only CHECK (email LIKE '%@localhost')",
            "23514",
            ["customer_session_customers", "local_only"],
        ),
        (
            "ALTER TABLE customer_sessions ADD CONSTRAINT odd_hash CHECK (octet_length(token_hash) < 9)",
            "23514",
            ["customer_sessions", "odd_hash"],
        ),
        (
            "ALTER TABLE customer_session_customers ADD plan text NOT NULL",
            "23502",
            ["customer_session_customers", "plan"],
        ),
        (
            "CREATE TABLE users (email text PRIMARY KEY); ALTER TABLE customer_session_customers \
             ADD CONSTRAINT of_users FOREIGN KEY (email) REFERENCES users",
            "23503",
            ["customer_session_customers", "of_users"],
        ),
        (
            "INSERT INTO customer_session_customers (id, organization_id, created_at, email) \
             VALUES ('cus_other', 'org_1', now(), 'jane.doe@customer.example'); \
             ALTER TABLE customer_session_customers ADD CONSTRAINT one_each EXCLUDE USING btree (email WITH =)",
            "23P01",
            ["customer_session_customers", "one_each"],
        ),
        (
            "ALTER TABLE customer_session_customers ADD number int GENERATED ALWAYS AS (email::int) STORED",
            "22P02",
            ["left out", "22P02"],
        ),
        (
            "CREATE FUNCTION refuse() RETURNS trigger LANGUAGE plpgsql AS $$ BEGIN \
             RAISE EXCEPTION 'not %', NEW.email; END $$; CREATE TRIGGER refuse \
             BEFORE INSERT ON customer_session_customers FOR EACH ROW EXECUTE FUNCTION refuse()",
            "P0001",
            ["left out", "P0001"],
        ),
        (
            "CREATE FUNCTION refuse() RETURNS trigger LANGUAGE plpgsql AS $$ BEGIN \
             RAISE check_violation USING MESSAGE = NEW.email, HINT = NEW.email; END $$; \
             CREATE TRIGGER refuse BEFORE INSERT ON customer_session_customers \
             FOR EACH ROW EXECUTE FUNCTION refuse()",
            "23514",
            ["left out", "23514"],
        ),
    ] {
        let Some(schema) = Schema::new().await else {
            return;
        };
        let store = schema.open().await;
        let pool = schema.pool().await;
        let mut session = persistent_store::session(&store, &unique("cus"));
        let mut data = customer_session::CustomerData::clone(&session.customer);
        data.email = Some(EMAIL.to_owned());
        session.customer = data.into();
        store.add(&session).await.expect("inserted");
        let hash = "SELECT encode(token_hash, 'hex') FROM customer_sessions";
        let hash: String = sqlx::query_scalar(hash)
            .fetch_one(&pool)
            .await
            .expect("one");
        for sql in ["DELETE FROM customer_session_customers", change] {
            sqlx::raw_sql(sqlx::AssertSqlSafe(sql.to_owned()))
                .execute(&pool)
                .await
                .expect(sql);
        }

        let error = store.add(&session).await.expect_err(change);
        let mut shown = vec![format!("{error} {error:?} {error:#?}")];
        let mut source = std::error::Error::source(&error);
        while let Some(error) = source {
            shown.push(format!("{error} {error:?} {error:#?}"));
            source = error.source();
        }
        let shown = shown.join("\n");
        for name in names.into_iter().chain([code]) {
            assert!(shown.contains(name), "{name} is not in {shown}");
        }
        for secret in [EMAIL, "jane.doe", &hash[..12], session.token.expose()] {
            assert!(!shown.contains(secret), "{change}: {shown}");
        }
    }
}

#[tokio::test]
async fn a_damaged_row_is_named() {
    let Some(schema) = Schema::new().await else {
        return;
    };
    let store = schema.open().await;
    let session = inserted(&store).await;
    let pool = schema.pool().await;
    for (damage, column) in [
        (
            "UPDATE customer_session_customers SET metadata = '{\"a\": null}'",
            "metadata",
        ),
        (
            "UPDATE customer_session_customers SET metadata = '{}', billing_address = '{}'",
            "billing_address",
        ),
        // Written by a later release, and perhaps a restriction.
        (
            "WITH repaired AS (UPDATE customer_session_customers SET billing_address = NULL) \
             UPDATE customer_sessions SET details = '{\"tenant\": \"x\"}'",
            "details",
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
    // Times that the crate cannot represent are refused by the table.
    for never in ["infinity", "-infinity", "290000-01-01"] {
        let never = format!("UPDATE customer_sessions SET expires_at = '{never}'");
        let never = sqlx::query(sqlx::AssertSqlSafe(never));
        assert!(never.execute(&pool).await.is_err());
    }
}

/// Every statement that the store has prepared is planned again for a larger table.
#[tokio::test]
async fn every_statement_has_its_index() {
    let Some(schema) = Schema::new().await else {
        return;
    };
    schema.open().await;
    let one = PgPoolOptions::new().max_connections(1).connect(&schema.url);
    let pool = one.await.expect("connected");
    for fill in [
        "INSERT INTO customer_session_customers (id, organization_id, created_at) \
         SELECT 'c' || n, 'org_1', timestamptz '2030-01-01' FROM generate_series(1, 2000) n",
        "INSERT INTO customer_session_epochs (customer_id, has_remains) \
         SELECT 'c' || n, n % 20 = 0 FROM generate_series(1, 2000) n",
        "INSERT INTO customer_sessions (id, token_hash, customer_id, created_at, expires_at) \
         SELECT 's' || n, sha256(n::text::bytea), 'c' || (n % 2000 + 1), timestamptz '2030-01-01', \
         timestamptz '2030-01-01' + n * interval '1 minute' FROM generate_series(1, 20000) n",
        "INSERT INTO customer_session_rotations (id, family, customer_id, ends_at) \
         SELECT 'r' || n, 'f' || n, 'c1', timestamptz '2030-01-01' + n * interval '1 minute' \
         FROM generate_series(1, 20000) n",
        "INSERT INTO customer_session_uses (session_id, used_at) \
         SELECT 's' || n, timestamptz '2030-01-01' FROM generate_series(1, 20000) n",
        "UPDATE customer_sessions SET family = 'f' || id WHERE id LIKE '%0'",
        "UPDATE customer_sessions SET parent = 'p' || id WHERE id LIKE '%5'",
        "ANALYZE",
        "SET plan_cache_mode = force_generic_plan",
    ] {
        sqlx::query(fill).execute(&pool).await.expect("filled");
    }
    let store = PostgresStore::new(pool.clone(), peppers().or([3; 32]));
    let (old, new) = (
        inserted(&store).await,
        persistent_store::session(&store, "c1"),
    );
    store.find(&old.token).await.expect("found");
    store.swap(&old.id, &new).await.expect("replaced");
    store.update_customer(&new.customer).await.expect("updated");
    let used = SessionUse::new(new.id.clone(), new.customer_id.clone(), new.created_at);
    store.touch(&[used]).await.expect("recorded");
    store.summaries(&new.customer_id).await.expect("listed");
    store.end(&old.id).await.expect("revoked");
    let parent = inserted(&store).await;
    let mut child = persistent_store::session(&store, parent.customer_id.as_str());
    child.details.parent = Some(parent.id.clone());
    let derived = store.derive(&parent.id, &child).await.expect("derived");
    assert!(derived.is_some());
    store.end(&parent.id).await.expect("revoked");
    let others = Revocation::Others {
        customer: new.customer_id.clone(),
        keep: new.id.clone(),
    };
    store.revoke(&others).await.expect("revoked");
    let limited = persistent_store::session(&store, "c1");
    let limit = SessionLimit::end_oldest(1);
    let inserted = store.insert(&limited, Some(&limit)).await;
    inserted.expect("inserted");
    store.end_customer(&new.customer_id).await.expect("revoked");
    // The last step is not full, and so looks whether something is left.
    for purged in [10, 1] {
        let step = store.purge_expired(chrono::Utc::now(), 10).await;
        assert_eq!(step.expect("purged"), purged);
    }

    let prepared = "SELECT name, statement, cardinality(parameter_types) \
         FROM pg_prepared_statements WHERE statement LIKE '%customers%' \
         OR statement LIKE '%customer_sessions%'";
    let prepared = sqlx::query(prepared)
        .fetch_all(&pool)
        .await
        .expect("a list");
    let mut planned = 0;
    for row in prepared {
        let (name, statement): (String, String) = (row.get(0), row.get(1));
        let nulls = vec!["NULL"; row.get::<i32, _>(2).unsigned_abs() as usize].join(", ");
        if nulls.is_empty() {
            continue;
        }
        let explain = format!("EXPLAIN EXECUTE {name} ({nulls})");
        let plan: Vec<String> = sqlx::query_scalar(sqlx::AssertSqlSafe(explain))
            .persistent(false)
            .fetch_all(&pool)
            .await
            .expect("a plan");
        let plan = plan.join("\n");
        assert!(!plan.contains("Seq Scan"), "{statement}\n{plan}");
        planned += 1;
    }
    assert_eq!(planned, 20, "statements of the store");
}

#[tokio::test]
async fn what_is_missing_in_a_database_is_named_in_the_error() {
    let Some(schema) = Schema::new().await else {
        return;
    };
    let unavailable = StoreErrorKind::Unavailable;
    let store = PostgresStore::connect(&schema.url, peppers()).await;
    let store = store.expect("connected");
    let session = persistent_store::session(&store, "cus_1");
    assert_error(
        store.find(&session.token).await,
        unavailable,
        &["migrate()"],
    );
    assert_error(store.add(&session).await, unavailable, &["migrate()"]);
    store.migrate().await.expect("migrated");
    store.add(&session).await.expect("it works once migrated");

    let isolation = |level| {
        let url = format!("{}%20-cdefault_transaction_isolation%3D{level}", schema.url);
        async move {
            PostgresStore::connect(&url, peppers())
                .await
                .expect("connected")
                .check()
                .await
        }
    };
    let advice = "read%5C%20committed";
    assert_error(isolation("serializable").await, unavailable, &[advice]);
    isolation(advice).await.expect("the advice is good");
}

#[tokio::test(flavor = "multi_thread")]
async fn silently_lost_connections_are_replaced() {
    let Some(server) = Server::postgres() else {
        return servers::missing("PostgreSQL");
    };
    let schema = Schema::on(&server.url()).await;
    let proxy = Proxy::new(server.port).await;
    let url = schema
        .url
        .replace(&server.port.to_string(), &proxy.port.to_string());
    let store = PostgresStore::connect(&url, peppers())
        .await
        .expect("connected");
    store.migrate().await.expect("migrated");
    let sessions = CustomerSessions::builder(store.clone())
        .cache_ttl(Duration::ZERO)
        .build();
    let session = inserted(&store).await;
    let look_up = || {
        let (sessions, token) = (sessions.clone(), session.token.clone());
        async move { sessions.authenticate(&token).await }
    };
    // All connections are in use when they are lost, and the lookups are cancelled.
    let many = futures_util::future::join_all((0..30).map(|_| store.find(&session.token)));
    assert!(many.await.iter().all(Result::is_ok));
    proxy.freeze();
    let lost = futures_util::future::join_all((0..30).map(|_| store.find(&session.token)));
    let _ = tokio::time::timeout(Duration::from_millis(500), lost).await;

    let frozen = Instant::now();
    while look_up().await.is_err() {
        assert!(
            frozen.elapsed() < Duration::from_secs(12),
            "it does not recover"
        );
    }
    for _ in 0..20 {
        look_up().await.expect("it has recovered");
    }
    store.end(&session.id).await.expect("revoked");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_lost_connection_heals_by_itself() {
    let Some(mut server) = Server::postgres() else {
        return servers::missing("PostgreSQL");
    };
    let schema = Schema::on(&server.url()).await;
    persistent_store::heals(schema.open().await, &mut server).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_killed_server_leaves_the_old_state_or_the_new() {
    let Some(mut server) = Server::postgres() else {
        return servers::missing("PostgreSQL");
    };
    let schema = Schema::on(&server.url()).await;
    persistent_store::kills_leave_no_half(schema.open().await, &mut server).await;
}

#[tokio::test]
async fn purging_believes_the_servers_clock() {
    let Some(schema) = Schema::new().await else {
        return;
    };
    let store = schema.open().await;
    persistent_store::purging_believes_the_databases_clock(&store).await;
    persistent_store::families_are_purged(&store).await;
}

/// A rotation as the store makes it, in steps.
pub(crate) const ROTATE: [&str; 4] = [
    "SELECT 1 FROM customer_session_epochs WHERE customer_id = $1 FOR NO KEY UPDATE",
    "INSERT INTO customer_sessions \
     (id, token_hash, customer_id, epoch, created_at, expires_at, family) \
     SELECT $3, sha256($3::bytea), $1, epoch, created_at, expires_at, coalesce(family, id) \
     FROM customer_sessions WHERE id = $2",
    "INSERT INTO customer_session_rotations (id, family, customer_id, ends_at) \
     SELECT id, coalesce(family, id), customer_id, expires_at FROM customer_sessions WHERE id = $2",
    "DELETE FROM customer_sessions WHERE id = $2",
];

/// The revocation waits for a rotation under way, and must end what has come of it.
#[tokio::test(flavor = "multi_thread")]
async fn a_revocation_ends_the_successor_of_a_rotation_under_way() {
    let Some(schema) = Schema::new().await else {
        return;
    };
    let store = schema.open().await;
    let pool = schema.pool().await;
    // The session that is named is replaced while the revocation waits, or was before.
    for (was_replaced, by_owner) in [(false, false), (false, true), (true, false), (true, true)] {
        let named = inserted(&store).await;
        let mut current = named.clone();
        if was_replaced {
            current = persistent_store::session(&store, named.customer_id.as_str());
            store.swap(&named.id, &current).await.expect("replaced");
        }
        let successor = unique("ses");
        let mut rotation = pool.begin().await.expect("begun");
        for step in ROTATE {
            // Each parameter is used in each step, so that their types are known.
            let step = format!("WITH ids AS (SELECT $1::text, $2::text, $3::text) {step}");
            sqlx::query(sqlx::AssertSqlSafe(step))
                .bind(named.customer_id.as_str())
                .bind(current.id.as_str())
                .bind(&successor)
                .execute(&mut *rotation)
                .await
                .expect("a step");
        }
        let customer = named.customer_id.clone();
        let session = named.id.clone();
        let what = match by_owner {
            true => Revocation::Owned { customer, session },
            false => Revocation::Session(session),
        };
        let revocation = tokio::spawn({
            let (store, what) = (store.clone(), what.clone());
            async move { store.revoke(&what).await }
        });
        let waiting = "SELECT count(*) FROM pg_stat_activity \
             WHERE wait_event_type = 'Lock' AND datname = current_database()";
        let deadline = Instant::now() + Duration::from_secs(20);
        while sqlx::query_scalar::<_, i64>(waiting)
            .fetch_one(&pool)
            .await
            .expect("a count")
            == 0
        {
            assert!(Instant::now() < deadline, "{what:?} does not wait");
        }
        rotation.commit().await.expect("committed");
        let revoked = revocation.await.expect("no panic").expect("revoked");
        assert!(revoked.any, "{what:?}, replaced before: {was_replaced}");
        let ended = Invalidation::Session(successor.as_str().into());
        assert!(revoked.invalidations.contains(&ended), "{revoked:?}");
        let left = store.summaries(&named.customer_id).await.expect("a list");
        assert_eq!(left, [], "{what:?}, replaced before: {was_replaced}");
    }
}
