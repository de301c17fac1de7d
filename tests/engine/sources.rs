//! What sources of invalidations say of themselves, and how far the cache is trusted by it. Time is
//! held by hand.

use std::time::{Duration, Instant};

use customer_session::{
    AuthenticateError, Invalidation, InvalidationSource, SourceEvent, async_trait,
};

use crate::fixture::{Fixture, MILLISECOND, settle};

/// Time for which an answered question vouches, counted from the question.
const LEASE: Duration = Duration::from_secs(2);

impl Fixture {
    async fn cached() -> Self {
        let fixture = Self::new(|builder| builder).await;
        fixture.authenticate().await.expect("live");
        fixture
    }

    /// Returns the number of lookups that `requests` requests need.
    async fn lookups_of(&self, requests: usize) -> usize {
        let before = self.store.lookups();
        for _ in 0..requests {
            self.authenticate().await.expect("live");
        }
        self.store.lookups() - before
    }
}

fn alive() -> SourceEvent {
    SourceEvent::Alive {
        asked_at: Instant::now(),
    }
}

/// Returns the answer to a question that was asked some time ago.
fn alive_since(ago: Duration) -> SourceEvent {
    let asked_at = Instant::now().checked_sub(ago);
    SourceEvent::Alive {
        asked_at: asked_at.expect("the machine has run for longer"),
    }
}

#[tokio::test]
async fn memory_is_trusted_for_two_seconds_after_a_question_that_was_answered() {
    let fixture = Fixture::cached().await;
    let source = fixture.listen();
    source.send(alive()).await;
    fixture.clock.advance(LEASE - MILLISECOND * 100);
    assert_eq!(fixture.lookups_of(3).await, 0);
    assert_eq!(fixture.statistics().sources_disconnected, 0);

    // The process was stopped for a while, or its link is dead.
    fixture.clock.advance(MILLISECOND * 100);
    assert_eq!(
        fixture.lookups_of(3).await,
        3,
        "the store is asked each time"
    );
    assert_eq!(fixture.statistics().sources_disconnected, 1);
    fixture.revoke_behind_its_back().await;
    assert!(fixture.authenticate().await.is_err(), "at once");
}

#[tokio::test]
async fn what_is_cached_may_be_used_again_when_nothing_was_missed() {
    let fixture = Fixture::cached().await;
    let source = fixture.listen();
    source.send(alive()).await;
    fixture.clock.advance(LEASE * 2);
    assert_eq!(fixture.lookups_of(1).await, 1);
    // The backlog comes before the answer.
    let other = Invalidation::Session("another session".into());
    source.send(other).await;
    assert_eq!(fixture.lookups_of(1).await, 1, "a message renews nothing");
    source.send(alive()).await;
    assert_eq!(fixture.lookups_of(3).await, 0, "an answer does");
}

#[tokio::test]
async fn the_lease_counts_from_the_question() {
    let fixture = Fixture::cached().await;
    fixture.clock.advance(LEASE * 2);
    let source = fixture.listen();
    source.send(alive_since(LEASE)).await;
    assert_eq!(fixture.lookups_of(2).await, 2, "the answer took too long");
    source
        .send(alive_since(LEASE - Duration::from_secs(1)))
        .await;
    assert_eq!(fixture.lookups_of(2).await, 0);
    source.send(alive()).await;
    // An answer that comes late does not shorten the lease.
    source.send(alive_since(LEASE)).await;
    fixture.clock.advance(LEASE - MILLISECOND * 100);
    assert_eq!(fixture.lookups_of(2).await, 0);
}

#[tokio::test]
async fn a_source_that_never_answers_questions_has_no_lease() {
    let fixture = Fixture::cached().await;
    let source = fixture.listen();
    source.send(Invalidation::All).await;
    assert_eq!(fixture.lookups_of(1).await, 1);
    fixture.clock.advance(LEASE * 5);
    assert_eq!(fixture.lookups_of(3).await, 0);
}

#[tokio::test]
async fn each_source_must_vouch() {
    let fixture = Fixture::cached().await;
    let sources = [fixture.listen(), fixture.listen()];
    sources[0].send(alive()).await;
    sources[1].send(alive()).await;
    fixture.clock.advance(LEASE);
    sources[0].send(alive()).await;
    assert_eq!(fixture.lookups_of(2).await, 2, "the other one is silent");
    let statistics = fixture.statistics();
    assert_eq!(
        (
            statistics.sources_listening,
            statistics.sources_disconnected
        ),
        (2, 1)
    );

    // A source that has ended is not waited for.
    sources[1].listening.abort();
    settle().await;
    assert_eq!(
        fixture.lookups_of(2).await,
        1,
        "what it missed is looked up"
    );
    assert_eq!(fixture.statistics().sources_listening, 1);
}

#[tokio::test]
async fn after_a_reconnection_the_first_answer_is_waited_for() {
    let fixture = Fixture::cached().await;
    let source = fixture.listen();
    source.send(alive()).await;
    source.send(SourceEvent::Disconnected).await;
    fixture.clock.advance(LEASE);
    source.send(Invalidation::All).await;
    assert_eq!(fixture.lookups_of(2).await, 2);
    source.send(alive()).await;
    assert_eq!(fixture.lookups_of(2).await, 0);
}

