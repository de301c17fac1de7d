//! Whose customer it is, where Polar's answer is late or about another organization.

use std::time::Duration;

use chrono::TimeDelta;
use customer_session::{
    Clock as _, CustomerId, CustomerSession, SessionStore as _, SessionToken, StoreError,
    StoreErrorKind,
    polar::{CreateError, PolarStore, SessionOptions},
    testing::ManualClock,
};
use serde_json::json;
use tokio::task::JoinSet;

use super::{
    error_text,
    fake_polar::{CUSTOMERS, FOREIGN, FakePolar, Fault, JANE, ME, OUR_ORGANIZATION, PLAIN, TEAM},
    found,
};
use crate::log::Log;
use test_support::clock;

const SECOND: Duration = Duration::from_secs(1);
const MINUTE: Duration = Duration::from_secs(60);

async fn start() -> (FakePolar, ManualClock, PolarStore) {
    let (polar, clock) = (FakePolar::start().await, clock());
    let store = polar.builder().clock(clock.clone()).build().expect("built");
    (polar, clock, store)
}

impl FakePolar {
    fn created(&self, customer: &str, clock: &ManualClock, age: TimeDelta) {
        self.update(customer, json!({ "created_at": clock.now() - age }));
    }

    /// Returns the number of calls for a customer since the last time.
    fn customer_calls(&self) -> usize {
        let start = format!("GET {CUSTOMERS}");
        let calls = self.calls();
        calls.iter().filter(|call| call.starts_with(&start)).count()
    }
}

/// Looks all tokens up, many at a time.
async fn find_all(
    store: &PolarStore,
    tokens: &[SessionToken],
) -> Vec<Result<Option<CustomerSession>, StoreError>> {
    let mut answers = Vec::new();
    for tokens in tokens.chunks(100) {
        let lookups = tokens.iter().cloned().map(|token| {
            let store = store.clone();
            async move { store.find(&token).await }
        });
        answers.extend(lookups.collect::<JoinSet<_>>().join_all().await);
    }
    answers
}

async fn assert_missing(store: &PolarStore, token: &SessionToken) {
    let error = store.find(token).await.expect_err("it cannot tell");
    assert_eq!(error.kind(), StoreErrorKind::Unavailable);
    assert_eq!(error.retry_after(), Some(SECOND));
}

#[tokio::test]
async fn a_customer_made_just_now_is_asked_for_once_more() {
    let (polar, clock, store) = start().await;
    polar.created(JANE, &clock, TimeDelta::seconds(119));
    polar.lag(JANE, 1);
    found(&store, &polar.customer_token(JANE)).await;
    assert_eq!(polar.customer_calls(), 2);
}

#[tokio::test]
async fn a_customer_made_just_now_is_never_remembered_as_foreign() {
    let (polar, clock, _) = start().await;
    let token = polar.customer_token(JANE);
    // Also one whose clock is ahead of ours.
    for age in [119, 0, -30] {
        let store = polar.builder().clock(clock.clone()).build().expect("built");
        polar.created(JANE, &clock, TimeDelta::seconds(age));
        polar.lag(JANE, 2);
        assert_missing(&store, &token).await;
        assert_eq!(polar.customer_calls(), 2);
        // A client that does not wait costs no more calls.
        assert_missing(&store, &token).await;
        assert_eq!(polar.customer_calls(), 0);
        clock.advance(SECOND);
        found(&store, &token).await;
        polar.calls();
    }
}

#[tokio::test]
async fn a_customer_that_create_has_returned_is_never_taken_for_foreign() {
    let (polar, clock, store) = start().await;
    let created = store.create(CustomerId::from(JANE), SessionOptions::new());
    let token = created.await.expect("created").session.token;
    polar.lag(JANE, 3);
    assert_missing(&store, &token).await;
    clock.advance(SECOND);
    found(&store, &token).await;
}

#[tokio::test]
async fn a_customer_found_before_is_refused_only_when_its_session_is() {
    let (polar, clock, store) = start().await;
    let token = polar.customer_token(JANE);
    found(&store, &token).await;
    polar.lag(JANE, usize::MAX);
    for _ in 0..3 {
        assert_missing(&store, &token).await;
        clock.advance(MINUTE);
    }
    polar.delete(JANE);
    assert_eq!(store.find(&token).await.expect("Polar answers"), None);
}

#[tokio::test]
async fn an_older_customer_is_foreign_for_no_longer_than_it_has_existed() {
    let (polar, clock, store) = start().await;
    let token = polar.customer_token(FOREIGN);
    for (age, remembered) in [
        (TimeDelta::minutes(2), 2 * MINUTE),
        (TimeDelta::days(2), 24 * 60 * MINUTE),
    ] {
        polar.created(FOREIGN, &clock, age);
        assert_eq!(store.find(&token).await.expect("Polar answers"), None);
        clock.advance(remembered - SECOND);
        assert_eq!(store.find(&token).await.expect("Polar answers"), None);
        assert_eq!(polar.customer_calls(), 1, "{age}");
        clock.advance(SECOND);
    }
    // Without a time of creation it is a minute.
    for created_at in [json!(null), json!("soon"), json!(7)] {
        let body = json!({ "id": FOREIGN, "created_at": created_at }).to_string();
        polar.fault(ME, Fault::body(body));
        assert_eq!(store.find(&token).await.expect("Polar answers"), None);
        clock.advance(MINUTE - SECOND);
        assert_eq!(store.find(&token).await.expect("Polar answers"), None);
        assert_eq!(polar.customer_calls(), 1, "{created_at}");
        clock.advance(SECOND);
    }
}

