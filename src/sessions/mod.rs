//! Customer sessions as an application uses them: authenticate, issue, rotate, revoke, list.
//!
//! What makes this engine different from a cache in front of a store: once a revocation has
//! returned, no request that starts later is let in by what was read before it. The guide's
//! page [`revocation`](crate::guide::revocation) explains how.

mod builder;
mod changes;
mod current;
mod deriving;
mod issuing;
mod lifetime;
mod links;
pub(crate) mod listener;
mod new_session;
mod overlap;
mod purge;
mod settle;

use std::{fmt, sync::Arc};

use tokio::task::yield_now;

use self::listener::Listener;
pub use self::{
    builder::CustomerSessionsBuilder,
    current::CurrentSession,
    lifetime::{LimitedStream, SessionLifetime},
    new_session::NewSession,
};
use crate::{
    engine::{AuthenticateError, CacheLookup, Engine},
    invalidation::InvalidationSource,
    store::{SessionRegistry, SessionStore},
    telemetry::Statistics,
    token::SessionToken,
};

/// Invalidations applied before yielding to the scheduler.
const YIELD_EVERY: u32 = 64;

/// The customer sessions of a service: a store, a cache in front of it, and all operations on
/// sessions.
///
/// Build it once, keep a clone wherever it is needed (clones share everything), and put
/// `sessions.layer()` on the router. It needs a tokio runtime with its timers enabled, as
/// `#[tokio::main]` starts one.
///
/// ```
/// use std::time::Duration;
///
/// use customer_session::{CustomerData, CustomerSessions, store::MemoryStore};
///
/// # #[tokio::main(flavor = "current_thread")]
/// # async fn main() -> Result<(), Box<dyn std::error::Error>> {
/// let sessions = CustomerSessions::builder(MemoryStore::new())
///     .cache_ttl(Duration::from_secs(30))
///     .build();
///
/// let customer = CustomerData::new("cus_1", "org_1");
/// let session = sessions.issue(customer, Duration::from_secs(3600)).await?;
///
/// let authenticated = sessions.authenticate(&session.token).await?;
/// assert_eq!(authenticated.customer.id.as_str(), "cus_1");
///
/// assert!(sessions.revoke(&session.id).await?);
/// assert!(sessions.authenticate(&session.token).await.is_err());
/// # Ok(())
/// # }
/// ```
pub struct CustomerSessions<S> {
    pub(crate) store: Arc<S>,
    pub(crate) engine: Arc<Engine>,
}

/// [`CustomerSessions`] of any store that keeps sessions, as one type.
///
/// Handlers and application state that name it are not generic, and tests may use another store
/// than production. [`CustomerSessions::into_dyn`] makes one.
///
/// ```
/// use customer_session::{CustomerSessions, DynCustomerSessions, SessionId, StoreError};
/// use customer_session::store::MemoryStore;
///
/// #[derive(Clone)]
/// struct App {
///     sessions: DynCustomerSessions,
/// }
///
/// async fn sign_out(app: App, session: SessionId) -> Result<bool, StoreError> {
///     app.sessions.revoke(&session).await
/// }
///
/// let sessions = CustomerSessions::builder(MemoryStore::new()).build().into_dyn();
/// let app = App { sessions };
/// # let _ = sign_out(app, "ses_1".into());
/// ```
pub type DynCustomerSessions = CustomerSessions<Arc<dyn SessionRegistry>>;

impl<S> Clone for CustomerSessions<S> {
    fn clone(&self) -> Self {
        Self {
            store: Arc::clone(&self.store),
            engine: Arc::clone(&self.engine),
        }
    }
}

impl<S> fmt::Debug for CustomerSessions<S> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("CustomerSessions")
            .field("statistics", &self.engine.statistics())
            .finish_non_exhaustive()
    }
}

impl<S> CustomerSessions<S> {
    /// Returns the figures of the engine: what it has done, and what it holds now.
    pub fn statistics(&self) -> Statistics {
        self.engine.statistics()
    }

    /// Drops from the cache what is of no use any more.
    ///
    /// The cache does so by itself while it is used, and with the first lookup a minute after a
    /// revocation or another invalidation. Call this from a timer if memory should be freed while there
    /// are no requests; [`purge`](Self::purge) calls it too. It looks at every cached session: call it by
    /// `spawn_blocking` if there are many.
    pub fn run_pending_tasks(&self) {
        self.engine.run_pending_tasks();
    }

    pub(crate) fn engine(&self) -> &Arc<Engine> {
        &self.engine
    }
}

impl<S: SessionStore> CustomerSessions<S> {
    /// Returns the live session that `token` opens, for use outside HTTP.
    ///
    /// # Errors
    ///
    /// [`AuthenticateError`]. An unknown, an expired and a revoked token are not told apart.
    #[doc(alias = "verify")]
    pub async fn authenticate(
        &self,
        token: &SessionToken,
    ) -> Result<CurrentSession, AuthenticateError> {
        let authenticated = match self.engine.lookup_cached(token.expose().as_bytes()) {
            CacheLookup::Hit(authenticated) => authenticated,
            CacheLookup::NegativeHit => return Err(AuthenticateError::InvalidToken),
            CacheLookup::Miss => self.engine.authenticate(token.clone()).await?,
        };
        Ok(CurrentSession::new(authenticated.session))
    }

    /// Applies the invalidations that other nodes send, until `source` ends.
    ///
    /// Nothing runs until the application spawns the returned future. When it ends, everything that
    /// was received has been applied. While the source is
    /// [disconnected](crate::SourceEvent::Disconnected), every request asks the store. After the
    /// future has ended or was dropped, a change on another node goes unnoticed for up to
    /// [`cache_ttl`](CustomerSessionsBuilder::cache_ttl).
    ///
    /// ```
    /// # use customer_session::{CustomerSessions, Invalidation, InvalidationSource, SessionStore};
    /// # fn start<S: SessionStore>(
    /// #     sessions: CustomerSessions<S>,
    /// #     source: impl InvalidationSource + 'static,
    /// # ) {
    /// tokio::spawn(sessions.listen(source));
    /// # }
    /// ```
    pub fn listen<I>(&self, mut source: I) -> impl Future<Output = ()> + Send + use<S, I>
    where
        I: InvalidationSource + 'static,
    {
        let engine = Arc::clone(&self.engine);
        async move {
            let mut listener = Listener::new(engine);
            let mut applied = 0_u32;
            while let Some(event) = source.recv().await {
                listener.apply(&event);
                applied = applied.wrapping_add(1);
                if applied % YIELD_EVERY == 0 {
                    yield_now().await;
                }
            }
        }
    }
}