#[tokio::test]
async fn after_a_gap_in_which_nothing_was_missed_the_cache_is_used_again() {
    let fixture = Fixture::cached().await;
    let sources = [fixture.listen(), fixture.listen()];
    for source in &sources {
        source.send(Invalidation::All).await;
    }
    fixture.authenticate().await.expect("cached again");
    sources[0].send(SourceEvent::Disconnected).await;
    assert_eq!(fixture.lookups_of(2).await, 2, "something may be missing");
    sources[0].send(SourceEvent::Resumed).await;
    assert_eq!(fixture.lookups_of(2).await, 0);

    // What was announced during the gap comes first.
    sources[0].send(SourceEvent::Disconnected).await;
    fixture.revoke_behind_its_back().await;
    let session = fixture.session.id.clone();
    sources[0].send(Invalidation::Session(session)).await;
    sources[0].send(SourceEvent::Resumed).await;
    let answer = fixture.authenticate().await;
    assert!(matches!(answer, Err(AuthenticateError::InvalidToken)));
}

#[tokio::test]
async fn a_source_that_resumes_does_not_speak_for_another_that_has_missed_something() {
    let fixture = Fixture::cached().await;
    let sources = [fixture.listen(), fixture.listen()];
    for source in &sources {
        source.send(Invalidation::All).await;
    }
    fixture.authenticate().await.expect("cached again");
    for source in &sources {
        source.send(SourceEvent::Disconnected).await;
    }
    sources[0].send(SourceEvent::Resumed).await;
    assert_eq!(fixture.lookups_of(1).await, 1, "one is away still");
    fixture.revoke_behind_its_back().await;
    sources[1].send(Invalidation::All).await;
    let answer = fixture.authenticate().await;
    assert!(matches!(answer, Err(AuthenticateError::InvalidToken)));

    // In the other order, too.
    let fixture = Fixture::cached().await;
    let sources = [fixture.listen(), fixture.listen()];
    for source in &sources {
        source.send(Invalidation::All).await;
        source.send(SourceEvent::Disconnected).await;
    }
    fixture.authenticate().await.expect("looked up");
    fixture.revoke_behind_its_back().await;
    sources[1].send(Invalidation::All).await;
    sources[0].send(SourceEvent::Resumed).await;
    let answer = fixture.authenticate().await;
    assert!(matches!(answer, Err(AuthenticateError::InvalidToken)));
}

#[tokio::test]
async fn a_cache_that_requires_a_source_is_not_used_without_one() {
    let fixture = Fixture::new(|builder| builder.require_source(true)).await;
    assert_eq!(fixture.lookups_of(3).await, 3, "there is none");
    let source = fixture.listen();
    settle().await;
    source.send(SourceEvent::Malformed).await;
    assert_eq!(fixture.lookups_of(2).await, 2, "it is not heard yet");
    source.send(Invalidation::All).await;
    assert_eq!(fixture.lookups_of(3).await, 1, "cached");

    source.listening.abort();
    settle().await;
    assert_eq!(fixture.lookups_of(3).await, 3, "it is gone");
    let source = fixture.listen();
    source.send(SourceEvent::Disconnected).await;
    assert_eq!(fixture.lookups_of(2).await, 2);
    source.send(Invalidation::All).await;
    assert_eq!(fixture.lookups_of(3).await, 1);
    fixture.revoke_behind_its_back().await;
    source
        .send(Invalidation::Session(fixture.session.id.clone()))
        .await;
    let answer = fixture.authenticate().await;
    assert!(matches!(answer, Err(AuthenticateError::InvalidToken)));
}

/// A source with a bug.
struct Panicking;

#[async_trait]
impl InvalidationSource for Panicking {
    async fn recv(&mut self) -> Option<SourceEvent> {
        panic!("a bug in the source")
    }
}

#[tokio::test]
async fn a_source_that_is_gone_is_not_counted() {
    let fixture = Fixture::cached().await;
    assert_eq!(fixture.statistics().sources_listening, 0);
    let source = fixture.listen();
    settle().await;
    assert_eq!(fixture.statistics().sources_listening, 1);
    let panicked = tokio::spawn(fixture.sessions.listen(Panicking)).await;
    assert!(panicked.is_err_and(|error| error.is_panic()));
    assert_eq!(fixture.statistics().sources_listening, 1);
    drop(source);
    settle().await;
    assert_eq!(fixture.statistics().sources_listening, 0);
}

#[tokio::test]
async fn what_was_cached_before_a_silent_source_was_dropped_is_not_trusted() {
    let fixture = Fixture::cached().await;
    let source = fixture.listen();
    source.send(alive()).await;
    fixture.clock.advance(LEASE);
    // A message may have been missed, and no source is left to tell of it.
    source.listening.abort();
    settle().await;
    assert_eq!(fixture.lookups_of(3).await, 1, "looked up once more");

    let source = fixture.listen();
    source.send(alive()).await;
    source.listening.abort();
    settle().await;
    assert_eq!(fixture.lookups_of(3).await, 0, "nothing was missed");
}
