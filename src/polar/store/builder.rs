//! Settings of a `PolarStore`.

use std::{fmt, sync::Arc, time::Duration};

use chrono::TimeDelta;
use reqwest::{Client, Url, redirect};
use zeroize::Zeroizing;

use super::{
    PolarStore,
    base_url::{base_url, is_local},
    credential::credential,
    known_customers::KnownCustomers,
};
use crate::{
    clock::{Clock, SystemClock},
    config_error::ConfigError,
    customer::OrganizationId,
    polar::{client::PolarClient, rate_limit::RateLimits},
    shared_caches::SharedCaches,
    token::TokenFormat,
};

/// Longest time that sessions are taken to last.
const MAX_SESSION_TTL: TimeDelta = TimeDelta::days(365 * 100);

/// Builds a [`PolarStore`].
#[derive(Clone)]
#[must_use = "nothing is built until `build` is called"]
pub struct PolarStoreBuilder {
    access_token: Zeroizing<String>,
    is_any_access_token_accepted: bool,
    organization: Option<OrganizationId>,
    base_url: String,
    timeout: Duration,
    session_ttl: Duration,
    foreign_calls: u32,
    token_format: TokenFormat,
    client: Option<Client>,
    clock: Arc<dyn Clock>,
}

impl PolarStore {
    /// Returns a builder for a store that uses an organization access token, `polar_oat_...`. The
    /// token needs the scope `customers:read`, and `customer_sessions:write` for
    /// [`create`](Self::create).
    ///
    /// The token says whose customers are let in: those that it reads. So a personal access token is
    /// refused, which reads the customers of all organizations of that person.
    pub fn builder(organization_access_token: impl Into<String>) -> PolarStoreBuilder {
        PolarStoreBuilder::new(organization_access_token.into())
    }
}

impl PolarStoreBuilder {
    fn new(access_token: String) -> Self {
        Self {
            access_token: Zeroizing::new(access_token),
            is_any_access_token_accepted: false,
            organization: None,
            base_url: PolarStore::PRODUCTION.to_owned(),
            timeout: Duration::from_secs(2),
            session_ttl: Duration::from_secs(60 * 60),
            foreign_calls: 60,
            token_format: TokenFormat::polar(),
            client: None,
            clock: Arc::new(SystemClock),
        }
    }

    /// Accepts an access token that does not begin with `polar_oat_`: for a proxy of your own, which
    /// has tokens of its own. The proxy must read the customers of one organization alone; set
    /// [`organization`](Self::organization) too.
    pub fn accept_any_access_token(mut self) -> Self {
        self.is_any_access_token_accepted = true;
        self
    }

    /// Sets the organization that each customer must belong to. It is compared byte for byte with the
    /// customer's `organization_id`; by default the access token alone decides.
    ///
    /// A session of another organization's customer is not found, and one that Polar has
    /// [created](PolarStore::create) is an error. A log event says so, at most once a minute.
    pub fn organization(mut self, id: impl Into<OrganizationId>) -> Self {
        self.organization = Some(id.into());
        self
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

    /// Sets how many of the organization's calls in a minute may turn out to be for customers of other
    /// organizations; 60 by default, in each minute and on this node.
    ///
    /// Any merchant can make customers and sessions at no cost, and each such customer costs one call
    /// of those that Polar allows the organization: 500 a minute, 100 in the sandbox. Beyond this number
    /// customers that were never found are answered [`Unavailable`](crate::StoreErrorKind::Unavailable),
    /// with the time until the next call. Customers that were found before, or that
    /// [`create`](PolarStore::create) has returned, and `create` itself go on. Calls that find a customer
    /// of the organization do not count. At most this number is made for unknown customers at a time.
    pub fn foreign_customer_calls_per_minute(mut self, calls: u32) -> Self {
        self.foreign_calls = calls;
        self
    }

    /// Sets the format of the tokens that Polar issues: [`TokenFormat::polar`] by default. Others are
    /// refused without a call.
    ///
    /// It is for a kind of token that Polar has brought in since this release:
    ///
    /// ```
    /// use customer_session::{TokenFormat, polar::PolarStore};
    ///
    /// let store = PolarStore::builder("polar_oat_...")
    ///     .token_format(TokenFormat::polar().or("polar_xst_"))
    ///     .build()?;
    /// # Ok::<(), customer_session::ConfigError>(())
    /// ```
    pub fn token_format(mut self, format: TokenFormat) -> Self {
        self.token_format = format;
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
    /// If the access token or the base URL cannot be right, if no call is allowed for customers that
    /// were never found, or if the HTTP client cannot be made.
    pub fn build(self) -> Result<PolarStore, ConfigError> {
        let credential = credential(&self.access_token, self.is_any_access_token_accepted)?;
        let base_url = base_url(&self.base_url)?;
        let client = match self.client {
            Some(client) => client,
            None => client(&base_url)?,
        };
        let foreign_calls = foreign_calls(self.foreign_calls)?;
        let session_ttl = TimeDelta::from_std(self.session_ttl).unwrap_or(MAX_SESSION_TTL);
        Ok(PolarStore {
            client: Arc::new(PolarClient {
                client,
                base_url,
                credential,
                timeout: Some(self.timeout).filter(|limit| !limit.is_zero()),
                limits: RateLimits::new(Arc::clone(&self.clock)),
            }),
            known: Arc::new(KnownCustomers::new(self.clock, foreign_calls)),
            organization: self.organization,
            token_format: self.token_format,
            caches: SharedCaches::new(),
            session_ttl: session_ttl.min(MAX_SESSION_TTL),
        })
    }
}

fn foreign_calls(calls: u32) -> Result<usize, ConfigError> {
    if calls == 0 {
        return Err(ConfigError::new(
            "`foreign_customer_calls_per_minute` must be at least 1, since a customer is not known \
             before the first call",
        ));
    }
    Ok(usize::try_from(calls).unwrap_or(usize::MAX))
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

impl fmt::Debug for PolarStoreBuilder {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("PolarStoreBuilder")
            .field("base_url", &without_user(&self.base_url))
            .field("organization", &self.organization)
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
