//! The contract of a registry, kept by the store in memory.

mod support;

use std::{sync::Arc, time::Duration};

use chrono::TimeDelta;
use customer_session::{
    Clock as _, CustomerData, CustomerSession, MemoryStore, SessionRegistry as _,
    SessionStore as _, SessionSummary, StoreErrorKind,
};

use support::{HOUR, clock, customer};

fn session(id: &str, customer_id: &str) -> CustomerSession {
    let store = MemoryStore::new();
    let now = clock().now();
    CustomerSession {
        id: id.into(),
        created_at: now,
        modified_at: Some(now + TimeDelta::microseconds(1)),
        token: store.token_format().generate(),
        expires_at: now + HOUR,
        customer_id: customer_id.into(),
        customer: customer(customer_id),
    }
}

#[tokio::test]
async fn what_was_inserted_is_found_and_nothing_else() {
    let store = MemoryStore::new();
    let session = session("ses_1", "cus_1");
    store.insert(&session).await.expect("inserted");
    let found = store.find(&session.token).await.expect("no error");
    assert_eq!(found.expect("found"), session);
    let unknown = store.token_format().generate();
    assert_eq!(store.find(&unknown).await.expect("no error"), None);
}

#[tokio::test]
async fn an_id_or_token_can_be_taken_once() {
    let store = MemoryStore::new();
    let (one, mut other) = (session("ses_1", "cus_1"), session("ses_2", "cus_1"));
    store.insert(&one).await.expect("inserted");
    other.id = one.id.clone();
    let error = store.insert(&other).await.expect_err("the id is taken");
    assert_eq!(error.kind(), StoreErrorKind::Conflict);
    other.id = "ses_2".into();
    other.token = one.token.clone();
    let error = store.insert(&other).await.expect_err("the token is taken");
    assert_eq!(error.kind(), StoreErrorKind::Conflict);
    assert_eq!(store.list(&"cus_1".into()).await.expect("listed").len(), 1);
}

#[tokio::test]
async fn replacing_is_all_or_nothing_and_has_one_winner() {
    let store = MemoryStore::new();
    let (old, taken) = (session("ses_1", "cus_1"), session("ses_2", "cus_2"));
    store.insert(&old).await.expect("inserted");
    store.insert(&taken).await.expect("inserted");
    let error = store
        .replace(&old.id, &taken)
        .await
        .expect_err("it is taken");
    assert_eq!(error.kind(), StoreErrorKind::Conflict);
    assert!(store.find(&old.token).await.expect("no error").is_some());

    let store = Arc::new(store);
    let contenders: Vec<_> = (0..64)
        .map(|n| {
            let (store, old) = (Arc::clone(&store), old.id.clone());
            tokio::spawn(async move {
                store
                    .replace(&old, &session(&format!("new_{n}"), "cus_1"))
                    .await
            })
        })
        .collect();
    let mut winners = 0;
    for contender in contenders {
        winners += usize::from(contender.await.expect("no panic").expect("no error"));
    }
    assert_eq!(winners, 1);
    assert!(store.find(&old.token).await.expect("no error").is_none());
    assert_eq!(store.list(&"cus_1".into()).await.expect("listed").len(), 1);
}

#[tokio::test]
async fn revoking_ends_one_session_or_all_of_a_customer() {
    let store = MemoryStore::new();
    let all = [
        session("ses_1", "cus_1"),
        session("ses_2", "cus_1"),
        session("ses_3", "cus_2"),
    ];
    for session in &all {
        store.insert(session).await.expect("inserted");
    }
    assert!(store.revoke(&all[0].id).await.expect("revoked"));
    assert!(!store.revoke(&all[0].id).await.expect("no error"));
    assert!(store.find(&all[0].token).await.expect("no error").is_none());
    assert_eq!(
        store
            .revoke_customer(&"cus_1".into())
            .await
            .expect("revoked"),
        1
    );
    assert_eq!(
        store
            .revoke_customer(&"cus_1".into())
            .await
            .expect("no error"),
        0
    );
    assert!(store.find(&all[2].token).await.expect("no error").is_some());
}

#[tokio::test]
async fn a_list_is_of_one_customer_oldest_first_and_shows_no_token() {
    let store = MemoryStore::new();
    let (mut young, old) = (session("ses_a", "cus_1"), session("ses_b", "cus_1"));
    young.created_at += TimeDelta::seconds(1);
    for session in [&young, &old, &session("ses_c", "cus_2")] {
        store.insert(session).await.expect("inserted");
    }
    let list = store.list(&"cus_1".into()).await.expect("listed");
    assert_eq!(
        list,
        [SessionSummary::from(&old), SessionSummary::from(&young)]
    );
    let shown = format!("{list:?}{}", serde_json::to_string(&list).expect("JSON"));
    assert!(!shown.contains(old.token.expose()));
}

#[tokio::test]
async fn an_update_reaches_all_sessions_of_the_customer() {
    let store = MemoryStore::new();
    let all = [
        session("ses_1", "cus_1"),
        session("ses_2", "cus_1"),
        session("ses_3", "cus_2"),
    ];
    for session in &all {
        store.insert(session).await.expect("inserted");
    }
    let mut data = CustomerData::new("cus_1", "org_1");
    data.name = Some("नाम".into());
    assert_eq!(
        store.update_customer(&data.into()).await.expect("updated"),
        2
    );
    for (session, name) in all.iter().zip([Some("नाम"), Some("नाम"), None]) {
        let found = store
            .find(&session.token)
            .await
            .expect("no error")
            .expect("found");
        assert_eq!(found.customer.name.as_deref(), name);
    }
    let unknown = customer("cus_unknown");
    assert_eq!(store.update_customer(&unknown).await.expect("no error"), 0);
}

#[tokio::test]
async fn purging_takes_what_has_expired_in_batches() {
    let store = MemoryStore::new();
    let now = clock().now();
    for n in 0..10_u32 {
        let mut session = session(&format!("ses_{n}"), "cus_1");
        session.expires_at = now + Duration::from_secs(n.into());
        store.insert(&session).await.expect("inserted");
    }
    // ses_0 to ses_4: the end itself counts as expired.
    let before = now + TimeDelta::seconds(4);
    assert_eq!(store.purge_expired(before, 3).await.expect("purged"), 3);
    assert_eq!(store.purge_expired(before, 3).await.expect("purged"), 2);
    assert_eq!(store.purge_expired(before, 3).await.expect("purged"), 0);
    assert_eq!(store.list(&"cus_1".into()).await.expect("listed").len(), 5);
}
