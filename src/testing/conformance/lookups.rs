//! The rules of a store that only looks sessions up.

use std::{future::poll_fn, pin::pin, task::Poll};

use chrono::Utc;

use super::{
    harness::{RuleResult, Violation, ensure},
    report::Conformance,
};
use crate::{
    session::CustomerSession,
    store::{SessionStore, StoreError},
    token::{SessionToken, TokenFormat},
};

/// The tokens of a test database that
/// [`conformance_of_lookups`](super::conformance_of_lookups) looks up.
///
/// Rules about expired or revoked tokens are checked if there are some.
#[derive(Clone, Debug)]
pub struct LookupTokens {
    live: Vec<SessionToken>,
    expired: Vec<SessionToken>,
    revoked: Vec<SessionToken>,
}

impl LookupTokens {
    /// Creates a set of tokens that open live sessions, each a session of its own. Two or more
    /// find more mistakes than one.
    pub fn live(tokens: impl IntoIterator<Item = SessionToken>) -> Self {
        Self {
            live: tokens.into_iter().collect(),
            expired: Vec::new(),
            revoked: Vec::new(),
        }
    }

    /// Adds tokens of sessions that have expired.
    #[must_use]
    pub fn expired(mut self, tokens: impl IntoIterator<Item = SessionToken>) -> Self {
        self.expired.extend(tokens);
        self
    }

    /// Adds tokens of sessions that were revoked.
    #[must_use]
    pub fn revoked(mut self, tokens: impl IntoIterator<Item = SessionToken>) -> Self {
        self.revoked.extend(tokens);
        self
    }
}

/// Checks all rules, those that revoke a session last.
pub(super) async fn check<S: SessionStore>(
    store: &S,
    tokens: &LookupTokens,
    revoke: impl AsyncFnOnce(SessionToken) -> Result<(), StoreError>,
    report: &mut Conformance,
) {
    let live = &tokens.live;
    report.add("a live token opens its session", opens(store, live).await);
    report.add(
        "each token opens a session of its own",
        are_apart(store, live).await,
    );
    report.add(
        "concurrent lookups are not mixed up",
        are_not_mixed_up(store, live).await,
    );
    report.add(
        "an unknown token opens nothing",
        unknown_opens_nothing(store).await,
    );
    report.add(
        "tokens are told apart by every character",
        are_exact(store, live).await,
    );
    report.add(
        "a lookup that is dropped does no harm",
        survives_drops(store, live).await,
    );
    if !tokens.expired.is_empty() {
        report.add(
            "an expired token opens nothing live",
            are_dead(store, &tokens.expired).await,
        );
    }
    if !tokens.revoked.is_empty() {
        report.add(
            "a revoked token opens nothing live",
            are_dead(store, &tokens.revoked).await,
        );
    }
    report.add(
        "a revoked session is gone at once",
        revoked_is_gone(store, live, revoke).await,
    );
}

/// Looks a token up that opens a live session.
async fn find<S: SessionStore>(
    store: &S,
    token: &SessionToken,
    number: usize,
) -> Result<CustomerSession, Violation> {
    let Some(session) = store.find(token).await? else {
        return Err(Violation(format!("live token {number} opens nothing")));
    };
    let id = &session.id;
    ensure(
        session.token == *token,
        format!("session {id} came without the token it was looked up by"),
    )?;
    ensure(
        session.customer_id == session.customer.id,
        format!("session {id} has the customer of another"),
    )?;
    ensure(
        session.is_live_at(Utc::now()),
        format!(
            "session {id} is not live: it expires at {}, its customer was deleted at {:?}",
            session.expires_at, session.customer.deleted_at
        ),
    )?;
    Ok(session)
}

async fn opens<S: SessionStore>(store: &S, live: &[SessionToken]) -> RuleResult {
    ensure(!live.is_empty(), "there is no live token to look up")?;
    for (token, number) in live.iter().zip(1..) {
        ensure(
            store.token_format().matches(token.expose()),
            format!("live token {number} is not of the store's `token_format`"),
        )?;
        let first = find(store, token, number).await?;
        let again = find(store, token, number).await?;
        ensure(
            first == again,
            format!("it opened {first:?}, and then {again:?}"),
        )?;
    }
    Ok(())
}

async fn are_apart<S: SessionStore>(store: &S, live: &[SessionToken]) -> RuleResult {
    let mut ids = Vec::new();
    for (token, number) in live.iter().zip(1..) {
        let id = find(store, token, number).await?.id;
        ensure(!ids.contains(&id), format!("two tokens open session {id}"))?;
        ids.push(id);
    }
    Ok(())
}

