//! The settings of a service's sessions, and their defaults.

use std::{
    fmt,
    sync::{Arc, Weak},
    time::Duration,
};

use super::CustomerSessions;
use crate::{
    clock::Clock,
    config_error::ConfigError,
    engine::{Engine, config::Config},
    shared_caches,
    store::{SessionRegistry, SessionStore},
    token::TokenFormat,
};

/// A builder of [`CustomerSessions`]. Every setting has a default, and building cannot fail.
#[derive(Clone)]
#[must_use = "nothing is built until `build` is called"]
pub struct CustomerSessionsBuilder<S> {
    store: S,
    config: Config,
    /// Hands the store to the engine if it is to record uses in it.
    uses: Option<UseRecorder<S>>,
}

type UseRecorder<S> = fn(Arc<S>) -> Arc<dyn SessionRegistry>;

impl<S: SessionStore> CustomerSessions<S> {
    /// Returns a builder for sessions kept in `store`.
    pub fn builder(store: S) -> CustomerSessionsBuilder<S> {
        let config = Config::new(store.token_format());
        CustomerSessionsBuilder {
            store,
            config,
            uses: None,
        }
    }
}

impl<S: SessionStore> CustomerSessionsBuilder<S> {
    /// Sets how long a cached session is used before the store is asked again; 60 seconds by
    /// default. Zero caches nothing, so that every request waits for a lookup.
    ///
    /// The time counts from before the store was asked. It bounds how long a change goes unnoticed
    /// of which this engine is not told: one made in the store by hand, or on another node without
    /// [`listen`](CustomerSessions::listen).
    ///
    /// A session in use is looked up again in the background when 80 to 90 % of the time have
    /// passed, so that its requests do not wait.
    pub fn cache_ttl(mut self, ttl: Duration) -> Self {
        self.config.cache_ttl = ttl;
        self
    }

    /// Sets how many sessions are cached; 50,000 by default. Zero caches nothing. In addition, a
    /// quarter as many unknown tokens are remembered.
    ///
    /// A session takes about 400 bytes beyond its own fields and its customer's. A front cache adds 13
    /// bytes for each session of the capacity, up to four million. It has 40 % more slots than sessions,
    /// and a session may stay in one after the cache has dropped it. So while sessions come and go, up
    /// to 2.4 times as many as the capacity may be held, and up to seven more.
    ///
    /// The tokens that were live before are remembered beyond that, for
    /// [`max_concurrent_lookups`](Self::max_concurrent_lookups): by hashes that take another 16 to
    /// 32 bytes a session, 64 KiB at least and 8 MiB at most.
    pub fn cache_capacity(mut self, sessions: u64) -> Self {
        self.config.cache_capacity = sessions;
        self
    }

    /// Sets how long an unknown token is refused without asking the store again; 5 seconds by
    /// default. Zero remembers no unknown tokens.
    ///
    /// It bounds how long a session is refused that was put into the store without this engine, if
    /// its token was tried before.
    pub fn negative_ttl(mut self, ttl: Duration) -> Self {
        self.config.negative_ttl = ttl;
        self
    }

    /// Sets how much longer than [`cache_ttl`](Self::cache_ttl) a cached session is used while the
    /// store fails (RFC 5861, section 4); zero by default, which is not at all, and 49 days at most.
    ///
    /// A store that takes longer than [`stale_after`](Self::stale_after) counts as failing, for that
    /// request. Only a session that was verified before is used, and only if it has neither expired nor, as
    /// far as this node knows, been revoked. A revocation on another node that this node cannot hear
    /// of goes unnoticed for up to `cache_ttl` and `stale_if_error` together. That is the price of
    /// answering during an outage.
    ///
    /// A store that hangs fails as well: such a session is also used if its lookup found no permit
    /// and no lookup of a token that was live before has been answered for half of
    /// [`store_timeout`](Self::store_timeout). A flood of unknown tokens is not an outage.
    pub fn stale_if_error(mut self, limit: Duration) -> Self {
        self.config.stale_if_error = limit;
        self
    }

    /// Sets how long a request waits for a slow store before a stale session is used; 250 milliseconds by
    /// default. Without [`stale_if_error`](Self::stale_if_error) it has no effect.
    ///
    /// The lookup goes on in the background, and its answer counts from then on: if the session has
    /// ended, no later request is let in. Zero uses the stale session at once. With
    /// [`store_timeout`](Self::store_timeout) or more, a stale session is used only if the store fails.
    ///
    /// Only a request whose session is merely too old is let in so early. It waits for the store if a
    /// source of invalidations is disconnected, or if the lookup itself still waits for a permit, as in
    /// a flood of unknown tokens.
    ///
    /// ```
    /// use std::time::Duration;
    /// use customer_session::{CustomerSessions, store::MemoryStore};
    ///
    /// // In an outage of up to ten minutes, a known session costs a request 100 ms at most.
    /// let sessions = CustomerSessions::builder(MemoryStore::new())
    ///     .stale_if_error(Duration::from_secs(600))
    ///     .stale_after(Duration::from_millis(100))
    ///     .build();
    /// ```
    pub fn stale_after(mut self, wait: Duration) -> Self {
        self.config.stale_after = wait;
        self
    }

