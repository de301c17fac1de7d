//! The layer that authenticates requests.

mod guards;
mod pages;

use std::sync::Arc;

use bytes::Bytes;
use http::Response;
use tower_layer::Layer;

use super::{
    config::LayerConfig,
    cookie::SessionCookie,
    credentials::{CredentialSources, RequestHead},
    rejection::Rejection,
    service::CustomerSessionService,
};
use crate::{
    config_error::ConfigError, sessions::CustomerSessions, store::SessionStore, token::SessionToken,
};

/// A layer that authenticates each request by its bearer token.
///
/// It reads the token from `Authorization` and, where you switch them on, from
/// [a cookie](CustomerSessionLayer::token_from_cookie) and other places. It puts the
/// [`Customer`](crate::Customer) into the extensions of the request, where
/// [`CurrentSession::from_extensions`](crate::CurrentSession::from_extensions) and
/// [`SessionLifetime::from_extensions`](crate::SessionLifetime::from_extensions) find the session and
/// its lifetime too.
///
/// A request without a valid token is answered by the layer and does not reach the handler, a CORS
/// preflight included. With [`optional`](CustomerSessionLayer::optional), a request without any
/// token goes on anonymously. `Authorization`, and the cookie where it is read, are marked as
/// sensitive, so that `Debug` of the headers does not show them.
///
/// The layer is a handle: clones share one cache. Put it on the router after the routes that it
/// protects:
///
/// ```
/// use axum::{Extension, Router, routing::get};
/// use customer_session::{Customer, CustomerSessionLayer, store::MemoryStore};
///
/// async fn me(Extension(customer): Extension<Customer>) -> String {
///     format!("hello, {}", customer.id)
/// }
///
/// let app: Router = Router::new()
///     .route("/me", get(me))
///     .layer(CustomerSessionLayer::new(MemoryStore::new()));
/// ```
#[derive(Clone, Debug)]
#[doc(alias("auth", "bearer", "verify"))]
#[must_use = "a layer does nothing until it is put on a service"]
pub struct CustomerSessionLayer {
    config: Arc<LayerConfig>,
}

impl CustomerSessionLayer {
    /// Creates a layer in front of `store`, with the defaults of
    /// [`CustomerSessionsBuilder`](crate::CustomerSessionsBuilder) and a cache of its own.
    ///
    /// A service that also issues or revokes sessions builds [`CustomerSessions`] and uses its
    /// [`layer`](CustomerSessions::layer), so that there is one cache. A revocation by other sessions
    /// over a clone of the store reaches this cache if the store says so
    /// ([`shared_caches`](SessionStore::shared_caches)), as those that come along do; otherwise it
    /// goes unnoticed here for a minute.
    pub fn new(store: impl SessionStore) -> Self {
        CustomerSessions::builder(store).build().layer()
    }

    /// Lets requests without a credential through, without a customer.
    ///
    /// A bad token is still refused: a client that believes it is signed in must learn that it is
    /// not. A [cookie](Self::token_from_cookie) that opens nothing is different: a browser sends it
    /// unasked, long after the session has ended, so the request goes on as one without a credential.
    /// While the store fails it is answered with 503, as any token. Responses carry
    /// `Vary: Authorization`. A guard such as [`require`](Self::require) needs a session, and refuses
    /// such a request with 401.
    pub fn optional(self) -> Self {
        self.with(LayerConfig::set_optional)
    }

    /// Lets CORS preflights through, without a customer and whatever credential they carry.
    ///
    /// A browser sends a preflight (`OPTIONS` with `Origin` and `Access-Control-Request-Method`)
    /// without a credential. By default it is refused like any other request, since any client can
    /// send one. Put the CORS layer outside of this one instead, where it answers preflights itself
    /// and pages can read refusals: see [`guide::browsers`](crate::guide::browsers#cors).
    ///
    /// Call this only if the CORS layer stands inside, and answers every preflight. A handler that
    /// takes `OPTIONS`, such as `any(handler)`, otherwise runs for clients that are not signed in.
    pub fn pass_preflights(self) -> Self {
        self.with(|config| config.pass_preflights = true)
    }

    /// Sets the realm of the challenges (RFC 9110, section 11.5); `customer` by default.
    ///
    /// Quotes and backslashes are escaped.
    ///
    /// ```
    /// use customer_session::{CustomerSessionLayer, store::MemoryStore};
    ///
    /// # fn main() -> Result<(), Box<dyn std::error::Error>> {
    /// let layer = CustomerSessionLayer::new(MemoryStore::new()).realm("shop")?;
    /// assert!(layer.realm("shop\r\nset-cookie: x").is_err());
    /// # Ok(())
    /// # }
    /// ```
    ///
    /// # Errors
    ///
    /// Returns an error if the realm holds a control character, which could end the header and
    /// begin another.
    pub fn realm(self, realm: impl AsRef<str>) -> Result<Self, ConfigError> {
        self.try_with(|config| config.responses.set_realm(realm.as_ref()))
    }

