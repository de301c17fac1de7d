//! The epochs of customers in PostgreSQL: what races with their revocation, one transaction held open
//! by hand, and what a revocation leaves behind.

use std::{
    future::Future,
    time::{Duration, Instant},
};

use chrono::{TimeDelta, Utc};
use customer_session::{
    CustomerId, CustomerSession, Invalidation, Revocation, SessionLimit, SessionRegistry as _,
    SessionStore as _,
    store::{Peppers, PostgresStore},
};
use sqlx::{PgPool, Postgres, Transaction};

use crate::{
    persistent_store::{Database as _, inserted, peppers, session, unique},
    postgres::{ROTATE, Schema},
};
use test_support::RegistryExt as _;

const LOCK: &str = "SELECT 1 FROM customer_session_epochs WHERE customer_id = $1 FOR NO KEY UPDATE";

const RAISE: &str = "UPDATE customer_session_epochs SET epoch = epoch + 1, has_remains = true \
     WHERE customer_id = $1";

const KEEP: &str = "UPDATE customer_sessions SET epoch = epoch + 1 WHERE id = $2";

/// A sign-in as the store makes it, in steps.
const SIGN_IN: [&str; 2] = [
    LOCK,
    "INSERT INTO customer_sessions (id, token_hash, customer_id, epoch, created_at, expires_at) \
     SELECT $3, sha256($3::bytea), $1, epoch, now(), now() + interval '1 hour' FROM customer_session_epochs \
     WHERE customer_id = $1",
];

/// A derivation as the store makes it, in steps.
const DERIVE: [&str; 3] = [
    LOCK,
    "INSERT INTO customer_sessions \
     (id, token_hash, customer_id, epoch, created_at, expires_at, parent) \
     SELECT $3, sha256($3::bytea), $1, epoch, created_at, expires_at, coalesce(family, id) \
     FROM customer_sessions WHERE id = $2",
    "UPDATE customer_sessions SET is_parent = true WHERE id = $2",
];

/// The end of a customer without sessions, in steps.
const FORGET: [&str; 3] = [
    "SELECT 1 FROM customer_session_customers WHERE id = $1 FOR UPDATE",
    "SELECT 1 FROM customer_session_epochs WHERE customer_id = $1 FOR UPDATE",
    "DELETE FROM customer_session_customers WHERE id = $1",
];

struct Fixture {
    schema: Schema,
    store: PostgresStore,
    pool: PgPool,
}

impl Fixture {
    async fn new() -> Option<Self> {
        let schema = Schema::new().await?;
        let (store, pool) = (schema.open().await, schema.pool().await);
        Some(Self {
            schema,
            store,
            pool,
        })
    }

    /// Begins a transaction, and runs `steps` in it. Their parameters are a customer, a session, and
    /// the id of a session to come.
    async fn hold(
        &self,
        steps: &[&str],
        session: &CustomerSession,
        new: &str,
    ) -> Transaction<'static, Postgres> {
        let mut transaction = self.pool.begin().await.expect("begun");
        for step in steps {
            // Each parameter is used in each step, so that their types are known.
            let step = format!("WITH ids AS (SELECT $1::text, $2::text, $3::text) {step}");
            sqlx::query(sqlx::AssertSqlSafe(step))
                .bind(session.customer_id.as_str())
                .bind(session.id.as_str())
                .bind(new)
                .execute(&mut *transaction)
                .await
                .expect("a step");
        }
        transaction
    }

    /// See [`overtake`].
    async fn overtake<T: Send + 'static>(
        &self,
        held: Transaction<'static, Postgres>,
        change: impl Future<Output = T> + Send + 'static,
    ) -> T {
        overtake(&self.pool, held, change).await
    }

    async fn count<'q, B>(&self, query: &'static str, value: B) -> i64
    where
        B: sqlx::Encode<'q, Postgres> + sqlx::Type<Postgres> + 'q,
    {
        count(&self.pool, query, value).await
    }

    fn change<T, F>(&self, change: impl FnOnce(PostgresStore) -> F) -> F
    where
        F: Future<Output = T> + Send + 'static,
    {
        change(self.store.clone())
    }

    async fn is_live(&self, session: &CustomerSession) -> bool {
        let found = self.store.find(&session.token).await.expect("an answer");
        let listed = self.store.summaries(&session.customer_id).await;
        let listed = listed.expect("a list");
        let is_listed = listed.iter().any(|listed| listed.id == session.id);
        assert_eq!(found.is_some(), is_listed, "found and listed");
        is_listed
    }

    /// Returns the number of sessions of a customer in the table, whether they are live or not.
    async fn rows(&self, session: &CustomerSession) -> i64 {
        let rows = "SELECT count(*) FROM customer_sessions WHERE customer_id = $1";
        self.count(rows, session.customer_id.to_string()).await
    }

    async fn has_remains(&self, session: &CustomerSession) -> bool {
        let flagged = "SELECT count(*) FROM customer_session_epochs \
             WHERE has_remains AND customer_id = $1";
        self.count(flagged, session.customer_id.to_string()).await == 1
    }
}

