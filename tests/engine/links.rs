//! One-time links: what opens nothing by itself, and is exchanged once.

use std::{sync::Arc, time::Duration};

use chrono::TimeDelta;
use customer_session::{
    AuthenticateError, CustomerData, CustomerSession, CustomerSessions, NewSession,
    SessionStore as _, StoreError, StoreErrorKind, WhenFull, store::MemoryStore,
};
use tokio::task::JoinSet;

use crate::fixture::{Fixture, without_details};
use test_support::{HOUR, RegistryExt as _, Sessions, customer};

const QUARTER: Duration = Duration::from_secs(900);

async fn link(fixture: &Fixture) -> CustomerSession {
    let link = fixture.sessions.link(customer("cus_2"), QUARTER).await;
    link.expect("made")
}

async fn exchange(sessions: &Sessions, link: &CustomerSession) -> Option<CustomerSession> {
    let new = NewSession::new(HOUR).scopes(["orders:read"]);
    let session = sessions.exchange(&link.token, new).await;
    session.expect("an answer")
}

fn is_invalid<T: std::fmt::Debug>(answer: Result<T, AuthenticateError>) -> bool {
    matches!(answer, Err(AuthenticateError::InvalidToken))
}

#[tokio::test]
async fn a_link_opens_nothing_and_the_store_is_not_asked() {
    let fixture = Fixture::new(|builder| builder).await;
    let link = link(&fixture).await;
    assert!(link.token.expose().starts_with("cst_link_"));
    let before = fixture.statistics();
    assert!(is_invalid(fixture.sessions.authenticate(&link.token).await));
    let after = fixture.statistics();
    assert_eq!(after.lookups, before.lookups);
    assert_eq!(after.screened, before.screened + 1);
    let rotated = fixture.sessions.rotate(&link.token, HOUR).await;
    assert_eq!(rotated.expect("an answer"), None);
    let again = fixture.sessions.reauthenticated(&link.token, HOUR).await;
    assert_eq!(again.expect("an answer"), None);
    assert!(exchange(&fixture.sessions, &link).await.is_some());
}

/// The second lock: it does not rely on the token.
#[tokio::test]
async fn a_record_of_a_link_opens_nothing_whatever_its_token() {
    let fixture = Fixture::new(|builder| builder).await;
    let mut link = link(&fixture).await;
    link.id = "ses_other".into();
    link.token = fixture.store.token_format().generate();
    fixture.store.inner.add(&link).await.expect("inserted");
    assert!(is_invalid(fixture.sessions.authenticate(&link.token).await));
    let rotated = fixture.sessions.rotate(&link.token, HOUR).await;
    assert_eq!(rotated.expect("an answer"), None);
    assert_eq!(exchange(&fixture.sessions, &link).await, None);
}

#[tokio::test]
async fn a_link_is_exchanged_for_a_session_as_a_sign_in_opens_it() {
    let fixture = Fixture::new(|builder| builder).await;
    let link = link(&fixture).await;
    assert_eq!(link.details.authenticated_at, None);
    fixture.clock.advance(QUARTER / 2);
    let session = exchange(&fixture.sessions, &link).await.expect("unused");
    let now = link.created_at + TimeDelta::from_std(QUARTER / 2).expect("short");
    assert_eq!(session.customer_id, link.customer_id);
    assert_eq!(session.expires_at, now + TimeDelta::hours(1));
    assert_eq!(session.details.ends_at, Some(session.expires_at));
    assert_eq!(session.details.authenticated_at, Some(now));
    assert_eq!(session.details.scopes.to_string(), "orders:read");
    assert!(!session.details.is_link);
    let authenticated = fixture.sessions.authenticate(&session.token).await;
    assert_eq!(authenticated.expect("live").id, session.id);
}

#[tokio::test]
async fn of_many_exchanges_one_gets_a_session() {
    let fixture = Fixture::new(|builder| builder).await;
    let link = Arc::new(link(&fixture).await);
    let exchanges = (0..100).map(|_| {
        let (sessions, link) = (fixture.sessions.clone(), Arc::clone(&link));
        async move { exchange(&sessions, &link).await.is_some() }
    });
    let winners = exchanges.collect::<JoinSet<_>>().join_all().await;
    assert_eq!(winners.iter().filter(|is_winner| **is_winner).count(), 1);
}

