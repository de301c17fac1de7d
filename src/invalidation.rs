//! What one node tells another when a cached session is no longer to be trusted.

use async_trait::async_trait;

use crate::{customer::CustomerId, session::SessionId};

/// Something changed in the store, so what is cached about it must not be used any more.
///
/// An invalidation carries identifiers, never anything derived from a token. It may come
/// late, twice, out of order, or for something unknown here: it then does no harm.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
#[non_exhaustive]
pub enum Invalidation {
    /// This session was revoked or changed.
    Session(SessionId),
    /// This customer was changed, or all of the customer's sessions were revoked.
    Customer(CustomerId),
    /// Anything may have changed, and whatever is cached must be looked up again.
    All,
    /// The source has lost its connection and may be missing changes. Until it yields
    /// [`All`](Invalidation::All) no request is let in from the cache alone: each asks the store,
    /// or waits for somebody else's lookup of the same token.
    Lost,
    /// A message that the source could not read. It is counted, logged once, and changes nothing.
    Unreadable,
}

/// Where the invalidations of other nodes come from: a database's notifications, a message
/// bus, a webhook.
///
/// Hand it to [`CustomerSessions::listen`](crate::CustomerSessions::listen).
///
/// # Contract
///
/// - A source that may have missed something (it has just connected, it was disconnected, it
///   fell behind) yields [`Invalidation::All`] first.
/// - A source that learns that it is disconnected yields [`Invalidation::Lost`] at once, and
///   [`Invalidation::All`] when it is connected again.
/// - [`recv`](InvalidationSource::recv) is cancel-safe: an invalidation that was not returned
///   is returned by a later call.
///
/// A channel makes a source for tests, or for a message bus that the application reads
/// itself:
///
/// ```
/// use customer_session::{Invalidation, InvalidationSource, async_trait};
/// use tokio::sync::mpsc;
///
/// struct Messages(mpsc::Receiver<Invalidation>);
///
/// #[async_trait]
/// impl InvalidationSource for Messages {
///     async fn recv(&mut self) -> Option<Invalidation> {
///         self.0.recv().await
///     }
/// }
/// ```
#[async_trait]
pub trait InvalidationSource: Send {
    /// Waits for the next invalidation; `None` when there will be no more.
    async fn recv(&mut self) -> Option<Invalidation>;
}