    /// Sets whether the cache is used only while a source of invalidations is heard; `false` by
    /// default.
    ///
    /// With `true`, every request asks the store until the first source that this engine
    /// [listens](CustomerSessions::listen) to has reported something other than
    /// [`Disconnected`](crate::SourceEvent::Disconnected), and again after the last source has
    /// ended: at no time can a revocation on another node go unnoticed for `cache_ttl`. A service
    /// that does not listen then has no cache.
    pub fn require_source(mut self, is_required: bool) -> Self {
        self.config.requires_source = is_required;
        self
    }

    /// Sets how long after its end a session is removed by [`purge`](CustomerSessions::purge); a day
    /// by default.
    ///
    /// A node whose clock is ahead by less than that deletes no live session. Zero trusts the clocks.
    pub fn purge_margin(mut self, margin: Duration) -> Self {
        self.config.purge_margin = margin;
        self
    }

    /// Sets how long the circuit breaker stays open after ten lookups in a row have failed; 500
    /// milliseconds by default. Zero turns the breaker off.
    ///
    /// Only lookups of tokens that were live before count, and three different ones must be among
    /// them if so many are known: one token on which the store fails does not open it. Until a
    /// lookup has found a session, as after a start during an outage, ten different unknown tokens
    /// that fail with no answer in between open it, too.
    ///
    /// While it is open, a request that needs a lookup is answered at once: by
    /// [`stale_if_error`](Self::stale_if_error), or with 503 and what is left of the cooldown as
    /// `Retry-After`. Then one lookup probes the store. If it succeeds the breaker closes, else the
    /// next cooldown begins. A probe with an unknown token that fails holds back other unknown tokens
    /// only; if it succeeds, one more failure of a token that was live before opens the breaker
    /// again.
    ///
    /// An error of the kind [`Corrupt`](crate::StoreErrorKind::Corrupt) counts as a success, since
    /// the store has answered. An error that says
    /// [when to try again](crate::StoreError::with_retry_after) does not count at all.
    pub fn breaker_cooldown(mut self, cooldown: Duration) -> Self {
        self.config.breaker_cooldown = cooldown;
        self
    }

    /// Sets how long a lookup may take, and how long a request waits for lookups; 2 seconds by
    /// default. Zero is a minute, and the longest is a day.
    ///
    /// A lookup that has begun finishes within this time, and its answer is cached, whether or not
    /// its request is still there. A request that is dropped and sent again joins it.
    pub fn store_timeout(mut self, limit: Duration) -> Self {
        self.config.store_timeout = limit;
        self
    }

    /// Sets how long the caller of a change waits for the store: of [`issue`](CustomerSessions::issue),
    /// [`revoke`](CustomerSessions::revoke) and the like; 10 seconds by default. Zero is a minute, and
    /// the longest is a day.
    ///
    /// The caller then gets [`Timeout`](crate::StoreErrorKind::Timeout), and what is cached about the
    /// session or the customer is used no more. The change itself may still happen, so for up to five
    /// minutes the store is given time to finish it; until it has, nothing about that session or
    /// customer is cached here. The same holds for the sessions that it was
    /// [rotated](crate::CustomerSessions::rotate) into.
    ///
    /// At most 1024 changes are under way at once, and 768 of single sessions. Beyond that a change
    /// is refused with [`Unavailable`](crate::StoreErrorKind::Unavailable), before the store is asked.
    pub fn write_timeout(mut self, limit: Duration) -> Self {
        self.config.write_timeout = limit;
        self
    }

    /// Sets how many lookups may be in flight at once; 1024 by default. Zero is no limit.
    ///
    /// A token that this engine has issued, or found live and not invalid since, may use all of them.
    /// If none is free its lookup waits in line, for
    /// [`store_timeout`](Self::store_timeout) at most. Other tokens use half of them at most (one at
    /// least), and are refused at once if none is free, with
    /// [`Overloaded`](crate::AuthenticateError::Overloaded). So do streams that watch their session,
    /// which wait, and lookups that refresh a session in use, which are left out.
    pub fn max_concurrent_lookups(mut self, lookups: usize) -> Self {
        self.config.max_concurrent_lookups = lookups;
        self
    }

    /// Sets the number of stripes of the revocation table, for tests of what happens when sessions
    /// share one.
    #[doc(hidden)]
    pub fn revocation_stripes(mut self, stripes: usize) -> Self {
        self.config.stripes = Some(stripes);
        self
    }

    /// Sets the format of the tokens that are issued and looked up; that of the store by default.
    pub fn token_format(mut self, format: TokenFormat) -> Self {
        self.config.token_format = format;
        self
    }

