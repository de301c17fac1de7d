//! Where a rotated session ends, and which ids lead to it.

use std::{sync::Arc, time::Duration};

use chrono::TimeDelta;
use customer_session::{
    AuthenticateError, CustomerData, CustomerSession, CustomerSessions, NewSession,
    SessionRegistry as _, StoreErrorKind,
};

use crate::fixture::{Fixture, TTL};
use test_support::{HOUR, RegistryExt as _, Sessions, customer, one_session};

/// Rotates a session, and lets both tokens be cached.
async fn rotated(sessions: &Sessions, old: &CustomerSession) -> CustomerSession {
    sessions.authenticate(&old.token).await.expect("live");
    let new = sessions.rotate(&old.token, HOUR).await.expect("rotated");
    let new = new.expect("it was live");
    sessions.authenticate(&new.token).await.expect("live");
    new
}

async fn is_refused(sessions: &Sessions, session: &CustomerSession) -> bool {
    match sessions.authenticate(&session.token).await {
        Ok(_) => false,
        Err(AuthenticateError::InvalidToken) => true,
        Err(error) => panic!("{error}"),
    }
}

#[tokio::test]
async fn no_rotation_goes_past_the_first_expiry_unless_a_later_end_was_given() {
    let fixture = Fixture::new(|builder| builder).await;
    let first = &fixture.session;
    assert_eq!(first.details.ends_at, Some(first.expires_at));
    fixture.clock.advance(HOUR / 2);
    let second = rotated(&fixture.sessions, first).await;
    assert_eq!(second.expires_at, first.expires_at);
    assert_eq!(second.details, first.details);
    // A thief who rotates all the time gains nothing.
    fixture.clock.advance(HOUR / 2 - TTL);
    let third = rotated(&fixture.sessions, &second).await;
    assert_eq!(third.expires_at, first.expires_at);
    fixture.clock.advance(TTL);
    assert!(is_refused(&fixture.sessions, &third).await);
    let again = fixture.sessions.rotate(&third.token, HOUR).await;
    assert_eq!(again.expect("an answer"), None);
}

#[tokio::test]
async fn rotations_extend_a_session_up_to_its_end() {
    let fixture = Fixture::new(|builder| builder).await;
    let new = NewSession::new(HOUR).max_lifetime(2 * HOUR);
    let first = fixture.sessions.issue_with(customer("cus_2"), new).await;
    let first = first.expect("issued");
    let end = first.created_at + TimeDelta::hours(2);
    assert_eq!(first.expires_at, first.created_at + TimeDelta::hours(1));
    assert_eq!(first.details.ends_at, Some(end));
    fixture.clock.advance(HOUR / 2);
    let second = rotated(&fixture.sessions, &first).await;
    assert_eq!(second.expires_at, second.created_at + TimeDelta::hours(1));
    fixture.clock.advance(HOUR - Duration::from_secs(1));
    let third = rotated(&fixture.sessions, &second).await;
    assert_eq!(third.expires_at, end);
    assert_eq!(third.details.ends_at, Some(end));
    let listed = fixture.sessions.list(&third.customer_id).await;
    assert_eq!(listed.expect("a list")[0].details.ends_at, Some(end));
}

#[tokio::test]
async fn an_end_before_the_expiry_shortens_the_session() {
    let fixture = Fixture::new(|builder| builder).await;
    let new = NewSession::new(2 * HOUR).max_lifetime(HOUR);
    let session = fixture.sessions.issue_with(customer("cus_2"), new).await;
    let session = session.expect("issued");
    assert_eq!(session.expires_at, session.created_at + TimeDelta::hours(1));
    assert_eq!(session.details.ends_at, Some(session.expires_at));
    let endless = NewSession::new(HOUR).max_lifetime(Duration::MAX);
    let endless = fixture
        .sessions
        .issue_with(customer("cus_2"), endless)
        .await;
    assert_eq!(endless.expect("issued").expires_at, session.expires_at);
}

/// A record from before sessions had an end.
#[tokio::test]
async fn a_session_without_an_end_is_not_extended() {
    let fixture = Fixture::new(|builder| builder).await;
    let mut old = fixture.session.clone();
    old.id = "ses_old".into();
    old.token = fixture
        .sessions
        .issue(customer("cus_2"), HOUR)
        .await
        .expect("issued")
        .token;
    fixture
        .sessions
        .revoke_token(&old.token)
        .await
        .expect("revoked");
    old.details.ends_at = None;
    fixture.store.inner.add(&old).await.expect("inserted");
    fixture.clock.advance(HOUR / 2);
    let new = fixture.sessions.rotate(&old.token, HOUR).await;
    let new = new.expect("rotated").expect("live");
    assert_eq!(new.expires_at, old.expires_at);
    assert_eq!(new.details.ends_at, Some(old.expires_at));
}

