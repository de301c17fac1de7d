//! Customers in a table of the application's own, as the guide shows it.

use std::time::{Duration, Instant};

use chrono::Utc;
use customer_session::{
    Customer, CustomerData, CustomerSession, Inserted, Invalidation, SessionLimit, SessionRegistry,
    SessionStore as _, StoreError, StoreErrorKind, async_trait, store::PostgresStore,
    testing::conformance,
};
use sqlx::{Executor as _, PgPool};

use crate::{
    epochs::overtake,
    invalidations::{next, receive_until},
    persistent_store::{Database as _, assert_error, peppers, session, unique},
    postgres::Schema,
};
use test_support::{RegistryExt as _, StoreWrapper, Wrapped, servers::Server};

const GUIDE: &str = include_str!("../../src/guide/external_customers.md");

/// Returns the SQL of the guide, from its table to its grants.
fn sql_of_the_guide() -> Vec<&'static str> {
    let blocks = GUIDE.split("```sql\n").skip(1);
    let blocks = blocks.map(|block| block.split("```").next().expect("an end"));
    let blocks: Vec<_> = blocks.collect();
    assert_eq!(blocks.len(), 4, "table, view, trigger, grants");
    blocks
}

async fn connected(schema: &Schema) -> PostgresStore {
    let builder = PostgresStore::builder(peppers()).external_customers();
    builder.connect(&schema.url).await.expect("connected")
}

async fn run(pool: &PgPool, sql: &str) {
    let sql = sqlx::AssertSqlSafe(sql.to_owned());
    sqlx::raw_sql(sql).execute(pool).await.expect("it runs");
}

async fn new_user(pool: &PgPool) -> String {
    let add = "INSERT INTO users (tenant, mail, display_name) \
         VALUES (7, 'jane@example.com', 'Jane') RETURNING user_id::text";
    sqlx::query_scalar(add)
        .fetch_one(pool)
        .await
        .expect("added")
}

