//! The heart of the crate: from a token to the session it opens.
//!
//! Invariants, in the order in which they matter:
//!
//! 1. A lookup is stamped before it asks the store.
//! 2. A mark is written after the change it stands for is visible to the store's readers.
//! 3. The logical clock advances before the mark is written, and the mark is written before
//!    the revocation returns.
//! 4. Every use of an answer, cached or landing, passes [`Marks::pass`]: an answer that was
//!    overtaken is dead on arrival, so inserting it needs no lock.
//! 5. Marks never go back.

use std::{
    sync::{Arc, Weak},
    time::Duration,
};

use chrono::{DateTime, Utc};
use tokio::{
    runtime::Handle,
    sync::{OwnedSemaphorePermit, Semaphore},
    time::{Instant, timeout_at},
};

use super::{
    AuthenticateError,
    cache::{Cache, Found, Slot, TokenKey},
    flight::{FlightNumber, Flights, Lookup},
    lookup,
    marks::{Marks, Stamp, Target},
    witness::Witnesses,
};
use crate::{
    clock::{END_OF_TIME, TimeSource, later},
    invalidation::Invalidation,
    observe::{self, Counters, Statistics},
    session::CustomerSession,
    store::{SessionStore, StoreError},
    token::{SessionToken, TokenFormat},
};

/// How often a lookup that was overtaken is asked again with others, before one asks alone.
const SHARED_TRIES: usize = 3;

/// How often one asks alone that is overtaken by changes to its own session.
const LONE_TRIES: usize = 8;

/// How much longer than a lookup may take one waits for it.
const GRACE: Duration = Duration::from_millis(50);

/// What the engine is built from.
pub(super) struct Settings {
    pub(super) store: Arc<dyn SessionStore>,
    pub(super) time: TimeSource,
    pub(super) token_format: TokenFormat,
    pub(super) cache_capacity: u64,
    pub(super) cache_ttl: Duration,
    pub(super) negative_ttl: Duration,
    /// `None`: no limit.
    pub(super) store_timeout: Option<Duration>,
    /// `None`: no limit.
    pub(super) max_lookups: Option<usize>,
    pub(super) stripes: usize,
}

/// Authenticates tokens. It knows no HTTP, and its store only by trait.
pub(crate) struct Engine {
    store: Arc<dyn SessionStore>,
    time: TimeSource,
    token_format: TokenFormat,
    cache_ttl: Duration,
    negative_ttl: Duration,
    store_timeout: Option<Duration>,
    permits: Option<Arc<Semaphore>>,
    pub(super) cache: Cache,
    flights: Flights,
    pub(super) marks: Marks,
    witnesses: Witnesses,
    counters: Counters,
}

/// What can be said of a token without asking the store.
pub(crate) enum Recall {
    /// It opens this session, which is live.
    Live(Arc<CustomerSession>),
    /// It opens nothing.
    Invalid,
    /// The store must be asked.
    Unknown,
}

impl Engine {
    pub(super) fn new(settings: Settings) -> Self {
        Self {
            cache: Cache::new(
                settings.cache_capacity,
                settings.cache_ttl,
                settings.negative_ttl,
            ),
            store: settings.store,
            time: settings.time,
            token_format: settings.token_format,
            cache_ttl: settings.cache_ttl,
            negative_ttl: settings.negative_ttl,
            store_timeout: settings.store_timeout,
            permits: settings
                .max_lookups
                .map(|max| Arc::new(Semaphore::new(max.min(Semaphore::MAX_PERMITS)))),
            flights: Flights::default(),
            marks: Marks::new(settings.stripes),
            witnesses: Witnesses::default(),
            counters: Counters::default(),
        }
    }

    /// Answers from memory, if memory has an answer. Never waits, takes no lock of ours.
    pub(crate) fn recall(&self, token: &[u8]) -> Recall {
        // A token that has a slot was accepted when the store was asked for it: only others
        // are looked at closely.
        if !self.token_format.has_shape(token) {
            return self.screen();
        }
        let key = self.cache.key(token);
        let sampled = self.counters.is_hit_sampled(key.spread());
        if let Some(session) = self.cache.front(key, |slot| self.usable(slot, token)) {
            if sampled {
                // So that moka, too, knows who is asked for.
                self.cache.session(key);
            }
            return self.hit(key, session);
        }
        if !self.token_format.accepts(token) {
            return self.screen();
        }
        if let Some(slot) = self.cache.session(key) {
            if let Some(session) = self.usable(&slot, token) {
                let now = self.time.instant();
                self.cache.promote(key, slot, now, sampled);
                return self.hit(key, session);
            }
        }
        match self.cache.absent(key) {
            Some(slot) if self.is_fresh(&slot) && self.passes(&slot, token) => {
                self.counters.absent_hits.add_one();
                Recall::Invalid
            }
            _ => Recall::Unknown,
        }
    }

