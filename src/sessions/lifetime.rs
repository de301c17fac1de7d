//! The lifetime of a session, for what outlives a request: a WebSocket, a stream of events, a long
//! download.

use std::{
    fmt,
    pin::Pin,
    sync::{Arc, Weak},
    task::{Context, Poll},
    time::Duration,
};

use chrono::Utc;
use futures_core::Stream;
use http::Extensions;
use pin_project_lite::pin_project;
use tokio::time::sleep;

use crate::{
    customer::Customer,
    engine::{SessionEnd, cache::entry::CachedSession},
    session::CustomerSession,
};

/// Items that a stream may yield before it yields to the scheduler.
const COOP_BUDGET: u32 = 32;

/// Longest time between two looks at the wall clock, which may be set while a stream sleeps.
const CLOCK_RECHECK: Duration = Duration::from_secs(10);

/// A handle that tells when a session has ended, for WebSockets and other streams, which would
/// otherwise outlive the session that opened them.
///
/// In axum handlers it is an extractor. Elsewhere [`SessionLifetime::from_extensions`] finds it in the
/// extensions of an authenticated request. A clone costs one pointer. Nothing is watched until
/// [`ended`](Self::ended) is awaited.
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
/// let lifetime = sessions.authenticate(&session.token).await?.lifetime();
/// let stream = tokio::spawn(lifetime.ended());
/// sessions.revoke(&session.id).await?;
/// assert_eq!(stream.await?, SessionEnd::Revoked);
/// # Ok(())
/// # }
/// ```
#[derive(Clone)]
pub struct SessionLifetime {
    cached: Arc<CachedSession>,
}

impl SessionLifetime {
    /// Returns the lifetime of the session that authenticated a request, from the extensions of the
    /// request; `None` if none did. In axum handlers `SessionLifetime` is an extractor.
    ///
    /// If a middleware has put another [`Customer`] into the extensions, this returns `None`, unless that
    /// one comes from [`acting_for`](crate::CurrentSession::acting_for).
    pub fn from_extensions(extensions: &Extensions) -> Option<Self> {
        let customer: &Customer = extensions.get()?;
        customer.context().map(Self::new)
    }

    #[inline]
    pub(crate) fn new(cached: Arc<CachedSession>) -> Self {
        Self { cached }
    }

    /// Resolves when the session has ended, as soon as this node knows; at once if it has.
    ///
    /// A revocation on this node is known at once, and one on another node when its message arrives
    /// ([`listen`](crate::CustomerSessions::listen)). Without a message it is noticed when the
    /// cached session is too old, as for requests. A jump of the wall clock is noticed within ten
    /// seconds. If the store fails when a change becomes known, the session counts as good for one
    /// more [`store_timeout`](crate::CustomerSessionsBuilder::store_timeout).
    ///
    /// If everything was invalidated at once, and the store answers but has more streams to confirm than
    /// it can at once, a stream goes on for a minute at most until it is confirmed. A change of its own
    /// session or customer is still known at once.
    ///
    /// The future may be dropped at any time, and any number of clones may be awaited. It needs a
    /// tokio runtime.
    pub fn ended(&self) -> impl Future<Output = SessionEnd> + Send + use<> {
        let Self { cached } = self.clone();
        async move {
            match &cached.watcher {
                Some(watcher) => match watcher.upgrade() {
                    Some(watcher) => watcher.watch(Arc::clone(&cached)).await,
                    // The engine is gone, and cannot tell.
                    None => SessionEnd::Unconfirmed,
                },
                None => expiry(&cached.session).await,
            }
        }
    }

    /// Notes that the session is in use now. What a stream transports does not count as a use: the stream ends
    /// with the [idle timeout](crate::CustomerSessionsBuilder::idle_timeout), unless requests or calls of
    /// this keep its session in use. Call it when the customer does something, such as when a message of
    /// theirs arrives.
    ///
    /// It never waits, and what it notes is recorded within a second or so. It does nothing for a session that
    /// has ended, by idleness too. Without an idle timeout, and if
    /// uses are not [recorded](crate::CustomerSessionsBuilder::record_uses), it does nothing. It needs a
    /// tokio runtime.
    pub fn record_use(&self) {
        if let Some(watcher) = self.cached.watcher.as_ref().and_then(Weak::upgrade) {
            watcher.note_use(Arc::clone(&self.cached));
        }
    }

    /// Returns a stream of the same items that ends when the session does.
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
            .field("session", &self.cached.session.id)
            .field("expires_at", &self.cached.session.expires_at)
            .finish_non_exhaustive()
    }
}

async fn expiry(session: &CustomerSession) -> SessionEnd {
    while let Ok(left) = (session.expires_at - Utc::now()).to_std() {
        if left.is_zero() {
            break;
        }
        sleep(left.min(CLOCK_RECHECK)).await;
    }
    SessionEnd::Expired
}

type Ended = Pin<Box<dyn Future<Output = SessionEnd> + Send>>;

pin_project! {
    /// A stream that ends with its session, made by [`SessionLifetime::limit`].
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
        // The end is checked first, so that no item is sent after the session has ended.
        if ended.as_mut().poll(context).is_ready() {
            *this.ended = None;
            return Poll::Ready(None);
        }
        // A stream that always has an item would keep the runtime from noticing the end.
        if *this.in_a_row == COOP_BUDGET {
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