    /// Reports cache hits too: puts [`CacheStatus::Hit`](crate::CacheStatus::Hit) into the extensions
    /// of the response.
    ///
    /// The responses to other authenticated requests always carry their
    /// [`CacheStatus`](crate::CacheStatus). Reporting hits is a choice because the first extension of
    /// a response costs three allocations, about a fifth of what such a request costs otherwise.
    /// Responses to anonymous requests carry none.
    ///
    /// ```
    /// use customer_session::{CacheStatus, CustomerSessionLayer, Rejection, store::MemoryStore};
    /// use http::Response;
    ///
    /// let layer = CustomerSessionLayer::new(MemoryStore::new()).cache_status_on_hits();
    ///
    /// // In a layer outside this one:
    /// fn label<B>(response: &Response<B>) -> String {
    ///     if let Some(status) = response.extensions().get::<CacheStatus>() {
    ///         status.as_str().to_owned()
    ///     } else if let Some(rejection) = response.extensions().get::<Rejection>() {
    ///         format!("refused: {rejection}")
    ///     } else {
    ///         "anonymous".to_owned()
    ///     }
    /// }
    /// ```
    pub fn cache_status_on_hits(self) -> Self {
        self.with(|config| config.cache_status_on_hits = true)
    }

    /// Answers refused requests with the response that `respond` makes from the reason.
    ///
    /// The status must stay in the class of [`Rejection::status`]: 4xx for a refused request, 5xx for
    /// an outage. Another one, such as the 200 of `Response::new`, is replaced by
    /// [`Rejection::status`]; to redirect, see [`redirect_to`](Self::redirect_to).
    /// The layer still adds the challenge (to what has one by default, and to any 401) or `Retry-After`
    /// (on 503), `Cache-Control: no-store`, and the [`Rejection`] in the extensions.
    ///
    /// ```
    /// # use customer_session::{CustomerSessionLayer, store::MemoryStore};
    /// use bytes::Bytes;
    /// use http::Response;
    ///
    /// let layer = CustomerSessionLayer::new(MemoryStore::new())
    ///     .rejection_response(|_| Response::new(Bytes::from_static(b"please sign in")));
    /// ```
    pub fn rejection_response<F>(self, respond: F) -> Self
    where
        F: Fn(&Rejection) -> Response<Bytes> + Send + Sync + 'static,
    {
        self.with(|config| config.responses.set_responder(Arc::new(respond)))
    }
}

/// # Where a request may carry its token
///
/// `Authorization` is always read. A browser cannot set it on a WebSocket or an `EventSource`, so
/// there are further sources. Each is off until it is switched on here;
/// [`guide::browsers`](crate::guide::browsers) tells which to choose.
///
/// Two credentials in one request are refused with 400, wherever they are, even if both are the
/// same token. A malformed credential is refused with 401, never ignored in favour of another. A
/// token in a place that is switched off is not a credential. While the cookie, the subprotocol or
/// a function is on, `Vary` names what each response depends on.
impl CustomerSessionLayer {
    /// Reads the token from this cookie too.
    ///
    /// A browser sends a cookie no matter which site makes the request. Therefore a request that is
    /// authenticated by its cookie must come from this site if it has an unsafe method (all but
    /// `GET`, `HEAD`, `OPTIONS`, `TRACE`) or upgrades the connection (a WebSocket). That is: its
    /// `Sec-Fetch-Site` is `same-origin` or `none`, or its `Origin` is a
    /// [`trusted_origin`](Self::trusted_origin); or, without `Sec-Fetch-Site` as old browsers send
    /// it, its `Origin` is the host that it asks (`Host`, or the authority of the URI). Any other
    /// such request, and one with neither header, is answered with 403
    /// ([`RejectionKind::CrossSite`](crate::RejectionKind::CrossSite)) before the token is looked
    /// at. Clients that are not browsers use `Authorization`.
    ///
    /// ```
    /// use axum::{Router, body::Body, http::Request, routing::post};
    /// use customer_session::{CustomerSessionLayer, SessionCookie, store::MemoryStore};
    /// use tower::ServiceExt;
    ///
    /// # #[tokio::main(flavor = "current_thread")]
    /// # async fn main() -> Result<(), Box<dyn std::error::Error>> {
    /// let cookie = SessionCookie::new("__Host-session")?;
    /// let layer = CustomerSessionLayer::new(MemoryStore::new()).token_from_cookie(&cookie);
    /// let app: Router = Router::new().route("/orders", post(async || ())).layer(layer);
    ///
    /// let forged = Request::post("/orders")
    ///     .header("host", "shop.example.com")
    ///     .header("origin", "https://evil.example")
    ///     .header("cookie", "__Host-session=whatever")
    ///     .body(Body::empty())?;
    /// assert_eq!(app.oneshot(forged).await?.status(), 403);
    /// # Ok(())
    /// # }
    /// ```
    ///
    /// [`SessionCookie::set`] makes the header that sets it. Quotes around the value are not part
    /// of the token. Two cookies of this name are two credentials, and so is a cookie beside a
    /// bearer token in `Authorization`. Cookies of more than 64 KiB together are refused as
    /// malformed without being read. The response to a request with the cookie is
    /// `Cache-Control: private`, as with [`token_from_query`](Self::token_from_query).
    ///
    /// This does not protect against a script in your own page, against trusted origins, against a
    /// `GET` that changes something or that a layer behind this one turns into another method, or
    /// against signing a victim in as another customer: for that there is
    /// [`same_origin`](Self::same_origin). In browsers without `Sec-Fetch-Site` a page at `http://` of the
    /// same host and default port counts as this site: send HSTS.
    ///
    /// There is one cookie: a second call replaces the first.
    pub fn token_from_cookie(self, cookie: &SessionCookie) -> Self {
        self.with_sources(|sources| sources.set_cookie(cookie.clone()))
    }

