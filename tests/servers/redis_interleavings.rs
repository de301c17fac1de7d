//! What happens in Redis when calls meet, and when keys are missing.

use std::sync::{Arc, Mutex};

use chrono::{DateTime, SubsecRound as _, TimeDelta, Utc};
use customer_session::{
    CustomerSession, Invalidation, Page, Revocation, SessionId, SessionLimit, SessionRegistry as _,
    SessionStore as _, SessionSummary, SessionToken, StoreErrorKind,
    store::{Peppers, RedisStore},
};
use redis::{
    Arg, AsyncCommands as _, Cmd, Pipeline, RedisFuture, Value,
    aio::{ConnectionLike, MultiplexedConnection},
};

use crate::persistent_store::{PEPPER, inserted, overlapping, peppers, session, unique};
use test_support::{
    RegistryExt as _,
    servers::{self, Server},
};

async fn redis() -> Option<(Server, RedisStore, MultiplexedConnection)> {
    let Some(server) = Server::redis() else {
        servers::missing("Redis");
        return None;
    };
    let store = RedisStore::connect(&server.url(), peppers()).await;
    let client = redis::Client::open(server.url()).expect("a URL");
    let by_hand = client.get_multiplexed_async_connection().await;
    Some((
        server,
        store.expect("connected"),
        by_hand.expect("connected"),
    ))
}

async fn is_found(store: &RedisStore, session: &CustomerSession) -> bool {
    let found = store.find(&session.token).await;
    found.expect("an answer").is_some()
}

async fn keys(by_hand: &mut MultiplexedConnection, pattern: &str) -> Vec<Vec<u8>> {
    by_hand.keys(pattern).await.expect("keys")
}

