//! Sessions with details: what they are issued with, and what becomes of it.

use chrono::TimeDelta;
use customer_session::{
    Actor, AuthenticateError, CustomerSession, CustomerSessions, Device, NewSession,
    SessionDetails, StoreErrorKind, WhenFull, store::MemoryStore,
};

use crate::fixture::{Fixture, without_details};
use test_support::{HOUR, RegistryExt as _, customer};

fn detailed() -> NewSession {
    NewSession::new(HOUR)
        .max_lifetime(24 * HOUR)
        .scopes(["orders:write", "orders:read"])
        .device(Device::new("Jane's phone").ip([203, 0, 113, 7]))
        .actor(Actor::new("staff:ann").because("ticket 71"))
}

async fn issued(fixture: &Fixture, new: NewSession) -> CustomerSession {
    let session = fixture.sessions.issue_with(customer("cus_2"), new).await;
    session.expect("issued")
}

/// Returns the details that a cached answer carries.
async fn cached(fixture: &Fixture, session: &CustomerSession) -> SessionDetails {
    let sessions = &fixture.sessions;
    sessions.authenticate(&session.token).await.expect("live");
    let hits = sessions.statistics().hits;
    let current = sessions.authenticate(&session.token).await.expect("live");
    assert_eq!(sessions.statistics().hits, hits + 1);
    current.details.clone()
}

#[tokio::test]
async fn a_cached_session_has_the_details_that_it_was_issued_with() {
    let fixture = Fixture::new(|builder| builder).await;
    let session = issued(&fixture, detailed()).await;
    let details = cached(&fixture, &session).await;
    assert_eq!(details, session.details);
    assert_eq!(details.scopes.to_string(), "orders:read orders:write");
    assert_eq!(details.device.expect("a device").label, "Jane's phone");
    assert_eq!(details.actor.expect("an actor").id, "staff:ann");
    assert_eq!(details.authenticated_at, Some(session.created_at));
    assert_eq!(
        details.ends_at,
        Some(session.created_at + TimeDelta::days(1))
    );
    let listed = fixture.sessions.list(&session.customer_id).await;
    assert_eq!(listed.expect("a list")[0].details, session.details);
}

#[tokio::test]
async fn a_rotation_keeps_the_details_and_is_no_new_sign_in() {
    let fixture = Fixture::new(|builder| builder).await;
    let first = issued(&fixture, detailed()).await;
    fixture.clock.advance(HOUR / 2);
    let second = fixture.sessions.rotate(&first.token, HOUR).await;
    let second = second.expect("an answer").expect("it was live");
    assert_eq!(second.details, first.details);
    assert_eq!(cached(&fixture, &second).await, first.details);
}

#[tokio::test]
async fn reauthentication_moves_the_time_of_the_last_sign_in_and_nothing_else() {
    let fixture = Fixture::new(|builder| builder).await;
    let first = issued(&fixture, detailed()).await;
    fixture.clock.advance(HOUR / 2);
    let second = fixture.sessions.reauthenticated(&first.token, HOUR).await;
    let second = second.expect("an answer").expect("it was live");
    let now = first.created_at + TimeDelta::minutes(30);
    let mut expected = first.details.clone();
    expected.authenticated_at = Some(now);
    assert_eq!(second.details, expected);
    assert_eq!(second.expires_at, now + TimeDelta::hours(1));
    assert_eq!(cached(&fixture, &second).await, expected);
    let old = fixture.sessions.authenticate(&first.token).await;
    assert!(matches!(old, Err(AuthenticateError::InvalidToken)));
    let again = fixture.sessions.reauthenticated(&first.token, HOUR).await;
    assert_eq!(again.expect("an answer"), None);
}

#[tokio::test]
async fn details_out_of_bounds_open_no_session() {
    let fixture = Fixture::new(|builder| builder).await;
    let new = NewSession::new(HOUR);
    let many = (0..65).map(|number| number.to_string());
    for (new, says) in [
        (new.clone().scopes(["orders read"]), "RFC 6749"),
        (new.clone().scopes(many), "at most 64 scopes"),
        (new.clone().device(Device::new("a\nb")), "label"),
        (new.clone().actor(Actor::new("")), "an actor's id"),
    ] {
        let refused = fixture.sessions.issue_with(customer("cus_2"), new).await;
        let error = refused.expect_err(says);
        assert_eq!(error.kind(), StoreErrorKind::Invalid);
        let source = std::error::Error::source(&error).expect("a reason");
        assert!(source.to_string().contains(says), "{source}");
    }
    let kept = fixture.store.inner.summaries(&"cus_2".into()).await;
    assert_eq!(kept.expect("a list"), []);
}

#[tokio::test]
async fn a_store_that_keeps_no_details_is_not_asked_to() {
    let store = MemoryStore::new();
    let sessions = CustomerSessions::builder(without_details(store.clone())).build();
    let new = NewSession::new(HOUR);
    for new in [
        new.clone().scopes(["orders:read"]),
        new.clone().device(Device::new("phone")),
        new.clone().actor(Actor::new("staff:ann")),
    ] {
        let refused = sessions.issue_with(customer("cus_1"), new).await;
        let error = refused.expect_err("it would lose them");
        assert_eq!(error.kind(), StoreErrorKind::Invalid);
    }
    assert_eq!(store.summaries(&"cus_1".into()).await.expect("a list"), []);
    // Whose sessions are never recent ones.
    let plain = sessions.issue(customer("cus_1"), HOUR).await;
    let plain = plain.expect("issued");
    assert_eq!(plain.details.authenticated_at, None);
    let refused = sessions.reauthenticated(&plain.token, HOUR).await;
    let error = refused.expect_err("it would lose the time");
    assert_eq!(error.kind(), StoreErrorKind::Invalid);
    assert!(sessions.authenticate(&plain.token).await.is_ok());
}

#[tokio::test]
async fn a_limit_ends_the_oldest_sessions_in_the_cache_too() {
    let fixture = Fixture::new(|builder| builder).await;
    let new = NewSession::new(HOUR).at_most(2, WhenFull::EndOldest);
    let mut sessions = Vec::new();
    for _ in 0..4 {
        fixture.clock.advance(std::time::Duration::from_secs(1));
        let session = issued(&fixture, new.clone()).await;
        cached(&fixture, &session).await;
        sessions.push(session);
    }
    for (number, session) in sessions.iter().enumerate() {
        let is_live = fixture.sessions.authenticate(&session.token).await.is_ok();
        assert_eq!(is_live, number >= 2, "{number}");
    }
    let refusing = NewSession::new(HOUR).at_most(2, WhenFull::Refuse);
    let refused = fixture.sessions.issue_with(customer("cus_2"), refusing);
    let error = refused.await.expect_err("there are two");
    assert_eq!(error.kind(), StoreErrorKind::Conflict);
    // Those that have expired do not count.
    fixture.clock.advance(HOUR);
    let refusing = NewSession::new(HOUR).at_most(1, WhenFull::Refuse);
    issued(&fixture, refusing).await;
}
