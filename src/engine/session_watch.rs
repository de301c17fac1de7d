//! How the engine tells that a session has ended: it checks again after each change that may concern
//! the session, and when the cached session is too old.

use std::{
    pin::{Pin, pin},
    sync::{Arc, Weak},
    task::Poll,
    time::Duration,
};

use chrono::{DateTime, Utc};
use tokio::{
    runtime::Handle,
    time::{Instant, timeout},
};

use super::{
    Authenticated, CacheLookup, Engine,
    cache::entry::CachedSession,
    error::AuthenticateError,
    upstream::permits::Purpose,
    watch::{SessionEnd, Watch, Watching},
};
use crate::{session::CustomerSession, token::SessionToken};

/// Longest time between two looks at the wall clock, which may be set while a stream sleeps.
const CLOCK_RECHECK: Duration = Duration::from_secs(10);

/// The same for a clock that is neither the system's nor tells when it is moved.
const CUSTOM_CLOCK_RECHECK: Duration = Duration::from_secs(1);

/// Time for which a stream goes on while its lookup waits in line at a store that answers others: many
/// streams are checked at once when everything was invalidated.
const MAX_TIME_IN_LINE: Duration = Duration::from_secs(60);

/// Shortest time between two lookups for one stream.
const MIN_RECHECK: Duration = Duration::from_secs(1);

impl Watch<CachedSession> for Weak<Engine> {
    fn watch(&self, session: Arc<CachedSession>) -> Watching {
        let engine = self.upgrade();
        Box::pin(async move {
            match engine {
                Some(engine) => engine.watch_session(session).await,
                None => SessionEnd::Unconfirmed,
            }
        })
    }

    fn note_use(&self, session: Arc<CachedSession>) {
        let Some(engine) = self.upgrade() else { return };
        if !session.next_use.is_due(engine.clock.monotonic_now()) {
            return;
        }
        // The session may have ended since.
        let token = session.session.token.clone();
        let noting = async move {
            let current = match engine.peek(token.expose().as_bytes()) {
                CacheLookup::Hit(authenticated) => Some(authenticated),
                CacheLookup::NegativeHit => None,
                CacheLookup::Miss => engine.lookup_or_stale(&token, &Purpose::REQUEST).await.ok(),
            };
            if let Some(current) = current {
                engine.note_use(&current.session);
                session.next_use.copy_from(&current.session.next_use);
            }
        };
        if let Ok(runtime) = Handle::try_current() {
            runtime.spawn(noting);
        }
    }
}

/// The state of a watched session between two checks.
struct Watched {
    expires_at: DateTime<Utc>,
    /// End of the session if the store keeps failing.
    good_until: Option<Instant>,
    /// The entry on which `good_until` rests.
    last: Arc<CachedSession>,
    /// End of the time in line since the session was last confirmed.
    in_line_until: Option<Instant>,
}

impl Engine {
    /// Waits until a request with this session's token would be refused.
    async fn watch_session(self: &Arc<Self>, cached: Arc<CachedSession>) -> SessionEnd {
        let session = &cached.session;
        let (id, customer) = (session.id.as_str(), session.customer_id.as_str());
        let mut watched = Watched {
            expires_at: session.expires_at,
            good_until: None,
            last: Arc::clone(&cached),
            in_line_until: None,
        };
        loop {
            let [by_session, by_customer] = self.revocations.changes(id, customer);
            let mut changes = (Box::pin(by_session), Box::pin(by_customer));
            // From here on no change is missed.
            changes.0.as_mut().enable();
            changes.1.as_mut().enable();
            let moved = self.clock.moved();

            let result = self.check(&session.token, &mut watched).await;
            let now = self.clock.now();
            let pause = match self.next_check(&mut watched, session, result, now) {
                Ok(pause) => pause,
                Err(end) => return end,
            };
            let left = (watched.expires_at - now).to_std().unwrap_or_default();
            let recheck = if self.clock.is_system() || moved.is_some() {
                CLOCK_RECHECK
            } else {
                CUSTOM_CLOCK_RECHECK
            };
            let moved = moved.unwrap_or_else(|| Box::pin(std::future::pending()));
            let changed = either(Box::pin(either(changes.0, changes.1)), moved);
            // A change and the end of the pause have the same consequence.
            let _ = timeout(pause.min(left).min(recheck), changed).await;
        }
    }

    /// Authenticates `token` as a request would, but in line with the other lookups in the background.
    async fn check(
        self: &Arc<Self>,
        token: &SessionToken,
        watched: &mut Watched,
    ) -> Result<Authenticated, AuthenticateError> {
        self.counters.stream_checks.add_one();
        match self.peek(token.expose().as_bytes()) {
            CacheLookup::Hit(authenticated) => Ok(authenticated),
            CacheLookup::NegativeHit => Err(AuthenticateError::InvalidToken),
            CacheLookup::Miss => self.look_up_in_line(token, watched).await,
        }
    }

