//! Once a revocation has returned, no request that starts later is let in by it.

use std::{sync::Arc, task::Poll, time::Duration};

use customer_session::{
    AuthenticateError, CustomerData, CustomerSession, CustomerSessions, Invalidation, Revocation,
    Revoked, SessionRegistry, StoreError, StoreErrorKind, async_trait, store::MemoryStore,
};
use test_support::{
    HOUR, ProbeStore, RegistryExt as _, Sessions, StoreWrapper, Wrapped, customer, one_session,
    receive,
};

/// Each way in which a session ends or must be looked up again.
#[derive(Clone, Copy, Debug)]
enum End {
    Revoke,
    RevokeOwned,
    RevokeToken,
    RevokeOthers,
    RevokeCustomer,
    RevokeCreatedBefore,
    RevokeAll,
    Rotate,
    SessionMessage,
    CustomerMessage,
    Flush,
}

const ENDS: [End; 11] = [
    End::Revoke,
    End::RevokeOwned,
    End::RevokeToken,
    End::RevokeOthers,
    End::RevokeCustomer,
    End::RevokeCreatedBefore,
    End::RevokeAll,
    End::Rotate,
    End::SessionMessage,
    End::CustomerMessage,
    End::Flush,
];

impl End {
    async fn happen(self, store: &ProbeStore, sessions: &Sessions, session: &CustomerSession) {
        let message = match self {
            End::Revoke => {
                assert!(sessions.revoke(&session.id).await.expect("revoked"));
                return;
            }
            End::RevokeOwned => {
                let (customer, id) = (&session.customer_id, &session.id);
                let foreign = sessions.revoke_owned(&"cus_other".into(), id).await;
                assert!(!foreign.expect("an answer"), "it is not theirs");
                assert!(sessions.revoke_owned(customer, id).await.expect("revoked"));
                return;
            }
            End::RevokeToken => {
                let revoked = sessions.revoke_token(&session.token).await;
                assert!(revoked.expect("revoked"));
                let again = sessions.revoke_token(&session.token).await;
                assert!(!again.expect("an answer"), "it is gone");
                return;
            }
            End::RevokeOthers => {
                let customer = &session.customer_id;
                let kept = sessions.issue(session.customer.clone(), HOUR).await;
                let kept = kept.expect("issued");
                let revoked = sessions.revoke_others(customer, &kept.id).await;
                revoked.expect("revoked");
                let left = sessions.list(customer).await.expect("listed");
                assert_eq!(left.len(), 1);
                assert_eq!(left[0].id, kept.id);
                return;
            }
            End::RevokeCreatedBefore => {
                let time = session.created_at;
                let revoked = sessions.revoke_created_before(time).await;
                revoked.expect("revoked");
                assert_eq!(
                    sessions
                        .list(&session.customer_id)
                        .await
                        .expect("listed")
                        .len(),
                    1
                );
                let revoked = sessions.revoke_created_before(time + HOUR).await;
                revoked.expect("revoked");
                return;
            }
            End::RevokeAll => {
                sessions.revoke_all().await.expect("revoked");
                return;
            }
            End::RevokeCustomer => {
                let revoked = sessions.revoke_customer(&session.customer_id).await;
                revoked.expect("revoked");
                return;
            }
            End::Rotate => {
                let new = sessions
                    .rotate(&session.token, HOUR)
                    .await
                    .expect("rotated");
                assert_ne!(new.expect("was live").token, session.token);
                return;
            }
            End::SessionMessage => Invalidation::Session(session.id.clone()),
            End::CustomerMessage => Invalidation::Customer(session.customer_id.clone()),
            End::Flush => Invalidation::All,
        };
        // As another node does it: the store first, then the message.
        store.inner.end(&session.id).await.expect("revoked");
        receive(sessions, [message]).await;
    }
}

#[tokio::test]
async fn a_cached_session_is_refused_once_it_has_ended() {
    for end in ENDS {
        let (store, sessions, session) = one_session().await;
        // A lookup, and two hits in the cache.
        for _ in 0..3 {
            sessions.authenticate(&session.token).await.expect("live");
        }
        end.happen(&store, &sessions, &session).await;
        let answer = sessions.authenticate(&session.token).await;
        assert!(
            matches!(answer, Err(AuthenticateError::InvalidToken)),
            "{end:?}: {answer:?}"
        );
    }
}

