//! The table in which PostgreSQL announces changes, and its readers.

use std::{
    collections::HashSet,
    time::{Duration, Instant},
};

use customer_session::{
    CustomerSessions, Invalidation, InvalidationSource as _, SessionRegistry, SourceEvent,
    StoreErrorKind,
    store::{PostgresInvalidations, PostgresStore},
};
use sqlx::{Connection as _, PgConnection, PgPool};

use crate::{
    invalidations::{from_postgres, next, postgres, receive_until},
    persistent_store::{assert_error, inserted, peppers},
};
use test_support::{
    RegistryExt as _,
    proxy::Proxy,
    servers::{self, Server},
};

async fn by_hand(server: &Server) -> PgPool {
    PgPool::connect(&server.url()).await.expect("connected")
}

async fn run(connection: impl sqlx::PgExecutor<'_>, statement: &str) {
    let statement = sqlx::raw_sql(sqlx::AssertSqlSafe(statement.to_owned()));
    statement.execute(connection).await.expect("done");
}

/// Makes it a minute since the last look for what all readers have seen.
const A_MINUTE_LATER: &str =
    "UPDATE customer_session_pruning SET next_since = next_since - interval '2 minutes'";

/// Begins a transaction that revokes a session, and has not ended.
async fn half_revoked(server: &Server, session: &str) -> PgConnection {
    let connection = PgConnection::connect(&server.url()).await;
    let mut connection = connection.expect("connected");
    let revoke = format!("BEGIN; DELETE FROM customer_sessions WHERE id = '{session}'");
    run(&mut connection, &revoke).await;
    connection
}

async fn changes_left(pool: &PgPool) -> i64 {
    let count = "SELECT count(*) FROM customer_session_changes WHERE message NOT LIKE 'probe:%'";
    sqlx::query_scalar(count)
        .fetch_one(pool)
        .await
        .expect("read")
}

