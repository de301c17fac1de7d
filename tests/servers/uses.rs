//! Uses of sessions that a database records: by its clock, without a word to other nodes, and beside what
//! ends the same sessions.

use std::{
    sync::{
        Arc,
        atomic::{AtomicBool, Ordering::Relaxed},
    },
    time::Duration,
};

use chrono::{DateTime, TimeDelta, Utc};
use customer_session::{
    CustomerId, CustomerSession, Invalidation, InvalidationSource, Revocation, SessionId,
    SessionLimit, SessionRegistry, SessionStore as _, SessionUse, StoreErrorKind,
    store::{PostgresStore, RedisStore},
};
use sqlx::{PgPool, Postgres, Transaction};
use tokio::{task::JoinSet, time::timeout};

use crate::{
    invalidations::{next, postgres, receive_until, redis},
    persistent_store::{assert_error, inserted, peppers, session, unique},
};
use test_support::{
    RegistryExt as _,
    servers::{self, RedisCluster, Server},
};

/// The time in which a call that waits for nothing returns on a busy machine.
const DEADLINE: Duration = Duration::from_secs(20);

fn used(session: &CustomerSession, at: DateTime<Utc>) -> SessionUse {
    SessionUse::new(session.id.clone(), session.customer_id.clone(), at)
}

/// Returns the last use of a session that is there.
async fn last_use(
    store: &impl SessionRegistry,
    session: &CustomerSession,
) -> Option<DateTime<Utc>> {
    let found = store.find(&session.token).await.expect("an answer");
    found.expect("it is there").details.last_used_at
}

/// A use in the future counts as one of the present, and hides no later one.
async fn future_uses_are_of_the_present(store: &impl SessionRegistry) {
    let one = inserted(store).await;
    let began = Utc::now() - TimeDelta::milliseconds(1);
    let ahead = used(&one, Utc::now() + TimeDelta::days(1));
    for _ in 0..2 {
        store
            .touch(std::slice::from_ref(&ahead))
            .await
            .expect("recorded");
        let recorded = last_use(store, &one).await.expect("a time");
        assert!(recorded >= began && recorded <= Utc::now(), "{recorded}");
    }
}

/// A source hears nothing of uses, and goes on to hear what ends a session.
async fn uses_are_not_announced(
    store: &impl SessionRegistry,
    source: &mut impl InvalidationSource,
) {
    receive_until(source, Invalidation::All).await;
    let (one, other) = (inserted(store).await, inserted(store).await);
    for _ in 0..3 {
        let uses = [&one, &other].map(|session| used(session, Utc::now()));
        store.touch(&uses).await.expect("recorded");
    }
    assert!(last_use(store, &one).await.is_some());
    assert!(store.end(&one.id).await.expect("revoked"));
    let heard = next(source).await;
    assert_eq!(heard, Invalidation::Session(one.id).into());
}

/// Records uses of sessions, over and over.
async fn touch_until_over<S: SessionRegistry>(
    store: S,
    sessions: Vec<CustomerSession>,
    is_over: Arc<AtomicBool>,
) {
    while !is_over.load(Relaxed) {
        let now = Utc::now();
        let uses: Vec<_> = sessions.iter().map(|session| used(session, now)).collect();
        store.touch(&uses).await.expect("recorded");
    }
}

/// Replaces the first of three sessions, ends the second, and ends the third by an id that was replaced.
async fn change<S: SessionRegistry>(store: S, sessions: Vec<CustomerSession>) -> CustomerSession {
    let replace = async |old: &SessionId| {
        let new = session(&store, sessions[0].customer_id.as_str());
        let replaced = store.replace(old, &new, None).await.expect("replaced");
        assert!(replaced.is_some(), "it was live");
        new
    };
    let new = replace(&sessions[0].id).await;
    assert!(store.end(&sessions[1].id).await.expect("revoked"));
    replace(&sessions[2].id).await;
    assert!(store.end(&sessions[2].id).await.expect("revoked"));
    store.update_customer(&new.customer).await.expect("updated");
    new
}