    /// Lets pages of `origin` use the [cookie](Self::token_from_cookie), in addition to those of
    /// the host that they ask.
    ///
    /// That is for a front end on another host, and for the public name of a service behind a proxy
    /// that changes `Host`. It may be called several times.
    ///
    /// ```
    /// use customer_session::{CustomerSessionLayer, SessionCookie, store::MemoryStore};
    ///
    /// # fn main() -> Result<(), Box<dyn std::error::Error>> {
    /// let layer = CustomerSessionLayer::new(MemoryStore::new())
    ///     .token_from_cookie(&SessionCookie::new("__Host-session")?)
    ///     .trusted_origin("https://app.example.com")?
    ///     .trusted_origin("http://localhost:5173")?;
    /// # Ok(())
    /// # }
    /// ```
    ///
    /// An origin is a scheme, a host (an internationalized one in its `xn--` form), and a port
    /// unless it is the default of the scheme. CORS is a separate matter: this lets a request in,
    /// and a CORS layer lets the page read the response.
    ///
    /// # Errors
    ///
    /// Returns an error for anything else: a path, even a single slash, `*`, `null`.
    pub fn trusted_origin(self, origin: impl AsRef<str>) -> Result<Self, ConfigError> {
        self.try_with(|config| {
            config.change_sources(|sources| sources.add_trusted_origin(origin.as_ref()))
        })
    }

    /// Reads the token from the query parameter `access_token` too (RFC 6750, section 2.3), for an
    /// `EventSource` or a link to a download.
    ///
    /// The parameter is removed from the URI, so that handlers, and traces behind the layer, do not
    /// see it.
    ///
    /// ```
    /// use axum::{Router, body::Body, http::{Request, Uri}, routing::get};
    /// use customer_session::{CustomerData, CustomerSessions, store::MemoryStore};
    /// use std::time::Duration;
    /// use tower::ServiceExt;
    ///
    /// # #[tokio::main(flavor = "current_thread")]
    /// # async fn main() -> Result<(), Box<dyn std::error::Error>> {
    /// let sessions = CustomerSessions::builder(MemoryStore::new()).build();
    /// let app: Router = Router::new()
    ///     .route("/events", get(async |uri: Uri| assert_eq!(uri, "/events?since=7")))
    ///     .layer(sessions.layer().token_from_query());
    ///
    /// let customer = CustomerData::new("cus_1", "org_1");
    /// let session = sessions.issue(customer, Duration::from_secs(60)).await?;
    /// let uri = format!("/events?access_token={}&since=7", session.token.expose());
    /// let response = app.oneshot(Request::get(uri).body(Body::empty())?).await?;
    /// assert_eq!(response.status(), 200);
    /// assert_eq!(response.headers()["cache-control"], "private");
    /// # Ok(())
    /// # }
    /// ```
    ///
    /// Name and value are percent-decoded. A `+` is a plus, which tokens contain, and not a space.
    /// Other parameters keep their order and encoding, and the `?` is removed with the last of
    /// them. Each response to such a request is `Cache-Control: private`, unless it is that, or
    /// `no-store`, already; `public` and `s-maxage` are removed.
    ///
    /// The token still appears in the history of the browser, in the `Referer` of requests that a
    /// page at this address makes (send `Referrer-Policy: no-referrer`), in the logs of proxies, and
    /// wherever the request is seen before the layer. That may be in the same service: axum's
    /// `Router` keeps the URI as `OriginalUri` before it calls a layer inside it. A layer around the
    /// whole router hides the token from that too; see
    /// [`guide::browsers`](crate::guide::browsers). Use tokens that live for a minute.
    pub fn token_from_query(self) -> Self {
        self.with_sources(CredentialSources::enable_query)
    }

