//! Sessions that were replaced, and whose tokens are still accepted for a while.

use std::{sync::Arc, time::Duration};

use chrono::TimeDelta;
use customer_session::{
    AuthenticateError, CustomerSession, CustomerSessions, NewSession, SessionEnd, SessionRegistry,
    StoreError, StoreErrorKind, WhenFull, async_trait, store::MemoryStore,
};

use crate::fixture::{Fixture, MILLISECOND, settle, without_details};
use test_support::{HOUR, Sessions, StoreWrapper, Wrapped, customer};

const OVERLAP: Duration = Duration::from_secs(30);

async fn is_live(sessions: &Sessions, session: &CustomerSession) -> bool {
    match sessions.authenticate(&session.token).await {
        Ok(_) => true,
        Err(AuthenticateError::InvalidToken) => false,
        Err(error) => panic!("{error}"),
    }
}

/// Rotates the session of a fixture, which is cached.
async fn overlap(fixture: &Fixture) -> CustomerSession {
    fixture.authenticate().await.expect("live");
    let new = fixture
        .sessions
        .rotate_overlapping(&fixture.session.token, HOUR, OVERLAP);
    new.await.expect("an answer").expect("live")
}

#[tokio::test]
async fn the_old_token_is_accepted_for_the_overlap_and_no_longer() {
    let fixture = Fixture::new(|builder| builder).await;
    let new = overlap(&fixture).await;
    let old = fixture.authenticate().await.expect("it is accepted");
    assert!(old.details.is_replaced && !new.details.is_replaced);
    assert_eq!(old.id, fixture.session.id);
    let overlap = TimeDelta::from_std(OVERLAP).expect("short");
    assert_eq!(old.expires_at, new.created_at + overlap);
    assert_eq!(old.details.ends_at, Some(old.expires_at));
    assert_eq!(new.details.ends_at, fixture.session.details.ends_at);

    fixture.clock.advance(OVERLAP - MILLISECOND);
    fixture.authenticate().await.expect("it is accepted");
    assert_eq!(
        fixture.store.lookups(),
        3,
        "before, for the rotation, and once after it"
    );
    fixture.clock.advance(MILLISECOND);
    let refused = fixture.authenticate().await;
    assert!(matches!(refused, Err(AuthenticateError::InvalidToken)));
    assert!(is_live(&fixture.sessions, &new).await);
}

#[tokio::test]
async fn nothing_is_made_of_a_session_whose_place_was_taken() {
    let fixture = Fixture::new(|builder| builder).await;
    let (sessions, token) = (&fixture.sessions, &fixture.session.token);
    let new = overlap(&fixture).await;
    assert_eq!(sessions.rotate(token, HOUR).await.expect("an answer"), None);
    let answer = sessions.reauthenticated(token, HOUR).await;
    assert_eq!(answer.expect("an answer"), None);
    let answer = sessions.rotate_overlapping(token, HOUR, OVERLAP).await;
    assert_eq!(answer.expect("an answer"), None);
    let answer = sessions.derive(token, NewSession::new(HOUR)).await;
    assert_eq!(answer.expect("an answer"), None);
    for session in [&fixture.session, &new] {
        assert!(is_live(sessions, session).await);
    }
    // The new one is a session like any other.
    let derived = sessions.derive(&new.token, NewSession::new(HOUR)).await;
    let derived = derived.expect("an answer").expect("live");
    let next = sessions.rotate_overlapping(&new.token, HOUR, OVERLAP).await;
    let next = next.expect("an answer").expect("live");
    for session in [&fixture.session, &new, &derived, &next] {
        assert!(is_live(sessions, session).await);
    }
}

#[tokio::test]
async fn revoking_either_ends_both_at_once_though_they_are_cached() {
    for named in 0..2 {
        let fixture = Fixture::new(|builder| builder).await;
        let sessions = &fixture.sessions;
        let new = overlap(&fixture).await;
        for session in [&fixture.session, &new] {
            assert!(is_live(sessions, session).await);
        }
        let id = [&fixture.session, &new][named].id.clone();
        assert!(sessions.revoke(&id).await.expect("an answer"));
        for session in [&fixture.session, &new] {
            assert!(!is_live(sessions, session).await, "{named}");
        }
        assert!(!sessions.revoke(&id).await.expect("an answer"));
    }
}

#[tokio::test]
async fn a_rotation_without_an_overlap_ends_every_old_token_at_once() {
    for proves in [false, true] {
        let fixture = Fixture::new(|builder| builder).await;
        let sessions = &fixture.sessions;
        let second = overlap(&fixture).await;
        let third = sessions.rotate_overlapping(&second.token, HOUR, OVERLAP);
        let third = third.await.expect("an answer").expect("live");
        for session in [&fixture.session, &second, &third] {
            assert!(is_live(sessions, session).await);
        }
        let last = match proves {
            true => sessions.reauthenticated(&third.token, HOUR).await,
            false => sessions.rotate(&third.token, HOUR).await,
        };
        let last = last.expect("an answer").expect("live");
        for session in [&fixture.session, &second, &third] {
            assert!(!is_live(sessions, session).await);
        }
        assert!(is_live(sessions, &last).await);
    }
}