#[tokio::test(flavor = "multi_thread")]
async fn an_id_leads_to_the_session_that_took_its_place_whatever_rotations_meet() {
    let Some((_server, store, _)) = redis().await else {
        return;
    };
    let store = Arc::new(store);
    for _ in 0..30 {
        let first = inserted(&*store).await;
        let rotations = (0..4).map(|_| {
            let (store, old) = (Arc::clone(&store), first.id.clone());
            let new = session(&*store, first.customer_id.as_str());
            tokio::spawn(async move { store.swap(&old, &new).await.expect("an answer") })
        });
        let mut replaced = Vec::new();
        for rotation in rotations.collect::<Vec<_>>() {
            replaced.extend(rotation.await.expect("no panic"));
        }
        assert_eq!(replaced.len(), 1, "one of them takes the place");
        let late = session(&*store, first.customer_id.as_str());
        assert!(
            store
                .swap(&first.id, &late)
                .await
                .expect("an answer")
                .is_none()
        );
        assert!(store.end(&first.id).await.expect("an answer"));
        assert!(!is_found(&store, &replaced[0]).await);
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn no_revocation_by_an_id_misses_a_rotation_that_is_under_way() {
    let Some((_server, store, _)) = redis().await else {
        return;
    };
    for _ in 0..100 {
        let first = inserted(&store).await;
        let second = session(&store, first.customer_id.as_str());
        let third = session(&store, first.customer_id.as_str());
        let rotating = {
            let (store, second, third) = (store.clone(), second.clone(), third.clone());
            let old = first.id.clone();
            tokio::spawn(async move {
                if store
                    .swap(&old, &second)
                    .await
                    .expect("an answer")
                    .is_some()
                {
                    store.swap(&second.id, &third).await.expect("an answer");
                }
            })
        };
        assert!(
            store.end(&first.id).await.expect("an answer"),
            "it was live all the time"
        );
        rotating.await.expect("no panic");
        for session in [&first, &second, &third] {
            assert!(!is_found(&store, session).await);
        }
    }
}

#[tokio::test]
async fn ids_lead_to_a_family_whose_end_was_postponed() {
    let Some((_server, store, mut by_hand)) = redis().await else {
        return;
    };
    let mut family = vec![inserted(&store).await];
    for days in [2, 4, 30] {
        let mut next = session(&store, family[0].customer_id.as_str());
        next.expires_at = Utc::now() + TimeDelta::days(days);
        let old = family[family.len() - 1].id.clone();
        assert!(store.swap(&old, &next).await.expect("an answer").is_some());
        family.push(next);
    }
    for one in &family {
        let key = format!("cs:i:={}", one.id);
        let left: i64 = by_hand.pttl(&key).await.expect("an answer");
        let needed = TimeDelta::days(30).num_milliseconds();
        assert!(left > needed, "{left} ms are left of {}", one.id);
    }
    assert!(store.end(&family[1].id).await.expect("an answer"));
    assert!(!is_found(&store, &family[3]).await);
}

#[tokio::test]
async fn a_limit_names_what_it_ended_even_without_its_record() {
    let Some((_server, store, mut by_hand)) = redis().await else {
        return;
    };
    let first = inserted(&store).await;
    let lost = keys(&mut by_hand, "cs:t:*").await;
    let _: u64 = by_hand.del(lost).await.expect("lost");
    let second = session(&store, first.customer_id.as_str());
    let limit = SessionLimit::end_oldest(1);
    let inserted = store.insert(&second, Some(&limit)).await.expect("inserted");
    let [ended] = inserted.ended.as_slice() else {
        panic!("{:?} was ended", inserted.ended);
    };
    assert_eq!((&ended.id, ended.expires_at), (&first.id, first.expires_at));
    assert!(is_found(&store, &second).await);
}

#[tokio::test]
async fn a_parent_has_a_hundred_live_children_and_nothing_is_left_of_them() {
    let Some((_server, store, mut by_hand)) = redis().await else {
        return;
    };
    let parent = inserted(&store).await;
    let child = |minutes| {
        let mut child = session(&store, parent.customer_id.as_str());
        child.expires_at = Utc::now() + TimeDelta::minutes(minutes);
        child.details.parent = Some(parent.id.clone());
        child
    };
    // Those that have expired do not count.
    for minutes in [-1; 10].into_iter().chain([5; 100]) {
        let derived = store.derive(&parent.id, &child(minutes)).await;
        assert!(derived.expect("an answer").is_some());
    }
    let one_more = child(5);
    let refused = store.derive(&parent.id, &one_more).await;
    assert_eq!(
        refused.expect_err("too many").kind(),
        StoreErrorKind::Conflict
    );
    assert!(!is_found(&store, &one_more).await);
    let listed = store.summaries(&parent.customer_id).await.expect("a list");
    let of_parent = |listed: &&SessionSummary| listed.details.parent.is_some();
    let one = listed.iter().rfind(of_parent).expect("a child");
    assert!(store.end(&one.id).await.expect("revoked"));
    let derived = store.derive(&parent.id, &one_more).await;
    assert!(derived.expect("an answer").is_some());

    assert!(store.end(&parent.id).await.expect("revoked"));
    assert_eq!(keys(&mut by_hand, "cs:[df]:*").await, Vec::<Vec<u8>>::new());
    store.purge_expired(Utc::now(), 100).await.expect("purged");
    let left = keys(&mut by_hand, "cs:[tidcsf]:*").await;
    assert_eq!(
        left.len(),
        0,
        "{:?}",
        String::from_utf8_lossy(&left.concat())
    );
}

/// A connection that loses the first answer to each script about a customer, and sends it once more, as the
/// driver of a cluster does.
#[derive(Clone)]
struct Repeating(MultiplexedConnection);

impl ConnectionLike for Repeating {
    fn req_packed_command<'a>(&'a mut self, command: &'a Cmd) -> RedisFuture<'a, Value> {
        Box::pin(async move {
            let mut args = command.args_iter();
            let is_script = matches!(args.next(), Some(Arg::Simple(name)) if name == b"EVALSHA");
            if is_script
                && matches!(args.nth(2), Some(Arg::Simple(key)) if key.starts_with(b"cs:c:"))
            {
                self.0.req_packed_command(command).await?;
            }
            self.0.req_packed_command(command).await
        })
    }

    fn req_packed_commands<'a>(
        &'a mut self,
        pipeline: &'a Pipeline,
        offset: usize,
        count: usize,
    ) -> RedisFuture<'a, Vec<Value>> {
        self.0.req_packed_commands(pipeline, offset, count)
    }

    fn get_db(&self) -> i64 {
        self.0.get_db()
    }
}