    /// Sets the clock; [`SystemClock`](crate::SystemClock) by default.
    pub fn clock(mut self, clock: impl Clock) -> Self {
        self.config.clock = Some(Arc::new(clock));
        self
    }

    /// Builds the sessions. Nothing runs yet, and no runtime is needed yet.
    pub fn build(mut self) -> CustomerSessions<S> {
        self.config.fit_to_idle_timeout();
        let store = Arc::new(self.store);
        let uses = self.uses.map(|uses| uses(Arc::clone(&store)));
        let engine = Engine::new(
            Arc::clone(&store) as Arc<dyn SessionStore>,
            uses,
            self.config,
        );
        if store.shared_caches().is_none() {
            let cache: Weak<Engine> = Arc::downgrade(&engine);
            shared_caches::warn_of_another::<S>(cache);
        }
        CustomerSessions { store, engine }
    }
}

impl<S: SessionRegistry> CustomerSessionsBuilder<S> {
    /// Ends sessions that have not been used for `limit`; zero, the default, ends none. Their
    /// `expires_at` stays what it is: a session ends at whichever comes first (OWASP ASVS 5.0, 7.3.1,
    /// and NIST SP 800-63B, which calls it the inactivity timeout).
    ///
    /// A session is used by its requests and when it is created, not by a stream that stays open
    /// ([`SessionLifetime::record_use`](crate::SessionLifetime::record_use) does that). Uses are
    /// [recorded](Self::record_uses), and [`cache_ttl`](Self::cache_ttl) is a quarter of `limit` at
    /// most. A session may end up to `cache_ttl` and a second early, and earlier or later by as much as
    /// the clocks of the nodes and of the database differ. It then does not count for
    /// [`at_most`](crate::NewSession::at_most), is not [listed](CustomerSessions::list), and is purged when it
    /// expires.
    ///
    /// An outage of the store ends no session: time in which this node could not read or write
    /// the store does not count. A node that was started since, or had no requests meanwhile, does not
    /// know of the outage.
    ///
    /// **In a service that is in use already**, sessions that were opened more than `limit` ago end when
    /// you turn this on, as if they had never been used. Have all nodes
    /// [record uses](Self::record_uses) for as long as `limit` first.
    ///
    /// ```
    /// use std::time::Duration;
    ///
    /// use customer_session::{CustomerSessions, store::MemoryStore};
    ///
    /// let sessions = CustomerSessions::builder(MemoryStore::new())
    ///     .idle_timeout(Duration::from_secs(30 * 60))?
    ///     .build();
    /// # Ok::<(), customer_session::ConfigError>(())
    /// ```
    ///
    /// # Errors
    ///
    /// If `limit` is neither zero nor at least [`MIN_IDLE_TIMEOUT`](Self::MIN_IDLE_TIMEOUT), or if the
    /// store [keeps](SessionRegistry::keeps) no uses.
    #[doc(alias = "inactivity_timeout")]
    #[doc(alias = "sliding")]
    pub fn idle_timeout(mut self, limit: Duration) -> Result<Self, ConfigError> {
        self.config.idle_timeout = limit;
        if limit.is_zero() {
            return Ok(self);
        }
        if limit < Self::MIN_IDLE_TIMEOUT {
            return Err(ConfigError::new(
                "an idle timeout must be at least ten seconds, or zero for none",
            ));
        }
        self.record_uses()
    }

    /// The shortest idle timeout, ten seconds. Uses are recorded every second, and less often for one
    /// session.
    pub const MIN_IDLE_TIMEOUT: Duration = Duration::from_secs(10);

    /// Records when each session was last used:
    /// [`last_used_at`](crate::SessionDetails::last_used_at), for a list of where the customer is
    /// signed in. By default it is not recorded.
    ///
    /// Of the uses of a session, each node notes one in each [`cache_ttl`](Self::cache_ttl). What was
    /// noted is written to the store at most once a second, up to 1,000 sessions in one call
    /// ([`touch`](SessionRegistry::touch)). Up to 100,000 sessions wait while the store
    /// fails; [`Statistics`](crate::Statistics) counts them, and those beyond. A process that ends loses
    /// what has not been written.
    ///
    /// # Errors
    ///
    /// If the store [keeps](SessionRegistry::keeps) no uses.
    #[doc(alias = "last_used")]
    pub fn record_uses(mut self) -> Result<Self, ConfigError> {
        if !self.store.keeps().uses {
            return Err(ConfigError::new(
                "this store keeps no record of when sessions were used; use one that does, or let it \
                 implement `SessionRegistry::touch` and say so in `SessionRegistry::keeps`",
            ));
        }
        self.uses = Some(|store| store);
        Ok(self)
    }
}

impl<S> fmt::Debug for CustomerSessionsBuilder<S> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("CustomerSessionsBuilder")
            .field("config", &self.config)
            .finish_non_exhaustive()
    }
}