#[tokio::test]
async fn a_lookup_that_has_read_before_the_end_is_never_used() {
    for end in ENDS {
        // These look the session up in the store themselves, which is what is blocked here.
        if matches!(end, End::Rotate | End::RevokeToken) {
            continue;
        }
        for waiters in [1, 2] {
            let (store, sessions, session) = one_session().await;
            store.shut();
            let waiting: Vec<_> = (0..waiters)
                .map(|_| {
                    let (sessions, token) = (sessions.clone(), session.token.clone());
                    tokio::spawn(async move { sessions.authenticate(&token).await })
                })
                .collect();
            store.has_read(1).await;
            // Returns although the lookup is blocked.
            end.happen(&store, &sessions, &session).await;
            // A request that starts now joins the flight that has read the old session.
            let late = tokio::spawn({
                let (sessions, token) = (sessions.clone(), session.token.clone());
                async move { sessions.authenticate(&token).await }
            });
            tokio::task::yield_now().await;
            store.open();
            for request in waiting.into_iter().chain([late]) {
                let answer = request.await.expect("no panic");
                assert!(
                    matches!(answer, Err(AuthenticateError::InvalidToken)),
                    "{end:?}, {waiters} waiters: {answer:?}"
                );
            }
            let answer = sessions.authenticate(&session.token).await;
            assert!(matches!(answer, Err(AuthenticateError::InvalidToken)));
            assert!(sessions.statistics().lookups <= 4, "{end:?}");
        }
    }
}

#[tokio::test]
async fn rotation_gives_one_new_token_and_ends_the_old() {
    let (_, sessions, old) = one_session().await;
    sessions.authenticate(&old.token).await.expect("live");
    let new = sessions.rotate(&old.token, HOUR).await.expect("rotated");
    let new = new.expect("the old one was live");
    assert_ne!((&new.id, &new.token), (&old.id, &old.token));
    assert_eq!(new.customer, old.customer);
    assert!(sessions.authenticate(&old.token).await.is_err());
    assert_eq!(
        sessions.authenticate(&new.token).await.expect("live").id,
        new.id
    );
    // Reuse of the old token after rotation opens nothing.
    assert_eq!(
        sessions.rotate(&old.token, HOUR).await.expect("no error"),
        None
    );
    sessions.authenticate(&new.token).await.expect("still live");
}

#[tokio::test]
async fn one_of_many_rotations_of_a_session_wins() {
    let (_, sessions, old) = one_session().await;
    let rotations: Vec<_> = (0..64)
        .map(|_| {
            let (sessions, token) = (sessions.clone(), old.token.clone());
            tokio::spawn(async move { sessions.rotate(&token, HOUR).await })
        })
        .collect();
    let mut winners = 0;
    for rotation in rotations {
        winners += usize::from(
            rotation
                .await
                .expect("no panic")
                .expect("no error")
                .is_some(),
        );
    }
    assert_eq!(winners, 1);
}

#[tokio::test]
async fn an_updated_customer_is_seen_at_once() {
    let (_, sessions, session) = one_session().await;
    for _ in 0..3 {
        sessions.authenticate(&session.token).await.expect("live");
    }
    let mut data = CustomerData::new("cus_1", "org_1");
    data.name = Some("Jane".into());
    let updated = sessions.update_customer(&data.into()).await;
    assert!(updated.expect("updated"), "the customer is known");
    let seen = sessions.authenticate(&session.token).await.expect("live");
    assert_eq!(seen.customer.name.as_deref(), Some("Jane"));

    let mut deleted = CustomerData::new("cus_1", "org_1");
    deleted.deleted_at = Some(deleted.created_at);
    sessions
        .update_customer(&deleted.into())
        .await
        .expect("updated");
    let answer = sessions.authenticate(&session.token).await;
    assert!(matches!(answer, Err(AuthenticateError::InvalidToken)));
}

#[tokio::test]
async fn a_customer_who_is_restored_is_let_in_at_once() {
    let (_, sessions, session) = one_session().await;
    let restored = session.customer.clone();
    let mut deleted = (*restored).clone();
    deleted.deleted_at = Some(deleted.created_at);
    sessions
        .update_customer(&deleted.into())
        .await
        .expect("updated");
    let answer = sessions.authenticate(&session.token).await;
    assert!(matches!(answer, Err(AuthenticateError::InvalidToken)));
    sessions.update_customer(&restored).await.expect("updated");
    sessions
        .authenticate(&session.token)
        .await
        .expect("live again");
}

#[tokio::test]
async fn issuing_a_session_changes_no_customer() {
    let (_, sessions, session) = one_session().await;
    sessions.authenticate(&session.token).await.expect("live");
    let mut data = (*session.customer).clone();
    data.name = Some("Jane".into());
    let other = sessions.issue(data, HOUR).await.expect("issued");
    assert_eq!(other.customer.name, None, "as stored");
    for token in [&session.token, &other.token] {
        let seen = sessions.authenticate(token).await.expect("live");
        assert_eq!(seen.customer.name, None);
    }
}