/// A connection that is lost after the script that puts a session in the place of another.
#[derive(Clone)]
struct Breaking {
    connection: MultiplexedConnection,
    /// The number of commands that get through after that script.
    after: u32,
    /// Those that are left of it, once the script has run.
    left: Arc<Mutex<Option<u32>>>,
}

impl ConnectionLike for Breaking {
    fn req_packed_command<'a>(&'a mut self, command: &'a Cmd) -> RedisFuture<'a, Value> {
        Box::pin(async move {
            let mut args = command.args_iter();
            let is_script = matches!(args.next(), Some(Arg::Simple(name)) if name == b"EVALSHA");
            if let Some(left) = &mut *self.left.lock().expect("no panic")
                && is_script
            {
                let Some(one_less) = left.checked_sub(1) else {
                    return Err(std::io::Error::other("lost").into());
                };
                *left = one_less;
            }
            let answer = self.connection.req_packed_command(command).await;
            // Not if the server did not know the script.
            let has_run = !matches!(answer, Err(_) | Ok(Value::ServerError(_)));
            let is_of_customer = is_script
                && matches!(args.nth(2), Some(Arg::Simple(key)) if key.starts_with(b"cs:c:"));
            if has_run && is_of_customer {
                let mut left = self.left.lock().expect("no panic");
                left.get_or_insert(self.after);
            }
            answer
        })
    }

    fn req_packed_commands<'a>(
        &'a mut self,
        pipeline: &'a Pipeline,
        offset: usize,
        count: usize,
    ) -> RedisFuture<'a, Vec<Value>> {
        self.connection.req_packed_commands(pipeline, offset, count)
    }

    fn get_db(&self) -> i64 {
        self.connection.get_db()
    }
}

#[tokio::test]
async fn an_overlap_that_was_interrupted_ends_as_it_should() {
    let Some((_server, store, mut by_hand)) = redis().await else {
        return;
    };
    for after in 0..4 {
        let first = inserted(&store).await;
        let (old, new) = (
            overlapping(&first),
            session(&store, first.customer_id.as_str()),
        );
        let breaking = Breaking {
            connection: by_hand.clone(),
            left: Arc::default(),
            after,
        };
        let breaking = RedisStore::new(breaking, peppers());
        let replaced = breaking.replace_overlapping(&old, &new).await;
        assert!(replaced.expect("an answer").is_some(), "{after}");

        let found = store.find(&first.token).await.expect("an answer");
        assert_eq!(found, Some(old.clone()), "{after}");
        let another = session(&store, first.customer_id.as_str());
        let replaced = store.replace(&first.id, &another, None).await;
        assert_eq!(replaced.expect("an answer"), None, "{after}");
        let replaced = store.replace_overlapping(&old, &another).await;
        assert_eq!(replaced.expect("an answer"), None, "{after}");
        let mut child = session(&store, first.customer_id.as_str());
        child.details.parent = Some(first.id.clone());
        let derived = store.derive(&first.id, &child).await;
        assert_eq!(derived.expect("an answer"), None, "{after}");
        let limit = SessionLimit::refuse(2);
        store
            .insert(&another, Some(&limit))
            .await
            .expect("one counts");

        let others = Revocation::Others {
            customer: first.customer_id.clone(),
            keep: first.id.clone(),
        };
        if after % 2 == 0 {
            assert!(store.revoke(&others).await.expect("an answer").any);
            assert!(!is_found(&store, &another).await && is_found(&store, &new).await);
        }
        assert!(store.end(&new.id).await.expect("revoked"));
        assert!(
            !is_found(&store, &first).await && !is_found(&store, &new).await,
            "{after}"
        );
    }
    // Also by the time of creation, which is not known of the old one before its record says it.
    let first = inserted(&store).await;
    let (old, new) = (
        overlapping(&first),
        session(&store, first.customer_id.as_str()),
    );
    let breaking = Breaking {
        connection: by_hand.clone(),
        left: Arc::default(),
        after: 0,
    };
    let breaking = RedisStore::new(breaking, peppers());
    let replaced = breaking.replace_overlapping(&old, &new).await;
    replaced.expect("an answer").expect("live");
    let before = Revocation::CreatedBefore(first.created_at);
    store.revoke(&before).await.expect("an answer");
    assert!(!is_found(&store, &first).await && is_found(&store, &new).await);
    assert!(store.end(&new.id).await.expect("revoked"));
    assert_eq!(keys(&mut by_hand, "cs:[sd]:*").await, Vec::<Vec<u8>>::new());
}