/// Uses beside changes of the same sessions succeed, and bring no session back.
async fn uses_meet_changes<S: SessionRegistry + Clone>(store: S) {
    for round in 0..8 {
        let mut customers = Vec::new();
        for _ in 0..4 {
            let customer = unique("cus");
            let mut sessions = Vec::new();
            for _ in 0..4 {
                let new = session(&store, &customer);
                sessions.push(store.add(&new).await.expect("inserted"));
            }
            customers.push(sessions);
        }
        let is_over = Arc::new(AtomicBool::new(false));
        let mut nodes = JoinSet::new();
        for node in 0..4 {
            let mut sessions = customers.concat();
            sessions.rotate_left(node * 3);
            if node % 2 == 1 {
                sessions.reverse();
            }
            nodes.spawn(touch_until_over(store.clone(), sessions, is_over.clone()));
        }
        let changes = customers
            .iter()
            .map(|sessions| change(store.clone(), sessions.clone()));
        let replaced = changes.collect::<JoinSet<_>>().join_all().await;
        for new in replaced {
            assert!(store.find(&new.token).await.expect("an answer").is_some());
        }
        let revocations = customers.iter().map(|sessions| match round % 3 {
            0 => Revocation::Customer(sessions[0].customer_id.clone()),
            1 => Revocation::Others {
                customer: sessions[0].customer_id.clone(),
                keep: unique("ses").into(),
            },
            _ => Revocation::All,
        });
        for what in revocations {
            store.revoke(&what).await.expect("revoked");
        }
        is_over.store(true, Relaxed);
        nodes.join_all().await;
        for ended in customers.concat() {
            assert_eq!(store.find(&ended.token).await.expect("an answer"), None);
        }
        for sessions in customers {
            let left = store.summaries(&sessions[0].customer_id).await;
            assert_eq!(left.expect("a list"), []);
        }
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn postgresql_keeps_no_use_later_than_its_clock() {
    let Some((_server, store)) = postgres().await else {
        return;
    };
    future_uses_are_of_the_present(&store).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn postgresql_announces_no_use() {
    let Some((_server, store)) = postgres().await else {
        return;
    };
    let mut source = store.invalidations().await.expect("it listens");
    uses_are_not_announced(&store, &mut source).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn postgresql_records_uses_beside_changes_of_the_same_sessions() {
    let Some((_server, store)) = postgres().await else {
        return;
    };
    uses_meet_changes(store).await;
}

/// Begins a transaction with a change that does not end.
async fn half_done(
    server: &Server,
    change: &'static str,
    id: &str,
) -> Transaction<'static, Postgres> {
    let pool = PgPool::connect(&server.url()).await.expect("connected");
    let mut transaction = pool.begin().await.expect("begun");
    let change = sqlx::query(change).bind(id.to_owned());
    let changed = change.execute(&mut *transaction).await.expect("changed");
    assert_eq!(changed.rows_affected(), 1);
    transaction
}

async fn touched_in_time(store: &PostgresStore, uses: &[SessionUse]) {
    let touched = timeout(DEADLINE, store.touch(uses)).await;
    touched.expect("it waits for nothing").expect("recorded");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_use_waits_for_no_revocation_under_way() {
    let Some((server, store)) = postgres().await else {
        return;
    };
    let (ending, other) = (inserted(&store).await, inserted(&store).await);
    let uses = [&ending, &other].map(|session| used(session, Utc::now()));
    let delete = "DELETE FROM customer_sessions WHERE id = $1";
    for is_known in [false, true] {
        let revocation = half_done(&server, delete, ending.id.as_str()).await;
        touched_in_time(&store, &uses).await;
        revocation.rollback().await.expect("rolled back");
        assert!(last_use(&store, &other).await.is_some());
        assert_eq!(last_use(&store, &ending).await.is_some(), is_known);
        store.touch(&uses).await.expect("recorded");
    }
    assert!(store.end(&ending.id).await.expect("revoked"));
    store.touch(&uses).await.expect("recorded");
    assert_eq!(store.find(&ending.token).await.expect("an answer"), None);
    let left = sqlx::query_scalar("SELECT count(*) FROM customer_session_uses");
    let pool = PgPool::connect(&server.url()).await.expect("connected");
    let left: i64 = left.fetch_one(&pool).await.expect("a count");
    assert_eq!(left, 1, "that of the other one");
}

/// Changes that end none of the sessions do not have their uses left out.
#[tokio::test(flavor = "multi_thread")]
async fn a_use_is_recorded_beside_changes_that_end_nothing() {
    let Some((server, store)) = postgres().await else {
        return;
    };
    let one = inserted(&store).await;
    let customer = one.customer_id.as_str();
    let changes = [
        (
            "UPDATE customer_session_customers SET id = id, name = 'Joan' WHERE id = $1",
            customer,
        ),
        (
            "UPDATE customer_session_epochs SET epoch = epoch WHERE customer_id = $1",
            customer,
        ),
        // As it is taken over into an epoch that has begun.
        (
            "UPDATE customer_sessions SET epoch = epoch WHERE id = $1",
            one.id.as_str(),
        ),
    ];
    let mut at = Utc::now() - TimeDelta::minutes(10);
    for (change, id) in changes {
        at += TimeDelta::minutes(1);
        let change = half_done(&server, change, id).await;
        touched_in_time(&store, &[used(&one, at)]).await;
        change.commit().await.expect("committed");
        let recorded = last_use(&store, &one).await.expect("a time");
        assert_eq!(recorded.timestamp_micros(), at.timestamp_micros());
    }
}

#[tokio::test]
async fn an_id_that_cannot_be_kept_spoils_no_other_use() {
    let Some((_server, store)) = postgres().await else {
        return;
    };
    let one = inserted(&store).await;
    let impossible = SessionUse::new("ses\0", one.customer_id.clone(), Utc::now());
    let twice = used(&one, Utc::now());
    let uses = [impossible.clone(), twice.clone(), twice];
    store.touch(&uses).await.expect("recorded");
    assert!(last_use(&store, &one).await.is_some());
    store.touch(&[impossible]).await.expect("nothing to record");
}

#[tokio::test]
async fn a_missing_table_of_uses_is_named() {
    let Some((server, store)) = postgres().await else {
        return;
    };
    let pool = PgPool::connect(&server.url()).await.expect("connected");
    let drop = sqlx::query("DROP TABLE customer_session_uses");
    drop.execute(&pool).await.expect("dropped");
    let says = ["customer_session_uses is missing", "MIGRATIONS"];
    assert_error(store.check().await, StoreErrorKind::Unavailable, &says);
    let customer = CustomerId::from("cus_1");
    let listed = store.summaries(&customer).await;
    assert_error(listed, StoreErrorKind::Unavailable, &says);
}

#[tokio::test(flavor = "multi_thread")]
async fn redis_keeps_no_use_later_than_its_clock() {
    let Some((_server, store)) = redis().await else {
        return;
    };
    future_uses_are_of_the_present(&store).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn redis_announces_no_use() {
    let Some((_server, store)) = redis().await else {
        return;
    };
    let mut source = store.invalidations().await.expect("it listens");
    uses_are_not_announced(&store, &mut source).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn redis_records_uses_beside_changes_of_the_same_sessions() {
    let Some((server, store)) = redis().await else {
        return;
    };
    uses_meet_changes(store).await;
    // All sessions have ended one by one, or with their customer or an epoch that is over.
    let left = server.redis_cli(&["KEYS", "cs:u:*"]);
    let of_epochs = server.redis_cli(&["KEYS", "cs:s:*"]);
    for key in left.lines() {
        let set = key.replace("cs:u:", "cs:s:");
        assert!(of_epochs.contains(&set), "{key} is left");
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn redis_records_uses_beside_changes_on_a_cluster() {
    let Some(cluster) = RedisCluster::new(3, 0) else {
        return servers::missing("Redis");
    };
    let store = RedisStore::connect(&cluster.urls()[0], peppers()).await;
    let store = store.expect("connected");
    future_uses_are_of_the_present(&store).await;
    uses_meet_changes(store).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_last_use_is_found_while_its_slot_moves() {
    let Some(cluster) = RedisCluster::new(2, 0) else {
        return servers::missing("Redis");
    };
    let store = RedisStore::connect(&cluster.urls()[0], peppers()).await;
    let store = store.expect("connected");
    let [one, unused, other] = [
        inserted(&store).await,
        inserted(&store).await,
        inserted(&store).await,
    ];
    let touch = async |sessions: &[&CustomerSession]| {
        let uses: Vec<_> = sessions.iter().map(|one| used(one, Utc::now())).collect();
        store.touch(&uses).await
    };
    touch(&[&one]).await.expect("recorded");
    for session in [&one, &unused] {
        let slot = cluster.slot_of(&format!("cs:c:{{={}}}", session.customer_id));
        let to = 1 - cluster.owner_of(slot);
        let is_used = async || last_use(&store, session).await.is_some();
        let expected = is_used().await;
        cluster.begin_move(slot, to);
        assert_eq!(is_used().await, expected);
        cluster.move_keys(slot, to);
        assert_eq!(is_used().await, expected);
        // What cannot be recorded yet keeps nothing else from it.
        let outcome = touch(&[session, &other]).await;
        assert!(last_use(&store, &other).await.is_some());
        assert_eq!(is_used().await, expected || outcome.is_ok());
        cluster.finish_move(slot, to);
        touch(&[session]).await.expect("recorded");
        assert!(is_used().await);
    }
}

/// Returns the field of a session in the hash of its customer's uses, and when that expires.
fn kept_of(server: &Server, session: &CustomerSession) -> (String, i64) {
    let key = format!("cs:u:{{={}}}", session.customer_id);
    let field = format!("={}", session.id);
    let left = server.redis_cli(&["PTTL", &key]);
    let left = left.parse().expect("a number");
    (server.redis_cli(&["HGET", &key, &field]), left)
}

/// Ends one of two sessions that were used, and returns what is kept of both.
async fn kept_after(
    server: &Server,
    store: &RedisStore,
    end: impl AsyncFn(&CustomerSession, &CustomerSession),
) -> [bool; 2] {
    let one = inserted(store).await;
    let mut other = session(store, one.customer_id.as_str());
    other.created_at = one.created_at + TimeDelta::microseconds(1);
    other.expires_at += TimeDelta::hours(5);
    store.add(&other).await.expect("inserted");
    let uses = [&one, &other].map(|session| used(session, Utc::now()));
    store.touch(&uses).await.expect("recorded");
    let (_, left) = kept_of(server, &one);
    let set = format!("cs:s:{{={}}}", one.customer_id);
    let of_set: i64 = server.redis_cli(&["PTTL", &set]).parse().expect("a number");
    assert!(
        (left - of_set).abs() < 60_000,
        "{left} ms and {of_set} ms are left"
    );
    end(&one, &other).await;
    [&one, &other].map(|session| {
        let (used_at, left) = kept_of(server, session);
        assert!(used_at.is_empty() || left > 0, "it stays");
        !used_at.is_empty()
    })
}

#[tokio::test]
async fn redis_keeps_uses_as_long_as_their_sessions() {
    let Some((server, store)) = redis().await else {
        return;
    };
    let ended = kept_after(&server, &store, async |one, _| {
        assert!(store.end(&one.id).await.expect("revoked"));
    });
    assert_eq!(ended.await, [false, true]);
    let replaced = kept_after(&server, &store, async |one, _| {
        let new = session(&store, one.customer_id.as_str());
        store
            .replace(&one.id, &new, None)
            .await
            .expect("replaced")
            .expect("live");
    });
    assert_eq!(replaced.await, [false, true]);
    let others = kept_after(&server, &store, async |one, _| {
        let (customer, keep) = (one.customer_id.clone(), one.id.clone());
        let what = Revocation::Others { customer, keep };
        assert!(store.revoke(&what).await.expect("revoked").any);
        assert!(last_use(&store, one).await.is_some());
    });
    assert_eq!(others.await, [true, false]);
    let all = kept_after(&server, &store, async |one, _| {
        assert!(store.end_customer(&one.customer_id).await.expect("revoked"));
    });
    assert_eq!(all.await, [false, false]);
    let older = kept_after(&server, &store, async |_, other| {
        let what = Revocation::CreatedBefore(other.created_at);
        assert!(store.revoke(&what).await.expect("revoked").any);
    });
    assert_eq!(older.await, [false, true]);
    let limited = kept_after(&server, &store, async |one, _| {
        let new = session(&store, one.customer_id.as_str());
        let limit = SessionLimit::end_oldest(2);
        let inserted = store.insert(&new, Some(&limit)).await.expect("inserted");
        assert_eq!(inserted.ended.len(), 1);
    });
    assert_eq!(limited.await, [false, true]);
    let purged = kept_after(&server, &store, async |one, _| {
        // As if it had expired: the server's clock is an upper bound.
        let mut old = session(&store, one.customer_id.as_str());
        old.expires_at = Utc::now() - TimeDelta::minutes(5);
        store.add(&old).await.expect("inserted");
        store
            .touch(&[used(&old, Utc::now())])
            .await
            .expect("recorded");
        assert_ne!(kept_of(&server, &old).0, "");
        // And what revocations have left.
        assert!(store.purge_expired(Utc::now(), 100).await.expect("purged") > 0);
        assert_eq!(kept_of(&server, &old).0, "");
    });
    assert_eq!(purged.await, [true, true]);
    let over = kept_after(&server, &store, async |one, _| {
        store.revoke(&Revocation::All).await.expect("revoked");
        let new = session(&store, one.customer_id.as_str());
        store.add(&new).await.expect("inserted");
    });
    assert_eq!(over.await, [false, false]);
}

/// Of very many sessions that do not count, some end at each attempt, so that the server does not stand still.
#[tokio::test]
async fn a_limit_in_redis_passes_by_very_many_sessions_that_are_not_used() {
    let Some((_server, store)) = redis().await else {
        return;
    };
    let customer = unique("cus");
    let since = Utc::now() - TimeDelta::minutes(30);
    let add = async |number| {
        let mut old = session(&store, &customer);
        old.created_at = since - TimeDelta::seconds(number);
        store.add(&old).await.expect("inserted")
    };
    let mut oldest = Vec::new();
    for number in 0..1300 {
        let one = add(number).await;
        if number >= 1298 {
            oldest.push(one);
        }
    }
    let uses: Vec<_> = oldest.iter().map(|one| used(one, Utc::now())).collect();
    store.touch(&uses).await.expect("recorded");
    let mut limit = SessionLimit::end_oldest(2);
    limit.used_since = Some(since);
    let new = session(&store, &customer);
    let inserted = store.insert(&new, Some(&limit)).await.expect("inserted");
    assert_eq!(inserted.ended[0].id, oldest[1].id);
    assert!(
        last_use(&store, &oldest[0]).await.is_some(),
        "it counts, and stays"
    );
}