#[tokio::test(flavor = "multi_thread")]
async fn the_guide_works_as_it_stands() {
    let Some(schema) = Schema::new().await else {
        return;
    };
    let pool = schema.pool().await;
    let [table, view, trigger, _] = sql_of_the_guide().try_into().expect("four");
    let store = connected(&schema).await;
    let unavailable = StoreErrorKind::Unavailable;
    let says = ["view customer_session_customers is missing", "guide"];
    assert_error(store.migrate().await, unavailable, &says);
    run(&pool, table).await;
    run(
        &pool,
        &view.replace("tenant AS text) AS", "tenant AS integer) AS"),
    )
    .await;
    let says = ["organization_id", "int4; cast it to text"];
    assert_error(store.migrate().await, unavailable, &says);
    run(
        &pool,
        "DROP VIEW customer_session_customers; DROP INDEX users_by_customer_id",
    )
    .await;
    run(&pool, view).await;
    store.migrate().await.expect("migrated");
    run(&pool, trigger).await;
    let mut source = store.invalidations().await.expect("it listens");
    receive_until(&mut source, Invalidation::All).await;

    // A session of a customer whom the view shows, and one of another.
    let id = new_user(&pool).await;
    let first = session(&store, &id);
    let customer = store.add(&first).await.expect("inserted").customer;
    assert_eq!(customer.email.as_deref(), Some("jane@example.com"));
    assert_eq!(customer.organization_id.as_str(), "7");
    let stranger = session(&store, "12345");
    for limit in [None, Some(SessionLimit::end_oldest(3))] {
        let outcome = store.insert(&stranger, limit.as_ref()).await;
        let says = ["does not show its customer", "own table"];
        assert_error(outcome, StoreErrorKind::Conflict, &says);
    }
    let says = ["external_customers", "own table"];
    let outcome = store.update_customer(&stranger.customer).await;
    assert_error(outcome, unavailable, &says);

    // Rotation, revocation, and a change by the application.
    let second = session(&store, &id);
    let rotated = store.swap(&first.id, &second).await.expect("rotated");
    assert!(rotated.is_some());
    receive_until(&mut source, Invalidation::Session(first.id.clone())).await;
    let of_customer = Invalidation::Customer(id.as_str().into());
    run(&pool, "UPDATE users SET display_name = 'Joan'").await;
    assert_eq!(next(&mut source).await, of_customer.clone().into());
    let found = store.find(&second.token).await.expect("an answer");
    assert_eq!(found.expect("live").customer.name.as_deref(), Some("Joan"));
    assert!(store.end(&first.id).await.expect("revoked"));
    assert_eq!(store.find(&second.token).await.expect("an answer"), None);
    let third = session(&store, &id);
    store.add(&third).await.expect("inserted");
    assert!(
        store
            .end_customer(&third.customer_id)
            .await
            .expect("revoked")
    );
    receive_until(&mut source, of_customer.clone()).await;

    // Closed, opened again, and deleted: no session comes back.
    let fourth = session(&store, &id);
    store.add(&fourth).await.expect("inserted");
    run(&pool, "UPDATE users SET closed = now()").await;
    receive_until(&mut source, of_customer.clone()).await;
    let refused = session(&store, &id);
    assert_error(
        store.add(&refused).await,
        StoreErrorKind::Conflict,
        &["deleted"],
    );
    run(&pool, "UPDATE users SET closed = NULL").await;
    assert_eq!(store.find(&fourth.token).await.expect("an answer"), None);
    let fifth = session(&store, &id);
    store.add(&fifth).await.expect("inserted");
    run(&pool, "DELETE FROM users").await;
    receive_until(&mut source, of_customer).await;
    assert_eq!(store.find(&fifth.token).await.expect("an answer"), None);
    assert_eq!(
        store.summaries(&fifth.customer_id).await.expect("a list"),
        []
    );

    // Of epochs, those without sessions are forgotten.
    let epochs = "SELECT count(*) FROM customer_session_epochs";
    let count = async || -> i64 {
        let count = sqlx::query_scalar(epochs).fetch_one(&pool).await;
        count.expect("a count")
    };
    store.purge_customers(None, 9).await.expect("purged");
    assert_eq!(count().await, 1, "there are sessions to remove");
    store.purge_expired(Utc::now(), 99).await.expect("purged");
    store.purge_customers(None, 9).await.expect("purged");
    assert_eq!(count().await, 0);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_sign_in_that_waits_for_the_deletion_of_its_customer_fails() {
    let Some(schema) = Schema::new().await else {
        return;
    };
    let pool = schema.pool().await;
    let [table, view, trigger, _] = sql_of_the_guide().try_into().expect("four");
    run(&pool, table).await;
    run(&pool, view).await;
    let store = connected(&schema).await;
    store.migrate().await.expect("migrated");
    run(&pool, trigger).await;
    for has_epoch in [true, false] {
        for limit in [None, Some(SessionLimit::end_oldest(3))] {
            let id = new_user(&pool).await;
            if has_epoch {
                store.add(&session(&store, &id)).await.expect("inserted");
            }
            let mut held = pool.begin().await.expect("begun");
            held.execute("DELETE FROM users").await.expect("deleted");
            let waiting = session(&store, &id);
            let (by, new) = (store.clone(), waiting.clone());
            let sign_in = async move { by.insert(&new, limit.as_ref()).await };
            let outcome = overtake(&pool, held, sign_in).await;
            let says = ["does not show its customer"];
            assert_error(outcome, StoreErrorKind::Conflict, &says);
            // The identifier is used again.
            let again = "INSERT INTO users (user_id, tenant, mail) OVERRIDING SYSTEM VALUE \
                 VALUES ($1::bigint, 7, 'joan@example.com')";
            let again = sqlx::query(again).bind(&id).execute(&pool).await;
            again.expect("added");
            let found = store.find(&waiting.token).await.expect("an answer");
            assert_eq!(found, None);
            let other = session(&store, &id);
            store.add(&other).await.expect("inserted");
            assert!(store.find(&other.token).await.expect("found").is_some());
        }
    }
}

/// The tables in a schema of their own, the application's in another, and a role that changes them.
#[tokio::test]
async fn a_role_with_the_grants_of_the_guide_changes_customers() {
    let Some(server) = Server::postgres() else {
        return;
    };
    let pool = PgPool::connect(&server.url()).await.expect("connected");
    let [table, view, trigger, grants] = sql_of_the_guide().try_into().expect("four");
    run(&pool, "CREATE SCHEMA auth; CREATE ROLE application LOGIN").await;
    run(&pool, table).await;
    let ours = "VIEW customer_session_customers";
    run(
        &pool,
        &view.replace(ours, "VIEW auth.customer_session_customers"),
    )
    .await;
    let builder = PostgresStore::builder(peppers()).schema("auth");
    let store = builder.external_customers().connect(&server.url()).await;
    let store = store.expect("connected");
    store.migrate().await.expect("migrated");
    run(&pool, &trigger.replace("PERFORM ", "PERFORM auth.")).await;
    run(&pool, grants).await;
    let grant = "GRANT SELECT, UPDATE, DELETE ON users TO application";
    run(&pool, grant).await;
    let mut source = store.invalidations().await.expect("it listens");
    receive_until(&mut source, Invalidation::All).await;

    let id = new_user(&pool).await;
    let first = session(&store, &id);
    store.add(&first).await.expect("inserted");
    let without_sessions = new_user(&pool).await;
    let url = server.url().replace("tests@", "application@");
    let application = PgPool::connect(&url).await.expect("connected");
    let rename = "UPDATE users SET display_name = 'Joan' WHERE mail LIKE 'jane%'";
    run(&application, rename).await;
    let mut changed = [next(&mut source).await, next(&mut source).await];
    changed.sort_by_key(|event| format!("{event:?}"));
    let of = |id: &str| Invalidation::Customer(id.into()).into();
    assert_eq!(changed, [of(&id), of(&without_sessions)]);
    let found = store.find(&first.token).await.expect("an answer");
    assert_eq!(found.expect("live").customer.name.as_deref(), Some("Joan"));
    run(&application, "DELETE FROM users").await;
    receive_until(&mut source, Invalidation::Customer(id.as_str().into())).await;
    assert_eq!(store.find(&first.token).await.expect("an answer"), None);
    let left = store.summaries(&first.customer_id).await;
    assert_eq!(left.expect("a list"), []);
}

/// The lookup finds the customer by the index that the guide creates, with statistics and without.
#[tokio::test]
async fn a_lookup_reads_the_table_by_its_index() {
    for analyze in ["", "; ANALYZE"] {
        let Some(schema) = Schema::new().await else {
            return;
        };
        let pool = schema.pool().await;
        for sql in &sql_of_the_guide()[..2] {
            run(&pool, sql).await;
        }
        let fill = "ALTER TABLE users SET (autovacuum_enabled = false); INSERT INTO users \
             (tenant, mail) SELECT 1, 'a@b' FROM generate_series(1, 5000)";
        run(&pool, &format!("{fill}{analyze}")).await;
        let migrating = connected(&schema).await;
        migrating.migrate().await.expect("migrated");
        let one = session(&migrating, &new_user(&pool).await);
        migrating.add(&one).await.expect("inserted");
        let own = schema.pool().await;
        let builder = PostgresStore::builder(peppers()).external_customers();
        let store = builder.build(own.clone()).expect("built");
        let found = store.find(&one.token).await.expect("an answer");
        assert!(found.is_some());
        // Connections report what they have read when they end.
        own.close().await;
        let entries = "SELECT idx_tup_read FROM pg_stat_user_indexes \
             WHERE indexrelid = 'users_by_customer_id'::regclass";
        let scanned = "SELECT seq_tup_read FROM pg_stat_user_tables \
             WHERE relid = 'users'::regclass";
        let deadline = Instant::now() + Duration::from_secs(20);
        loop {
            let [entries, scanned] = [
                sqlx::query_scalar::<_, i64>(entries).fetch_one(&pool).await,
                sqlx::query_scalar::<_, i64>(scanned).fetch_one(&pool).await,
            ]
            .map(|count| count.expect("a count"));
            assert_eq!(scanned, 0, "{analyze:?}");
            if entries > 0 {
                break;
            }
            assert!(Instant::now() < deadline, "no index was read");
        }
    }
}

/// A sign-in that ends between the look for sessions and the deletion of the epoch.
#[tokio::test(flavor = "multi_thread")]
async fn the_epoch_of_a_sign_in_that_comes_in_between_is_not_forgotten() {
    let Some(schema) = Schema::new().await else {
        return;
    };
    let pool = schema.pool().await;
    run(&pool, ACCOUNTS).await;
    run(&pool, TWO_ACCOUNTS).await;
    let store = connected(&schema).await;
    store.migrate().await.expect("migrated");
    let old = session(&store, "one");
    store.add(&old).await.expect("inserted");
    assert!(store.end(&old.id).await.expect("revoked"));
    let mut held = pool.begin().await.expect("begun");
    // It lets the look at the customers pass, and holds up the statement that locks them.
    let lock = "LOCK TABLE customer_session_epochs IN EXCLUSIVE MODE";
    held.execute(lock).await.expect("locked");
    let sign_in = "INSERT INTO customer_sessions \
         (id, token_hash, customer_id, created_at, expires_at) \
         VALUES ('ses_new', sha256('new'), 'one', now(), now() + interval '1 hour')";
    held.execute(sign_in).await.expect("inserted");
    let by = store.clone();
    let purging = async move { by.purge_customers(None, 9).await };
    let purged = overtake(&pool, held, purging).await;
    purged.expect("purged");
    let left = store.summaries(&old.customer_id).await.expect("a list");
    assert_eq!(left.len(), 1, "the session is there");
}

/// An application whose table has all columns of a customer. It adds and changes customers itself.
struct Application {
    store: PostgresStore,
    pool: PgPool,
}

pub(crate) const ACCOUNTS: &str = "CREATE TABLE accounts (\
     id text COLLATE \"C\" PRIMARY KEY, data jsonb NOT NULL, metadata json NOT NULL); \
     CREATE VIEW customer_session_customers AS SELECT id, data->>'organization_id' AS organization_id, \
     (data->>'created_at')::timestamptz AS created_at, \
     (data->>'modified_at')::timestamptz AS modified_at, metadata, \
     data->>'external_id' AS external_id, data->>'email' AS email, \
     (data->>'email_verified')::boolean AS email_verified, data->>'type' AS kind, \
     data->>'name' AS name, data->>'billing_name' AS billing_name, \
     nullif(data->'billing_address', 'null') AS billing_address, \
     nullif(data->'tax_id', 'null') AS tax_id, data->>'locale' AS locale, \
     data->>'default_payment_method_id' AS default_payment_method_id, \
     (data->>'deleted_at')::timestamptz AS deleted_at, \
     (data->>'first_user_event_at')::timestamptz AS first_user_event_at, \
     data->>'avatar_url' AS avatar_url FROM accounts";

impl Application {
    async fn write(&self, sql: &'static str, customer: &Customer) -> Result<bool, StoreError> {
        let mut data = CustomerData::clone(customer);
        let metadata = std::mem::take(&mut data.metadata);
        let [data, metadata] = [
            serde_json::to_string(&data),
            serde_json::to_string(&metadata),
        ]
        .map(|json| json.map_err(StoreError::corrupt));
        let written = sqlx::query(sql)
            .bind(customer.id.as_str())
            .bind(data?)
            .bind(metadata?)
            .execute(&self.pool)
            .await;
        let written = written.map_err(|error| StoreError::corrupt(error.to_string()))?;
        Ok(written.rows_affected() > 0)
    }
}

#[async_trait]
impl StoreWrapper for Application {
    fn inner(&self) -> &dyn SessionRegistry {
        &self.store
    }

    async fn insert(
        &self,
        session: &CustomerSession,
        limit: Option<&SessionLimit>,
    ) -> Result<Inserted, StoreError> {
        if session.customer.deleted_at.is_none() {
            let add =
                "INSERT INTO accounts VALUES ($1, $2::jsonb, $3::json) ON CONFLICT DO NOTHING";
            self.write(add, &session.customer).await?;
        }
        self.store.insert(session, limit).await
    }

    async fn update_customer(&self, customer: &Customer) -> Result<bool, StoreError> {
        let update = "UPDATE accounts SET data = $2::jsonb, metadata = $3::json WHERE id = $1";
        self.write(update, customer).await
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn the_store_keeps_the_contract_with_external_customers() {
    let Some(schema) = Schema::new().await else {
        return;
    };
    let pool = schema.pool().await;
    run(&pool, ACCOUNTS).await;
    let store = connected(&schema).await;
    store.migrate().await.expect("migrated");
    let application = Application {
        store: store.clone(),
        pool,
    };
    let report = conformance(Wrapped(application)).await;
    println!("{report}");
    // The application has added its customer, whatever becomes of the session.
    let by_the_application = ["the id of a replaced session stays taken"];
    assert_eq!(report.failures(), by_the_application);
    assert!(store.end(&unique("ses").into()).await.is_ok());
}

/// Adds an account that was deleted, and one without a session: a store would erase the first, and
/// forget the second, if the table were its own.
const TWO_ACCOUNTS: &str = "INSERT INTO accounts VALUES \
     ('one', '{\"organization_id\": \"org_1\", \"created_at\": \"2025-01-01Z\", \
     \"email_verified\": false, \"type\": \"individual\"}', '{}'), \
     ('two', '{\"organization_id\": \"org_1\", \"created_at\": \"2025-01-01Z\", \
     \"deleted_at\": \"2025-02-01Z\", \"email\": \"jane@example.com\"}', '{}')";

/// A node that lacks `.external_customers()` would delete the application's customers through the view.
#[tokio::test]
async fn a_store_that_keeps_customers_leaves_those_of_an_application_alone() {
    let unavailable = StoreErrorKind::Unavailable;
    for (by_hand, has_tables) in [(true, true), (false, true), (false, false)] {
        let Some(schema) = Schema::new().await else {
            return;
        };
        let pool = schema.pool().await;
        run(&pool, ACCOUNTS).await;
        run(&pool, TWO_ACCOUNTS).await;
        if has_tables && by_hand {
            run(&pool, PostgresStore::MIGRATIONS_FOR_EXTERNAL_CUSTOMERS[0]).await;
        } else if has_tables {
            connected(&schema).await.migrate().await.expect("migrated");
        }
        let accounts = async || -> Vec<String> {
            let accounts = sqlx::query_scalar("SELECT a::text FROM accounts a ORDER BY id");
            accounts.fetch_all(&pool).await.expect("accounts")
        };
        let before = accounts().await;
        assert_eq!(before.len(), 2);
        let forgetful = schema.connect(peppers()).await;
        let says = [
            "not a table",
            "build this store with `.external_customers()`",
        ];
        assert_error(forgetful.purge_customers(None, 9).await, unavailable, &says);
        assert_error(forgetful.check().await, unavailable, &says);
        assert_error(forgetful.migrate().await, unavailable, &says);
        let new = session(&forgetful, "one");
        assert_error(forgetful.insert(&new, None).await, unavailable, &says);
        assert_eq!(accounts().await, before, "{by_hand}");
        let tables = "SELECT to_regclass('customer_sessions') IS NOT NULL";
        let tables: bool = sqlx::query_scalar(tables)
            .fetch_one(&pool)
            .await
            .expect("an answer");
        assert_eq!(tables, has_tables, "nothing was created");
        let right = connected(&schema).await;
        right.migrate().await.expect("migrated");
        right.purge_customers(None, 9).await.expect("purged");
        assert_eq!(accounts().await, before, "{by_hand}");

        if has_tables {
            run(&pool, "DROP VIEW customer_session_customers").await;
            let says = ["is missing", "`.external_customers()`"];
            assert_error(forgetful.migrate().await, unavailable, &says);
        }
    }
}

#[tokio::test]
async fn a_store_with_external_customers_refuses_the_tables_of_one_that_keeps_them() {
    let unavailable = StoreErrorKind::Unavailable;
    for by_hand in [true, false] {
        let Some(schema) = Schema::new().await else {
            return;
        };
        let pool = schema.pool().await;
        if by_hand {
            run(&pool, PostgresStore::MIGRATIONS[0]).await;
        } else {
            schema.open().await;
        }
        let external = connected(&schema).await;
        let says = ["is a table", "leave that setting out"];
        assert_error(external.check().await, unavailable, &says);
        assert_error(external.migrate().await, unavailable, &says);
        schema.open().await.check().await.expect("its own");
    }
    // A table that is only called so, where nothing has been created yet.
    let Some(schema) = Schema::new().await else {
        return;
    };
    let pool = schema.pool().await;
    let theirs = "CREATE TABLE customer_session_customers (id text COLLATE \"C\" PRIMARY KEY)";
    run(&pool, theirs).await;
    let external = connected(&schema).await;
    assert_error(external.migrate().await, unavailable, &["is a table"]);
    let tables = "SELECT to_regclass('customer_sessions') IS NULL";
    let is_empty: bool = sqlx::query_scalar(tables)
        .fetch_one(&pool)
        .await
        .expect("an answer");
    assert!(is_empty, "nothing was created");
}

/// What the checksum and missing triggers say names the SQL that is meant.
#[tokio::test]
async fn what_is_wrong_with_the_tables_names_their_migrations() {
    let Some(schema) = Schema::new().await else {
        return;
    };
    let pool = schema.pool().await;
    run(&pool, ACCOUNTS).await;
    let store = connected(&schema).await;
    store.migrate().await.expect("migrated");
    for (change, says) in [
        (
            "UPDATE customer_session_schema SET checksum = 'of other SQL'",
            "compare the tables with `MIGRATIONS_FOR_EXTERNAL_CUSTOMERS`",
        ),
        (
            "UPDATE customer_session_schema SET checksum = NULL; \
             DROP TRIGGER customer_sessions_deleted ON customer_sessions",
            "`MIGRATIONS_FOR_EXTERNAL_CUSTOMERS` for a store with `.external_customers()`",
        ),
        (
            "DELETE FROM customer_session_schema",
            "apply the SQL in `MIGRATIONS_FOR_EXTERNAL_CUSTOMERS`",
        ),
    ] {
        run(&pool, change).await;
        let outcome = store.check().await;
        assert_error(outcome, StoreErrorKind::Unavailable, &[says]);
    }
}

/// An identifier that is compared in another way than it is kept: a revocation would end no session, or
/// every lookup would fail.
#[tokio::test]
async fn an_identifier_that_cannot_be_compared_is_refused() {
    for (id, says) in [
        ("id::char(12)", Some("of type bpchar; cast it to text")),
        ("id COLLATE \"en-x-icu\"", Some("add COLLATE \"C\"")),
        ("id COLLATE \"POSIX\"", Some("add COLLATE \"C\"")),
        ("id COLLATE \"default\"", None),
        ("id::varchar(40)", None),
        ("id::name", None),
    ] {
        let Some(schema) = Schema::new().await else {
            return;
        };
        let pool = schema.pool().await;
        run(
            &pool,
            &ACCOUNTS.replace("SELECT id,", &format!("SELECT {id} AS id,")),
        )
        .await;
        run(&pool, TWO_ACCOUNTS).await;
        let store = connected(&schema).await;
        if let Some(says) = says {
            let says = ["column id", says];
            assert_error(store.migrate().await, StoreErrorKind::Unavailable, &says);
            continue;
        }
        store.migrate().await.expect(id);
        let one = session(&store, "one");
        store.add(&one).await.expect(id);
        assert!(store.find(&one.token).await.expect(id).is_some(), "{id}");
        assert!(store.end_customer(&one.customer_id).await.expect(id));
        assert_eq!(store.find(&one.token).await.expect(id), None, "{id}");
    }
}