    fn hit(&self, key: TokenKey, session: Arc<CustomerSession>) -> Recall {
        self.counters.hit(key.spread());
        Recall::Live(session)
    }

    /// Refuses what cannot be a token.
    pub(crate) fn screen(&self) -> Recall {
        self.counters.screened.add_one();
        Recall::Invalid
    }

    /// Answers by asking the store, together with everybody who asks for the same token.
    pub(crate) async fn resolve(
        self: &Arc<Self>,
        token: SessionToken,
    ) -> Result<Arc<CustomerSession>, AuthenticateError> {
        let result = self.get(&token).await;
        match &result {
            Ok(_) => {}
            Err(AuthenticateError::InvalidToken) => self.counters.found_invalid.add_one(),
            Err(AuthenticateError::Overloaded) => self.counters.overloaded.add_one(),
            // Counted where it failed, once for all who waited.
            Err(AuthenticateError::Store(_)) => {}
        }
        result
    }

    /// Stops the use of everything that was read before the change `invalidation` stands for.
    pub(crate) fn invalidate(&self, invalidation: &Invalidation) {
        self.marks.mark(match invalidation {
            Invalidation::Session(id) => Target::Session(id.as_str()),
            Invalidation::Customer(id) => Target::Customer(id.as_str()),
            Invalidation::All => Target::All,
            Invalidation::Lost | Invalidation::Unreadable => return,
        });
        self.witnesses.tell(invalidation);
        if *invalidation == Invalidation::All {
            self.cache.clear();
        }
        self.counters.invalidations.add_one();
    }

    /// Forgets that there was no session for `token`: there is one now.
    pub(super) fn forget_absent(&self, token: &SessionToken) {
        self.cache
            .forget_absent(self.cache.key(token.expose().as_bytes()));
    }

    /// The live session that `token` opens according to the store, whatever is cached.
    pub(super) async fn look_up(
        &self,
        token: &SessionToken,
    ) -> Result<Option<Arc<CustomerSession>>, AuthenticateError> {
        Ok(self.live(&self.ask(token).await?))
    }

    pub(super) fn now(&self) -> DateTime<Utc> {
        self.time.now()
    }

    pub(super) fn token_format(&self) -> &TokenFormat {
        &self.token_format
    }

    pub(super) fn maintain(&self) {
        self.cache.maintain(self.time.instant());
    }

    pub(super) fn statistics(&self) -> Statistics {
        let mut statistics = self.counters.snapshot();
        statistics.lookups_in_flight = self.flights.len() as u64;
        (statistics.cached_sessions, statistics.cached_absent) = self.cache.len();
        statistics
    }

    /// The session in a remembered slot, if the slot may be used.
    fn usable(&self, slot: &Slot, token: &[u8]) -> Option<Arc<CustomerSession>> {
        if self.is_fresh(slot) && self.passes(slot, token) {
            self.live(slot)
        } else {
            None
        }
    }

    /// The one place where the answer of a lookup is used, guarded by the marks, or else by a
    /// witness.
    async fn get(
        self: &Arc<Self>,
        token: &SessionToken,
    ) -> Result<Arc<CustomerSession>, AuthenticateError> {
        let key = self.cache.key(token.expose().as_bytes());
        let limit = self
            .store_timeout
            .and_then(|limit| Instant::now().checked_add(limit));
        // The first lookup ends by its own limit, unless the runtime it was started on stands
        // still; those after it share what is left of that.
        let mut deadline = limit.and_then(|limit| limit.checked_add(GRACE));
        for _ in 0..SHARED_TRIES {
            let lookup = self.join(key, token)?;
            let slot = self.until(deadline, lookup.landed()).await??;
            if self.passes(&slot, token.expose().as_bytes()) {
                return self.live(&slot).ok_or(AuthenticateError::InvalidToken);
            }
            self.counters.overtaken.add_one();
            deadline = limit;
        }
        // Marks are shared, and a session must not be shut out by a storm of changes to
        // others: from here on only what changes this very session counts.
        for _ in 0..LONE_TRIES {
            let witness = self.witnesses.listen();
            let slot = self.until(deadline, self.ask(token)).await??;
            match self.live(&slot) {
                None => return Err(AuthenticateError::InvalidToken),
                Some(session) if !witness.has_heard_of(&session) => return Ok(session),
                Some(_) => self.counters.overtaken.add_one(),
            }
        }
        let error = StoreError::unavailable("the session changed faster than it could be read");
        Err(error.into())
    }