async fn are_not_mixed_up<S: SessionStore>(store: &S, live: &[SessionToken]) -> RuleResult {
    let mut expected = Vec::new();
    for (token, number) in live.iter().zip(1..) {
        expected.push(find(store, token, number).await?);
    }
    let lookups = live.iter().zip(1..).cycle().take(16 * live.len());
    let found = join_all(lookups.map(|(token, number)| find(store, token, number))).await;
    for (found, expected) in found.into_iter().zip(expected.iter().cycle()) {
        let found = found?;
        ensure(
            found == *expected,
            format!("{expected:?} was expected, not {found:?}"),
        )?;
    }
    Ok(())
}

/// Waits for all futures at once.
async fn join_all<T, F: Future<Output = T>>(futures: impl Iterator<Item = F>) -> Vec<T> {
    let mut pending: Vec<_> = futures.map(Box::pin).map(Some).collect();
    let mut answers: Vec<Option<T>> = pending.iter().map(|_| None).collect();
    poll_fn(|context| {
        for (future, answer) in pending.iter_mut().zip(&mut answers) {
            if let Some(Poll::Ready(ready)) =
                future.as_mut().map(|lookup| lookup.as_mut().poll(context))
            {
                *answer = Some(ready);
                *future = None;
            }
        }
        if pending.iter().all(Option::is_none) {
            Poll::Ready(())
        } else {
            Poll::Pending
        }
    })
    .await;
    answers.into_iter().flatten().collect()
}

async fn unknown_opens_nothing<S: SessionStore>(store: &S) -> RuleResult {
    for format in [store.token_format(), TokenFormat::any()] {
        let found = store.find(&format.generate()).await?;
        ensure(found.is_none(), "a token made up at random opens a session")?;
    }
    Ok(())
}

async fn are_exact<S: SessionStore>(store: &S, live: &[SessionToken]) -> RuleResult {
    for token in live {
        let token = token.expose();
        let swapped = token.chars().map(|letter| match letter {
            'a'..='z' => letter.to_ascii_uppercase(),
            _ => letter.to_ascii_lowercase(),
        });
        let mut shorter = token.to_owned();
        let last = shorter.pop();
        let other_last = if last == Some('0') { '1' } else { '0' };
        let variants = [
            swapped.collect(),
            format!("{token}0"),
            format!("{shorter}{other_last}"),
            format!("{shorter}%"),
            format!("{shorter}_"),
            shorter,
        ];
        for variant in variants.into_iter().filter(|variant| variant != token) {
            let found = store.find(&SessionToken::new(variant)).await?;
            ensure(
                found.is_none(),
                "a token that differs from a live one by a character opens a session",
            )?;
        }
    }
    Ok(())
}

async fn survives_drops<S: SessionStore>(store: &S, live: &[SessionToken]) -> RuleResult {
    let mut expected = Vec::new();
    for (token, number) in live.iter().zip(1..) {
        expected.push(find(store, token, number).await?);
    }
    for token in live {
        for polls in 1..=8 {
            poll_and_drop(store.find(token), polls).await;
        }
    }
    for ((token, number), expected) in live.iter().zip(1..).zip(&expected) {
        let found = find(store, token, number).await?;
        ensure(
            found == *expected,
            format!("{expected:?} was expected, not {found:?}"),
        )?;
    }
    Ok(())
}

/// Polls a future up to `polls` times, and drops it where it waits then.
async fn poll_and_drop(future: impl Future, polls: u32) {
    let mut future = pin!(future);
    let mut left = polls;
    poll_fn(|context| {
        left -= 1;
        match future.as_mut().poll(context) {
            Poll::Pending if left > 0 => Poll::Pending,
            _ => Poll::Ready(()),
        }
    })
    .await;
}

async fn are_dead<S: SessionStore>(store: &S, dead: &[SessionToken]) -> RuleResult {
    for token in dead {
        let found = store.find(token).await?;
        is_dead(found, "it should be dead")?;
    }
    Ok(())
}

/// Checks that no live session was found. The layer refuses a session that has expired, so that a
/// store need not.
fn is_dead(found: Option<CustomerSession>, because: &str) -> RuleResult {
    match found {
        Some(session) if session.is_live_at(Utc::now()) => Err(Violation(format!(
            "session {} is live, though {because}",
            session.id
        ))),
        _ => Ok(()),
    }
}

async fn revoked_is_gone<S: SessionStore>(
    store: &S,
    live: &[SessionToken],
    revoke: impl AsyncFnOnce(SessionToken) -> Result<(), StoreError>,
) -> RuleResult {
    let Some((last, others)) = live.split_last() else {
        return Err(Violation("there is no live token to revoke".to_owned()));
    };
    find(store, last, live.len()).await?;
    revoke(last.clone()).await?;
    is_dead(store.find(last).await?, "it was revoked")?;
    for (token, number) in others.iter().zip(1..) {
        find(store, token, number).await?;
    }
    Ok(())
}
