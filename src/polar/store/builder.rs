//! How Polar is reached.

use std::{error::Error, fmt, net::IpAddr, sync::Arc, time::Duration};

use chrono::TimeDelta;
use http::HeaderValue;
use reqwest::{Client, Url, redirect};
use zeroize::Zeroizing;

use super::{PolarStore, strangers};
use crate::{
    clock::{Clock, SystemClock},
    polar::{client::Upstream, rate_limit::RateLimits},
};

/// Builds a [`PolarStore`].
#[derive(Clone)]
#[must_use = "nothing is built until `build` is called"]
pub struct PolarStoreBuilder {
    access_token: Zeroizing<String>,
    base_url: String,
    timeout: Duration,
    session_ttl: Duration,
    client: Option<Client>,
    clock: Arc<dyn Clock>,
}

impl PolarStore {
    /// Sets out to build a store, from an organization access token. It needs the scope
    /// `customers:read`, and `customer_sessions:write` for [`create`](Self::create).
    pub fn builder(organization_access_token: impl Into<String>) -> PolarStoreBuilder {
        PolarStoreBuilder::new(organization_access_token.into())
    }
}

impl PolarStoreBuilder {
    fn new(access_token: String) -> Self {
        Self {
            access_token: Zeroizing::new(access_token),
            base_url: PolarStore::PRODUCTION.to_owned(),
            timeout: Duration::from_secs(2),
            session_ttl: Duration::from_secs(60 * 60),
            client: None,
            clock: Arc::new(SystemClock),
        }
    }

    /// Where Polar is: [`PolarStore::PRODUCTION`] by default, [`PolarStore::SANDBOX`], or a proxy
    /// of your own. It must be `https`, or `http` on this machine.
    pub fn base_url(mut self, url: impl Into<String>) -> Self {
        self.base_url = url.into();
        self
    }

    /// How long one call to Polar may take, its answer's body included; 2 seconds by default.
    /// Zero: no limit.
    ///
    /// A lookup takes one round of calls and one call more, and has
    /// [`store_timeout`](crate::CustomerSessionsBuilder::store_timeout) for it all.
    pub fn timeout(mut self, limit: Duration) -> Self {
        self.timeout = limit;
        self
    }

    /// How long Polar's sessions last from their creation; one hour by default, as Polar has it.
    /// Polar tells when a session ends, not when it began: `created_at` is derived with this.
    pub fn session_ttl(mut self, ttl: Duration) -> Self {
        self.session_ttl = ttl;
        self
    }

    /// The client to use, with the TLS, the proxies and the connections that you choose.
    ///
    /// Build it with [`redirect::Policy::none`]. A client that follows redirects has sent the request
    /// elsewhere by the time its answer is refused, and one that was led back is not noticed.
    /// The client that the store makes itself has TLS by the feature `rustls`, a default one, and
    /// uses the system's proxies unless the base URL is on this machine.
    pub fn client(mut self, client: Client) -> Self {
        self.client = Some(client);
        self
    }

    /// Where the time comes from that rate limits are waited for;
    /// [`SystemClock`] by default.
    pub fn clock(mut self, clock: impl Clock) -> Self {
        self.clock = Arc::new(clock);
        self
    }

    /// Builds the store. Polar is not asked anything yet.
    ///
    /// # Errors
    ///
    /// [`ConfigError`], if the access token or the base URL cannot be right.
    pub fn build(self) -> Result<PolarStore, ConfigError> {
        if self.access_token.is_empty() {
            return Err(ConfigError::EmptyAccessToken);
        }
        if !self.access_token.bytes().all(|it| it.is_ascii_graphic()) {
            return Err(ConfigError::UnusableAccessToken);
        }
        let credential = Zeroizing::new(format!("Bearer {}", *self.access_token));
        let mut credential =
            HeaderValue::from_str(&credential).map_err(|_| ConfigError::UnusableAccessToken)?;
        credential.set_sensitive(true);
        let base_url = Url::parse(&self.base_url).map_err(|_| ConfigError::UnusableBaseUrl)?;
        let is_bare = base_url.username().is_empty()
            && base_url.password().is_none()
            && base_url.query().is_none()
            && base_url.fragment().is_none();
        let is_here = is_loopback(&base_url);
        match base_url.scheme() {
            _ if !is_bare => return Err(ConfigError::UnusableBaseUrl),
            "https" => {}
            "http" if is_here => {}
            "http" => return Err(ConfigError::InsecureBaseUrl),
            _ => return Err(ConfigError::UnusableBaseUrl),
        }
        let client = match self.client {
            Some(client) => client,
            None => {
                let builder = Client::builder().redirect(redirect::Policy::none());
                let builder = if is_here { builder.no_proxy() } else { builder };
                builder.build().map_err(ConfigError::Client)?
            }
        };
        let longest = TimeDelta::days(365 * 100);
        Ok(PolarStore {
            upstream: Arc::new(Upstream {
                client,
                base_url,
                credential,
                timeout: Some(self.timeout).filter(|limit| !limit.is_zero()),
                limits: RateLimits::new(self.clock),
            }),
            strangers: strangers(),
            session_ttl: TimeDelta::from_std(self.session_ttl)
                .map_or(longest, |ttl| ttl.min(longest)),
        })
    }
}

fn is_loopback(url: &Url) -> bool {
    let host = url.host_str().unwrap_or_default();
    let address = host.trim_start_matches('[').trim_end_matches(']');
    host == "localhost" || address.parse().is_ok_and(|it: IpAddr| it.is_loopback())
}

impl fmt::Debug for PolarStoreBuilder {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("PolarStoreBuilder")
            .field("base_url", &without_user(&self.base_url))
            .field("timeout", &self.timeout)
            .field("session_ttl", &self.session_ttl)
            .finish_non_exhaustive()
    }
}

/// Such a URL is refused, but only when the store is built.
fn without_user(url: &str) -> &str {
    if url.contains('@') {
        "(with a user)"
    } else {
        url
    }
}

/// Why a [`PolarStore`] cannot be built.
#[derive(Debug)]
#[non_exhaustive]
pub enum ConfigError {
    /// The organization access token is empty.
    EmptyAccessToken,
    /// The organization access token holds what no token does: a space or a line's end, say.
    UnusableAccessToken,
    /// The base URL would send tokens over the network in the clear.
    InsecureBaseUrl,
    /// The base URL is none, or has a user, a query or a fragment.
    UnusableBaseUrl,
    /// The HTTP client cannot be made.
    Client(reqwest::Error),
}

impl fmt::Display for ConfigError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::EmptyAccessToken => "the organization access token is empty",
            Self::UnusableAccessToken => {
                "the organization access token holds a space or another character that no token has"
            }
            Self::InsecureBaseUrl => "the base URL must be https, or http on this machine",
            Self::UnusableBaseUrl => "the base URL must look like https://api.polar.sh",
            Self::Client(_) => "the HTTP client for Polar cannot be made",
        })
    }
}

impl Error for ConfigError {
    fn source(&self) -> Option<&(dyn Error + 'static)> {
        match self {
            Self::Client(error) => Some(error),
            _ => None,
        }
    }
}