    /// Reads the token from `Sec-WebSocket-Protocol` too.
    ///
    /// Among the subprotocols that a client offers, the one that begins with `bearer.` is the
    /// credential. The services behind the layer see only the others.
    ///
    /// ```
    /// use customer_session::{CustomerSessionLayer, store::MemoryStore};
    ///
    /// // In the browser: new WebSocket(url, ["feed.v1", "bearer." + token])
    /// let layer = CustomerSessionLayer::new(MemoryStore::new()).token_from_websocket_protocol();
    /// ```
    ///
    /// The server must choose one of the other subprotocols (in axum,
    /// `WebSocketUpgrade::protocols(["feed.v1"])`), since a browser that offers some and gets none
    /// closes the connection. A subprotocol consists of the token characters of RFC 9110
    /// (section 5.6.2): letters, digits, `-._~+` and a few more, but neither `/` nor `=`. Tokens of a
    /// [`TokenFormat`](crate::TokenFormat) with a prefix of such characters fit.
    ///
    /// The header is read on every request, upgrade or not, since a service behind the layer might
    /// decide in another way what an upgrade is. No other site can make a browser send your token
    /// in it, so `Origin` is not checked. A header of more than 64 KiB is refused as malformed
    /// without being read.
    pub fn token_from_websocket_protocol(self) -> Self {
        self.with_sources(CredentialSources::enable_websocket_protocol)
    }

    /// Reads the token that `find` returns too.
    ///
    /// ```
    /// use customer_session::{CustomerSessionLayer, SessionToken, store::MemoryStore};
    ///
    /// let layer = CustomerSessionLayer::new(MemoryStore::new()).token_from_fn(|request| {
    ///     let token = request.headers.get("x-api-token")?;
    ///     Some(SessionToken::new(token.to_str().unwrap_or_default()))
    /// });
    /// ```
    ///
    /// `find` is called for every request, even if there is a credential elsewhere, since two
    /// credentials are refused; not for preflights that [pass](Self::pass_preflights). Return
    /// `None` only if the place that it looks at is empty. If something other than a token is
    /// there, return that or an empty token: either is refused as malformed. `find` runs on the
    /// path of the request and must not block.
    ///
    /// Since the layer cannot know what `find` looks at, responses carry `Vary: *`, and no cache
    /// keeps them. If browsers send it unasked, as they do with cookies and client certificates,
    /// `find` must itself refuse requests from other sites.
    ///
    /// There is one such function: a second call replaces the first.
    pub fn token_from_fn<F>(self, find: F) -> Self
    where
        F: Fn(&RequestHead<'_>) -> Option<SessionToken> + Send + Sync + 'static,
    {
        self.with_sources(|sources| sources.set_custom(Arc::new(find)))
    }

    fn with_sources(self, change: impl FnOnce(&mut CredentialSources)) -> Self {
        self.with(|config| config.change_sources(change))
    }

    fn with(mut self, change: impl FnOnce(&mut LayerConfig)) -> Self {
        change(Arc::make_mut(&mut self.config));
        self
    }

    fn try_with(
        mut self,
        change: impl FnOnce(&mut LayerConfig) -> Result<(), ConfigError>,
    ) -> Result<Self, ConfigError> {
        change(Arc::make_mut(&mut self.config))?;
        Ok(self)
    }
}

impl<S: SessionStore> CustomerSessions<S> {
    /// Returns a layer that shares this cache, so that a session revoked here is refused there.
    pub fn layer(&self) -> CustomerSessionLayer {
        CustomerSessionLayer {
            config: Arc::new(LayerConfig::new(Arc::clone(self.engine()))),
        }
    }
}

impl<S> Layer<S> for CustomerSessionLayer {
    type Service = CustomerSessionService<S>;

    fn layer(&self, inner: S) -> CustomerSessionService<S> {
        CustomerSessionService::new(inner, Arc::clone(&self.config))
    }
}