#[tokio::test]
async fn a_rotation_does_not_undo_a_change_to_the_customer() {
    let (store, sessions, session) = one_session().await;
    store.shut();
    let rotation = tokio::spawn({
        let (sessions, token) = (sessions.clone(), session.token.clone());
        async move { sessions.rotate(&token, HOUR).await }
    });
    // The rotation has read the customer, who is now deleted.
    store.has_read(1).await;
    let mut deleted = (*session.customer).clone();
    deleted.deleted_at = Some(deleted.created_at);
    sessions
        .update_customer(&deleted.into())
        .await
        .expect("updated");
    store.open();
    let new = rotation.await.expect("no panic").expect("no error");
    let new = new.expect("it was live when it was read");
    let answer = sessions.authenticate(&new.token).await;
    assert!(
        matches!(answer, Err(AuthenticateError::InvalidToken)),
        "{answer:?}"
    );
}

#[tokio::test]
async fn revoking_an_unknown_session_is_no_error() {
    let (_, sessions, session) = one_session().await;
    assert!(
        !sessions
            .revoke(&"ses_unknown".into())
            .await
            .expect("no error")
    );
    sessions
        .revoke_customer(&"cus_unknown".into())
        .await
        .expect("no error");
    sessions
        .authenticate(&session.token)
        .await
        .expect("others stay");
}

#[tokio::test]
async fn messages_may_come_late_twice_and_for_unknown_sessions() {
    let (store, sessions, session) = one_session().await;
    let other = Invalidation::Session("ses_unknown".into());
    let ours = Invalidation::Session(session.id.clone());
    receive(
        &sessions,
        [other.clone(), ours.clone(), ours.clone(), other],
    )
    .await;
    // The session is still in the store: a message costs a lookup, it does not revoke.
    sessions.authenticate(&session.token).await.expect("live");
    receive(&sessions, [ours, Invalidation::All]).await;
    sessions.authenticate(&session.token).await.expect("live");
    assert_eq!(store.lookups(), 2);
    // None from issuing, which changes no customer.
    assert_eq!(sessions.statistics().invalidations, 6);
}

/// A store whose revocation stops at two points, before and after it has happened.
struct SlowRevoke {
    inner: ProbeStore,
    steps: tokio::sync::Semaphore,
    fails: bool,
}

#[async_trait]
impl StoreWrapper for SlowRevoke {
    fn inner(&self) -> &dyn SessionRegistry {
        &self.inner
    }

    async fn revoke(&self, what: &Revocation) -> Result<Revoked, StoreError> {
        if matches!(what, Revocation::Customer(_)) {
            panic!("the store panics");
        }
        self.steps.acquire().await.expect("open").forget();
        let revoked = self.inner.revoke(what).await;
        self.steps.acquire().await.expect("open").forget();
        if self.fails {
            return Err(StoreError::timeout("the connection broke after the commit"));
        }
        revoked
    }
}

type Slow = Arc<Wrapped<SlowRevoke>>;

async fn set_up_slow(fails: bool) -> (Slow, CustomerSessions<Slow>, CustomerSession) {
    let store = Arc::new(Wrapped(SlowRevoke {
        inner: ProbeStore::default(),
        steps: tokio::sync::Semaphore::new(0),
        fails,
    }));
    let sessions = CustomerSessions::builder(Arc::clone(&store)).build();
    let session = sessions
        .issue(customer("cus_1"), HOUR)
        .await
        .expect("issued");
    sessions.authenticate(&session.token).await.expect("live");
    (store, sessions, session)
}

#[tokio::test]
async fn a_revocation_whose_caller_has_left_still_happens() {
    // Dropped before the store has begun, and between the commit and the answer.
    for steps in [0, 1] {
        let (store, sessions, session) = set_up_slow(false).await;
        let mut revocation = Box::pin(sessions.revoke(&session.id));
        let polled = std::future::poll_fn(|cx| Poll::Ready(revocation.as_mut().poll(cx))).await;
        assert!(polled.is_pending());
        store.steps.add_permits(steps);
        tokio::task::yield_now().await;
        drop(revocation);
        store.steps.add_permits(2 - steps);
        let mut refused = false;
        for _ in 0..100 {
            tokio::task::yield_now().await;
            refused |= sessions.authenticate(&session.token).await.is_err();
        }
        assert!(refused, "dropped after {steps} steps");
        assert!(sessions.authenticate(&session.token).await.is_err());
    }
}

#[tokio::test]
async fn a_revocation_of_unknown_outcome_is_taken_to_have_happened() {
    let (store, sessions, session) = set_up_slow(true).await;
    store.steps.add_permits(2);
    let outcome = sessions.revoke(&session.id).await;
    assert!(outcome.is_err());
    assert!(sessions.authenticate(&session.token).await.is_err());

    let (store, sessions, session) = set_up_slow(false).await;
    let outcome = sessions.revoke_customer(&session.customer_id).await;
    assert!(outcome.is_err(), "the panic is an error");
    sessions
        .authenticate(&session.token)
        .await
        .expect("it was not revoked");
    assert_eq!(store.inner.lookups(), 2, "but looked up again");
}