#[tokio::test]
async fn revoking_the_session_that_was_listed_ends_what_a_thief_has_made_of_it() {
    for generations in 1..4 {
        let (_, sessions, listed) = one_session().await;
        let mut stolen = listed.clone();
        for _ in 0..generations {
            stolen = rotated(&sessions, &stolen).await;
        }
        let revoked = sessions.revoke_owned(&listed.customer_id, &listed.id).await;
        assert!(revoked.expect("an answer"), "{generations}");
        assert!(is_refused(&sessions, &stolen).await, "{generations}");
        let revoked = sessions.revoke(&listed.id).await;
        assert!(!revoked.expect("an answer"), "it is gone");
    }
}

#[tokio::test]
async fn a_rotated_session_is_kept_by_any_id_that_it_had() {
    let (_, sessions, first) = one_session().await;
    let other = sessions
        .issue(customer("cus_1"), HOUR)
        .await
        .expect("issued");
    let second = rotated(&sessions, &first).await;
    let third = rotated(&sessions, &second).await;
    for keep in [&first, &second, &third] {
        let revoked = sessions.revoke_others(&third.customer_id, &keep.id).await;
        revoked.expect("revoked");
        sessions.authenticate(&third.token).await.expect("kept");
        assert!(is_refused(&sessions, &other).await);
    }
}

#[tokio::test]
async fn a_replaced_session_of_another_customer_is_left_alone() {
    let (store, sessions, first) = one_session().await;
    let second = rotated(&sessions, &first).await;
    let lookups = store.lookups();
    let revoked = sessions.revoke_owned(&"cus_2".into(), &first.id).await;
    assert!(!revoked.expect("an answer"));
    sessions.authenticate(&second.token).await.expect("live");
    assert_eq!(store.lookups(), lookups, "it is still cached");
}

/// Another node revoked the successor, and its message is still on the way.
#[tokio::test]
async fn a_successor_that_the_store_no_longer_has_is_forgotten_too() {
    let (store, sessions, first) = one_session().await;
    let second = rotated(&sessions, &first).await;
    store
        .inner
        .end(&second.id)
        .await
        .expect("revoked elsewhere");
    let revoked = sessions.revoke(&first.id).await;
    assert!(!revoked.expect("an answer"), "it was gone already");
    assert!(is_refused(&sessions, &second).await);
}

#[tokio::test]
async fn a_deleted_customer_stays_deleted_when_all_sessions_are_gone() {
    let (store, sessions, session) = one_session().await;
    let read_before = session.customer.clone();
    let mut deleted = CustomerData::clone(&read_before);
    deleted.deleted_at = Some(deleted.created_at);
    sessions
        .update_customer(&deleted.into())
        .await
        .expect("updated");
    sessions
        .revoke_customer(&session.customer_id)
        .await
        .expect("revoked");
    let purged = store.inner.purge_expired(session.expires_at, 100).await;
    assert_eq!(purged.expect("purged"), 0);
    let issued = sessions.issue(read_before.clone(), HOUR).await;
    let refused = issued.expect_err("the customer is deleted");
    assert_eq!(refused.kind(), StoreErrorKind::Conflict);
    assert!(
        sessions
            .update_customer(&read_before)
            .await
            .expect("restored")
    );
    sessions.issue(read_before, HOUR).await.expect("issued");
}

/// What is kept of replaced sessions goes when their family has ended, and not before.
#[tokio::test]
async fn replaced_sessions_are_forgotten_with_their_family() {
    let fixture = Fixture::new(|builder| builder).await;
    let store = &fixture.store.inner;
    let new = NewSession::new(HOUR).max_lifetime(3 * HOUR);
    let first = fixture.sessions.issue_with(customer("cus_2"), new).await;
    let first = first.expect("issued");
    let second = rotated(&fixture.sessions, &first).await;
    let end = second.details.ends_at.expect("an end");
    let purged = store.purge_expired(first.created_at, 100).await;
    assert_eq!(purged.expect("purged"), 0);
    assert!(
        store.end(&first.id).await.expect("revoked"),
        "it leads to the second"
    );
    // The session of the fixture, which has expired by then.
    let purged = store.purge_expired(end - TimeDelta::seconds(1), 100).await;
    assert_eq!(purged.expect("purged"), 1);
    let purged = store.purge_expired(end, 100).await;
    assert_eq!(purged.expect("purged"), 1, "the family");
    let purged = store.purge_expired(end, 100).await;
    assert_eq!(purged.expect("purged"), 0);
}

#[tokio::test]
async fn a_token_that_another_node_has_rotated_ends_its_successor_while_it_is_cached() {
    let fixture = Fixture::new(|builder| builder).await;
    let old = fixture.authenticate().await.expect("live");
    let node = CustomerSessions::builder(Arc::clone(&fixture.store)).build();
    let new = node.rotate(&old.token, HOUR).await.expect("an answer");
    let new = new.expect("it was live");
    let revoked = fixture.sessions.revoke_token(&old.token).await;
    assert!(revoked.expect("an answer"));
    let other = CustomerSessions::builder(Arc::clone(&fixture.store)).build();
    assert!(other.authenticate(&new.token).await.is_err());
}