#[tokio::test(flavor = "multi_thread")]
async fn a_change_is_announced_in_its_schema_whatever_the_search_path_is() {
    let Some(server) = Server::postgres() else {
        return servers::missing("PostgreSQL");
    };
    let owner = by_hand(&server).await;
    let mut transaction = owner.begin().await.expect("begun");
    let schema = "CREATE SCHEMA \"Our 100% auth\"; SET LOCAL search_path TO \"Our 100% auth\"";
    run(&mut *transaction, schema).await;
    for sql in PostgresStore::MIGRATIONS {
        run(&mut *transaction, sql).await;
    }
    transaction.commit().await.expect("committed");
    let store = PostgresStore::builder(peppers()).schema("Our 100% auth");
    let store = store.connect(&server.url()).await.expect("connected");
    let mut source = store.invalidations().await.expect("it listens");
    assert_eq!(next(&mut source).await, Invalidation::All.into());

    let other = "CREATE SCHEMA other; SET search_path TO other, pg_catalog; \
         CREATE TABLE customer_session_changes (message text); \
         CREATE FUNCTION now() RETURNS timestamptz LANGUAGE sql AS $$SELECT 'infinity'::timestamptz$$";
    let mut client = PgConnection::connect(&server.url())
        .await
        .expect("connected");
    run(&mut client, other).await;
    for (change, table) in [
        (
            "UPDATE % SET email_verified = true",
            "customer_session_customers",
        ),
        ("DELETE FROM %", "customer_sessions"),
        ("UPDATE % SET epoch = epoch + 1", "customer_session_epochs"),
    ] {
        let session = inserted(&store).await;
        let change = change.replace('%', &format!("\"Our 100% auth\".{table}"));
        run(&mut client, &change).await;
        receive_until(
            &mut source,
            match table {
                "customer_sessions" => Invalidation::Session(session.id),
                _ => Invalidation::Customer(session.customer_id),
            },
        )
        .await;
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_change_is_heard_whatever_was_committed_before_it() {
    let Some((server, store)) = postgres().await else {
        return;
    };
    let (first, second) = (inserted(&store).await, inserted(&store).await);
    let mut source = from_postgres(server.port).await;
    assert_eq!(next(&mut source).await, Invalidation::All.into());

    let mut under_way = half_revoked(&server, first.id.as_str()).await;
    assert!(store.end(&second.id).await.expect("revoked"));
    assert_eq!(
        next(&mut source).await,
        Invalidation::Session(second.id).into()
    );
    // Many readings later, one that pruning has come between, and still under way.
    let pool = by_hand(&server).await;
    for _ in 0..3 {
        run(&pool, A_MINUTE_LATER).await;
        store
            .purge_expired(chrono::Utc::now(), 10)
            .await
            .expect("purged");
    }
    assert_eq!(changes_left(&pool).await, 1, "what may not have been read");
    run(&mut under_way, "COMMIT").await;
    assert_eq!(
        next(&mut source).await,
        Invalidation::Session(first.id).into()
    );
}

/// A source that began while the transaction was under way hears it too.
#[tokio::test(flavor = "multi_thread")]
async fn a_change_that_was_under_way_at_the_start_is_heard() {
    let Some((server, store)) = postgres().await else {
        return;
    };
    let one = inserted(&store).await;
    let mut under_way = half_revoked(&server, one.id.as_str()).await;
    let mut source = from_postgres(server.port).await;
    assert_eq!(next(&mut source).await, Invalidation::All.into());
    run(&mut under_way, "COMMIT").await;
    assert_eq!(
        next(&mut source).await,
        Invalidation::Session(one.id).into()
    );
}

/// Revokes sessions one after the other. Returns the times until each was heard, in order.
async fn times_to_hear(store: &PostgresStore, source: &mut PostgresInvalidations) -> Vec<Duration> {
    let mut times = Vec::new();
    for _ in 0..100 {
        let one = inserted(store).await;
        assert!(store.end(&one.id).await.expect("revoked"));
        let revoked_at = Instant::now();
        receive_until(source, Invalidation::Session(one.id)).await;
        times.push(revoked_at.elapsed());
    }
    times.sort();
    times
}

#[tokio::test(flavor = "multi_thread")]
async fn a_long_transaction_holds_nothing_up() {
    let Some((server, store)) = postgres().await else {
        return;
    };
    let mut source = from_postgres(server.port).await;
    assert_eq!(next(&mut source).await, Invalidation::All.into());
    let alone = times_to_hear(&store, &mut source).await;

    let one = inserted(&store).await;
    let mut under_way = half_revoked(&server, one.id.as_str()).await;
    let pool = by_hand(&server).await;
    let changes = "INSERT INTO customer_session_changes (message) \
                   SELECT 'session:other' FROM generate_series(1, 9000)";
    run(&pool, changes).await;
    let beside = times_to_hear(&store, &mut source).await;
    println!(
        "heard after {:?} (median), {:?} beside a long transaction",
        alone[50], beside[50]
    );
    assert!(beside[50] < Duration::from_millis(100), "{:?}", beside[50]);

    run(&mut under_way, "COMMIT").await;
    receive_until(&mut source, Invalidation::Session(one.id)).await;
}

/// What was announced while a source had no connection is reported when it has one, and then only
/// that it has resumed.
#[tokio::test(flavor = "multi_thread")]
async fn a_source_resumes_after_a_gap() {
    let Some((server, store)) = postgres().await else {
        return;
    };
    let way = Proxy::new(server.port).await;
    let mut source = from_postgres(way.port).await;
    assert_eq!(next(&mut source).await, Invalidation::All.into());
    let one = inserted(&store).await;
    way.refuse(true);
    way.cut();
    assert_eq!(next(&mut source).await, SourceEvent::Disconnected);
    store.end(&one.id).await.expect("revoked");
    way.refuse(false);
    assert_eq!(
        next(&mut source).await,
        Invalidation::Session(one.id).into()
    );
    assert_eq!(next(&mut source).await, SourceEvent::Resumed);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_source_that_has_fallen_too_far_behind_says_so() {
    let Some((server, store)) = postgres().await else {
        return;
    };
    let pool = by_hand(&server).await;
    let way = Proxy::new(server.port).await;
    let mut source = from_postgres(way.port).await;
    assert_eq!(next(&mut source).await, Invalidation::All.into());
    way.refuse(true);
    way.cut();
    assert_eq!(next(&mut source).await, SourceEvent::Disconnected);
    let one = inserted(&store).await;
    store.end(&one.id).await.expect("revoked");

    // Pruned twice, less than a minute and more than a minute after it was announced.
    for left in [1, 0] {
        run(&pool, A_MINUTE_LATER).await;
        store
            .purge_expired(chrono::Utc::now(), 10)
            .await
            .expect("purged");
        assert_eq!(changes_left(&pool).await, left);
    }
    way.refuse(false);
    assert_eq!(next(&mut source).await, Invalidation::All.into());
}

/// Returns the server's plans of the readings of a source, which finds `rows` changes that it has read.
async fn plans_of_readings(rows: u32) -> Option<Vec<String>> {
    let settings = [
        "session_preload_libraries=auto_explain",
        "auto_explain.log_min_duration=0",
    ];
    let Some(server) = Server::postgres_with(&settings, &[]) else {
        servers::missing("PostgreSQL");
        return None;
    };
    let store = PostgresStore::connect(&server.url(), peppers()).await;
    let store = store.expect("connected");
    store.migrate().await.expect("migrated");
    // In many transactions, and without statistics, as it is between two runs of autovacuum.
    let changes = format!(
        "DO $$ BEGIN FOR n IN 1..{rows} LOOP INSERT INTO customer_session_changes (message) \
         VALUES ('session:' || n); COMMIT; END LOOP; END $$"
    );
    let mut writer = PgConnection::connect(&server.url())
        .await
        .expect("connected");
    run(&mut writer, "SET auto_explain.log_min_duration = -1").await;
    run(&mut writer, &changes).await;
    let mut source = from_postgres(server.port).await;
    receive_until(&mut source, Invalidation::All).await;
    let one = inserted(&store).await;
    store.end(&one.id).await.expect("revoked");
    receive_until(&mut source, Invalidation::Session(one.id)).await;
    let log = server.log();
    let plans = log.split("duration: ").filter(|entry| {
        // The first reading, which has no position, asks for no changes.
        entry.contains("AS MATERIALIZED") && entry.contains("c.message") && entry.contains(">= '")
    });
    Some(plans.map(str::to_owned).collect())
}

/// What is read is what is new. The planner knows nothing of the tables, and must not take the reading for
/// one that is worth compiling, which takes longer than to read.
#[tokio::test(flavor = "multi_thread")]
async fn a_reading_is_cheap_however_many_changes_there_are() {
    const JIT_ABOVE_COST: f64 = 100_000.0;
    let Some(plans) = plans_of_readings(20_000).await else {
        return;
    };
    assert!(!plans.is_empty(), "no plan of a reading");
    for plan in plans {
        assert!(plan.contains("Index"), "{plan}");
        let costs = plan.split("cost=").skip(1);
        let costs = costs.filter_map(|rest| rest.split("..").nth(1)?.split(' ').next());
        let costs: Vec<f64> = costs.map(|cost| cost.parse().expect("a number")).collect();
        let most = costs.iter().copied().fold(0.0, f64::max);
        assert!(most > 0.0 && most < JIT_ABOVE_COST / 10.0, "{plan}");
    }
}

/// After a crash the server gives out numbers of transactions again that a source has seen.
#[tokio::test(flavor = "multi_thread")]
async fn a_crash_of_the_server_is_noticed() {
    // What is not waited for is written after ten seconds.
    let Some(server) = Server::postgres_with(&["wal_writer_delay=10000"], &[]) else {
        return servers::missing("PostgreSQL");
    };
    let store = PostgresStore::connect(&server.url(), peppers()).await;
    let store = store.expect("connected");
    store.migrate().await.expect("migrated");
    let one = inserted(&store).await;
    let mut source = from_postgres(server.port).await;
    receive_until(&mut source, Invalidation::All).await;
    // Transactions that are rolled back have a number, and wait for no disk.
    let mut others = PgConnection::connect(&server.url())
        .await
        .expect("connected");
    for _ in 0..50 {
        let transaction = "BEGIN; SELECT pg_current_xact_id(); ROLLBACK";
        run(&mut others, transaction).await;
    }
    let newest = "SELECT pg_snapshot_xmax(pg_current_snapshot())::text::bigint";
    let seen: i64 = sqlx::query_scalar(newest)
        .fetch_one(&mut others)
        .await
        .expect("read");
    // The source has seen them too.
    store
        .announce(&Invalidation::Session("seen".into()))
        .await
        .expect("announced");
    receive_until(&mut source, Invalidation::Session("seen".into())).await;

    server.crash();
    let begun = Instant::now();
    let revoked_by: i64 = loop {
        assert!(begun.elapsed() < Duration::from_secs(20), "it stays down");
        let Ok(mut again) = PgConnection::connect(&server.url()).await else {
            continue;
        };
        let revoke = "DELETE FROM customer_sessions WHERE id = $1 \
             RETURNING pg_current_xact_id()::text::bigint";
        let revoke = sqlx::query_scalar(revoke).bind(one.id.as_str());
        match revoke.fetch_one(&mut again).await {
            Ok(xid) => break xid,
            Err(sqlx::Error::RowNotFound) => panic!("it was there"),
            Err(_) => {}
        }
    };
    println!("revoked by {revoked_by}, {seen} was seen before");
    receive_until(&mut source, SourceEvent::Disconnected).await;
    let mut told = Vec::new();
    loop {
        let event = next(&mut source).await;
        told.push(event.clone());
        assert_ne!(event, SourceEvent::Resumed, "{told:?}");
        if event == Invalidation::All.into() {
            break;
        }
    }
}

/// The numbers of transactions of a server whose dump was restored here are higher.
#[tokio::test(flavor = "multi_thread")]
async fn a_source_listens_to_tables_that_were_restored_from_another_server() {
    let Some((server, store)) = postgres().await else {
        return;
    };
    let pool = by_hand(&server).await;
    let mut running = from_postgres(server.port).await;
    receive_until(&mut running, Invalidation::All).await;
    let restored = "UPDATE customer_session_pruning \
         SET pruned_below = '4000000000', next_below = '4000000000'";
    run(&pool, restored).await;
    receive_until(&mut running, Invalidation::All).await;
    let mut source = store.invalidations().await.expect("it listens");
    receive_until(&mut source, Invalidation::All).await;
    let one = inserted(&store).await;
    store.end(&one.id).await.expect("revoked");
    for source in [&mut running, &mut source] {
        receive_until(source, Invalidation::Session(one.id.clone())).await;
    }
    let count = "SELECT count(*) FROM customer_session_changes";
    let rows: i64 = sqlx::query_scalar(count)
        .fetch_one(&pool)
        .await
        .expect("a count");
    assert!(rows < 50, "{rows} rows were written");
}

/// A server process that waits for a lock does not notice that nobody waits for it.
#[tokio::test(flavor = "multi_thread")]
async fn a_locked_table_takes_no_connections() {
    let Some((server, _store)) = postgres().await else {
        return;
    };
    let pool = by_hand(&server).await;
    let mut source = from_postgres(server.port).await;
    receive_until(&mut source, Invalidation::All).await;
    let mut locker = PgConnection::connect(&server.url())
        .await
        .expect("connected");
    let lock = "BEGIN; LOCK TABLE customer_session_changes IN ACCESS EXCLUSIVE MODE";
    run(&mut locker, lock).await;
    let waiting = async || -> Vec<i32> {
        let waiting = "SELECT pid FROM pg_stat_activity WHERE wait_event_type = 'Lock'";
        let waiting = sqlx::query_scalar(waiting).fetch_all(&pool).await;
        waiting.expect("numbers")
    };
    let listening = tokio::spawn(async move {
        loop {
            match source.recv().await.expect("it goes on") {
                SourceEvent::Resumed => return,
                SourceEvent::Invalidate(_) => panic!("nothing was missed"),
                _ => {}
            }
        }
    });
    // It has asked by three connections, one after the other.
    let mut asked = HashSet::new();
    let begun = Instant::now();
    while asked.len() < 3 {
        let waiting = waiting().await;
        assert!(waiting.len() <= 2, "{waiting:?} wait");
        asked.extend(waiting);
        assert!(begun.elapsed() < Duration::from_secs(20), "{asked:?}");
    }
    run(&mut locker, "ROLLBACK").await;
    listening.await.expect("it goes on");
}

/// As while the only synchronous replica is down: what the source writes does not wait for it.
#[tokio::test(flavor = "multi_thread")]
async fn a_source_waits_for_no_replica() {
    let Some((server, _store)) = postgres().await else {
        return;
    };
    let pool = by_hand(&server).await;
    run(&pool, A_MINUTE_LATER).await;
    run(&pool, "ALTER SYSTEM SET synchronous_standby_names = 'gone'").await;
    run(&pool, "SELECT pg_reload_conf()").await;
    let mut source = from_postgres(server.port).await;
    receive_until(&mut source, Invalidation::All).await;
    let is_marked = "SELECT next_since > now() - interval '1 minute' FROM customer_session_pruning";
    let begun = Instant::now();
    let mut alive = 0;
    loop {
        match source.recv().await.expect("it goes on") {
            SourceEvent::Alive { .. } => alive += 1,
            event => panic!("{event:?}"),
        }
        let is_marked: bool = sqlx::query_scalar(is_marked)
            .fetch_one(&pool)
            .await
            .expect("an answer");
        if is_marked && alive > 2 {
            return;
        }
        assert!(
            begun.elapsed() < Duration::from_secs(20),
            "{alive}, {is_marked}"
        );
    }
}

/// A service needs no purge for it.
#[tokio::test(flavor = "multi_thread")]
async fn a_source_prunes_what_all_have_seen() {
    let Some((server, _store)) = postgres().await else {
        return;
    };
    let pool = by_hand(&server).await;
    let changes = "INSERT INTO customer_session_changes (message) \
                   SELECT 'session:' || n FROM generate_series(1, 2500) AS n";
    run(&pool, changes).await;
    let seen = "UPDATE customer_session_pruning SET next_since = next_since - interval '2 minutes', \
         next_below = pg_snapshot_xmin(pg_current_snapshot())";
    run(&pool, seen).await;
    let mut source = from_postgres(server.port).await;
    let listening = tokio::spawn(async move {
        while let Some(event) = source.recv().await {
            assert_ne!(event, SourceEvent::Disconnected);
        }
    });
    let begun = Instant::now();
    while changes_left(&pool).await > 0 {
        assert!(begun.elapsed() < Duration::from_secs(20), "they are left");
        assert!(!listening.is_finished(), "it was lost");
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn no_more_is_deleted_than_all_have_seen() {
    let Some((server, store)) = postgres().await else {
        return;
    };
    let pool = by_hand(&server).await;
    let changes = "INSERT INTO customer_session_changes (message) \
                   SELECT 'session:' || n FROM generate_series(1, 2500) AS n";
    run(&pool, changes).await;
    run(&pool, A_MINUTE_LATER).await;
    let purge = async || {
        let purged = store.purge_expired(chrono::Utc::now(), 10).await;
        purged.expect("purged");
        changes_left(&pool).await
    };
    assert_eq!(purge().await, 2500, "they were marked");
    assert_eq!(purge().await, 2500, "less than a minute ago");
    run(&pool, A_MINUTE_LATER).await;
    assert_eq!(purge().await, 0);
}

/// Rows that a backup of another server has brought along.
#[tokio::test(flavor = "multi_thread")]
async fn changes_of_transactions_that_are_yet_to_come_are_not_read() {
    let Some((server, store)) = postgres().await else {
        return;
    };
    let pool = by_hand(&server).await;
    let future = "INSERT INTO customer_session_changes (xid, message) \
                  VALUES ('999999999999', 'session:restored')";
    run(&pool, future).await;
    let mut source = from_postgres(server.port).await;
    assert_eq!(next(&mut source).await, Invalidation::All.into());
    for _ in 0..3 {
        let one = inserted(&store).await;
        store.end(&one.id).await.expect("revoked");
        assert_eq!(
            next(&mut source).await,
            Invalidation::Session(one.id).into()
        );
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn every_source_hears_what_is_announced() {
    let Some((server, store)) = postgres().await else {
        return;
    };
    let mut sources = [
        from_postgres(server.port).await,
        store.invalidations().await.expect("it listens"),
    ];
    for source in &mut sources {
        assert_eq!(next(source).await, Invalidation::All.into());
    }
    for announced in [
        Invalidation::Session("one:1".into()),
        Invalidation::Customer("o'clock".into()),
        Invalidation::All,
    ] {
        store.announce(&announced).await.expect("announced");
        for source in &mut sources {
            assert_eq!(next(source).await, announced.clone().into());
        }
    }
}

/// A message that reaches one node of several, such as a webhook.
#[tokio::test(flavor = "multi_thread")]
async fn what_one_node_announces_no_node_lets_in_from_its_cache() {
    let Some((server, store)) = postgres().await else {
        return;
    };
    let pool = by_hand(&server).await;
    // Caches in front of one store would tell each other.
    let other = PostgresStore::connect(&server.url(), peppers()).await;
    let stores = [store.clone(), other.expect("connected")];
    let nodes = stores.map(|store| CustomerSessions::builder(store).build());
    for node in &nodes {
        tokio::spawn(node.listen(store.invalidations().await.expect("it listens")));
    }
    let one = inserted(&store).await;
    let names = async || {
        let mut names = Vec::new();
        for node in &nodes {
            let session = node.authenticate(&one.token).await.expect("let in");
            names.push(session.customer.name.clone());
        }
        names
    };
    let is_cached = async || {
        let before = nodes.each_ref().map(|node| node.statistics().hits);
        names().await;
        let after = nodes.each_ref().map(|node| node.statistics().hits);
        before
            .iter()
            .zip(after)
            .all(|(before, after)| after > *before)
    };
    while !is_cached().await {
        tokio::task::yield_now().await;
    }
    // No trigger announces it.
    let rename = format!(
        "BEGIN; SET LOCAL session_replication_role = replica; UPDATE customer_session_customers \
         SET name = 'Joan' WHERE id = '{}'; COMMIT",
        one.customer_id
    );
    run(&pool, &rename).await;
    let before = names().await;
    let change = Invalidation::Customer(one.customer_id.clone());
    nodes[0].announce(&change).await.expect("announced");
    let joan = Some("Joan".to_owned());
    assert_eq!(names().await[0], joan, "at once where it was announced");
    let begun = Instant::now();
    while names().await[1] != joan {
        assert!(begun.elapsed() < Duration::from_secs(2), "{before:?}");
        tokio::time::sleep(Duration::from_millis(5)).await;
    }
    assert!(!before.contains(&joan), "it was cached");
}

/// As if the source wrote to the primary, and read from a replica that lags behind.
#[tokio::test(flavor = "multi_thread")]
async fn a_source_that_does_not_read_what_it_writes_is_refused() {
    let Some((server, _store)) = postgres().await else {
        return;
    };
    let pool = by_hand(&server).await;
    let mut source = from_postgres(server.port).await;
    receive_until(&mut source, Invalidation::All).await;
    run(
        &pool,
        "CREATE FUNCTION lag() RETURNS trigger LANGUAGE plpgsql AS $$ BEGIN \
         NEW.message := 'probe:other'; RETURN NEW; END $$; \
         CREATE TRIGGER lag BEFORE INSERT ON customer_session_changes \
         FOR EACH ROW EXECUTE FUNCTION lag()",
    )
    .await;
    receive_until(&mut source, SourceEvent::Disconnected).await;
    let refused = PostgresInvalidations::connect(&server.url()).await;
    assert_error(refused, StoreErrorKind::Unavailable, &["primary"]);
    run(&pool, "DROP TRIGGER lag ON customer_session_changes").await;
    receive_until(&mut source, SourceEvent::Resumed).await;
}
