//! What one node tells another when a cached session is no longer to be trusted.

use std::time::Instant;

use async_trait::async_trait;
use chrono::{DateTime, Utc};

use crate::{customer::CustomerId, session::SessionId};

/// A change in the store, after which what is cached about it must not be used any more.
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
    /// This customer was changed at a known time, by the customer's own `modified_at`.
    ///
    /// It does what [`Customer`](Self::Customer) does, and one thing more, for stores whose answers lag
    /// behind a change, such as [Polar](crate::guide::polar). For five minutes, an answer whose customer
    /// has an older `modified_at` (or, without one, an older `created_at`) is used for a second, and
    /// then the store is asked again; if it lags for longer, for as long as it has lagged. Each node
    /// remembers the newest times of 10,000 customers.
    CustomerChanged {
        /// The customer.
        id: CustomerId,
        /// Time of the change. Messages between nodes carry it to the microsecond.
        modified_at: DateTime<Utc>,
    },
    /// Anything may have changed, and everything cached must be looked up again.
    All,
}

/// An event from an [`InvalidationSource`]: a change in the store, or its own state.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
#[non_exhaustive]
pub enum SourceEvent {
    /// Something changed in the store.
    Invalidate(Invalidation),
    /// The answer to a question that the source itself asked: its connection works, and the source
    /// has reported every change that was announced before `asked_at`.
    ///
    /// It extends the lease on which cached sessions are let in: two seconds from `asked_at`. A
    /// message that merely arrives extends nothing, since it may have waited in a buffer for hours
    /// while the node was suspended or its connection was dead.
    Alive {
        /// Time just before the question was sent, not the time of the answer.
        asked_at: Instant,
    },
    /// The source has lost its connection and may be missing changes. Until it reports
    /// [`Invalidation::All`] or [`Resumed`](Self::Resumed) no request is let in from the cache alone:
    /// each asks the store, or waits for a lookup of the same token that another request has begun.
    Disconnected,
    /// The source is connected again and has missed nothing: it has reported what was announced
    /// meanwhile. What was cached before is used again.
    Resumed,
    /// A message that the source could not read. It is counted, logged once, and changes nothing.
    Malformed,
}

impl From<Invalidation> for SourceEvent {
    fn from(invalidation: Invalidation) -> Self {
        Self::Invalidate(invalidation)
    }
}

/// A source of the invalidations of other nodes: a database's notifications, a message
/// bus, a webhook.
///
/// Hand it to [`CustomerSessions::listen`](crate::CustomerSessions::listen).
///
/// # Contract
///
/// - A source that may have missed something (it has just connected, it was disconnected, it
///   fell behind) reports [`Invalidation::All`] first.
/// - A source that learns that it is disconnected reports [`SourceEvent::Disconnected`] at once,
///   and [`Invalidation::All`] when it is connected again; or, if it can read what was announced
///   meanwhile, all of that and then [`SourceEvent::Resumed`].
/// - A source that can ask the other end a question does so at least once a second, whether messages
///   arrive or not, and reports [`SourceEvent::Alive`] when the answer has come. Before that it
///   reports every message that came before the answer. The first `Alive` follows the first
///   [`Invalidation::All`]. An answer that does not come within a second means that the source is
///   disconnected.
/// - Once a source has reported `Alive`, it has a lease of two seconds, counted from each question
///   that was answered. When the lease runs out, each request asks the store until the next `Alive`.
///   A source that never reports `Alive`, such as a channel, has no lease: it is relied on until it
///   reports `Disconnected`.
/// - [`recv`](InvalidationSource::recv) is cancel-safe: an event that was not returned is
///   returned by a later call.
///
/// A channel makes a source for tests, or for a message bus that the application reads
/// itself:
///
/// ```
/// use customer_session::{Invalidation, InvalidationSource, SourceEvent, async_trait};
/// use tokio::sync::mpsc;
///
/// struct Messages(mpsc::Receiver<Invalidation>);
///
/// #[async_trait]
/// impl InvalidationSource for Messages {
///     async fn recv(&mut self) -> Option<SourceEvent> {
///         self.0.recv().await.map(SourceEvent::from)
///     }
/// }
/// ```
#[diagnostic::on_unimplemented(
    message = "`{Self}` is not a source of invalidations",
    label = "this type does not implement `InvalidationSource`",
    note = "implement `InvalidationSource` with `#[async_trait]`; the stores' own sources are \
            `store::PostgresInvalidations` and `store::RedisInvalidations`"
)]
#[async_trait]
pub trait InvalidationSource: Send {
    /// Waits for the next event. Returns `None` when there will be no more.
    async fn recv(&mut self) -> Option<SourceEvent>;
}