    /// Joins the lookup under way for this token, or starts one.
    fn join(
        self: &Arc<Self>,
        key: TokenKey,
        token: &SessionToken,
    ) -> Result<Arc<Lookup>, AuthenticateError> {
        let runtime = Handle::try_current().map_err(StoreError::unavailable)?;
        let (lookup, departure) = self.flights.join(key, self.marks.flushed(), || {
            let permit = self.permit()?;
            Ok::<_, AuthenticateError>((self.marks.stamp(), permit))
        })?;
        if let Some(departure) = departure {
            let flight = InFlight {
                engine: Arc::clone(self),
                key,
                number: departure.number,
                lookup: Arc::downgrade(&lookup),
            };
            let (token, stamp, land) = (token.clone(), departure.stamp, departure.land);
            let task = runtime.spawn(observe::in_current_span(async move {
                let landed = flight.engine.load(&token, stamp).await;
                if let Ok(slot) = &landed {
                    if flight.engine.passes(slot, token.expose().as_bytes()) {
                        flight.engine.cache.insert(key, slot.clone());
                    }
                }
                // Off the list before the waiters wake: who comes later asks anew.
                drop(flight);
                land.send_replace(Some(landed));
            }));
            lookup.runs_in(task.abort_handle());
        }
        Ok(lookup)
    }

    /// Asks the store for one caller alone.
    async fn ask(&self, token: &SessionToken) -> Result<Slot, AuthenticateError> {
        let _permit = self.permit()?;
        Ok(self.load(token, self.marks.stamp()).await?)
    }

    /// Asks the store, within the time allowed, and judges what it answers.
    pub(super) async fn load(
        &self,
        token: &SessionToken,
        stamp: Stamp,
    ) -> Result<Slot, StoreError> {
        self.counters.lookups.add_one();
        let asked = (self.time.instant(), self.time.now());
        let found = lookup::find(&*self.store, token, self.store_timeout)
            .await
            .inspect_err(|error| {
                self.counters.store_errors.add_one();
                observe::lookup_failed(error);
            })?;
        let (asked, asked_at) = asked;
        let stripes = found.as_ref().map(|session| {
            self.marks
                .stripes(session.id.as_str(), session.customer_id.as_str())
        });
        let live = found.filter(|session| session.is_live_at(self.time.now()));
        let good_for = match &live {
            // Should the wall clock go back, the session still ends when it should have.
            Some(session) => (session.expires_at - asked_at)
                .to_std()
                .unwrap_or_default()
                .min(self.cache_ttl),
            None => self.negative_ttl,
        };
        Ok(Slot {
            stamp,
            fresh_until: later(asked, good_for),
            stripes,
            found: live.map(|session| Found {
                expires_at: session.expires_at.min(END_OF_TIME).into(),
                session: Arc::new(session),
            }),
        })
    }

    fn permit(&self) -> Result<Option<OwnedSemaphorePermit>, AuthenticateError> {
        match &self.permits {
            None => Ok(None),
            Some(permits) => match Arc::clone(permits).try_acquire_owned() {
                Ok(permit) => Ok(Some(permit)),
                Err(_) => Err(AuthenticateError::Overloaded),
            },
        }
    }

    /// Waits for `future` no longer than until `deadline`.
    async fn until<F: Future>(
        &self,
        deadline: Option<Instant>,
        future: F,
    ) -> Result<F::Output, StoreError> {
        match deadline {
            Some(deadline) => timeout_at(deadline, future).await.map_err(|elapsed| {
                self.counters.store_errors.add_one();
                StoreError::timeout(elapsed)
            }),
            None => Ok(future.await),
        }
    }

    /// Whether no invalidation has overtaken the answer, and it is the answer for this token.
    pub(super) fn passes(&self, slot: &Slot, token: &[u8]) -> bool {
        let is_for_token = match &slot.found {
            Some(found) => found.session.token.is(token),
            None => true,
        };
        is_for_token && self.marks.pass(slot.stamp, slot.stripes)
    }

    fn is_fresh(&self, slot: &Slot) -> bool {
        self.time.instant() < slot.fresh_until
    }

    /// The session in the slot, if it is live by the wall clock. Its customer was not deleted
    /// when it was read, or it would not be in a slot.
    fn live(&self, slot: &Slot) -> Option<Arc<CustomerSession>> {
        let found = slot.found.as_ref()?;
        (self.time.system_time() < found.expires_at).then(|| Arc::clone(&found.session))
    }
}

/// A lookup under way: on the list, and with its permit, until it is dropped.
struct InFlight {
    engine: Arc<Engine>,
    key: TokenKey,
    number: FlightNumber,
    lookup: Weak<Lookup>,
}

impl Drop for InFlight {
    fn drop(&mut self) {
        self.engine.flights.leave(self.key, self.number);
        if let Some(lookup) = self.lookup.upgrade() {
            lookup.return_permit();
        }
    }
}