async fn count<'q, B>(pool: &PgPool, query: &'static str, value: B) -> i64
where
    B: sqlx::Encode<'q, Postgres> + sqlx::Type<Postgres> + 'q,
{
    let count = sqlx::query_scalar(query).bind(value);
    count.fetch_one(pool).await.expect("a count")
}

/// Starts `change`, waits until it waits for `held`, commits that, and returns what came of the change.
pub(crate) async fn overtake<T: Send + 'static>(
    pool: &PgPool,
    mut held: Transaction<'static, Postgres>,
    change: impl Future<Output = T> + Send + 'static,
) -> T {
    let change = tokio::spawn(change);
    wait_for(pool, &mut held, &change).await;
    held.commit().await.expect("committed");
    change.await.expect("no panic")
}

async fn holder(held: &mut Transaction<'static, Postgres>) -> i32 {
    let holder = sqlx::query_scalar("SELECT pg_backend_pid()");
    holder.fetch_one(&mut **held).await.expect("a number")
}

/// Waits until `change` waits for `held`.
async fn wait_for<T>(
    pool: &PgPool,
    held: &mut Transaction<'static, Postgres>,
    change: &tokio::task::JoinHandle<T>,
) {
    let holder = holder(held).await;
    let waiting = "SELECT count(*) FROM pg_stat_activity WHERE $1 = ANY(pg_blocking_pids(pid))";
    let deadline = Instant::now() + Duration::from_secs(20);
    while count(pool, waiting, holder).await == 0 {
        assert!(Instant::now() < deadline, "it does not wait");
        assert!(!change.is_finished(), "it does not wait");
    }
}

fn of_customer(session: &CustomerSession) -> Revocation {
    Revocation::Customer(session.customer_id.clone())
}

