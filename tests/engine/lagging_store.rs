//! A store whose answers lag behind the changes that are announced. Time is held by hand.

use std::time::Duration;

use chrono::{DateTime, Utc};
use customer_session::{
    Clock as _, CurrentSession, CustomerData, Invalidation, SessionRegistry as _,
};

use crate::fixture::{Connection, Fixture, MILLISECOND, TTL, settle};

const SECOND: Duration = Duration::from_secs(1);

impl Fixture {
    /// Writes the customer of that time to the store, without telling the engine.
    async fn write(&self, modified_at: DateTime<Utc>) {
        let mut data = CustomerData::clone(&self.session.customer);
        data.created_at = DateTime::UNIX_EPOCH;
        data.modified_at = Some(modified_at);
        let written = self.store.inner.update_customer(&data.into()).await;
        assert!(written.expect("an answer"), "it is known");
    }

    async fn modified_at(&self) -> Option<DateTime<Utc>> {
        let session = self.authenticate().await;
        let session: CurrentSession = session.expect("live");
        settle().await;
        session.customer.modified_at
    }

    async fn announce(&self, connection: &Connection, modified_at: DateTime<Utc>) {
        let id = self.session.customer_id.clone();
        let changed = Invalidation::CustomerChanged { id, modified_at };
        connection.send(changed).await;
    }
}

/// Returns a fixture whose customer is cached, a source, and the times of two versions of the customer.
async fn changed() -> (Fixture, Connection, DateTime<Utc>, DateTime<Utc>) {
    let fixture = Fixture::new(|builder| builder).await;
    let connection = fixture.listen();
    let old = fixture.clock.now();
    fixture.write(old).await;
    assert_eq!(fixture.modified_at().await, Some(old));
    (fixture, connection, old, old + SECOND)
}

#[tokio::test]
async fn an_answer_that_lags_behind_an_announced_change_is_used_for_a_second() {
    let (fixture, connection, old, new) = changed().await;
    fixture.announce(&connection, new).await;
    assert_eq!(fixture.modified_at().await, Some(old), "the store lags");
    let lookups = fixture.store.lookups();
    fixture.clock.advance(SECOND / 2);
    assert_eq!(fixture.modified_at().await, Some(old));
    assert_eq!(fixture.store.lookups(), lookups, "it is cached");

    fixture.write(new).await;
    fixture.clock.advance(SECOND / 2);
    assert_eq!(fixture.modified_at().await, Some(new));
    assert_eq!(fixture.store.lookups(), lookups + 1);
    fixture.clock.advance(TTL / 2);
    assert_eq!(fixture.modified_at().await, Some(new));
    assert_eq!(fixture.store.lookups(), lookups + 1, "cached as usual");
}

#[tokio::test]
async fn an_answer_that_is_as_new_as_the_change_is_cached_as_usual() {
    let (fixture, connection, _, new) = changed().await;
    fixture.write(new).await;
    fixture.announce(&connection, new).await;
    assert_eq!(fixture.modified_at().await, Some(new));
    let lookups = fixture.store.lookups();
    fixture.clock.advance(TTL / 2);
    assert_eq!(fixture.modified_at().await, Some(new));
    assert_eq!(fixture.store.lookups(), lookups);
}

#[tokio::test]
async fn the_newest_of_several_announced_changes_counts() {
    let (fixture, connection, old, new) = changed().await;
    fixture.announce(&connection, new).await;
    // They may come in any order, and twice.
    fixture.announce(&connection, old).await;
    assert_eq!(fixture.modified_at().await, Some(old));
    fixture.write(new).await;
    fixture.clock.advance(SECOND);
    assert_eq!(fixture.modified_at().await, Some(new));
}

/// A store that lags for minutes is asked less and less, and a change that it never gets is forgotten.
#[tokio::test]
async fn a_store_that_lags_for_long_is_not_asked_every_second() {
    let (fixture, connection, old, new) = changed().await;
    fixture.announce(&connection, new).await;
    let lookups = fixture.store.lookups();
    let mut asked_for = Vec::new();
    for second in 0..400 {
        assert_eq!(fixture.modified_at().await, Some(old));
        if fixture.store.lookups() > lookups + asked_for.len() {
            asked_for.push(second);
        }
        fixture.clock.advance(SECOND);
    }
    assert_eq!(asked_for[..3], [0, 1, 2]);
    assert!(asked_for.len() < 20, "{asked_for:?}");
    let pauses = asked_for.windows(2).map(|pair| pair[1] - pair[0]);
    let longest = pauses.max().expect("several lookups");
    assert!((40..=60).contains(&longest), "{asked_for:?}");
}

#[tokio::test]
async fn an_announced_change_overtakes_what_was_cached_before_whatever_its_time() {
    let (fixture, connection, old, _) = changed().await;
    fixture.revoke_behind_its_back().await;
    fixture.clock.advance(MILLISECOND);
    fixture.announce(&connection, old).await;
    assert!(fixture.authenticate().await.is_err());
}

#[tokio::test]
async fn a_change_by_update_customer_is_not_concerned() {
    let (fixture, _connection, old, new) = changed().await;
    let mut data = CustomerData::clone(&fixture.session.customer);
    data.modified_at = Some(new);
    let updated = fixture.sessions.update_customer(&data.into()).await;
    assert!(updated.expect("an answer"));
    fixture.write(old).await;
    assert_eq!(fixture.modified_at().await, Some(old));
    let lookups = fixture.store.lookups();
    fixture.clock.advance(TTL / 2);
    assert_eq!(fixture.modified_at().await, Some(old));
    assert_eq!(fixture.store.lookups(), lookups, "cached as usual");
}
