//! What is put on a router.

use std::sync::Arc;

use bytes::Bytes;
use http::Response;
use tower_layer::Layer;

use super::{
    config::LayerConfig,
    credentials::{CredentialSources, RequestHead},
    rejection::Rejection,
    service::CustomerSessionService,
};
use crate::{sessions::CustomerSessions, store::SessionStore, token::SessionToken};

/// Authenticates each request by its bearer token, read from `Authorization` and, where you
/// switch them on, from [a cookie](CustomerSessionLayer::token_from_cookie) and other places, and puts the
/// [`Customer`](crate::Customer) and the `Arc<CustomerSession>` into its extensions, where
/// [`SessionLifetime::of`](crate::SessionLifetime::of) finds the session's lifetime, too.
///
/// A request without a valid token is answered by the layer and does not reach the handler;
/// with [`optional`](CustomerSessionLayer::optional), one without any token goes on
/// anonymously. A CORS preflight goes on anonymously in any case.
///
/// The layer is a handle: clones share one cache. Put it on the router after the routes it
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
#[must_use = "a layer does nothing until it is put on a service"]
pub struct CustomerSessionLayer {
    config: Arc<LayerConfig>,
}

impl CustomerSessionLayer {
    /// A layer in front of `store`, with the defaults of
    /// [`CustomerSessionsBuilder`](crate::CustomerSessionsBuilder) and a cache of its own.
    ///
    /// A service that also issues or revokes sessions builds [`CustomerSessions`] and takes
    /// its [`layer`](CustomerSessions::layer), so that a revocation reaches the cache.
    pub fn new(store: impl SessionStore) -> Self {
        CustomerSessions::builder(store).build().layer()
    }

    /// Lets requests without a credential through, without a customer. A bad token is still
    /// refused: a client that thinks it is signed in must hear that it is not.
    ///
    /// Answers carry `Vary: Authorization`.
    pub fn optional(self) -> Self {
        self.with(LayerConfig::set_optional)
    }

    /// The realm in the challenges; `customer` by default (RFC 9110, section 11.5).
    ///
    /// Quotes and backslashes are escaped. A realm with control characters could end the
    /// header and begin another: it is refused, with an error in the log, and the realm stays
    /// as it was.
    pub fn realm(self, realm: impl AsRef<str>) -> Self {
        self.with(|config| config.responses.set_realm(realm.as_ref()))
    }

    /// Adds the [`Verdict`](crate::Verdict) to the extensions of responses to requests that the
    /// cache let in. Other responses always carry theirs. Without this setting, a response of a
    /// protected route that has none is [`Fresh`](crate::Verdict::Fresh).
    ///
    /// It is a choice because a response's first extension costs three allocations, about a
    /// fifth of what such a request costs otherwise.
    ///
    /// ```
    /// use customer_session::{CustomerSessionLayer, Verdict, store::MemoryStore};
    /// use http::Response;
    ///
    /// let layer = CustomerSessionLayer::new(MemoryStore::new()).verdict_on_hits();
    ///
    /// // In a layer outside of it:
    /// fn label<B>(response: &Response<B>) -> &'static str {
    ///     match response.extensions().get::<Verdict>() {
    ///         Some(verdict) => verdict.as_str(),
    ///         None => "unprotected",
    ///     }
    /// }
    /// ```
    pub fn verdict_on_hits(self) -> Self {
        self.with(|config| config.verdict_on_hits = true)
    }

    /// Answers refused requests with what `respond` makes of the reason.
    ///
    /// The layer still adds the challenge (on 401 and 400) or `Retry-After` (on 503),
    /// `Cache-Control: no-store`, and the [`Rejection`] in the response's extensions.
    ///
    /// ```
    /// # use customer_session::{CustomerSessionLayer, store::MemoryStore};
    /// use bytes::Bytes;
    /// use http::Response;
    ///
    /// let layer = CustomerSessionLayer::new(MemoryStore::new()).rejection_response(|rejection| {
    ///     let mut response = Response::new(Bytes::from_static(b"please sign in"));
    ///     *response.status_mut() = rejection.status();
    ///     response
    /// });
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
/// `Authorization` is always looked at. A browser cannot set it on a WebSocket or an
/// `EventSource`, so that there are further sources, each off until it is switched on here;
/// [`guide::browsers`](crate::guide::browsers) tells which to take.
///
/// Two credentials in one request are refused with 400, wherever they are and even if they are
/// one token twice; a malformed one with 401, never skipped in favour of another. What a
/// source holds that is off is no credential. While the cookie, the subprotocol or a function
/// of yours is on, each answer says by `Vary` what it depends on.
impl CustomerSessionLayer {
    /// Takes the token from the cookie `name`, too.
    ///
    /// A browser sends a cookie along whoever asks for it. Therefore a request that is
    /// authenticated by its cookie, and either has an unsafe method (all but `GET`, `HEAD`,
    /// `OPTIONS`, `TRACE`) or upgrades the connection (a WebSocket), must come from this site:
    /// its `Origin` is the host that it asks (`Host`, or the URI's authority), or one that
    /// [`trusted_origin`](Self::trusted_origin) names; or, without `Origin`, `Sec-Fetch-Site` is
    /// `same-origin` or `none`. Anything else, and a request with neither header, is answered
    /// with 403 ([`RejectionKind::CrossSite`](crate::RejectionKind::CrossSite)) before anybody
    /// looks whether the token is good. Programs that are no browsers use `Authorization`.
    ///
    /// ```
    /// use axum::{Router, body::Body, http::Request, routing::post};
    /// use customer_session::{CustomerSessionLayer, store::MemoryStore};
    /// use tower::ServiceExt;
    ///
    /// # #[tokio::main(flavor = "current_thread")]
    /// # async fn main() -> Result<(), Box<dyn std::error::Error>> {
    /// let layer = CustomerSessionLayer::new(MemoryStore::new()).token_from_cookie("__Host-session");
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
    /// Set it with `Secure; HttpOnly; SameSite=Lax; Path=/` and a name that begins with
    /// `__Host-`, so that no sibling of your domain can set it. Quotes around the value are not
    /// part of the token. Two cookies of this name are two credentials; so is one beside a
    /// bearer token in `Authorization`. Cookies of more than 64 KiB together are refused as
    /// malformed, unread.
    ///
    /// It does not protect against a script that runs in your own page, against origins that
    /// you allow, against a `GET` that changes something or that a layer behind this one makes
    /// into another method, or against signing a victim in as somebody else. It cannot see by
    /// which scheme a request came: a page at `http://` of the same host and default port
    /// counts as this site, which `Secure` and HSTS keep from happening.
    ///
    /// There is one cookie: a second call replaces the first. A name that is no token of RFC
    /// 6265 (section 4.1.1) is refused, with an error in the log, and no cookie is read.
    pub fn token_from_cookie(self, name: impl AsRef<str>) -> Self {
        self.with_sources(|sources| sources.set_cookie(name.as_ref()))
    }