#[tokio::test]
async fn an_old_token_is_accepted_under_a_new_pepper_and_its_id_still_ends_both() {
    let Some((server, store, mut by_hand)) = redis().await else {
        return;
    };
    let ring = || Peppers::new([7; 32]).or(PEPPER);
    let pointer = |session: &CustomerSession| format!("cs:i:={}", session.id);
    let [plain, hurried] = [inserted(&store).await, inserted(&store).await];
    for first in [&plain, &hurried] {
        let mut new = session(&store, first.customer_id.as_str());
        new.details.ends_at = Some(Utc::now().trunc_subsecs(6) + TimeDelta::days(30));
        let new_pepper = RedisStore::connect(&server.url(), ring())
            .await
            .expect("connected");
        if first == &hurried {
            // An attempt to keep it under the new pepper that was interrupted.
            let record = keys(&mut by_hand, "cs:t:*").await;
            let before = record.to_vec();
            assert!(is_found(&new_pepper, first).await);
            let now = keys(&mut by_hand, "cs:t:*").await;
            let new_key = now.iter().find(|key| !before.contains(key)).expect("a key");
            let old_key = before.iter().find(|key| !now.contains(key)).expect("a key");
            let (value, pointer_value): (Vec<u8>, Vec<u8>) = (
                by_hand.get(new_key).await.expect("a record"),
                by_hand.get(pointer(first)).await.expect("a pointer"),
            );
            let back = [&pointer_value[..1], &old_key[5..], &pointer_value[17..]].concat();
            let _: () = by_hand.set(old_key, value).await.expect("set");
            let mut set = redis::cmd("SET");
            set.arg(pointer(first)).arg(back).arg("KEEPTTL");
            let _: () = set.query_async(&mut by_hand).await.expect("set");
        }
        let replaced = store.replace_overlapping(&overlapping(first), &new).await;
        replaced.expect("an answer").expect("live");
        for _ in 0..3 {
            assert!(is_found(&new_pepper, first).await);
        }
        let left: i64 = by_hand.pttl(pointer(first)).await.expect("an answer");
        assert!(left > TimeDelta::days(30).num_milliseconds(), "{left} ms");
        assert!(store.end(&first.id).await.expect("revoked"));
        for ended in [first, &new] {
            assert!(!is_found(&new_pepper, ended).await);
        }
    }
}

