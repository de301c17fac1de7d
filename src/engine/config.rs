//! The engine's settings.

use std::{fmt, sync::Arc, time::Duration};

use crate::{clock::Clock, token::TokenFormat};

/// The longest time that a lookup takes and a caller waits, where no timeout is set.
const DEFAULT_WAIT: Duration = Duration::from_secs(60);

/// The longest store timeout that is told from none: what is added to a time must not overflow it.
const MAX_WAIT: Duration = Duration::from_secs(24 * 60 * 60);

/// Fewest stripes of the revocation table, for sessions and for customers alike: enough for a
/// thousand revocations a second, however few sessions are cached.
const MIN_STRIPES: u64 = 4096;

/// Most stripes of the revocation table: 4 MiB for sessions, and as much for customers. Of a million
/// cached sessions, two share a stripe then, and one is looked up again if the other is revoked.
const MAX_STRIPES: u64 = 1 << 19;

/// The settings of an engine: the builder fills them, and the engine keeps them.
#[derive(Clone)]
pub(crate) struct Config {
    pub(crate) token_format: TokenFormat,
    /// `None`: the system's clocks.
    pub(crate) clock: Option<Arc<dyn Clock>>,
    pub(crate) cache_ttl: Duration,
    pub(crate) cache_capacity: u64,
    pub(crate) negative_ttl: Duration,
    pub(crate) stale_if_error: Duration,
    /// Time that a request waits for a slow store before it uses a stale session.
    pub(crate) stale_after: Duration,
    /// Zero: [`DEFAULT_WAIT`].
    pub(crate) store_timeout: Duration,
    /// Zero: [`DEFAULT_WAIT`].
    pub(crate) write_timeout: Duration,
    /// Zero: the circuit breaker never opens.
    pub(crate) breaker_cooldown: Duration,
    /// Zero: no limit.
    pub(crate) max_concurrent_lookups: usize,
    /// If `true`, the cache is used only while a source of invalidations is heard.
    pub(crate) requires_source: bool,
    /// Sessions are purged so long after they have expired.
    pub(crate) purge_margin: Duration,
    /// Zero: no session ends by idleness.
    pub(crate) idle_timeout: Duration,
    /// `None`: as the capacity demands.
    pub(crate) stripes: Option<usize>,
}

impl Config {
    /// Returns the default settings for tokens of `token_format`.
    pub(crate) fn new(token_format: TokenFormat) -> Self {
        Self {
            token_format,
            clock: None,
            cache_ttl: Duration::from_secs(60),
            cache_capacity: 50_000,
            negative_ttl: Duration::from_secs(5),
            stale_if_error: Duration::ZERO,
            stale_after: Duration::from_millis(250),
            store_timeout: Duration::from_secs(2),
            write_timeout: Duration::from_secs(10),
            breaker_cooldown: Duration::from_millis(500),
            max_concurrent_lookups: 1024,
            requires_source: false,
            purge_margin: Duration::from_secs(24 * 60 * 60),
            idle_timeout: Duration::ZERO,
            stripes: None,
        }
    }

    /// Shortens `cache_ttl` to a quarter of the idle timeout: a use is noted once in that time.
    pub(crate) fn fit_to_idle_timeout(&mut self) {
        if !self.idle_timeout.is_zero() {
            self.cache_ttl = self.cache_ttl.min(self.idle_timeout / 4);
        }
    }

    /// Returns the store timeout, if there is one.
    pub(crate) fn store_timeout(&self) -> Option<Duration> {
        (!self.store_timeout.is_zero()).then_some(self.store_timeout)
    }

    /// Returns how long a lookup takes and a caller waits for it at most, even without a store timeout.
    pub(crate) fn wait_limit(&self) -> Duration {
        self.store_timeout().unwrap_or(DEFAULT_WAIT).min(MAX_WAIT)
    }

    /// Returns how long the caller of a change waits for the store at most.
    pub(crate) fn write_timeout(&self) -> Duration {
        match self.write_timeout {
            Duration::ZERO => DEFAULT_WAIT,
            limit => limit.min(MAX_WAIT),
        }
    }

    /// Returns how long the circuit breaker stays open, if it opens at all.
    pub(crate) fn breaker_cooldown(&self) -> Option<Duration> {
        (!self.breaker_cooldown.is_zero()).then_some(self.breaker_cooldown)
    }

    /// Returns the limit of concurrent lookups, if there is one.
    pub(crate) fn max_concurrent_lookups(&self) -> Option<usize> {
        (self.max_concurrent_lookups > 0).then_some(self.max_concurrent_lookups)
    }

    /// Returns the number of stripes of the revocation table, a power of two.
    pub(crate) fn stripes(&self) -> usize {
        let by_capacity = self.cache_capacity.clamp(MIN_STRIPES, MAX_STRIPES) as usize;
        self.stripes.unwrap_or(by_capacity).next_power_of_two()
    }
}

impl fmt::Debug for Config {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Config")
            .field("token_format", &self.token_format)
            .field("cache_ttl", &self.cache_ttl)
            .field("cache_capacity", &self.cache_capacity)
            .field("negative_ttl", &self.negative_ttl)
            .field("stale_if_error", &self.stale_if_error)
            .field("stale_after", &self.stale_after)
            .field("store_timeout", &self.store_timeout)
            .field("write_timeout", &self.write_timeout)
            .field("breaker_cooldown", &self.breaker_cooldown)
            .field("max_concurrent_lookups", &self.max_concurrent_lookups)
            .field("requires_source", &self.requires_source)
            .field("purge_margin", &self.purge_margin)
            .field("idle_timeout", &self.idle_timeout)
            .finish_non_exhaustive()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn zero_is_no_limit() {
        let mut config = Config::new(TokenFormat::any());
        assert_eq!(config.wait_limit(), config.store_timeout);
        config.store_timeout = Duration::ZERO;
        config.write_timeout = Duration::ZERO;
        config.breaker_cooldown = Duration::ZERO;
        config.max_concurrent_lookups = 0;
        assert_eq!(config.store_timeout(), None);
        assert_eq!(config.breaker_cooldown(), None);
        assert_eq!(config.max_concurrent_lookups(), None);
        assert_eq!(config.wait_limit(), DEFAULT_WAIT);
        assert_eq!(config.write_timeout(), DEFAULT_WAIT);
        config.store_timeout = Duration::MAX;
        assert_eq!(config.wait_limit(), MAX_WAIT);
    }

    #[test]
    fn a_small_cache_does_not_mean_few_stripes() {
        let mut config = Config::new(TokenFormat::any());
        for (capacity, stripes) in [
            (0, 4096),
            (1, 4096),
            (5000, 8192),
            (50_000, 65_536),
            (u64::MAX, 1 << 19),
        ] {
            config.cache_capacity = capacity;
            assert_eq!(config.stripes(), stripes, "{capacity}");
        }
    }
}
