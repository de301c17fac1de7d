//! How the engine tells when a session ends.

use std::{
    pin::Pin,
    sync::{Arc, Weak},
    task::Poll,
    time::Duration,
};

use tokio::time::{Instant, timeout};

use super::{
    CacheLookup, Engine,
    error::AuthenticateError,
    watch::{SessionEnd, Watch, Watching},
};
use crate::session::CustomerSession;

/// After which the wall clock is looked at again: it may have been set, or the machine may have
/// slept.
const CLOCK_RECHECK: Duration = Duration::from_secs(10);

/// The same where the clock is not the system's: it tells nobody when it is moved.
const CUSTOM_CLOCK_RECHECK: Duration = Duration::from_millis(20);

/// How long to wait between lookups at the least.
const PAUSE: Duration = Duration::from_secs(1);

impl Watch for Weak<Engine> {
    fn watch(&self, session: Arc<CustomerSession>) -> Watching {
        let engine = self.upgrade();
        Box::pin(async move {
            match engine {
                Some(engine) => engine.watch_session(&session).await,
                // Whoever could revoke it here is gone.
                None => SessionEnd::Unconfirmed,
            }
        })
    }
}

impl Engine {
    /// Waits until a request with this session's token would no longer be let in.
    async fn watch_session(self: &Arc<Self>, session: &CustomerSession) -> SessionEnd {
        let (id, customer) = (session.id.as_str(), session.customer_id.as_str());
        let mut expires_at = session.expires_at;
        // Until when it counts as good though the store cannot tell.
        let mut good_until = None;
        // What that rests on.
        let mut read = None;
        loop {
            let [by_session, by_customer] = self.revocations.listen(id, customer);
            let mut changes = (Box::pin(by_session), Box::pin(by_customer));
            // From here on no change is missed.
            changes.0.as_mut().enable();
            changes.1.as_mut().enable();

            let token = &session.token;
            let answer = match self.lookup_cached(token.expose().as_bytes()) {
                CacheLookup::Hit(admitted) => Ok(admitted),
                CacheLookup::NegativeHit => Err(AuthenticateError::InvalidToken),
                CacheLookup::Miss if self.has_background_capacity() => self.get(token).await,
                CacheLookup::Miss => Err(AuthenticateError::Overloaded),
            };
            let now = self.time.now();
            let nap = match answer {
                Ok(admitted) => {
                    let found = admitted.found;
                    expires_at = found.session.expires_at;
                    let fresh_for = found.fresh_until.since(self.time.monotonic_now());
                    read = Some((found.epoch, found.stripes));
                    // One more lookup may take its time, as for a request.
                    good_until = Instant::now().checked_add(fresh_for + self.wait_limit());
                    fresh_for.max(PAUSE)
                }
                Err(AuthenticateError::InvalidToken) if now >= expires_at => {
                    return SessionEnd::Expired;
                }
                Err(AuthenticateError::InvalidToken) => return SessionEnd::Revoked,
                Err(_) if now >= expires_at => return SessionEnd::Expired,
                Err(_) => {
                    let now = Instant::now();
                    let soon = now + self.wait_limit();
                    let until = good_until.get_or_insert(soon);
                    // What it rests on is no longer good for requests either.
                    let table = &self.revocations.table;
                    if read.is_some_and(|(epoch, stripes)| !table.is_current(epoch, Some(stripes)))
                    {
                        *until = soon.min(*until);
                    }
                    let left = until.saturating_duration_since(now);
                    if left.is_zero() {
                        return SessionEnd::Unconfirmed;
                    }
                    // Not all at once, who were told the same.
                    let percent = 50 + (self.revocations.table.hash(id) % 101) as u32;
                    (PAUSE / 100 * percent).min(left)
                }
            };
            let left = (expires_at - now).to_std().unwrap_or_default();
            let longest = if self.time.is_system() {
                CLOCK_RECHECK
            } else {
                CUSTOM_CLOCK_RECHECK
            };
            let nap = nap.min(left).min(longest);
            // Whichever comes first, what follows is the same: look again.
            let _ = timeout(nap, either(changes.0, changes.1)).await;
        }
    }
}

/// Waits for one of the two.
async fn either<F: Future<Output = ()> + Unpin>(mut one: F, mut other: F) {
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