#[tokio::test]
async fn of_very_many_overlaps_the_latest_stay() {
    let Some((_server, store, mut by_hand)) = redis().await else {
        return;
    };
    let mut family = vec![inserted(&store).await];
    for number in 0..20 {
        let old = &family[family.len() - 1];
        let next = session(&store, old.customer_id.as_str());
        let mut old = overlapping(old);
        old.expires_at += TimeDelta::microseconds(number);
        let replaced = store.replace_overlapping(&old, &next).await;
        replaced.expect("an answer").expect("live");
        family.push(next);
    }
    for (number, session) in family.iter().enumerate() {
        assert_eq!(is_found(&store, session).await, number >= 12, "{number}");
    }
    let customer = family[0].customer_id.clone();
    let in_set: u64 = by_hand
        .zcard(format!("cs:s:{{={customer}}}"))
        .await
        .expect("a number");
    assert_eq!(in_set, 9);
    // None of them is one of the hundred that may be derived.
    for _ in 0..100 {
        let mut child = session(&store, customer.as_str());
        child.details.parent = Some(family[20].id.clone());
        let derived = store.derive(&family[20].id, &child).await;
        assert!(derived.expect("there is room").is_some());
    }
    let last = session(&store, customer.as_str());
    let replaced = store.replace(&family[20].id, &last, None).await;
    replaced.expect("an answer").expect("live");
    for session in &family {
        assert!(!is_found(&store, session).await);
    }
    assert!(store.end(&family[0].id).await.expect("revoked"));
    assert_eq!(keys(&mut by_hand, "cs:[sd]:*").await, Vec::<Vec<u8>>::new());
}

#[tokio::test]
async fn what_an_interruption_leaves_of_an_overlap_is_purged() {
    let Some((_server, store, mut by_hand)) = redis().await else {
        return;
    };
    for after in 0..3 {
        let first = inserted(&store).await;
        let new = session(&store, first.customer_id.as_str());
        let mut old = overlapping(&first);
        old.expires_at = Utc::now().trunc_subsecs(6) - TimeDelta::minutes(1);
        let breaking = Breaking {
            connection: by_hand.clone(),
            left: Arc::default(),
            after,
        };
        let breaking = RedisStore::new(breaking, peppers());
        let replaced = breaking.replace_overlapping(&old, &new).await;
        replaced.expect("an answer").expect("live");
        store.purge_expired(Utc::now(), 100).await.expect("purged");
        let set = format!("cs:s:{{={}}}", first.customer_id);
        let in_set: u64 = by_hand.zcard(set).await.expect("a number");
        // What it was is there until its time.
        assert!(in_set <= 2, "{after}: {in_set}");
        let ended = [first, new.clone()].map(|session| session.token);
        assert!(store.end(&new.id).await.expect("revoked"));
        for token in ended {
            assert_eq!(store.find(&token).await.expect("an answer"), None);
        }
        assert_eq!(keys(&mut by_hand, "cs:[sd]:*").await, Vec::<Vec<u8>>::new());
    }
}

#[tokio::test]
async fn nothing_is_left_of_an_overlap() {
    let Some((_server, store, mut by_hand)) = redis().await else {
        return;
    };
    let mut current = inserted(&store).await;
    let customer = current.customer_id.clone();
    for _ in 0..5 {
        let next = session(&store, customer.as_str());
        let mut old = overlapping(&current);
        old.expires_at = Utc::now() - TimeDelta::minutes(1);
        old.expires_at = old.expires_at.trunc_subsecs(6);
        let replaced = store.replace_overlapping(&old, &next).await;
        replaced.expect("an answer").expect("live");
        current = next;
    }
    let in_set: u64 = by_hand
        .zcard(format!("cs:s:{{={customer}}}"))
        .await
        .expect("a number");
    assert_eq!(in_set, 6);
    assert_eq!(
        store.purge_expired(Utc::now(), 100).await.expect("purged"),
        5
    );
    assert_eq!(keys(&mut by_hand, "cs:t:*").await.len(), 1);
    assert!(is_found(&store, &current).await);
    assert!(store.end(&current.id).await.expect("revoked"));
    let left = keys(&mut by_hand, "cs:[tsdcu]:*").await;
    assert_eq!(left, Vec::<Vec<u8>>::new());
}

