//! Sessions that are derived from others, and end with them.

use std::{fmt::Debug, sync::Arc, time::Duration};

use chrono::TimeDelta;
use customer_session::{
    Actor, AuthenticateError, CustomerSession, CustomerSessions, Invalidation, Member, MemberRole,
    NewSession, StoreError, StoreErrorKind, WhenFull, store::MemoryStore,
};
use tokio::task::JoinSet;

use crate::fixture::{Fixture, without_details};
use test_support::{HOUR, RegistryExt as _, Sessions, customer};

const QUARTER: Duration = Duration::from_secs(900);

async fn parent(sessions: &Sessions, scopes: &[&str]) -> CustomerSession {
    let new = NewSession::new(HOUR).max_lifetime(24 * HOUR).scopes(scopes);
    let parent = sessions.issue_with(customer("cus_2"), new).await;
    parent.expect("issued")
}

async fn derive(sessions: &Sessions, parent: &CustomerSession) -> Option<CustomerSession> {
    let child = sessions.derive(&parent.token, NewSession::new(QUARTER));
    child.await.expect("an answer")
}

async fn is_live(sessions: &Sessions, session: &CustomerSession) -> bool {
    match sessions.authenticate(&session.token).await {
        Ok(_) => true,
        Err(AuthenticateError::InvalidToken) => false,
        Err(error) => panic!("{error}"),
    }
}

fn is_invalid<T: Debug>(answer: Result<T, StoreError>) -> bool {
    matches!(answer, Err(error) if error.kind() == StoreErrorKind::Invalid)
}

#[tokio::test]
async fn a_derived_session_has_less_than_its_parent() {
    let fixture = Fixture::new(|builder| builder).await;
    let sessions = &fixture.sessions;
    let parent = parent(sessions, &["orders:read", "orders:write"]).await;
    fixture.clock.advance(QUARTER);
    let bare = derive(sessions, &parent).await.expect("live");
    assert_eq!(bare.customer_id, parent.customer_id);
    assert!(bare.details.scopes.is_empty());
    assert_eq!(bare.details.authenticated_at, Some(parent.created_at));
    assert_eq!(bare.details.parent, Some(parent.id.clone()));
    assert_eq!(bare.details.ends_at, Some(bare.expires_at));
    let quarter = TimeDelta::from_std(QUARTER).expect("short");
    assert_eq!(bare.expires_at, bare.created_at + quarter);
    assert_eq!(bare.id.as_str()[..14], parent.id.as_str()[..14]);

    let new = NewSession::new(24 * HOUR).max_lifetime(24 * HOUR);
    let long = sessions.derive(&parent.token, new.scopes(["orders:read"]));
    let long = long.await.expect("an answer").expect("live");
    assert_eq!(long.details.scopes.to_string(), "orders:read");
    assert_eq!(long.expires_at, parent.expires_at);
    let rotated = sessions.rotate(&long.token, 24 * HOUR).await;
    let rotated = rotated.expect("an answer").expect("live");
    assert_eq!(rotated.expires_at, parent.expires_at);
    assert_eq!(rotated.details, long.details);
    assert!(is_live(sessions, &rotated).await);

    let more = NewSession::new(HOUR).scopes(["orders:read", "refunds"]);
    assert!(is_invalid(sessions.derive(&parent.token, more).await));
    let limited = NewSession::new(HOUR).at_most(5, WhenFull::EndOldest);
    assert!(is_invalid(sessions.derive(&parent.token, limited).await));
}

#[tokio::test]
async fn the_actor_is_kept_unless_a_new_one_is_given() {
    let fixture = Fixture::new(|builder| builder).await;
    let sessions = &fixture.sessions;
    let new = NewSession::new(HOUR).actor(Actor::new("staff-1"));
    let parent = sessions.issue_with(customer("cus_2"), new).await;
    let parent = parent.expect("issued");
    let kept = derive(sessions, &parent).await.expect("live");
    assert_eq!(kept.details.actor, Some(Actor::new("staff-1")));
    let new = NewSession::new(HOUR).actor(Actor::new("assistant-7"));
    let given = sessions.derive(&parent.token, new).await;
    let given = given.expect("an answer").expect("live");
    assert_eq!(given.details.actor, Some(Actor::new("assistant-7")));
}

#[tokio::test]
async fn a_derived_session_has_the_member_of_its_parent() {
    let fixture = Fixture::new(|builder| builder).await;
    let sessions = &fixture.sessions;
    let member = Member::new("mem_1", MemberRole::Member);
    let new = NewSession::new(HOUR).member(member.clone());
    let parent = sessions.issue_with(customer("cus_2"), new).await;
    let parent = parent.expect("issued");
    assert_eq!(parent.details.member.as_ref(), Some(&member));
    let owner = Member::new("mem_2", MemberRole::Owner);
    let new = NewSession::new(HOUR).member(owner);
    let child = sessions.derive(&parent.token, new).await;
    let child = child.expect("an answer").expect("live");
    assert_eq!(child.details.member, Some(member));
}

#[tokio::test]
async fn nothing_is_derived_from_what_is_not_a_live_session_of_its_own() {
    let fixture = Fixture::new(|builder| builder).await;
    let sessions = &fixture.sessions;
    let first = parent(sessions, &[]).await;
    let child = derive(sessions, &first).await.expect("live");
    let grandchild = sessions.derive(&child.token, NewSession::new(QUARTER));
    assert!(is_invalid(grandchild.await));
    let link = sessions.link(customer("cus_2"), HOUR).await.expect("made");
    assert_eq!(derive(sessions, &link).await, None);
    let rotated = sessions.rotate(&first.token, HOUR).await;
    let rotated = rotated.expect("an answer").expect("live");
    assert_eq!(derive(sessions, &first).await, None);
    assert!(derive(sessions, &rotated).await.is_some());
    fixture.clock.advance(HOUR);
    assert_eq!(derive(sessions, &rotated).await, None);
}

