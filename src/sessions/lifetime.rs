//! How long a session lasts, for what outlives the request that it let in: a WebSocket, a
//! stream of events, a long download.

use std::{
    fmt,
    pin::Pin,
    sync::Arc,
    task::{Context, Poll},
    time::Duration,
};

use chrono::Utc;
use futures_core::Stream;
use pin_project_lite::pin_project;
use tokio::time::{Instant, sleep, timeout};

use super::{
    AuthenticateError,
    answer::Found,
    engine::{Engine, Recall},
};
use crate::{customer::Customer, session::CustomerSession};

/// So many items of a stream may come without a pause.
const MOST_IN_A_ROW: u32 = 32;

/// After which the wall clock is looked at again: it may have been set, or the machine may have
/// slept.
const LONGEST_NAP: Duration = Duration::from_secs(10);

/// The same where the clock is not the system's: it tells nobody when it is moved.
const LONGEST_NAP_BY_OTHER_CLOCKS: Duration = Duration::from_millis(20);

/// How long to wait between lookups at the least.
const PAUSE: Duration = Duration::from_secs(1);

/// Tells when a session has ended: for WebSockets and other streams, which would otherwise go on
/// after the session that opened them.
///
/// In axum handlers it is an extractor; elsewhere [`SessionLifetime::of`] finds it in the extensions
/// of each request that the layer lets in.
/// A clone costs one pointer; nothing is watched until [`ended`](Self::ended) is awaited.
///
/// ```
/// use std::time::Duration;
///
/// use customer_session::{CustomerData, CustomerSessions, SessionEnd, store::MemoryStore};
///
/// # #[tokio::main(flavor = "current_thread")]
/// # async fn main() -> Result<(), Box<dyn std::error::Error>> {
/// let sessions = CustomerSessions::builder(MemoryStore::new()).build();
/// let customer = CustomerData::new("cus_1", "org_1");
/// let session = sessions.issue(customer, Duration::from_secs(3600)).await?;
///
/// let lifetime = sessions.lifetime(&sessions.authenticate(&session.token).await?);
/// let stream = tokio::spawn(lifetime.ended());
/// sessions.revoke(&session.id).await?;
/// assert_eq!(stream.await?, SessionEnd::Revoked);
/// # Ok(())
/// # }
/// ```
#[derive(Clone)]
pub struct SessionLifetime {
    found: Arc<Found>,
}

/// Why a session is no longer good.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
#[non_exhaustive]
pub enum SessionEnd {
    /// Its time is over.
    Expired,
    /// It was revoked, rotated, or its customer was deleted.
    Revoked,
    /// Whether it is still good could not be told for as long as an answer may be used: the
    /// store has failed for [`cache_ttl`](crate::CustomerSessionsBuilder::cache_ttl) and
    /// [`stale_if_error`](crate::CustomerSessionsBuilder::stale_if_error), and a request with this token would be
    /// answered with 503.
    Unconfirmed,
}

impl SessionLifetime {
    /// The lifetime of a session that nothing but its expiry ends, for tests of handlers.
    pub fn until_expiry(session: Arc<CustomerSession>) -> Self {
        Self::of_found(Arc::new(Found::unread(session, None)))
    }

    pub(super) fn of_found(found: Arc<Found>) -> Self {
        Self { found }
    }

    /// The lifetime of the session with which this customer was let in.
    pub(crate) fn of_customer(customer: &Customer) -> Option<Self> {
        customer.badge().map(Self::of_found)
    }

    pub(crate) fn session(&self) -> &Arc<CustomerSession> {
        &self.found.session
    }

    /// The session's customer, who wears this lifetime as a badge.
    pub(crate) fn into_customer(self) -> Customer {
        Customer::badged(self.found)
    }

