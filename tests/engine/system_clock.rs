//! The same promises on the system's own clocks, which services run on.

use std::{sync::Arc, time::Duration};

use chrono::Utc;
use customer_session::{CustomerSessions, SessionEnd};
use tokio::time::timeout;

use crate::fixture::settle;
use test_support::{HOUR, ProbeStore, RegistryExt as _, Sessions, customer};

/// A generous limit, yet shorter than the time between two looks of a stream at the clock.
const DEADLINE: Duration = Duration::from_secs(5);

fn sessions() -> (Arc<ProbeStore>, Sessions) {
    let store = Arc::new(ProbeStore::default());
    let sessions = CustomerSessions::builder(Arc::clone(&store)).build();
    (store, sessions)
}

#[tokio::test]
async fn a_session_is_let_in_until_its_end_and_not_longer() {
    let (_, sessions) = sessions();
    let ttl = Duration::from_millis(40);
    let session = sessions
        .issue(customer("cus_1"), ttl)
        .await
        .expect("issued");
    let mut let_in = 0;
    loop {
        let before = Utc::now();
        let answer = sessions.authenticate(&session.token).await;
        let after = Utc::now();
        match answer {
            Ok(_) => assert!(before < session.expires_at, "let in after its end"),
            Err(_) => assert!(after >= session.expires_at, "refused before its end"),
        }
        let_in += u32::from(answer.is_ok());
        if before > session.expires_at + ttl {
            break;
        }
    }
    assert!(let_in > 100, "{let_in}");
    assert!(sessions.statistics().hits > 100, "from the cache");
}

#[tokio::test]
async fn a_stream_that_expires_says_so_whatever_was_changed_just_before() {
    let (_, sessions) = sessions();
    let mut ends = Vec::new();
    for number in 0..10 {
        let customer = customer(&format!("cus_{number}"));
        let ttl = Duration::from_millis(50);
        let session = sessions.issue(customer.clone(), ttl).await;
        let session = session.expect("issued");
        let session = sessions.authenticate(&session.token).await.expect("live");
        let ended = tokio::spawn(session.lifetime().ended());
        let nearly = session.expires_at - Duration::from_millis(5) - Utc::now();
        tokio::time::sleep(nearly.to_std().unwrap_or_default()).await;
        sessions.update_customer(&customer).await.expect("updated");
        let end = timeout(DEADLINE, ended).await;
        ends.push(end.expect("it ends").expect("no panic"));
        assert!(Utc::now() >= session.expires_at, "too early");
    }
    assert_eq!(ends, [SessionEnd::Expired; 10]);
}

#[tokio::test]
async fn a_revocation_ends_a_stream_at_once() {
    let (_, sessions) = sessions();
    let session = sessions
        .issue(customer("cus_1"), HOUR)
        .await
        .expect("issued");
    let session = sessions.authenticate(&session.token).await.expect("live");
    let ended = tokio::spawn(session.lifetime().ended());
    settle().await;
    assert!(!ended.is_finished());
    sessions.revoke(&session.id).await.expect("an answer");
    let end = timeout(DEADLINE, ended).await.expect("at once");
    assert_eq!(end.expect("no panic"), SessionEnd::Revoked);
}

#[tokio::test]
async fn a_lookup_that_finds_the_session_gone_ends_its_streams_at_once() {
    let (store, sessions) = sessions();
    let session = sessions
        .issue(customer("cus_1"), HOUR)
        .await
        .expect("issued");
    let session = sessions.authenticate(&session.token).await.expect("live");
    let ended = tokio::spawn(session.lifetime().ended());
    settle().await;
    // By hand, with no announcement. A rotation asks the store, whatever is cached.
    store.inner.end(&session.id).await.expect("an answer");
    let rotated = sessions.rotate(&session.token, HOUR).await;
    assert!(rotated.expect("an answer").is_none());
    assert!(sessions.authenticate(&session.token).await.is_err());
    let end = timeout(DEADLINE, ended).await.expect("at once");
    assert_eq!(end.expect("no panic"), SessionEnd::Revoked);
}