#[tokio::test(flavor = "multi_thread")]
async fn a_revocation_ends_a_sign_in_and_a_rotation_under_way() {
    let Some(on) = Fixture::new().await else {
        return;
    };
    for steps in [&SIGN_IN[..], &ROTATE] {
        for what in [of_customer, |session: &CustomerSession| {
            Revocation::Others {
                customer: session.customer_id.clone(),
                keep: unique("ses").into(),
            }
        }] {
            let old = inserted(&on.store).await;
            let what = what(&old);
            let held = on.hold(steps, &old, &unique("new")).await;
            let change = on.change({
                let what = what.clone();
                |store| async move { store.revoke(&what).await }
            });
            let revoked = on.overtake(held, change).await.expect("revoked");
            assert!(revoked.any, "{what:?}");
            let left = on.store.summaries(&old.customer_id).await;
            assert_eq!(left.expect("a list"), [], "{what:?}");
        }
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_sign_in_that_waits_for_a_revocation_gets_the_new_epoch() {
    let Some(on) = Fixture::new().await else {
        return;
    };
    for limit in [None, Some(SessionLimit::end_oldest(5))] {
        let old = inserted(&on.store).await;
        let new = session(&on.store, old.customer_id.as_str());
        let held = on.hold(&[RAISE], &old, "").await;
        let change = on.change({
            let new = new.clone();
            |store| async move { store.insert(&new, limit.as_ref()).await }
        });
        let inserted = on.overtake(held, change).await.expect("inserted");
        assert_eq!(inserted.ended, []);
        assert!(on.is_live(&new).await);
        assert!(!on.is_live(&old).await);
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_rotation_that_a_revocation_overtakes_never_gets_the_new_epoch() {
    let Some(on) = Fixture::new().await else {
        return;
    };
    for limit in [None, Some(SessionLimit::end_oldest(5))] {
        let old = inserted(&on.store).await;
        let new = session(&on.store, old.customer_id.as_str());
        let held = on.hold(&[RAISE], &old, "").await;
        let change = on.change({
            let (old, new) = (old.id.clone(), new.clone());
            move |store| async move { store.replace(&old, &new, limit.as_ref()).await }
        });
        let replaced = on.overtake(held, change).await.expect("an answer");
        assert_eq!(replaced, None);
        assert!(!on.is_live(&new).await);
        assert!(!on.is_live(&old).await);
        assert_eq!(on.rows(&old).await, 1, "the new session was not added");
    }
}

/// The session that is kept changes its epoch while others look at it.
#[tokio::test(flavor = "multi_thread")]
async fn a_session_that_a_revocation_keeps_may_be_rotated_and_revoked_meanwhile() {
    let Some(on) = Fixture::new().await else {
        return;
    };
    let kept = inserted(&on.store).await;
    let new = session(&on.store, kept.customer_id.as_str());
    let held = on.hold(&[RAISE, KEEP], &kept, "").await;
    let change = on.change({
        let (old, new) = (kept.id.clone(), new.clone());
        |store| async move { store.swap(&old, &new).await }
    });
    let replaced = on.overtake(held, change).await.expect("an answer");
    assert!(replaced.is_some(), "it was there all the time");
    assert!(on.is_live(&new).await);

    for by_owner in [false, true] {
        let kept = inserted(&on.store).await;
        let (customer, session) = (kept.customer_id.clone(), kept.id.clone());
        let what = match by_owner {
            true => Revocation::Owned { customer, session },
            false => Revocation::Session(session),
        };
        let held = on.hold(&[RAISE, KEEP], &kept, "").await;
        let change = on.change(|store| async move { store.revoke(&what).await });
        let revoked = on.overtake(held, change).await.expect("an answer");
        assert!(revoked.any);
        assert!(!on.is_live(&kept).await);
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_revocation_ends_what_is_derived_meanwhile() {
    let Some(on) = Fixture::new().await else {
        return;
    };
    for was_parent in [false, true] {
        for form in [
            |session: &CustomerSession| Revocation::Session(session.id.clone()),
            |session: &CustomerSession| Revocation::Owned {
                customer: session.customer_id.clone(),
                session: session.id.clone(),
            },
            of_customer,
        ] {
            let mut parent = inserted(&on.store).await;
            if was_parent {
                let first = parent;
                on.store
                    .derive(&first.id, &child_of(&on, &first))
                    .await
                    .expect("derived");
                parent = session(&on.store, first.customer_id.as_str());
                on.store.swap(&first.id, &parent).await.expect("rotated");
            }
            let what = form(&parent);
            let held = on.hold(&DERIVE, &parent, &unique("new")).await;
            let change = on.change({
                let what = what.clone();
                |store| async move { store.revoke(&what).await }
            });
            let revoked = on.overtake(held, change).await.expect("an answer");
            assert!(revoked.any, "{what:?}");
            let left = on.store.summaries(&parent.customer_id).await;
            assert_eq!(left.expect("a list"), [], "{what:?}");
        }
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_derivation_that_a_revocation_overtakes_adds_nothing() {
    let Some(on) = Fixture::new().await else {
        return;
    };
    for step in [RAISE, "DELETE FROM customer_sessions WHERE id = $2"] {
        let parent = inserted(&on.store).await;
        let child = child_of(&on, &parent);
        let held = on.hold(&[step], &parent, "").await;
        let change = on.change({
            let (parent, child) = (parent.id.clone(), child.clone());
            |store| async move { store.derive(&parent, &child).await }
        });
        assert_eq!(on.overtake(held, change).await.expect("an answer"), None);
        assert!(!on.is_live(&child).await, "{step}");
    }
}

fn child_of(on: &Fixture, parent: &CustomerSession) -> CustomerSession {
    let mut child = session(&on.store, parent.customer_id.as_str());
    child.expires_at = parent.expires_at;
    child.details.parent = Some(parent.id.clone());
    child
}

#[tokio::test(flavor = "multi_thread")]
async fn a_limit_counts_a_sign_in_under_way() {
    let Some(on) = Fixture::new().await else {
        return;
    };
    let old = inserted(&on.store).await;
    assert!(on.store.end(&old.id).await.expect("revoked"));
    let under_way = unique("new");
    let held = on.hold(&SIGN_IN, &old, &under_way).await;
    let new = session(&on.store, old.customer_id.as_str());
    let change = on.change({
        let new = new.clone();
        |store| async move { store.insert(&new, Some(&SessionLimit::end_oldest(1))).await }
    });
    let added = on.overtake(held, change).await.expect("inserted");
    assert_eq!(added.ended.len(), 1);
    assert_eq!(added.ended[0].id.as_str(), under_way);
    assert!(on.is_live(&new).await);
    assert_eq!(on.rows(&new).await, 1);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_sign_in_that_waits_for_a_purge_brings_its_customer_along() {
    let Some(on) = Fixture::new().await else {
        return;
    };
    let without_epoch = "DELETE FROM customer_session_epochs WHERE customer_id = $1";
    for has_epoch in [true, false] {
        for limit in [None, Some(SessionLimit::end_oldest(5))] {
            let old = inserted(&on.store).await;
            assert!(on.store.end(&old.id).await.expect("revoked"));
            if !has_epoch {
                let deleted = on.hold(&[without_epoch], &old, "").await;
                deleted.commit().await.expect("committed");
            }
            let held = on.hold(&FORGET, &old, "").await;
            let new = session(&on.store, old.customer_id.as_str());
            let change = on.change({
                let new = new.clone();
                |store| async move { store.insert(&new, limit.as_ref()).await }
            });
            on.overtake(held, change).await.expect("inserted");
            assert!(on.is_live(&new).await, "{has_epoch}, {limit:?}");
        }
    }
}

/// A customer whose epoch is gone, as that of one who was forgotten half way.
#[tokio::test(flavor = "multi_thread")]
async fn a_limited_sign_in_waits_for_the_end_of_its_customer_and_adds_them_again() {
    let Some(on) = Fixture::new().await else {
        return;
    };
    let old = inserted(&on.store).await;
    let without_epoch = "DELETE FROM customer_session_epochs WHERE customer_id = $1";
    let deleted = on.hold(&[without_epoch], &old, "").await;
    deleted.commit().await.expect("committed");
    let mut held = on.hold(&FORGET[..1], &old, "").await;
    let new = session(&on.store, old.customer_id.as_str());
    let change = on.change({
        let new = new.clone();
        |store| async move { store.insert(&new, Some(&SessionLimit::end_oldest(5))).await }
    });
    let change = tokio::spawn(change);
    wait_for(&on.pool, &mut held, &change).await;
    // Only now, when the sign-in has seen them.
    sqlx::query("DELETE FROM customer_session_customers WHERE id = $1")
        .bind(old.customer_id.as_str())
        .execute(&mut *held)
        .await
        .expect("deleted");
    held.commit().await.expect("committed");
    change.await.expect("no panic").expect("inserted");
    assert!(on.is_live(&new).await);
}

/// Both revoke every session of these tests.
fn of_all() -> [Revocation; 2] {
    let time = Utc::now() + TimeDelta::hours(1);
    [Revocation::All, Revocation::CreatedBefore(time)]
}

#[tokio::test(flavor = "multi_thread")]
async fn revoking_all_ends_what_comes_of_a_rotation_under_way() {
    let Some(on) = Fixture::new().await else {
        return;
    };
    for what in of_all() {
        let old = inserted(&on.store).await;
        let held = on.hold(&ROTATE, &old, &unique("new")).await;
        let change = on.change({
            let what = what.clone();
            |store| async move { store.revoke(&what).await }
        });
        let revoked = on.overtake(held, change).await.expect("revoked");
        assert!(revoked.any, "{what:?}");
        assert_eq!(on.rows(&old).await, 0, "{what:?}");
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn revoking_all_holds_up_the_rotations_that_come_later() {
    let Some(on) = Fixture::new().await else {
        return;
    };
    for what in of_all() {
        let [first, last] = ["a", "z"].map(|name| session(&on.store, &unique(name)));
        for session in [&first, &last] {
            on.store.add(session).await.expect("inserted");
        }
        let mut held = on.hold(&[LOCK], &last, "").await;
        let revoking = tokio::spawn(on.change({
            let what = what.clone();
            |store| async move { store.revoke(&what).await }
        }));
        wait_for(&on.pool, &mut held, &revoking).await;
        let new = session(&on.store, first.customer_id.as_str());
        let rotating = tokio::spawn(on.change({
            let (old, new) = (first.id.clone(), new.clone());
            |store| async move { store.swap(&old, &new).await }
        }));
        let waiting = "SELECT count(*) FROM pg_stat_activity a WHERE EXISTS (SELECT 1 \
             FROM unnest(pg_blocking_pids(a.pid)) b WHERE $1 = ANY(pg_blocking_pids(b)))";
        let holder = holder(&mut held).await;
        let deadline = Instant::now() + Duration::from_secs(20);
        while on.count(waiting, holder).await == 0 {
            assert!(Instant::now() < deadline, "the rotation does not wait");
            assert!(!rotating.is_finished(), "the rotation does not wait");
        }
        held.commit().await.expect("committed");
        assert!(revoking.await.expect("no panic").expect("revoked").any);
        let rotated = rotating.await.expect("no panic").expect("an answer");
        assert_eq!(rotated, None, "{what:?}");
        for session in [&first, &last, &new] {
            assert_eq!(on.rows(session).await, 0, "{what:?}");
        }
    }
}

/// With a lock on the table, all of them would wait: for a revocation that waits for one customer.
#[tokio::test(flavor = "multi_thread")]
async fn while_revoking_all_waits_for_one_customer_others_sign_in_and_rotate() {
    let Some(on) = Fixture::new().await else {
        return;
    };
    for what in of_all() {
        let [first, other] = ["a", "z"].map(|name| session(&on.store, &unique(name)));
        for session in [&first, &other] {
            on.store.add(session).await.expect("inserted");
        }
        let mut held = on.hold(&ROTATE, &first, &unique("new")).await;
        let revoking = tokio::spawn(on.change({
            let what = what.clone();
            |store| async move { store.revoke(&what).await }
        }));
        wait_for(&on.pool, &mut held, &revoking).await;
        let [of_other, new] = [(); 2].map(|()| session(&on.store, other.customer_id.as_str()));
        let of_stranger = session(&on.store, &unique("z"));
        let limit = SessionLimit::end_oldest(5);
        let writing = async {
            on.store.add(&of_other).await.expect("inserted");
            let limited = on.store.insert(&of_stranger, Some(&limit)).await;
            limited.expect("inserted");
            let rotated = on.store.swap(&other.id, &new).await;
            assert!(rotated.expect("an answer").is_some());
        };
        let written = tokio::time::timeout(Duration::from_secs(20), writing).await;
        written.expect("they wait for the revocation");
        assert!(!revoking.is_finished());
        held.commit().await.expect("committed");
        assert!(revoking.await.expect("no panic").expect("revoked").any);
        for session in [&first, &other] {
            assert_eq!(on.rows(session).await, 0, "{what:?}");
        }
    }
}

#[tokio::test]
async fn what_a_revocation_leaves_behind_is_purged_in_steps() {
    let Some(on) = Fixture::new().await else {
        return;
    };
    let store = &on.store;
    let first = inserted(store).await;
    for _ in 0..4 {
        let next = session(store, first.customer_id.as_str());
        store.add(&next).await.expect("inserted");
    }
    let other = inserted(store).await;
    let revoked = store.revoke(&of_customer(&first)).await.expect("revoked");
    assert!(revoked.any);
    let revoked = store.revoke(&of_customer(&first)).await.expect("revoked");
    assert!(!revoked.any, "nothing was live");
    let after = session(store, first.customer_id.as_str());
    store.add(&after).await.expect("inserted");
    assert_eq!(on.rows(&first).await, 6);
    assert!(
        !store.end(&first.id).await.expect("an answer"),
        "it has ended"
    );
    assert_eq!(on.rows(&first).await, 5, "it is removed all the same");

    let purge = async || store.purge_expired(Utc::now(), 3).await.expect("purged");
    assert_eq!(purge().await, 3);
    assert!(on.has_remains(&first).await);
    assert_eq!(purge().await, 1);
    assert!(!on.has_remains(&first).await);
    assert_eq!(purge().await, 0);
    for live in [&after, &other] {
        assert!(on.is_live(live).await);
        assert_eq!(on.rows(live).await, 1);
    }
}

#[tokio::test]
async fn purging_and_new_peppers_are_not_announced() {
    let Some(on) = Fixture::new().await else {
        return;
    };
    let store = &on.store;
    let mut expired = session(store, &unique("cus"));
    // A moment ago: other nodes may still hold it.
    expired.expires_at = Utc::now() - TimeDelta::seconds(1);
    store.add(&expired).await.expect("inserted");
    let first = inserted(store).await;
    let kept = inserted(store).await;
    assert!(
        store
            .end_customer(&first.customer_id)
            .await
            .expect("revoked")
    );
    let mut source = store.invalidations().await.expect("it listens");
    crate::invalidations::receive_until(&mut source, Invalidation::All).await;

    assert_eq!(store.purge_expired(Utc::now(), 9).await.expect("purged"), 2);
    let ring = Peppers::new([7; 32]).or(crate::persistent_store::PEPPER);
    let other = PostgresStore::connect(&on.schema.url, ring).await;
    let other = other.expect("connected");
    let found = other.find(&kept.token).await.expect("an answer");
    assert!(found.is_some());
    let rewritten = "SELECT count(*) FROM customer_sessions WHERE id = $1 AND token_hash <> $2";
    let hash: i64 = sqlx::query_scalar(rewritten)
        .bind(kept.id.as_str())
        .bind([0_u8; 32].as_slice())
        .fetch_one(&on.pool)
        .await
        .expect("a count");
    assert_eq!(hash, 1);
    assert!(
        other
            .end_customer(&kept.customer_id)
            .await
            .expect("revoked")
    );
    let heard = crate::invalidations::next(&mut source).await;
    assert_eq!(
        heard,
        Invalidation::Customer(kept.customer_id.clone()).into()
    );

    // By hand it is announced.
    let by_hand = inserted(&other).await;
    for (change, expected) in [
        (
            "UPDATE customer_session_epochs SET epoch = epoch + 1 WHERE customer_id = $1",
            Invalidation::Customer(by_hand.customer_id.clone()),
        ),
        (
            "UPDATE customer_sessions SET token_hash = sha256('x') WHERE customer_id = $1",
            Invalidation::Session(by_hand.id.clone()),
        ),
        (
            "DELETE FROM customer_sessions WHERE customer_id = $1",
            Invalidation::Session(by_hand.id.clone()),
        ),
        (
            "DELETE FROM customer_session_epochs WHERE customer_id = $1",
            Invalidation::Customer(by_hand.customer_id.clone()),
        ),
    ] {
        let change = sqlx::query(change).bind(by_hand.customer_id.as_str());
        change.execute(&on.pool).await.expect("changed");
        let heard = crate::invalidations::next(&mut source).await;
        assert_eq!(heard, expected.into());
    }
}

const MANY: i64 = 4000;

impl Fixture {
    /// Adds [`MANY`] sessions of one customer, and returns the customer.
    async fn fill(&self, expired: bool) -> CustomerId {
        let customer = inserted(&self.store).await.customer_id;
        let fill = "INSERT INTO customer_sessions \
             (id, token_hash, customer_id, created_at, expires_at) \
             SELECT 'ses_' || n, sha256(n::text::bytea), $1, now() - n * interval '1 second', \
             now() + CASE WHEN $3 THEN interval '-1 day' ELSE interval '1 day' END \
             - n * interval '1 second' FROM generate_series(1, $2) n";
        let fill = sqlx::query(fill).bind(customer.as_str());
        let fill = fill.bind(MANY).bind(expired);
        fill.execute(&self.pool).await.expect("filled");
        let analyze = sqlx::query("ANALYZE").execute(&self.pool).await;
        analyze.expect("analyzed");
        customer
    }

    /// Begins a transaction that goes on seeing everything that is there now.
    async fn snapshot(&self) -> Transaction<'static, Postgres> {
        let mut report = self.pool.begin().await.expect("begun");
        for statement in [
            "SET TRANSACTION ISOLATION LEVEL REPEATABLE READ",
            "SELECT count(*) FROM customer_sessions",
        ] {
            let statement = sqlx::query(statement).execute(&mut *report).await;
            statement.expect("a snapshot");
        }
        report
    }

    /// Purges in steps of a hundred, until nothing is left.
    async fn purge(&self, store: &PostgresStore, expected: i64) {
        let mut purged = 0;
        for _ in 0..=expected / 100 {
            purged += store.purge_expired(Utc::now(), 100).await.expect("purged");
        }
        assert_eq!(purged, expected.unsigned_abs());
    }

    /// Returns how many entries of an index of the sessions were read, as soon as there are `least`.
    /// Connections report what they have read when they end.
    async fn entries_read(&self, index: &'static str, least: i64) -> i64 {
        let read = "SELECT coalesce(sum(idx_tup_read), 0)::bigint FROM pg_stat_user_indexes \
             WHERE indexrelid = $1::regclass";
        let deadline = Instant::now() + Duration::from_secs(20);
        loop {
            let entries = self.count(read, index).await;
            if entries >= least {
                return entries;
            }
            assert!(Instant::now() < deadline, "{entries} entries were read");
        }
    }
}

/// What was removed stays in the index while an old snapshot may see it.
#[tokio::test]
async fn a_long_snapshot_makes_no_step_of_a_purge_longer() {
    for (index, expired) in [
        ("customer_sessions_by_expiry", true),
        ("customer_sessions_by_customer", false),
    ] {
        let Some(on) = Fixture::new().await else {
            return;
        };
        let customer = on.fill(expired).await;
        let report = on.snapshot().await;
        // A table as small as this one would be sorted.
        let url = format!("{}%20-cenable_bitmapscan%3Doff", on.schema.url);
        let pool = PgPool::connect(&url).await.expect("connected");
        let store = PostgresStore::new(pool.clone(), peppers());
        if expired {
            on.purge(&store, MANY).await;
            // Nor do the first steps of what is purged later.
            for _ in 0..5 {
                on.purge(&store, 0).await;
            }
        } else {
            let revoked = store.end_customer(&customer).await;
            assert!(revoked.expect("revoked"));
            // And the one that was there before.
            on.purge(&store, MANY + 1).await;
        }
        pool.close().await;
        // From the beginning, each step would read all that those before it have removed.
        let entries = on.entries_read(index, MANY).await;
        assert!(
            entries < 4 * MANY,
            "{entries} entries of {index}, which has {MANY}"
        );
        report.commit().await.expect("committed");
    }
}

#[tokio::test]
async fn a_long_snapshot_makes_no_step_of_a_purge_of_rotations_longer() {
    let Some(on) = Fixture::new().await else {
        return;
    };
    let fill = "INSERT INTO customer_session_rotations (id, family, customer_id, ends_at) \
         SELECT 'r' || n, 'f' || n, 'c1', now() - n * interval '1 second' FROM generate_series(1, $1) n";
    let fill = sqlx::query(fill).bind(MANY).execute(&on.pool).await;
    fill.expect("filled");
    let analyze = sqlx::query("ANALYZE").execute(&on.pool).await;
    analyze.expect("analyzed");
    let report = on.snapshot().await;
    let url = format!("{}%20-cenable_bitmapscan%3Doff", on.schema.url);
    let pool = PgPool::connect(&url).await.expect("connected");
    let store = PostgresStore::new(pool.clone(), peppers());
    on.purge(&store, MANY).await;
    for _ in 0..5 {
        on.purge(&store, 0).await;
    }
    pool.close().await;
    let entries = on
        .entries_read("customer_session_rotations_by_end", MANY)
        .await;
    assert!(entries < 4 * MANY, "{entries} entries of {MANY}");
    report.commit().await.expect("committed");
}

/// A sign-in and a revocation that come between the beginning of the statement and its look at the
/// epoch: the session that they leave behind is not seen by the statement.
#[tokio::test(flavor = "multi_thread")]
async fn what_a_revocation_leaves_behind_meanwhile_is_not_taken_for_nothing() {
    let Some(on) = Fixture::new().await else {
        return;
    };
    let old = inserted(&on.store).await;
    assert!(on.store.end(&old.id).await.expect("revoked"));
    let flag = "UPDATE customer_session_epochs SET has_remains = true WHERE customer_id = $1";
    let flagged = on.hold(&[flag], &old, "").await;
    flagged.commit().await.expect("committed");
    // It holds the statement up before it reads the first row.
    let hold_up = "CREATE FUNCTION hold_up() RETURNS trigger LANGUAGE plpgsql AS $$ BEGIN \
         IF current_query() LIKE '%SET has_remains = false%' THEN \
         PERFORM pg_advisory_xact_lock(1); END IF; RETURN NULL; END $$; \
         CREATE TRIGGER hold_up BEFORE UPDATE ON customer_session_epochs \
         FOR EACH STATEMENT EXECUTE FUNCTION hold_up()";
    sqlx::raw_sql(hold_up).execute(&on.pool).await.expect("set");
    let mut held = on.pool.begin().await.expect("begun");
    let lock = sqlx::query("SELECT pg_advisory_xact_lock(1)").execute(&mut *held);
    lock.await.expect("locked");
    let purging = on.change(|store| async move { store.purge_expired(Utc::now(), 9).await });
    let purging = tokio::spawn(purging);
    wait_for(&on.pool, &mut held, &purging).await;
    let new = session(&on.store, old.customer_id.as_str());
    on.store.add(&new).await.expect("inserted");
    assert!(on.store.end_customer(&old.customer_id).await.expect("done"));
    held.commit().await.expect("committed");
    let purged = purging.await.expect("no panic").expect("purged");
    assert_eq!(purged, 0, "it was not there");
    assert!(on.has_remains(&old).await);
    let purged = on.store.purge_expired(Utc::now(), 9).await.expect("purged");
    assert_eq!(purged, 1);
    assert!(!on.has_remains(&old).await);
}

/// Fills the tables with 2,000 customers, of whom each has ten sessions.
const FILL_CUSTOMERS: &str = "INSERT INTO customer_session_epochs (customer_id) \
     SELECT 'c' || n FROM generate_series(1, 2000) n; \
     INSERT INTO customer_sessions (id, token_hash, customer_id, created_at, expires_at) \
     SELECT 's' || n, sha256(n::text::bytea), 'c' || (n % 2000 + 1), now(), \
     now() + interval '1 day' FROM generate_series(1, 20000) n; ANALYZE";

/// Returns how many rows of a table were read from its beginning on.
async fn rows_scanned(pool: &PgPool, table: &'static str) -> i64 {
    let scanned = "SELECT coalesce(sum(seq_tup_read), 0)::bigint FROM pg_stat_user_tables \
         WHERE relid = $1::regclass";
    count(pool, scanned, table).await
}

#[tokio::test]
async fn a_page_of_customers_reads_no_sessions_of_others() {
    for is_external in [false, true] {
        let Some(schema) = Schema::new().await else {
            return;
        };
        let pool = schema.pool().await;
        let own = "INSERT INTO customer_session_customers (id, organization_id, created_at) \
             SELECT 'c' || n, 'org_1', now() FROM generate_series(1, 2000) n";
        let mut builder = PostgresStore::builder(peppers());
        if is_external {
            let view = sqlx::raw_sql(crate::external_customers::ACCOUNTS);
            view.execute(&pool).await.expect("defined");
            builder = builder.external_customers();
        }
        let others = PgPool::connect(&schema.url).await.expect("connected");
        let store = builder.build(others.clone()).expect("built");
        store.migrate().await.expect("migrated");
        for fill in [if is_external { "SELECT" } else { own }, FILL_CUSTOMERS] {
            sqlx::raw_sql(fill).execute(&pool).await.expect("filled");
        }
        let on = Fixture {
            schema,
            store: store.clone(),
            pool,
        };
        let before = rows_scanned(&on.pool, "customer_sessions").await;
        let next = store.purge_customers(None, 50).await.expect("purged");
        assert!(next.is_some());
        others.close().await;
        let entries = on.entries_read("customer_sessions_by_customer", 50).await;
        assert!(entries < 2000, "{entries} entries");
        let scanned = rows_scanned(&on.pool, "customer_sessions").await;
        assert_eq!(scanned, before, "external: {is_external}");
    }
}

/// After a restore or a major upgrade, until the tables are analyzed.
#[tokio::test]
async fn a_lookup_without_statistics_reads_customers_by_their_index() {
    let Some(on) = Fixture::new().await else {
        return;
    };
    let fill = "ALTER TABLE customer_sessions SET (autovacuum_enabled = false); \
         ALTER TABLE customer_session_epochs SET (autovacuum_enabled = false); \
         ALTER TABLE customer_session_customers SET (autovacuum_enabled = false); \
         INSERT INTO customer_session_customers (id, organization_id, created_at) \
         SELECT 'c' || n, 'org_1', now() FROM generate_series(1, 20000) n; \
         INSERT INTO customer_session_epochs (customer_id) \
         SELECT 'c' || n FROM generate_series(1, 20000) n; \
         INSERT INTO customer_sessions (id, token_hash, customer_id, created_at, expires_at) \
         SELECT 's' || n, sha256(n::text::bytea), 'c' || n, now(), now() + interval '1 day' \
         FROM generate_series(1, 20000) n";
    sqlx::raw_sql(fill).execute(&on.pool).await.expect("filled");
    let live = inserted(&on.store).await;
    let pool = PgPool::connect(&on.schema.url).await.expect("connected");
    let tables = [
        "customer_sessions",
        "customer_session_epochs",
        "customer_session_customers",
    ];
    for peppers in [peppers(), peppers().or([3; 32])] {
        let store = PostgresStore::new(pool.clone(), peppers);
        let found = store.find(&live.token).await.expect("an answer");
        assert_eq!(found.as_ref(), Some(&live));
    }
    pool.close().await;
    on.entries_read("customer_sessions_token_hash_key", 2).await;
    for table in tables {
        let scanned = rows_scanned(&on.pool, table).await;
        assert!(scanned < 20_000, "{scanned} rows of {table}");
    }
}

#[tokio::test]
async fn revoking_a_customer_reads_one_session_however_many_there_are() {
    let Some(on) = Fixture::new().await else {
        return;
    };
    let customer = on.fill(false).await;
    let pool = PgPool::connect(&on.schema.url).await.expect("connected");
    let store = PostgresStore::new(pool.clone(), peppers());
    assert!(store.end_customer(&customer).await.expect("revoked"));
    pool.close().await;
    let entries = on.entries_read("customer_sessions_by_customer", 1).await;
    assert!(entries < 10, "{entries} entries were read");
    assert_eq!(rows_scanned(&on.pool, "customer_sessions").await, 0);
}
