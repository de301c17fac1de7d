//! Customer sessions as an application uses them: authenticate, issue, rotate, revoke, list.
//!
//! What makes this engine different from a cache in front of a store: once a revocation has
//! returned, no request that starts later is let in by what was read before it. The guide's
//! page [`revocation`](crate::guide::revocation) explains how.

mod builder;
mod lifetime;
pub(crate) mod listener;
mod purge;

use std::{fmt, sync::Arc, time::Duration};

use chrono::{DateTime, SubsecRound, TimeDelta, Utc};
use tokio::{runtime::Handle, task::yield_now};
use zeroize::Zeroizing;

use self::listener::Listener;
pub use self::{
    builder::CustomerSessionsBuilder,
    lifetime::{LimitedStream, SessionLifetime},
};
use crate::{
    clock::END_OF_TIME,
    customer::{Customer, CustomerId},
    engine::{AuthenticateError, CacheLookup, Engine, cache::entry::CachedSession},
    invalidation::{Invalidation, InvalidationSource},
    session::{CustomerSession, SessionId, SessionSummary},
    store::{SessionRegistry, SessionStore, StoreError},
    telemetry::{self, Statistics},
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
    /// The cache does so by itself while it is used. Call this from a timer if memory should be freed
    /// while there are no requests; [`purge`](Self::purge) calls it too.
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
    ) -> Result<Arc<CustomerSession>, AuthenticateError> {
        match self.engine.lookup_cached(token.expose().as_bytes()) {
            CacheLookup::Hit(authenticated) => Ok(Arc::clone(&authenticated.session.session)),
            CacheLookup::NegativeHit => Err(AuthenticateError::InvalidToken),
            CacheLookup::Miss => {
                let authenticated = self.engine.authenticate(token.clone()).await?;
                Ok(Arc::clone(&authenticated.session.session))
            }
        }
    }

    /// Returns the lifetime of a session that [`authenticate`](Self::authenticate) has returned, for
    /// example for a WebSocket whose first message holds the token. In a handler behind the layer,
    /// [`SessionLifetime`] is an extractor.
    pub fn lifetime(&self, session: &Arc<CustomerSession>) -> SessionLifetime {
        let watcher = self.engine.watcher();
        let cached = CachedSession::detached(Arc::clone(session), Some(watcher));
        SessionLifetime::new(Arc::new(cached))
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
            telemetry::source_ended();
        }
    }
}

/// What needs a store that keeps sessions.
///
/// Those methods that change something finish even if their future is dropped half-way: once
/// the store has been asked for the change, the cache follows it. They have no time limit of
/// their own; when one is put around them, the change goes on in the background. If the store
/// fails in the middle, the cache assumes that the change happened.
impl<S: SessionRegistry> CustomerSessions<S> {
    /// Opens a session for a customer, with a new token, for `ttl` from now (until the end of
    /// the year 9999 at the latest).
    ///
    /// The answer holds the token; the store keeps only a hash of it, so this is the one
    /// chance to hand it to the customer. The customer replaces what the store knew of them, in
    /// their other sessions too.
    ///
    /// # Errors
    ///
    /// The store's; [`Unavailable`](crate::StoreErrorKind::Unavailable) also when the
    /// operating system has no randomness.
    pub fn issue(
        &self,
        customer: impl Into<Customer>,
        ttl: Duration,
    ) -> impl Future<Output = Result<CustomerSession, StoreError>> + Send {
        let session = self.new_session(customer.into(), ttl);
        async move {
            let (store, session) = (Arc::clone(&self.store), session?);
            let change = Invalidation::Customer(session.customer_id.clone());
            let session = self
                .settle(change, async move {
                    let inserted = store.insert(&session).await;
                    inserted.map_err(|error| error.without(&session.token))?;
                    Ok(session)
                })
                .await?;
            self.engine.forget_negative(&session.token);
            Ok(session)
        }
    }

    /// Exchanges a live session for a new one of the same customer, with a new id and token,
    /// for `ttl` from now. The old token is refused from then on.
    ///
    /// The customer in the answer is as it was read. Should it be changed at the same moment,
    /// the store keeps the change.
    ///
    /// `None`: the token opens no live session, or somebody else rotated it first.
    ///
    /// # Errors
    ///
    /// The store's. If the outcome is unknown, the cache forgets the old session.
    pub async fn rotate(
        &self,
        token: &SessionToken,
        ttl: Duration,
    ) -> Result<Option<CustomerSession>, StoreError> {
        if !self.engine.token_format().matches(token.expose()) {
            return Ok(None);
        }
        // Asked anew: what is cached may be older than another node's rotation.
        let old = match self.engine.lookup_uncached(token).await {
            Ok(Some(old)) => old,
            Ok(None) | Err(AuthenticateError::InvalidToken) => return Ok(None),
            Err(AuthenticateError::Overloaded) => {
                return Err(StoreError::unavailable("too many lookups are under way"));
            }
            Err(AuthenticateError::Store(error)) => return Err(error),
        };
        let new = self.new_session(old.customer.clone(), ttl)?;
        let change = Invalidation::Session(old.id.clone());
        let store = Arc::clone(&self.store);
        self.settle(change, async move {
            let replaced = store.replace(&old.id, &new).await;
            let won = replaced.map_err(|error| error.without(&new.token))?;
            Ok(won.then_some(new))
        })
        .await
    }