#[tokio::test(start_paused = true)]
async fn requests_end_within_the_store_timeout_even_if_their_lookups_are_superseded() {
    let (store, sessions, session) = one_session().await;
    let begun = tokio::time::Instant::now();
    store.shut();
    let request = tokio::spawn({
        let (sessions, token) = (sessions.clone(), session.token.clone());
        async move { sessions.authenticate(&token).await }
    });
    store.has_read(1).await;
    tokio::time::advance(Duration::from_millis(1500)).await;
    receive(&sessions, [Invalidation::Session(session.id.clone())]).await;
    store.open();
    store.has_read(2).await;
    store.shut();
    receive(&sessions, [Invalidation::Session(session.id.clone())]).await;
    let answer = request.await.expect("no panic");
    assert!(begun.elapsed() <= Duration::from_millis(2001), "{answer:?}");
}

/// Another node revoked the session, and its message is still on the way.
#[tokio::test]
async fn what_the_store_no_longer_has_is_forgotten_too() {
    type Revoke = fn(Sessions, CustomerSession) -> futures_util::future::BoxFuture<'static, bool>;
    let ways: [Revoke; 3] = [
        |sessions, session| {
            Box::pin(async move { sessions.revoke(&session.id).await.expect("an answer") })
        },
        |sessions, session| {
            Box::pin(async move {
                let (customer, id) = (&session.customer_id, &session.id);
                sessions
                    .revoke_owned(customer, id)
                    .await
                    .expect("an answer")
            })
        },
        |sessions, session| {
            Box::pin(async move {
                sessions
                    .revoke_token(&session.token)
                    .await
                    .expect("an answer")
            })
        },
    ];
    for revoke in ways {
        let (store, sessions, session) = one_session().await;
        sessions.authenticate(&session.token).await.expect("live");
        store
            .inner
            .end(&session.id)
            .await
            .expect("revoked elsewhere");
        let revoked = revoke(sessions.clone(), session.clone()).await;
        assert!(!revoked, "it was gone already");
        let answer = sessions.authenticate(&session.token).await;
        assert!(matches!(answer, Err(AuthenticateError::InvalidToken)));
    }
}

#[tokio::test]
async fn revoking_a_session_of_another_customer_costs_it_nothing() {
    let (store, sessions, session) = one_session().await;
    sessions.authenticate(&session.token).await.expect("live");
    let revoked = sessions
        .revoke_owned(&"cus_other".into(), &session.id)
        .await;
    assert!(!revoked.expect("an answer"));
    sessions.authenticate(&session.token).await.expect("live");
    assert_eq!(store.lookups(), 1, "it is still cached");
}

#[tokio::test]
async fn sessions_of_any_store_are_one_type() {
    let (_, sessions, session) = one_session().await;
    let erased: customer_session::DynCustomerSessions = sessions.clone().into_dyn();
    erased.authenticate(&session.token).await.expect("live");
    assert!(sessions.revoke(&session.id).await.expect("revoked"));
    let answer = erased.authenticate(&session.token).await;
    assert!(
        matches!(answer, Err(AuthenticateError::InvalidToken)),
        "one cache"
    );
}

#[tokio::test]
async fn a_revocation_that_the_store_does_not_report_is_recorded() {
    /// Ends sessions, and does not say which.
    struct Silent(MemoryStore);

    #[async_trait]
    impl StoreWrapper for Silent {
        fn inner(&self) -> &dyn SessionRegistry {
            &self.0
        }

        async fn revoke(&self, what: &Revocation) -> Result<Revoked, StoreError> {
            Ok(Revoked::new(self.0.revoke(what).await?.any, []))
        }
    }

    let sessions = CustomerSessions::builder(Wrapped(Silent(MemoryStore::new()))).build();
    let customer = CustomerData::new("cus_1", "org_1");
    let session = sessions.issue(customer, HOUR).await.expect("issued");
    sessions.authenticate(&session.token).await.expect("live");
    assert!(sessions.revoke(&session.id).await.expect("an answer"));
    let answer = sessions.authenticate(&session.token).await;
    assert!(matches!(answer, Err(AuthenticateError::InvalidToken)));
}

#[tokio::test]
async fn a_token_for_which_the_store_finds_another_session_ends_nothing() {
    let (store, sessions, session) = one_session().await;
    let other = sessions
        .issue(customer("cus_2"), HOUR)
        .await
        .expect("issued");
    store.mistake_all_for(&session.token);
    let revoked = sessions.revoke_token(&other.token).await;
    let error = revoked.expect_err("the store is mistaken");
    assert_eq!(error.kind(), StoreErrorKind::Corrupt);
    assert!(
        store.inner.end(&session.id).await.expect("revoked"),
        "it was left alone"
    );
}