#[tokio::test]
async fn a_call_with_a_limit_that_was_repeated_names_the_customer() {
    let Some((_server, store, by_hand)) = redis().await else {
        return;
    };
    let repeating = RedisStore::new(Repeating(by_hand), peppers());
    let limit = SessionLimit::end_oldest(1);
    let first = inserted(&store).await;
    let customer = vec![Invalidation::Customer(first.customer_id.clone())];
    let is_gone = async |session: &CustomerSession| !is_found(&store, session).await;

    let second = session(&store, first.customer_id.as_str());
    let added = repeating
        .insert(&second, Some(&limit))
        .await
        .expect("inserted");
    assert_eq!(added.invalidations, customer);
    assert!(is_gone(&first).await && is_found(&store, &second).await);

    let third = session(&store, first.customer_id.as_str());
    store.add(&third).await.expect("inserted");
    let fourth = session(&store, first.customer_id.as_str());
    let replaced = repeating.replace(&third.id, &fourth, Some(&limit)).await;
    let replaced = replaced.expect("an answer").expect("live");
    assert_eq!(replaced.invalidations, customer);
    assert!(is_gone(&second).await && is_gone(&third).await && is_found(&store, &fourth).await);

    // Without a limit nothing has ended, and where nothing is lost the sessions are named.
    let fifth = session(&store, first.customer_id.as_str());
    let added = repeating.insert(&fifth, None).await.expect("inserted");
    assert_eq!(added.invalidations, []);
    let sixth = session(&store, first.customer_id.as_str());
    let added = store.insert(&sixth, Some(&limit)).await.expect("inserted");
    assert_eq!((added.ended.len(), added.invalidations), (2, Vec::new()));
}

#[tokio::test]
async fn a_limit_is_kept_beside_very_many_links() {
    let Some((_server, store, mut by_hand)) = redis().await else {
        return;
    };
    let customer = unique("cus");
    let mut link = session(&store, &customer);
    link.details.is_link = true;
    store.add(&link).await.expect("inserted");
    let set = format!("cs:s:{{={customer}}}");
    let links: Vec<(Vec<u8>, f64)> = by_hand.zrange_withscores(&set, 0, -1).await.expect("links");
    let (member, score) = &links[0];
    let more: Vec<_> = (0..5000)
        .map(|number| {
            let end = &member[member.len() - 8..];
            let id = format!("=link_{number}");
            (score + f64::from(number), [id.as_bytes(), end].concat())
        })
        .collect();
    let _: u64 = by_hand.zadd_multiple(&set, &more).await.expect("added");
    let [one, two, three] = [0; 3].map(|_| session(&store, &customer));
    let refuses = SessionLimit::refuse(1);
    (store.insert(&one, Some(&refuses)).await).expect("there is room");
    (store.insert(&two, Some(&refuses)).await).expect_err("there is no room");
    let ends = SessionLimit::end_oldest(1);
    let inserted = store.insert(&two, Some(&ends)).await.expect("inserted");
    assert_eq!(inserted.ended.len(), 1);
    let replaced = store.replace(&link.id, &three, Some(&ends)).await;
    let replaced = replaced.expect("an answer").expect("it was there");
    assert_eq!(replaced.ended[0].id, two.id);
    assert!(!is_found(&store, &one).await && !is_found(&store, &two).await);
    assert!(is_found(&store, &three).await);
    let left: u64 = by_hand.zcard(&set).await.expect("a number");
    assert_eq!(left, 5001);
}

#[tokio::test(flavor = "multi_thread")]
async fn two_purges_at_once_leave_nothing_of_a_revoked_customer() {
    let Some((_server, store, mut by_hand)) = redis().await else {
        return;
    };
    let customer = unique("cus");
    for _ in 0..300 {
        store
            .add(&session(&store, &customer))
            .await
            .expect("inserted");
    }
    store
        .end_customer(&customer.as_str().into())
        .await
        .expect("revoked");
    let purges = (0..2).map(|_| {
        let store = store.clone();
        tokio::spawn(async move { store.purge_expired(Utc::now(), 1000).await.expect("purged") })
    });
    let mut purged = 0;
    for purge in purges.collect::<Vec<_>>() {
        purged += purge.await.expect("no panic");
    }
    purged += store.purge_expired(Utc::now(), 1000).await.expect("purged");
    assert_eq!(purged, 300);
    for pattern in [
        "cs:t:*",
        "cs:i:*",
        "cs:s:*",
        "cs:g:*",
        "cs:c:*",
        "cs:e:{?}g",
    ] {
        assert!(keys(&mut by_hand, pattern).await.is_empty(), "{pattern}");
    }
}