    /// Ends a session. Once this has returned, no request that starts later is let in by it.
    ///
    /// `false`: the store did not have it, which is no error (RFC 7009, section 2.2).
    ///
    /// # Errors
    ///
    /// The store's; the session may then still exist, but this cache has forgotten it.
    pub async fn revoke(&self, session: &SessionId) -> Result<bool, StoreError> {
        let (store, id) = (Arc::clone(&self.store), session.clone());
        self.settle(Invalidation::Session(session.clone()), async move {
            store.revoke(&id).await
        })
        .await
    }

    /// Ends all sessions of a customer, and says how many there were.
    ///
    /// # Errors
    ///
    /// The store's; sessions may then still exist, but this cache has forgotten them.
    pub async fn revoke_customer(&self, customer: &CustomerId) -> Result<u64, StoreError> {
        let (store, id) = (Arc::clone(&self.store), customer.clone());
        self.settle(Invalidation::Customer(customer.clone()), async move {
            store.revoke_customer(&id).await
        })
        .await
    }

    /// Replaces a customer in all of the customer's sessions, and says how many these are.
    /// Once this has returned, requests that start later see the new customer.
    ///
    /// # Errors
    ///
    /// The store's; the cache then asks it again.
    pub async fn update_customer(&self, customer: &Customer) -> Result<u64, StoreError> {
        let (store, customer) = (Arc::clone(&self.store), customer.detached());
        self.settle(Invalidation::Customer(customer.id.clone()), async move {
            store.update_customer(&customer).await
        })
        .await
    }

    /// The sessions of a customer, oldest first, without their tokens.
    ///
    /// # Errors
    ///
    /// The store's.
    pub async fn list(&self, customer: &CustomerId) -> Result<Vec<SessionSummary>, StoreError> {
        self.store.list(customer).await
    }

    fn new_session(
        &self,
        customer: Customer,
        ttl: Duration,
    ) -> Result<CustomerSession, StoreError> {
        let mut random = Zeroizing::new([0; 16]);
        getrandom::fill(random.as_mut_slice()).map_err(StoreError::unavailable)?;
        let id = uuid::Builder::from_random_bytes(*random).into_uuid();
        let token = self.engine.token_format().try_generate();
        // Databases keep microseconds; what is stored must read back equal.
        let now = self.engine.now().trunc_subsecs(6);
        let token = token.map_err(StoreError::unavailable)?;
        let customer = customer.detached();
        let mut session = CustomerSession::new(id.to_string(), token, customer, after(now, ttl));
        // The engine's clock, which a test may hold by hand.
        session.created_at = now;
        Ok(session)
    }

    /// Makes a change in the store and records it, in a task that a dropped caller cannot stop
    /// between the two.
    async fn settle<T: Send + 'static>(
        &self,
        invalidation: Invalidation,
        change: impl Future<Output = Result<T, StoreError>> + Send + 'static,
    ) -> Result<T, StoreError> {
        let runtime = Handle::try_current().map_err(StoreError::unavailable)?;
        let mark = MarkOnDrop {
            engine: Arc::clone(&self.engine),
            invalidation,
        };
        let task = runtime.spawn(telemetry::in_current_span(async move {
            let outcome = change.await;
            if let Err(error) = &outcome {
                telemetry::outcome_unknown(&mark.invalidation, error);
            }
            // Before the caller hears of it.
            drop(mark);
            outcome
        }));
        task.await.unwrap_or_else(|error| {
            Err(StoreError::unavailable(if error.is_panic() {
                "the store panicked; the change may have happened"
            } else {
                "the runtime shut down; the change may have happened"
            }))
        })
    }
}

/// RevocationTable a change whatever became of it: done, failed, panicked, or stopped with its runtime.
struct MarkOnDrop {
    pub(crate) engine: Arc<Engine>,
    invalidation: Invalidation,
}

impl Drop for MarkOnDrop {
    fn drop(&mut self) {
        self.engine.invalidate(&self.invalidation);
    }
}

/// `now` and `ttl`, but no later than a time can be written down.
fn after(now: DateTime<Utc>, ttl: Duration) -> DateTime<Utc> {
    TimeDelta::from_std(ttl)
        .ok()
        .and_then(|ttl| now.checked_add_signed(ttl))
        .map_or(END_OF_TIME, |end| end.trunc_subsecs(6).min(END_OF_TIME))
}
