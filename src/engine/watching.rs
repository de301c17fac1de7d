//! How the engine tells when a session ends.

use std::{
    pin::Pin,
    sync::{Arc, Weak},
    task::Poll,
    time::Duration,
};

use tokio::time::{Instant, timeout};

use super::{
    Engine, Recall,
    error::AuthenticateError,
    watch::{SessionEnd, Watch, Watching},
};
use crate::session::CustomerSession;

/// After which the wall clock is looked at again: it may have been set, or the machine may have
/// slept.
const LONGEST_NAP: Duration = Duration::from_secs(10);

/// The same where the clock is not the system's: it tells nobody when it is moved.
const LONGEST_NAP_BY_OTHER_CLOCKS: Duration = Duration::from_millis(20);

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
            let [by_session, by_customer] = self.hearing.listen(id, customer);
            let mut changes = (Box::pin(by_session), Box::pin(by_customer));
            // From here on no change is missed.
            changes.0.as_mut().enable();
            changes.1.as_mut().enable();

            let token = &session.token;
            let answer = match self.recall(token.expose().as_bytes()) {
                Recall::Live(admitted) => Ok(admitted),
                Recall::Invalid => Err(AuthenticateError::InvalidToken),
                Recall::Unknown if self.has_room() => self.get(token).await,
                Recall::Unknown => Err(AuthenticateError::Overloaded),
            };
            let now = self.time.now();
            let nap = match answer {
                Ok(admitted) => {
                    let found = admitted.found;
                    expires_at = found.session.expires_at;
                    let fresh_for = found.fresh_until.since(self.time.moment());
                    read = Some((found.stamp, found.stripes));
                    // One more lookup may take its time, as for a request.
                    good_until = Instant::now().checked_add(fresh_for + self.patience());
                    fresh_for.max(PAUSE)
                }
                Err(AuthenticateError::InvalidToken) if now >= expires_at => {
                    return SessionEnd::Expired;
                }
                Err(AuthenticateError::InvalidToken) => return SessionEnd::Revoked,
                Err(_) if now >= expires_at => return SessionEnd::Expired,
                Err(_) => {
                    let now = Instant::now();
                    let soon = now + self.patience();
                    let until = good_until.get_or_insert(soon);
                    // What it rests on is no longer good for requests either.
                    let marks = &self.hearing.marks;
                    if read.is_some_and(|(stamp, stripes)| !marks.pass(stamp, Some(stripes))) {
                        *until = soon.min(*until);
                    }
                    let left = until.saturating_duration_since(now);
                    if left.is_zero() {
                        return SessionEnd::Unconfirmed;
                    }
                    // Not all at once, who were told the same.
                    let percent = 50 + (self.hearing.marks.spread(id) % 101) as u32;
                    (PAUSE / 100 * percent).min(left)
                }
            };
            let left = (expires_at - now).to_std().unwrap_or_default();
            let longest = if self.time.is_the_system_s() {
                LONGEST_NAP
            } else {
                LONGEST_NAP_BY_OTHER_CLOCKS
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
