//! Where else than in `Authorization` a request may carry its token.

use std::{fmt, sync::Arc};

use http::{Extensions, HeaderMap, Method, Request, Uri};

use super::{
    CustomerSessionLayer,
    bearer::{self, Credential},
    caching::Caching,
    cookie,
    origin::{Origin, is_cross_site, is_preflight},
    query, websocket,
};
use crate::{observe, token::SessionToken};

/// What a function given to [`token_from_fn`](CustomerSessionLayer::token_from_fn) sees of a
/// request: what the services behind the layer will see, before anybody is signed in.
#[derive(Clone, Copy)]
#[non_exhaustive]
pub struct RequestHead<'a> {
    /// The method.
    pub method: &'a Method,
    /// The URI, without a token that [`token_from_query`](CustomerSessionLayer::token_from_query) took.
    pub uri: &'a Uri,
    /// The headers, with their secrets, but without a token that
    /// [`token_from_websocket_protocol`](CustomerSessionLayer::token_from_websocket_protocol) took.
    pub headers: &'a HeaderMap,
    /// What the layers outside left: the peer's certificate, say.
    pub extensions: &'a Extensions,
}

/// Without the URI, the headers and the extensions, which may hold secrets.
impl fmt::Debug for RequestHead<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("RequestHead")
            .field("method", &self.method)
            .finish_non_exhaustive()
    }
}

type OwnSource = dyn Fn(&RequestHead<'_>) -> Option<SessionToken> + Send + Sync;

/// The sources that are switched on, besides `Authorization`.
#[derive(Clone, Default)]
pub(super) struct Sources {
    cookie: Option<String>,
    allowed: Vec<Origin>,
    query: bool,
    websocket: bool,
    own: Option<Arc<OwnSource>>,
}

impl Sources {
    /// What they make answers depend on. The URI is no part of it: caches know that it counts.
    fn caching(&self) -> Caching {
        [
            (self.cookie.is_some(), Caching::COOKIE),
            (self.websocket, Caching::PROTOCOL),
            (self.own.is_some(), Caching::ANYTHING),
        ]
        .into_iter()
        .filter(|(is_on, _)| *is_on)
        .fold(Caching::default(), |all, (_, one)| all.with(one))
    }

    /// Takes out of a request what those behind the layer must not see, and asks what must be
    /// asked of the whole request.
    pub(super) fn take<B>(&self, request: &mut Request<B>) -> Taken<'_> {
        let query = if self.query {
            query::take(request.uri_mut())
        } else {
            Credential::None
        };
        let protocol = if self.websocket {
            websocket::take(request.headers_mut())
        } else {
            Credential::None
        };
        let head = RequestHead {
            method: request.method(),
            uri: request.uri(),
            headers: request.headers(),
            extensions: request.extensions(),
        };
        let own = match &self.own {
            // A preflight has no credentials to look for.
            Some(own) if !is_preflight(head.method, head.headers) => own(&head),
            _ => None,
        };
        Taken {
            query,
            protocol,
            own: own.map_or(Credential::None, Credential::Token),
            is_cross_site: self.cookie.is_some()
                && is_cross_site(head.method, head.uri, head.headers, &self.allowed),
            cookie: self.cookie.as_deref(),
        }
    }
}

impl fmt::Debug for Sources {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Sources")
            .field("cookie", &self.cookie)
            .field("allowed", &self.allowed)
            .field("query", &self.query)
            .field("websocket", &self.websocket)
            .field("own", &self.own.is_some())
            .finish()
    }
}

/// What the sources have taken out of one request, and what they said about it.
pub(super) struct Taken<'a> {
    query: Credential<SessionToken>,
    protocol: Credential<SessionToken>,
    own: Credential<SessionToken>,
    is_cross_site: bool,
    cookie: Option<&'a str>,
}

impl Taken<'_> {
    pub(super) fn was_in_uri(&self) -> bool {
        self.query != Credential::None
    }

    /// The request's one credential, if it is one, from wherever it is.
    pub(super) fn with<'a>(&'a self, headers: &'a HeaderMap) -> Credential<&'a [u8]> {
        let cookie = match self.cookie {
            // Whether the token is any good must make no difference here.
            Some(name) => match cookie::credential(headers, name) {
                Credential::Token(_) | Credential::Malformed if self.is_cross_site => {
                    Credential::CrossSite
                }
                cookie => cookie,
            },
            None => Credential::None,
        };
        bearer::credential(headers)
            .and(cookie)
            .and(self.query.as_bytes())
            .and(self.protocol.as_bytes())
            .and(self.own.as_bytes())
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
        let name = Some(name.as_ref()).filter(|name| cookie::is_name(name));
        if name.is_none() {
            observe::cookie_name_refused();
        }
        let name = name.map(str::to_owned);
        self.with_sources(|sources| sources.cookie = name)
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
        let origin = Origin::parse(origin.as_ref());
        if origin.is_none() {
            observe::origin_refused();
        }
        self.with_sources(|sources| sources.allowed.extend(origin))
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
        self.with_sources(|sources| sources.query = true)
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
        self.with_sources(|sources| sources.websocket = true)
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
    /// `find` is asked on every request but CORS preflights, even if there is a credential
    /// elsewhere, for then there must be none here. It should answer `None` only if the request
    /// has nothing at that place: what is there and is no token is refused as malformed by any
    /// answer that is none either, an empty one, say. It is called on the request's way, so it
    /// must not wait.
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
        self.with_sources(|sources| sources.own = Some(Arc::new(find)))
    }

    fn with_sources(mut self, change: impl FnOnce(&mut Sources)) -> Self {
        let sources = Arc::make_mut(self.sources.get_or_insert_default());
        change(sources);
        let caching = sources.caching();
        Arc::make_mut(&mut self.answers).set_sources(caching);
        self
    }
}