    /// Resolves when the session has ended, as soon as this node knows; at once if it has.
    ///
    /// A revocation on this node is known at once, one on another node when its message arrives
    /// ([`listen`](crate::CustomerSessions::listen)). Without a message it is noticed when the
    /// cached answer is too old, as for requests. Wall-clock jumps are noticed within ten
    /// seconds. If the store cannot be asked when a change is heard of, the session counts as good
    /// for one [`store_timeout`](crate::CustomerSessionsBuilder::store_timeout) more.
    ///
    /// It may be dropped and called again, and awaited by any number of clones. It needs a tokio
    /// runtime.
    pub fn ended(&self) -> impl Future<Output = SessionEnd> + Send + use<> {
        let Self { found } = self.clone();
        async move {
            match &found.engine {
                Some(engine) => match engine.upgrade() {
                    Some(engine) => engine.watch(&found.session).await,
                    // Whoever could revoke it here is gone.
                    None => SessionEnd::Unconfirmed,
                },
                None => expiry(&found.session).await,
            }
        }
    }

    /// A stream of the same items that ends when the session does.
    ///
    /// ```
    /// use axum::response::sse::{Event, Sse};
    /// use customer_session::SessionLifetime;
    /// use futures_core::Stream;
    ///
    /// async fn feed(lifetime: SessionLifetime) -> Sse<impl Stream<Item = Result<Event, axum::Error>>> {
    ///     Sse::new(lifetime.limit(news()))
    /// }
    /// # fn news() -> impl Stream<Item = Result<Event, axum::Error>> + Send + 'static {
    /// #     futures_util::stream::pending()
    /// # }
    /// ```
    pub fn limit<S: Stream>(&self, stream: S) -> LimitedStream<S> {
        LimitedStream {
            stream,
            ended: Some(Box::pin(self.ended())),
            in_a_row: 0,
        }
    }
}

impl fmt::Debug for SessionLifetime {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("SessionLifetime")
            .field("session", &self.found.session.id)
            .field("expires_at", &self.found.session.expires_at)
            .finish_non_exhaustive()
    }
}

async fn expiry(session: &CustomerSession) -> SessionEnd {
    while let Ok(left) = (session.expires_at - Utc::now()).to_std() {
        if left.is_zero() {
            break;
        }
        sleep(left.min(LONGEST_NAP)).await;
    }
    SessionEnd::Expired
}

impl Engine {
    /// Waits until a request with this session's token would no longer be let in.
    async fn watch(self: &Arc<Self>, session: &CustomerSession) -> SessionEnd {
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
                    let found = admitted.lifetime.found;
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

type Ended = Pin<Box<dyn Future<Output = SessionEnd> + Send>>;

pin_project! {
    /// What [`SessionLifetime::limit`] makes of a stream.
    #[must_use = "streams do nothing unless polled"]
    pub struct LimitedStream<S> {
        #[pin]
        stream: S,
        ended: Option<Ended>,
        in_a_row: u32,
    }
}

impl<S: Stream> Stream for LimitedStream<S> {
    type Item = S::Item;

    fn poll_next(self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<Option<S::Item>> {
        let this = self.project();
        let Some(ended) = this.ended else {
            return Poll::Ready(None);
        };
        // The end first: an item that was ready is not sent to whom the session has shut out.
        if ended.as_mut().poll(context).is_ready() {
            *this.ended = None;
            return Poll::Ready(None);
        }
        // Whoever always has an item would keep the runtime from finding out about the end.
        if *this.in_a_row == MOST_IN_A_ROW {
            *this.in_a_row = 0;
            context.waker().wake_by_ref();
            return Poll::Pending;
        }
        let next = this.stream.poll_next(context);
        match &next {
            Poll::Ready(Some(_)) => *this.in_a_row += 1,
            Poll::Ready(None) => *this.ended = None,
            Poll::Pending => *this.in_a_row = 0,
        }
        next
    }

    fn size_hint(&self) -> (usize, Option<usize>) {
        match &self.ended {
            Some(_) => (0, self.stream.size_hint().1),
            None => (0, Some(0)),
        }
    }
}

impl<S> fmt::Debug for LimitedStream<S> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("LimitedStream").finish_non_exhaustive()
    }
}