#[tokio::test]
async fn pages_lose_no_session_of_one_moment() {
    let Some((_server, store, _)) = redis().await else {
        return;
    };
    let customer = unique("cus");
    let at = Utc::now();
    let mut ids: Vec<SessionId> = Vec::new();
    for id in [
        "0a1b2c3d-4e5f-6071-8293-a4b5c6d7e8f9",
        "zzz",
        "ses_00000000000000000000000000000001",
        "Z",
    ] {
        let mut one = session(&store, &customer);
        one.id = id.into();
        one.created_at = DateTime::from_timestamp_micros(at.timestamp_micros()).expect("a time");
        store.add(&one).await.expect("inserted");
        ids.push(one.id);
    }
    // The set has them in the order of their parents.
    for (parent, id) in [("Z", "y"), ("Z", "x"), ("zzz", "b"), ("zzz", "a")] {
        let mut child = session(&store, &customer);
        child.id = id.into();
        child.created_at = DateTime::from_timestamp_micros(at.timestamp_micros()).expect("a time");
        child.details.parent = Some(parent.into());
        let derived = store.derive(&parent.into(), &child).await;
        derived.expect("an answer").expect("live");
        ids.push(child.id);
    }
    let (mut listed, mut page) = (Vec::new(), Page::default().with_size(1));
    loop {
        let found = store
            .list(&customer.as_str().into(), &page)
            .await
            .expect("a page");
        listed.extend(found.sessions.into_iter().map(|session| session.id));
        let Some(next) = found.next else { break };
        page = Page::after(next).with_size(1);
    }
    listed.sort();
    ids.sort();
    assert_eq!(listed, ids);
}

#[tokio::test]
async fn sign_ins_clear_what_a_service_that_never_purges_leaves() {
    let Some((_server, store, mut by_hand)) = redis().await else {
        return;
    };
    let customer = unique("cus");
    for number in 0..130 {
        let mut old = session(&store, &customer);
        old.created_at = DateTime::UNIX_EPOCH + TimeDelta::seconds(number);
        old.expires_at = old.created_at + TimeDelta::hours(1);
        store.add(&old).await.expect("inserted");
    }
    for _ in 0..4 {
        store
            .add(&session(&store, &customer))
            .await
            .expect("inserted");
    }
    let sessions = format!("cs:s:{{={customer}}}");
    let count: u64 = by_hand.zcard(&sessions).await.expect("a number");
    assert!(count <= 101, "{count} are left");
    // Every key goes by itself.
    for key in keys(&mut by_hand, "cs:*").await {
        let left: i64 = by_hand.pttl(&key).await.expect("an answer");
        let stays = key == b"cs:peppers" || key.starts_with(b"cs:a:");
        assert_eq!(left < 0, stays, "{}", String::from_utf8_lossy(&key));
    }
}

#[tokio::test]
async fn sessions_of_an_epoch_that_is_over_do_not_come_back() {
    let Some((_server, store, mut by_hand)) = redis().await else {
        return;
    };
    let one = inserted(&store).await;
    store.revoke(&Revocation::All).await.expect("revoked");
    assert!(!is_found(&store, &one).await);
    let another = session(&store, one.customer_id.as_str());
    store.add(&another).await.expect("inserted");
    assert!(is_found(&store, &another).await && !is_found(&store, &one).await);
    // Without an epoch, nothing is let in, and a sign-in begins another one.
    let lost = keys(&mut by_hand, "cs:a:*").await;
    let _: u64 = by_hand.del(lost).await.expect("lost");
    assert!(!is_found(&store, &another).await);
    let third = session(&store, one.customer_id.as_str());
    store.add(&third).await.expect("inserted");
    assert!(is_found(&store, &third).await && !is_found(&store, &another).await);
    let unknown = SessionToken::new("cst_unknown");
    assert!(store.find(&unknown).await.expect("an answer").is_none());
}
