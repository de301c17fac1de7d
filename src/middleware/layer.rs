//! What is put on a router.

use std::{fmt, sync::Arc};

use bytes::Bytes;
use http::Response;
use tower_layer::Layer;

use super::{
    rejection::{Answers, Rejection},
    service::CustomerSessionService,
    sources::Sources,
};
use crate::{
    sessions::{CustomerSessions, Engine},
    store::SessionStore,
};

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
#[derive(Clone)]
#[must_use = "a layer does nothing until it is put on a service"]
pub struct CustomerSessionLayer {
    pub(super) engine: Arc<Engine>,
    pub(super) answers: Arc<Answers>,
    /// Where else than in `Authorization` a token may be; nearly always nowhere.
    pub(super) sources: Option<Arc<Sources>>,
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
    pub fn optional(mut self) -> Self {
        Arc::make_mut(&mut self.answers).set_optional();
        self
    }

    /// The realm in the challenges; `customer` by default (RFC 9110, section 11.5).
    ///
    /// Quotes and backslashes are escaped. A realm with control characters could end the
    /// header and begin another: it is refused, with an error in the log, and the realm stays
    /// as it was.
    pub fn realm(mut self, realm: impl AsRef<str>) -> Self {
        Arc::make_mut(&mut self.answers).set_realm(realm.as_ref());
        self
    }

    /// Puts the [`Verdict`](crate::Verdict) into the extensions of answers to requests that were
    /// let in from the cache, too. All other answers carry theirs in any case; without this, an
    /// answer of the layer's that has none is [`Fresh`](crate::Verdict::Fresh).
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
    pub fn verdict_on_hits(mut self) -> Self {
        Arc::make_mut(&mut self.answers).verdict_on_hits = true;
        self
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
    pub fn rejection_response<F>(mut self, respond: F) -> Self
    where
        F: Fn(&Rejection) -> Response<Bytes> + Send + Sync + 'static,
    {
        Arc::make_mut(&mut self.answers).set_responder(Arc::new(respond));
        self
    }
}

impl<S: SessionStore> CustomerSessions<S> {
    /// A layer that shares this cache, so that what is revoked here is refused there.
    pub fn layer(&self) -> CustomerSessionLayer {
        CustomerSessionLayer {
            engine: Arc::clone(self.engine()),
            answers: Arc::default(),
            sources: None,
        }
    }
}

impl<S> Layer<S> for CustomerSessionLayer {
    type Service = CustomerSessionService<S>;

    fn layer(&self, inner: S) -> CustomerSessionService<S> {
        CustomerSessionService::new(inner, self.clone())
    }
}

impl fmt::Debug for CustomerSessionLayer {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("CustomerSessionLayer")
            .field("optional", &self.answers.optional)
            .field("sources", &self.sources)
            .finish_non_exhaustive()
    }
}