#[tokio::test]
async fn a_session_that_overlaps_ends_no_later_than_it_would_have() {
    let fixture = Fixture::new(|builder| builder).await;
    let sessions = &fixture.sessions;
    // Ten seconds before its end.
    fixture.clock.advance(HOUR - Duration::from_secs(10));
    let new = overlap(&fixture).await;
    let old = fixture.authenticate().await.expect("it is accepted");
    assert_eq!(old.expires_at, fixture.session.expires_at);
    assert_eq!(new.expires_at, fixture.session.expires_at);

    // The new one ends first.
    let long = NewSession::new(HOUR).max_lifetime(2 * HOUR);
    let old = sessions
        .issue_with(customer("cus_1"), long)
        .await
        .expect("issued");
    let second = Duration::from_secs(1);
    let new = sessions
        .rotate_overlapping(&old.token, second, OVERLAP)
        .await;
    let new = new.expect("an answer").expect("live");
    fixture.clock.advance(second);
    assert!(!is_live(sessions, &old).await && !is_live(sessions, &new).await);
}

#[tokio::test]
async fn a_limit_counts_both_once() {
    let fixture = Fixture::new(|builder| builder).await;
    let sessions = &fixture.sessions;
    let new = overlap(&fixture).await;
    let refusing = NewSession::new(HOUR).at_most(2, WhenFull::Refuse);
    let second = sessions.issue_with(customer("cus_1"), refusing).await;
    let second = second.expect("two are allowed");
    for session in [&fixture.session, &new, &second] {
        assert!(is_live(sessions, session).await);
    }
    fixture.clock.advance(MILLISECOND);
    let ending = NewSession::new(HOUR).at_most(1, WhenFull::EndOldest);
    let third = sessions
        .issue_with(customer("cus_1"), ending)
        .await
        .expect("issued");
    for session in [&fixture.session, &new, &second] {
        assert!(!is_live(sessions, session).await);
    }
    assert!(is_live(sessions, &third).await);
}

#[tokio::test(start_paused = true)]
async fn a_stream_of_the_old_session_ends_with_the_overlap() {
    let fixture = Fixture::new(|builder| builder).await;
    let lifetime = fixture.authenticate().await.expect("live").lifetime();
    let ended = tokio::spawn(lifetime.ended());
    settle().await;
    overlap(&fixture).await;
    settle().await;
    assert!(!ended.is_finished());
    fixture.clock.advance(OVERLAP);
    tokio::time::sleep(2 * OVERLAP).await;
    assert_eq!(ended.await.expect("no panic"), SessionEnd::Expired);
}

fn is_invalid(answer: Result<Option<CustomerSession>, StoreError>) -> bool {
    matches!(answer, Err(error) if error.kind() == StoreErrorKind::Invalid)
}

#[tokio::test]
async fn what_cannot_overlap_is_refused_and_changes_nothing() {
    let fixture = Fixture::new(|builder| builder).await;
    let (sessions, token) = (&fixture.sessions, &fixture.session.token);
    let minutes = Duration::from_secs(5 * 60);
    let long = sessions.rotate_overlapping(token, HOUR, minutes + MILLISECOND);
    assert!(is_invalid(long.await));
    let child = sessions.derive(token, NewSession::new(HOUR)).await;
    let child = child.expect("an answer").expect("live");
    let refused = sessions.rotate_overlapping(&child.token, HOUR, OVERLAP);
    assert!(is_invalid(refused.await));
    for session in [&fixture.session, &child] {
        assert!(is_live(sessions, session).await);
    }
    let longest = sessions.rotate_overlapping(token, HOUR, minutes).await;
    let new = longest.expect("an answer").expect("live");
    assert!(is_live(sessions, &fixture.session).await);

    // Without an overlap it is a rotation.
    let none = sessions.rotate_overlapping(&new.token, HOUR, Duration::ZERO);
    let newest = none.await.expect("an answer").expect("live");
    assert!(!is_live(sessions, &new).await && is_live(sessions, &newest).await);
    let link = sessions.link(customer("cus_2"), HOUR).await.expect("made");
    let none = sessions
        .rotate_overlapping(&link.token, HOUR, OVERLAP)
        .await;
    assert_eq!(none.expect("an answer"), None);
}

/// A store in which a session ends where another takes its place.
struct WithoutOverlap(MemoryStore);

#[async_trait]
impl StoreWrapper for WithoutOverlap {
    fn inner(&self) -> &dyn SessionRegistry {
        &self.0
    }

    async fn replace_overlapping(
        &self,
        _: &CustomerSession,
        _: &CustomerSession,
    ) -> Result<Option<CustomerSession>, StoreError> {
        Err(StoreError::invalid(
            "this store cannot keep the token of a replaced session valid",
        ))
    }
}

#[tokio::test]
async fn a_store_without_overlaps_refuses_them() {
    let store = Arc::new(Wrapped(WithoutOverlap(MemoryStore::new())));
    let sessions = CustomerSessions::builder(store).build();
    let session = sessions
        .issue(customer("cus_1"), HOUR)
        .await
        .expect("issued");
    let refused = sessions.rotate_overlapping(&session.token, HOUR, OVERLAP);
    assert!(is_invalid(refused.await));
    sessions.authenticate(&session.token).await.expect("live");

    let sessions = CustomerSessions::builder(without_details(MemoryStore::new())).build();
    let session = sessions
        .issue(customer("cus_1"), HOUR)
        .await
        .expect("issued");
    let refused = sessions.rotate_overlapping(&session.token, HOUR, OVERLAP);
    assert!(is_invalid(refused.await));
    sessions.authenticate(&session.token).await.expect("live");
}