/// As with an access token that reads the customers of several organizations.
#[tokio::test]
async fn a_customer_of_another_organization_than_the_one_set_is_refused() {
    let polar = FakePolar::start().await;
    let build = |organization: &str| {
        let store = polar.builder().organization(organization);
        store.build().expect("built")
    };
    let (ours, theirs) = (build(OUR_ORGANIZATION), build("another"));
    let token = polar.customer_token(JANE);
    found(&ours, &token).await;
    let customer = CustomerId::from(JANE);
    let created = ours.create(&customer, SessionOptions::new()).await;
    created.expect("created");

    let log = Log::default();
    let _listening = log.listen();
    let created = theirs.create(&customer, SessionOptions::new()).await;
    let Err(CreateError::Store(error)) = created else {
        panic!("it is another organization's customer: {created:?}");
    };
    let text = error_text(&error);
    assert!(
        text.contains("check the organization access token"),
        "{text}"
    );
    polar.calls();
    for calls in [1, 0, 0] {
        assert_eq!(theirs.find(&token).await.expect("Polar answers"), None);
        assert_eq!(polar.customer_calls(), calls);
    }
    let text = log.text();
    let events = text.matches("live token of another organization").count();
    assert_eq!(events, 1, "{text}");

    // A customer that was ours is no longer known as such.
    let moved = json!({
        "id": JANE, "created_at": "2025-01-01T00:00:00Z", "organization_id": "another",
    });
    polar.fault(CUSTOMERS, Fault::body(moved.to_string()));
    for calls in [1, 0] {
        assert_eq!(ours.find(&token).await.expect("Polar answers"), None);
        assert_eq!(polar.customer_calls(), calls);
    }
}

#[tokio::test]
async fn live_tokens_of_another_organization_are_logged_once_a_minute() {
    let (polar, clock, store) = start().await;
    let token = polar.customer_token(FOREIGN);
    let log = Log::default();
    let _listening = log.listen();
    for events in 1..3 {
        for _ in 0..3 {
            assert_eq!(store.find(&token).await.expect("Polar answers"), None);
        }
        let text = log.text();
        let told = text.matches("live token of another organization").count();
        assert_eq!(told, events, "{text}");
        assert!(!text.contains(token.expose()), "{text}");
        clock.advance(MINUTE);
    }
    assert!(log.text().contains("count=3"), "{}", log.text());
}

/// Any merchant makes customers and sessions at no cost.
#[tokio::test]
async fn customers_of_other_organizations_cannot_use_up_the_calls() {
    let (polar, clock, store) = start().await;
    let known = polar.customer_token(JANE);
    found(&store, &known).await;
    clock.advance(MINUTE);
    polar.calls();
    let foreign: Vec<_> = (0..1000)
        .map(|number| {
            let id = format!("foreign-{number}");
            polar.add_foreign(&id);
            polar.customer_token(&id)
        })
        .collect();
    let answers = find_all(&store, &foreign).await;
    assert_eq!(polar.customer_calls(), 60);
    assert_eq!(answers.iter().filter(|answer| answer.is_ok()).count(), 60);
    for error in answers.into_iter().filter_map(Result::err) {
        assert_eq!(error.kind(), StoreErrorKind::Unavailable);
        assert_eq!(error.retry_after(), Some(MINUTE));
    }
    // A customer that was found, and one that is created, go on; another one waits.
    found(&store, &polar.customer_token(JANE)).await;
    let team = CustomerId::from(TEAM);
    let created = store.create(&team, SessionOptions::new()).await;
    found(&store, &created.expect("created").session.token).await;
    let plain = polar.customer_token(PLAIN);
    clock.advance(MINUTE - SECOND);
    let error = store.find(&plain).await.expect_err("not yet");
    assert_eq!(error.retry_after(), Some(SECOND));
    clock.advance(SECOND);
    found(&store, &plain).await;
    polar.calls();
    let answers = find_all(&store, &foreign).await;
    assert_eq!(polar.customer_calls(), 60);
    let refused = answers.iter().filter(|answer| answer.is_ok()).count();
    assert_eq!(refused, 120, "half of them are remembered");
}

#[tokio::test]
async fn calls_for_our_own_customers_do_not_count() {
    let polar = FakePolar::start().await;
    let build = |calls| {
        polar
            .builder()
            .foreign_customer_calls_per_minute(calls)
            .build()
    };
    let error = build(0).expect_err("none would be let in").to_string();
    assert!(
        error.contains("foreign_customer_calls_per_minute"),
        "{error}"
    );
    let store = build(1).expect("built");
    let tokens = [JANE, PLAIN, TEAM].map(|id| polar.customer_token(id));
    for answer in find_all(&store, &tokens).await {
        assert!(answer.expect("Polar answers").is_some());
    }
    // Nor do those that a replica did not know, once it does.
    let (clock, polar_lags) = (clock(), FakePolar::start().await);
    let store = polar_lags.builder().clock(clock.clone());
    let store = store.foreign_customer_calls_per_minute(3).build();
    let store = store.expect("built");
    for id in [JANE, PLAIN, TEAM] {
        polar_lags.created(id, &clock, TimeDelta::zero());
        polar_lags.lag(id, 2);
        let token = polar_lags.customer_token(id);
        assert_missing(&store, &token).await;
        clock.advance(SECOND);
        found(&store, &token).await;
        assert_eq!(polar_lags.customer_calls(), 3);
    }
    // Nor does a failure, which says nothing of the customer.
    let store = build(1).expect("built");
    polar.fault(CUSTOMERS, Fault::down());
    store.find(&tokens[0]).await.expect_err("an outage");
    polar.clear_faults();
    found(&store, &tokens[0]).await;
    let foreign = polar.customer_token(FOREIGN);
    assert_eq!(store.find(&foreign).await.expect("Polar answers"), None);
    store
        .find(&tokens[1])
        .await
        .expect_err("not in this minute");
    found(&store, &tokens[0]).await;
}