#[tokio::test]
async fn a_revocation_by_any_id_of_the_parent_ends_cached_derived_sessions() {
    for named in 0..3 {
        let fixture = Fixture::new(|builder| builder).await;
        let sessions = &fixture.sessions;
        let first = parent(sessions, &[]).await;
        let early = derive(sessions, &first).await.expect("live");
        let second = sessions.rotate(&first.token, HOUR).await;
        let second = second.expect("an answer").expect("live");
        let late = derive(sessions, &second).await.expect("live");
        let third = sessions.rotate(&second.token, HOUR).await;
        let third = third.expect("an answer").expect("live");
        let early = sessions.rotate(&early.token, QUARTER).await;
        let early = early.expect("an answer").expect("live");
        for session in [&early, &late, &third] {
            assert!(is_live(sessions, session).await, "{named}");
        }
        let named = &[&first, &second, &third][named].id;
        assert!(sessions.revoke(named).await.expect("an answer"));
        for session in [&early, &late, &third] {
            assert!(!is_live(sessions, session).await, "{named}");
        }
    }
}

/// Another node learns of the parent alone, and its own store has ended the child by then.
#[tokio::test]
async fn one_invalidation_of_the_parent_overtakes_derived_sessions_on_another_node() {
    let store = Arc::new(test_support::ProbeStore::default());
    let node = CustomerSessions::builder(Arc::clone(&store)).build();
    let parent = parent(&node, &[]).await;
    let child = derive(&node, &parent).await.expect("live");
    assert!(is_live(&node, &child).await);
    let lifetime = node
        .authenticate(&child.token)
        .await
        .expect("live")
        .lifetime();
    let ended = tokio::spawn(async move { lifetime.ended().await });
    // Elsewhere.
    store.inner.end(&parent.id).await.expect("ended");
    assert!(is_live(&node, &child).await, "from the cache");
    let invalidation = Invalidation::Session(parent.id.clone());
    node.announce(&invalidation).await.expect("announced");
    assert!(!is_live(&node, &child).await);
    ended.await.expect("no panic");
}

#[tokio::test]
async fn revoking_a_derived_session_leaves_its_parent_and_the_others() {
    let fixture = Fixture::new(|builder| builder).await;
    let sessions = &fixture.sessions;
    let parent = parent(sessions, &[]).await;
    let one = derive(sessions, &parent).await.expect("live");
    let two = derive(sessions, &parent).await.expect("live");
    for session in [&parent, &one, &two] {
        assert!(is_live(sessions, session).await);
    }
    let revoked = sessions.revoke_owned(&one.customer_id, &one.id).await;
    assert!(revoked.expect("an answer"));
    assert!(!is_live(sessions, &one).await);
    assert!(is_live(sessions, &parent).await && is_live(sessions, &two).await);
    let other = sessions.issue(customer("cus_2"), HOUR).await;
    let other = other.expect("issued");
    let others = sessions.revoke_others(&two.customer_id, &two.id).await;
    others.expect("revoked");
    assert!(!is_live(sessions, &other).await);
    assert!(is_live(sessions, &parent).await && is_live(sessions, &two).await);
}

#[tokio::test]
async fn a_limit_that_ends_the_parent_ends_derived_sessions_in_the_cache_too() {
    let fixture = Fixture::new(|builder| builder).await;
    let sessions = &fixture.sessions;
    let parent = parent(sessions, &[]).await;
    let child = derive(sessions, &parent).await.expect("live");
    fixture.clock.advance(Duration::from_secs(1));
    let limited = || NewSession::new(HOUR).at_most(2, WhenFull::EndOldest);
    let second = sessions.issue_with(customer("cus_2"), limited()).await;
    second.expect("issued");
    assert!(is_live(sessions, &parent).await && is_live(sessions, &child).await);
    let third = sessions.issue_with(customer("cus_2"), limited()).await;
    third.expect("issued");
    assert!(!is_live(sessions, &parent).await && !is_live(sessions, &child).await);
}

#[tokio::test(flavor = "multi_thread")]
async fn no_derived_session_outlives_a_revocation_that_meets_its_derivation() {
    for _ in 0..20 {
        let fixture = Fixture::new(|builder| builder).await;
        let parent = Arc::new(parent(&fixture.sessions, &[]).await);
        let derivations = (0..20).map(|_| {
            let (sessions, parent) = (fixture.sessions.clone(), Arc::clone(&parent));
            async move { derive(&sessions, &parent).await }
        });
        let derivations = derivations.collect::<JoinSet<_>>();
        fixture.sessions.revoke(&parent.id).await.expect("revoked");
        for child in derivations.join_all().await.into_iter().flatten() {
            assert!(!is_live(&fixture.sessions, &child).await);
        }
    }
}

#[tokio::test]
async fn a_store_that_keeps_no_details_derives_no_sessions() {
    let store = without_details(MemoryStore::new());
    let sessions = CustomerSessions::builder(store).build();
    let parent = sessions.issue(customer("cus_1"), HOUR).await;
    let token = parent.expect("issued").token;
    let refused = sessions.derive(&token, NewSession::new(HOUR)).await;
    assert!(is_invalid(refused));
}