    /// Looks `token` up when it is this stream's turn.
    async fn look_up_in_line(
        self: &Arc<Self>,
        token: &SessionToken,
        watched: &mut Watched,
    ) -> Result<Authenticated, AuthenticateError> {
        let started = Instant::now();
        watched
            .in_line_until
            .get_or_insert(started + MAX_TIME_IN_LINE);
        let wait_limit = self.config.wait_limit();
        let mut purpose = pin!(self.upstream.permits.stream());
        let purpose = loop {
            match timeout(wait_limit.min(MIN_RECHECK), &mut purpose).await {
                Ok(purpose) => break purpose,
                // It has probably ended, and does not wait behind all that have not.
                Err(_) if !self.is_spared(watched) => {
                    return self.lookup_or_stale(token, &Purpose::REQUEST).await;
                }
                Err(_) if started.elapsed() < wait_limit => {}
                Err(_) if self.may_stay_in_line(watched) => {}
                Err(_) => return Err(AuthenticateError::Overloaded),
            }
        };
        loop {
            match self.lookup_or_stale(token, &purpose).await {
                Err(AuthenticateError::Overloaded) if self.may_stay_in_line(watched) => {}
                result => return result,
            }
        }
    }

    /// Returns `true` if only the number of lookups keeps the store from confirming the session, and
    /// nothing speaks against it.
    fn may_stay_in_line(&self, watched: &Watched) -> bool {
        watched
            .in_line_until
            .is_some_and(|until| Instant::now() < until)
            && self.clock.now() < watched.expires_at
            && self.is_spared(watched)
            && !self.upstream.is_hanging()
    }

    /// Returns `true` if no change of the session or its customer was announced since it was confirmed.
    fn is_spared(&self, watched: &Watched) -> bool {
        let last = &watched.last;
        self.revocations.table.is_spared(last.epoch, last.stripes)
    }

    /// Looks `token` up in the cache as a request would, without being counted as one.
    fn peek(self: &Arc<Self>, token: &[u8]) -> CacheLookup {
        let key = self.cache.key(token);
        let now = self.clock.monotonic_now();
        let admit = |session: &Arc<CachedSession>| self.admit_cached(session, token, now, false);
        let admitted = self.cache.front(key.half(), admit).or_else(|| {
            let session = self.cache.session(key)?;
            admit(&session)
        });
        match admitted {
            Some(authenticated) => CacheLookup::Hit(authenticated),
            None if self.opens_nothing(key, token, now) => CacheLookup::NegativeHit,
            None => CacheLookup::Miss,
        }
    }

    /// Returns the time until the next check, or why the session has ended.
    fn next_check(
        &self,
        watched: &mut Watched,
        session: &CustomerSession,
        result: Result<Authenticated, AuthenticateError>,
        now: DateTime<Utc>,
    ) -> Result<Duration, SessionEnd> {
        match result {
            Ok(Authenticated { session, .. }) => {
                watched.expires_at = session.session.expires_at;
                let fresh_for = session.fresh_until.since(self.clock.monotonic_now());
                // As for a request, one more lookup may take its time.
                let good_for = fresh_for + self.config.wait_limit();
                watched.good_until = Instant::now().checked_add(good_for);
                watched.last = session;
                watched.in_line_until = None;
                Ok(fresh_for.max(MIN_RECHECK))
            }
            Err(_) if now >= watched.expires_at => Err(SessionEnd::Expired),
            Err(AuthenticateError::InvalidToken) => {
                let last = &watched.last.session;
                Err(match self.idle_time_left(last, now) {
                    Some(_) => SessionEnd::Revoked,
                    None => SessionEnd::Expired,
                })
            }
            Err(_) => self.pause_in_outage(watched, session),
        }
    }

    /// Returns the time until the next check while the store fails, or that the session can no
    /// longer be trusted.
    fn pause_in_outage(
        &self,
        watched: &mut Watched,
        session: &CustomerSession,
    ) -> Result<Duration, SessionEnd> {
        let now = Instant::now();
        let soon = now + self.config.wait_limit();
        if self.was_overtaken(watched) {
            watched.good_until = watched.good_until.map(|until| until.min(soon));
        }
        let good_until = *watched.good_until.get_or_insert(soon);
        let left = good_until.saturating_duration_since(now);
        if left.is_zero() {
            return Err(SessionEnd::Unconfirmed);
        }
        // Spreads the lookups of streams that were notified together.
        let percent = 50 + (self.revocations.table.hash(session.id.as_str()) % 101) as u32;
        Ok((MIN_RECHECK / 100 * percent).min(left))
    }

    /// Returns `true` if a revocation has overtaken the entry that the stream relies on. Requests
    /// do not rely on it either.
    fn was_overtaken(&self, watched: &Watched) -> bool {
        let last = &watched.last;
        !self.is_current(&**last, last.session.token.expose().as_bytes())
    }
}

/// Waits for one of the two.
async fn either(
    mut one: impl Future<Output = ()> + Unpin,
    mut other: impl Future<Output = ()> + Unpin,
) {
    std::future::poll_fn(|context| {
        match (
            Pin::new(&mut one).poll(context),
            Pin::new(&mut other).poll(context),
        ) {
            (Poll::Pending, Poll::Pending) => Poll::Pending,
            _ => Poll::Ready(()),
        }
    })
    .await;
}