    /// Lets pages of `origin` use the [cookie](Self::token_from_cookie), besides those of the host that
    /// they ask: a front end on another host, or the public name of a service behind a proxy
    /// that changes `Host`. May be called several times.
    ///
    /// ```
    /// use customer_session::{CustomerSessionLayer, store::MemoryStore};
    ///
    /// let layer = CustomerSessionLayer::new(MemoryStore::new())
    ///     .token_from_cookie("__Host-session")
    ///     .trusted_origin("https://app.example.com")
    ///     .trusted_origin("http://localhost:5173");
    /// ```
    ///
    /// An origin is a scheme, a host (an IDN in its `xn--` form), and a port unless it is the
    /// scheme's own; no path, no `*`. Anything else, `null` included, is refused, with an
    /// error in the log, and nothing is allowed by it. CORS is another matter: this lets a
    /// request in, a CORS layer lets the page read the answer.
    pub fn trusted_origin(self, origin: impl AsRef<str>) -> Self {
        self.with_sources(|sources| sources.add_trusted_origin(origin.as_ref()))
    }

    /// Takes the token from the query parameter `access_token`, too (RFC 6750, section 2.3),
    /// and takes it out of the URI, so that handlers, and traces behind the layer, do not see
    /// it. For an `EventSource`, or a link to a download.
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
    /// The name is compared, and the value taken, after percent-decoding; `+` is a plus, a
    /// character of tokens, and no space. Other parameters keep their order and encoding, and
    /// the `?` goes with the last of them. Each answer to such a request is `Cache-Control:
    /// private` unless it says so, or `no-store`, itself; `public` and `s-maxage` are taken
    /// away.
    ///
    /// What this cannot hide: the browser's history; the `Referer` of requests that a page at
    /// this address makes (send `Referrer-Policy: no-referrer`); the logs of proxies, and
    /// whatever sees the request before the layer. That may be a part of the same service:
    /// axum's `Router` keeps the URI as `OriginalUri` before a layer inside of it is asked. A
    /// layer around the whole router hides it from that, too; see
    /// [`guide::browsers`](crate::guide::browsers). Take tokens that live for a minute.
    pub fn token_from_query(self) -> Self {
        self.with_sources(CredentialSources::enable_query)
    }

    /// Takes the token from `Sec-WebSocket-Protocol`, too: of the subprotocols that a client
    /// offers, the one that begins with `bearer.` is the credential, and those behind the
    /// layer see the others alone.
    ///
    /// ```
    /// use customer_session::{CustomerSessionLayer, store::MemoryStore};
    ///
    /// // In the browser: new WebSocket(url, ["feed.v1", "bearer." + token])
    /// let layer = CustomerSessionLayer::new(MemoryStore::new()).token_from_websocket_protocol();
    /// ```
    ///
    /// The server must choose one of the other subprotocols (in axum,
    /// `WebSocketUpgrade::protocols(["feed.v1"])`): a browser that offered some and is given
    /// none ends the connection. A subprotocol is made of the token characters of RFC 9110
    /// (section 5.6.2): letters, digits, `-._~+` and a few more, but neither `/` nor `=`.
    /// Tokens of a [`TokenFormat`](crate::TokenFormat) with a prefix of such characters fit.
    ///
    /// The header is looked at on every request, upgrade or not, since a condition could be
    /// read in another way behind the layer. No other page can make a browser send your token
    /// so, and `Origin` need not be checked. A header of more than 64 KiB is refused as
    /// malformed, unread.
    pub fn token_from_websocket_protocol(self) -> Self {
        self.with_sources(CredentialSources::enable_websocket_protocol)
    }

    /// Takes the token that `find` finds, too.
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
    /// The layer calls `find` for every request but CORS preflights, even if there is a credential
    /// elsewhere, because a second one is refused. Return `None` only if the request has nothing
    /// at that place. If something is there that is not a token, return an invalid token, such as
    /// an empty one: the request is then refused as malformed. The request waits for `find`, so it
    /// must not block.
    ///
    /// Since nobody knows what `find` looks at, answers say `Vary: *`: no cache keeps them. If
    /// browsers send by themselves what it looks at, as they do with cookies and client
    /// certificates, it must itself see to requests of other sites.
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
}

impl<S: SessionStore> CustomerSessions<S> {
    /// A layer that shares this cache, so that what is revoked here is refused there.
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