#[tokio::test]
async fn what_is_not_a_usable_link_is_not_exchanged() {
    let fixture = Fixture::new(|builder| builder).await;
    let sessions = &fixture.sessions;
    assert_eq!(exchange(sessions, &fixture.session).await, None);
    for end in 0..4 {
        let link = link(&fixture).await;
        let (id, customer) = (&link.id, &link.customer_id);
        match end {
            0 => assert!(sessions.revoke(id).await.expect("revoked")),
            1 => assert!(sessions.revoke_token(&link.token).await.expect("revoked")),
            2 => sessions.revoke_customer(customer).await.expect("revoked"),
            _ => {
                let other = "ses_other".into();
                let others = sessions.revoke_others(customer, &other).await;
                others.expect("revoked");
            }
        }
        assert_eq!(exchange(sessions, &link).await, None, "{end}");
    }
    let of_deleted = link(&fixture).await;
    let mut data = CustomerData::clone(&of_deleted.customer);
    data.deleted_at = Some(of_deleted.created_at);
    let updated = sessions.update_customer(&data.into()).await;
    assert!(updated.expect("updated"));
    assert_eq!(exchange(sessions, &of_deleted).await, None);
    let expired = sessions.link(customer("cus_3"), QUARTER).await;
    fixture.clock.advance(QUARTER);
    assert_eq!(exchange(sessions, &expired.expect("made")).await, None);
}

#[tokio::test]
async fn revoking_a_link_ends_the_session_that_it_became() {
    let fixture = Fixture::new(|builder| builder).await;
    let link = link(&fixture).await;
    let session = exchange(&fixture.sessions, &link).await.expect("unused");
    let authenticated = fixture.sessions.authenticate(&session.token).await;
    assert!(authenticated.is_ok());
    let revoked = fixture.sessions.revoke(&link.id).await;
    assert!(revoked.expect("an answer"));
    assert!(is_invalid(
        fixture.sessions.authenticate(&session.token).await
    ));
}

#[tokio::test]
async fn a_link_is_revoked_by_its_token() {
    let fixture = Fixture::new(|builder| builder).await;
    let link = link(&fixture).await;
    let revoked = fixture.sessions.revoke_token(&link.token).await;
    assert!(revoked.expect("an answer"));
    assert_eq!(exchange(&fixture.sessions, &link).await, None);
    let again = fixture.sessions.revoke_token(&link.token).await;
    assert!(!again.expect("an answer"));
}

#[tokio::test]
async fn a_list_shows_no_links() {
    let fixture = Fixture::new(|builder| builder).await;
    let link = link(&fixture).await;
    let list = async || {
        fixture
            .sessions
            .list(&link.customer_id)
            .await
            .expect("list")
    };
    assert_eq!(list().await, []);
    let session = exchange(&fixture.sessions, &link).await.expect("unused");
    let ids: Vec<_> = list().await.into_iter().map(|session| session.id).collect();
    assert_eq!(ids, [session.id]);
}

#[tokio::test]
async fn links_end_no_session_at_a_sign_in_with_a_limit() {
    let fixture = Fixture::new(|builder| builder).await;
    let sessions = &fixture.sessions;
    let limited = || NewSession::new(HOUR).at_most(2, WhenFull::EndOldest);
    let first = sessions.issue_with(customer("cus_2"), limited()).await;
    let first = first.expect("issued");
    for _ in 0..3 {
        link(&fixture).await;
    }
    let second = sessions.issue_with(customer("cus_2"), limited()).await;
    for session in [first, second.expect("issued")] {
        assert!(sessions.authenticate(&session.token).await.is_ok());
    }
}

#[tokio::test]
async fn an_exchange_ends_the_oldest_sessions_in_the_cache_too() {
    let fixture = Fixture::new(|builder| builder).await;
    let sessions = &fixture.sessions;
    let old = sessions.issue(customer("cus_2"), HOUR).await;
    let old = old.expect("issued");
    assert!(sessions.authenticate(&old.token).await.is_ok());
    let link = link(&fixture).await;
    let new = NewSession::new(HOUR).at_most(1, WhenFull::EndOldest);
    let new = sessions.exchange(&link.token, new).await;
    let new = new.expect("an answer").expect("unused");
    assert!(is_invalid(sessions.authenticate(&old.token).await));
    assert!(sessions.authenticate(&new.token).await.is_ok());
}

#[tokio::test]
async fn a_limit_that_refuses_an_exchange_leaves_the_link_unused() {
    let fixture = Fixture::new(|builder| builder).await;
    let sessions = &fixture.sessions;
    let one = sessions.issue(customer("cus_2"), HOUR).await;
    let one = one.expect("issued");
    let link = link(&fixture).await;
    let limited = || NewSession::new(HOUR).at_most(1, WhenFull::Refuse);
    let refused = sessions.exchange(&link.token, limited()).await;
    assert_eq!(
        refused.expect_err("a session too many").kind(),
        StoreErrorKind::Conflict
    );
    assert!(sessions.authenticate(&one.token).await.is_ok());
    assert!(sessions.revoke(&one.id).await.expect("an answer"));
    let exchanged = sessions.exchange(&link.token, limited()).await;
    assert!(exchanged.expect("an answer").is_some());
}

#[tokio::test]
async fn a_store_that_keeps_no_details_makes_no_links() {
    let store = without_details(MemoryStore::new());
    let sessions = CustomerSessions::builder(store).build();
    let refused: Result<_, StoreError> = sessions.link(customer("cus_1"), QUARTER).await;
    assert_eq!(
        refused.expect_err("it would open a door").kind(),
        StoreErrorKind::Invalid
    );
}
