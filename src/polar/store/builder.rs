//! Settings of a `PolarStore`.

use std::{fmt, sync::Arc, time::Duration};

use chrono::TimeDelta;
use http::HeaderValue;
use reqwest::{Client, Url, redirect};
use zeroize::Zeroizing;

use super::{PolarStore, known_customers::KnownCustomers};
use crate::{
    clock::{Clock, SystemClock},
    config_error::ConfigError,
    loopback::is_loopback,
    polar::{client::PolarClient, rate_limit::RateLimits},
    shared_caches::SharedCaches,
};

/// Longest time that sessions are taken to last.
const MAX_SESSION_TTL: TimeDelta = TimeDelta::days(365 * 100);

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
    /// Returns a builder for a store that uses an organization access token. The token needs the
    /// scope `customers:read`, and `customer_sessions:write` for [`create`](Self::create).
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

    /// Sets the URL of Polar's API: [`PolarStore::PRODUCTION`] by default, [`PolarStore::SANDBOX`],
    /// or a proxy of your own. It must be `https`, or `http` on this machine.
    pub fn base_url(mut self, url: impl Into<String>) -> Self {
        self.base_url = url.into();
        self
    }

    /// Sets the time limit of one call to Polar, the body of the answer included; 2 seconds by
    /// default. Zero means no limit.
    ///
    /// A lookup takes one round of calls and one call more, and has
    /// [`store_timeout`](crate::CustomerSessionsBuilder::store_timeout) for it all.
    pub fn timeout(mut self, limit: Duration) -> Self {
        self.timeout = limit;
        self
    }

    /// Sets how long Polar's sessions last; one hour by default, as at Polar. Polar tells when a
    /// session ends, not when it began: `created_at` is derived from this.
    pub fn session_ttl(mut self, ttl: Duration) -> Self {
        self.session_ttl = ttl;
        self
    }

    /// Sets the HTTP client, with TLS, proxies and connections of your choice.
    ///
    /// Build it with [`redirect::Policy::none`]. A client that follows redirects has sent the request
    /// elsewhere before its answer is refused; if it was redirected back, that goes unnoticed.
    /// The client that the store makes itself has TLS by the feature `rustls`, a default one, and
    /// uses the system's proxies unless the base URL is on this machine.
    pub fn client(mut self, client: Client) -> Self {
        self.client = Some(client);
        self
    }

    /// Sets the clock by which rate limits end, and customers are new or old; [`SystemClock`] by
    /// default.
    pub fn clock(mut self, clock: impl Clock) -> Self {
        self.clock = Arc::new(clock);
        self
    }

    /// Builds the store, without a call to Polar.
    ///
    /// # Errors
    ///
    /// If the access token or the base URL cannot be right, or the HTTP client cannot be made.
    pub fn build(self) -> Result<PolarStore, ConfigError> {
        let credential = credential(&self.access_token)?;
        let base_url = base_url(&self.base_url)?;
        let client = match self.client {
            Some(client) => client,
            None => client(&base_url)?,
        };
        let session_ttl = TimeDelta::from_std(self.session_ttl).unwrap_or(MAX_SESSION_TTL);
        Ok(PolarStore {
            client: Arc::new(PolarClient {
                client,
                base_url,
                credential,
                timeout: Some(self.timeout).filter(|limit| !limit.is_zero()),
                limits: RateLimits::new(Arc::clone(&self.clock)),
            }),
            known: Arc::new(KnownCustomers::new(self.clock)),
            caches: SharedCaches::new(),
            session_ttl: session_ttl.min(MAX_SESSION_TTL),
        })
    }
}

/// Returns the header's value, marked as sensitive.
fn credential(access_token: &str) -> Result<HeaderValue, ConfigError> {
    const UNUSABLE: ConfigError = ConfigError::new(
        "the organization access token contains a space, a line end or another character that no \
         token has; copy it again from Polar's settings",
    );
    if access_token.is_empty() {
        return Err(ConfigError::new(
            "the organization access token is empty; create one in Polar's settings",
        ));
    }
    if !access_token.bytes().all(|byte| byte.is_ascii_graphic()) {
        return Err(UNUSABLE);
    }
    let credential = Zeroizing::new(format!("Bearer {access_token}"));
    let mut credential = HeaderValue::from_str(&credential).map_err(|_| UNUSABLE)?;
    credential.set_sensitive(true);
    Ok(credential)
}

fn base_url(url: &str) -> Result<Url, ConfigError> {
    const UNUSABLE: ConfigError = ConfigError::new(
        "the base URL must look like https://api.polar.sh, without a user, a query or a fragment",
    );
    let url = Url::parse(url).map_err(|_| UNUSABLE)?;
    let is_bare = url.username().is_empty()
        && url.password().is_none()
        && url.query().is_none()
        && url.fragment().is_none();
    match url.scheme() {
        _ if !is_bare => Err(UNUSABLE),
        "https" => Ok(url),
        "http" if is_local(&url) => Ok(url),
        "http" => Err(ConfigError::new(
            "the base URL must be https, since tokens would cross the network in the clear; http \
             is accepted on this machine alone",
        )),
        _ => Err(UNUSABLE),
    }
}

fn client(base_url: &Url) -> Result<Client, ConfigError> {
    let builder = Client::builder().redirect(redirect::Policy::none());
    let builder = match is_local(base_url) {
        true => builder.no_proxy(),
        false => builder,
    };
    builder.build().map_err(|error| {
        let problem = "the HTTP client for Polar cannot be made; build one and pass it to `client`";
        ConfigError::new(problem).with_source(error)
    })
}

fn is_local(url: &Url) -> bool {
    is_loopback(url.host_str().unwrap_or_default())
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

/// Hides a URL with a user, which is refused only when the store is built.
fn without_user(url: &str) -> &str {
    if url.contains('@') {
        "(with a user)"
    } else {
        url
    }
}
