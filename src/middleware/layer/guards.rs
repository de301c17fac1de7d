//! The guards that a layer can have.

use std::{sync::Arc, time::Duration};

use super::{
    super::{credentials::RequestHead, guards::Guards},
    CustomerSessionLayer,
};
use crate::sessions::CurrentSession;

/// # What a request needs beyond a live session
///
/// Each method here returns another layer on the same cache, which lets in less: a guard never
/// admits what the layer refuses without it. Guards stand after the authentication and before the
/// handler, and they decide in this order: [`organization`](Self::organization), then
/// [`require_recent`](Self::require_recent), [`require_scope`](Self::require_scope) and
/// [`require`](Self::require). [`without_stale`](Self::without_stale) and
/// [`verified`](Self::verified) say which session they look at. If the store fails and there is no
/// such session, the answer is 503 with `Retry-After`, whatever the guards.
///
/// ```
/// use std::time::Duration;
///
/// use axum::{Router, routing::{get, post}};
/// use customer_session::{CustomerSessions, store::MemoryStore};
///
/// let sessions = CustomerSessions::builder(MemoryStore::new()).build();
/// let layer = sessions.layer();
/// let reading = layer.clone().require_scope("orders:read");
/// let paying = layer.require_recent(Duration::from_secs(300)).without_stale();
///
/// let app: Router = Router::new()
///     .route("/orders", get(async || "your orders").layer(reading))
///     .route("/payouts", post(async || "on its way").layer(paying));
/// ```
///
/// All guards but `without_stale` and `verified` need a session. Behind
/// [`optional`](Self::optional) they refuse an anonymous request as the layer does without
/// `optional`: with 401. A CORS preflight that [passes](Self::pass_preflights) meets no guard.
///
/// A request that was authenticated and then refused by a guard is counted as
/// [`refused_by_guards`](crate::Statistics::refused_by_guards).
impl CustomerSessionLayer {
    /// Admits only sessions that have this scope among their [`details`](crate::SessionDetails).
    ///
    /// Others are answered with 403 and a challenge with `error="insufficient_scope"` that names the
    /// scopes required (RFC 6750, section 3.1). Of several calls all scopes are required. A handler
    /// that learns only from the request which scope it needs calls
    /// [`SessionDetails::require`](crate::SessionDetails::require).
    ///
    /// ```
    /// use std::time::Duration;
    ///
    /// use axum::{Router, body::Body, http::Request, routing::get};
    /// use customer_session::{
    ///     CustomerData, CustomerSessions, NewSession, Scopes, store::MemoryStore,
    /// };
    /// use tower::ServiceExt;
    ///
    /// # #[tokio::main(flavor = "current_thread")]
    /// # async fn main() -> Result<(), Box<dyn std::error::Error>> {
    /// let sessions = CustomerSessions::builder(MemoryStore::new()).build();
    /// let app: Router = Router::new()
    ///     .route("/orders", get(async || "your orders"))
    ///     .layer(sessions.layer().require_scope("orders:read"));
    ///
    /// let customer = CustomerData::new("cus_1", "org_1");
    /// let session = sessions.issue(customer, Duration::from_secs(60)).await?;
    /// let request = Request::get("/orders")
    ///     .header("authorization", format!("Bearer {}", session.token.expose()))
    ///     .body(Body::empty())?;
    /// let response = app.oneshot(request).await?;
    /// assert_eq!(response.status(), 403);
    /// let challenge = response.headers()["www-authenticate"].to_str()?;
    /// assert!(challenge.ends_with(r#"scope="orders:read""#));
    /// # Ok(())
    /// # }
    /// ```
    ///
    /// # Panics
    ///
    /// If `scope` is not 1 to 128 characters that RFC 6749 (section 3.3) allows, or if this is the
    /// 65th scope, since a session has at most 64.
    pub fn require_scope(self, scope: impl AsRef<str>) -> Self {
        let scope = scope.as_ref();
        self.with_guards(|guards| {
            if let Err(error) = guards.add_scope(scope) {
                panic!("`require_scope({scope:?})`: {error}");
            }
        })
    }

    /// Admits only requests for which `allows` returns `true`.
    ///
    /// Others are answered with 403, without a challenge. Of several functions all must allow the
    /// request. They run on the path of the request, must not block, and are not called for a
    /// request that was refused before. If one panics, the panic reaches the caller of the service,
    /// and the handler does not run.
    ///
    /// ```
    /// use customer_session::{CustomerSessionLayer, store::MemoryStore};
    ///
    /// let layer = CustomerSessionLayer::new(MemoryStore::new())
    ///     .require(|session, _| session.customer.email_verified)
    ///     .require(|session, request| {
    ///         // A member of the staff who acts for the customer only looks.
    ///         session.details.actor.is_none() || request.method.is_safe()
    ///     });
    /// ```
    pub fn require<F>(self, allows: F) -> Self
    where
        F: Fn(&CurrentSession, &RequestHead<'_>) -> bool + Send + Sync + 'static,
    {
        self.with_guards(|guards| guards.add_predicate(Arc::new(allows)))
    }

    /// Admits only sessions whose customer belongs to the organization that `find` returns for the
    /// request. The ids are compared byte for byte.
    ///
    /// The session of another organization is answered like an unknown token, byte for byte: a
    /// client does not learn that its token opens a session elsewhere. `None` refuses in the same
    /// way. Of several functions all must return the customer's organization.
    ///
    /// ```
    /// use axum::http::Request;
    /// use customer_session::{CustomerSessionLayer, OrganizationId, store::MemoryStore};
    ///
    /// // A layer outside this one finds the organization of the host that was asked.
    /// fn of_host<B>(request: &mut Request<B>) {
    ///     if request.headers().get("host").is_some_and(|host| host == "acme.example.com") {
    ///         request.extensions_mut().insert(OrganizationId::from("org_1"));
    ///     }
    /// }
    ///
    /// let layer = CustomerSessionLayer::new(MemoryStore::new())
    ///     .organization(|request| Some(request.extensions.get::<OrganizationId>()?.as_str()));
    /// ```
    ///
    /// `find` runs on the path of the request and must not block. Timing may tell a token of another
    /// organization from an unknown one, which is looked up. So may the answer while the store fails: a
    /// token whose session is fresh in the cache gets 401, all others get 503.
    #[doc(alias("tenant"))]
    pub fn organization<F>(self, find: F) -> Self
    where
        F: for<'a> Fn(&RequestHead<'a>) -> Option<&'a str> + Send + Sync + 'static,
    {
        self.with_guards(|guards| guards.add_organization(Arc::new(find)))
    }

    /// Admits only sessions whose customer has proved who they are within `max_age`: by a sign-in,
    /// or by [`reauthenticated`](crate::CustomerSessions::reauthenticated).
    ///
    /// Others are answered with 401 and a challenge with `error="insufficient_user_authentication"`
    /// and `max_age` (RFC 9470, section 3), in whole seconds, rounded down. The time is
    /// [`authenticated_at`](crate::SessionDetails::authenticated_at), by the clock of
    /// [`CustomerSessions`](crate::CustomerSessions). A session without it is refused, hence every
    /// session of a store that keeps no details, and one whose sign-in lies more than a minute ahead, as
    /// far as the clocks of two nodes may differ. Of several calls the shortest age counts.
    ///
    /// ```
    /// use std::time::Duration;
    ///
    /// use axum::{Router, body::Body, http::Request, routing::post};
    /// use customer_session::{
    ///     CustomerData, CustomerSessions, store::MemoryStore, testing::ManualClock,
    /// };
    /// use tower::ServiceExt;
    ///
    /// # #[tokio::main(flavor = "current_thread")]
    /// # async fn main() -> Result<(), Box<dyn std::error::Error>> {
    /// let clock = ManualClock::new("2030-01-01T00:00:00Z".parse()?);
    /// let sessions = CustomerSessions::builder(MemoryStore::new()).clock(clock.clone()).build();
    /// let app: Router = Router::new()
    ///     .route("/payouts", post(async || "on its way"))
    ///     .layer(sessions.layer().require_recent(Duration::from_secs(300)));
    ///
    /// let customer = CustomerData::new("cus_1", "org_1");
    /// let session = sessions.issue(customer, Duration::from_secs(3600)).await?;
    /// clock.advance(Duration::from_secs(600));
    /// let request = Request::post("/payouts")
    ///     .header("authorization", format!("Bearer {}", session.token.expose()))
    ///     .body(Body::empty())?;
    /// let response = app.oneshot(request).await?;
    /// assert_eq!(response.status(), 401);
    /// let challenge = response.headers()["www-authenticate"].to_str()?;
    /// assert!(challenge.ends_with(r#"max_age="300""#));
    /// # Ok(())
    /// # }
    /// ```
    #[doc(alias("step_up", "sudo"))]
    pub fn require_recent(self, max_age: Duration) -> Self {
        self.with_guards(|guards| guards.limit_age(max_age))
    }

    /// Refuses to use stale sessions here: while the store fails, a request that would be let in by
    /// [`stale_if_error`](crate::CustomerSessionsBuilder::stale_if_error) is answered with 503.
    ///
    /// It is for what must not be done by a session that another node may have revoked meanwhile.
    ///
    /// ```
    /// use std::time::Duration;
    ///
    /// use customer_session::{CustomerSessions, store::MemoryStore};
    ///
    /// let sessions = CustomerSessions::builder(MemoryStore::new())
    ///     .stale_if_error(Duration::from_secs(600))
    ///     .build();
    /// let reading = sessions.layer();
    /// let paying = sessions.layer().without_stale();
    /// ```
    pub fn without_stale(self) -> Self {
        self.with_guards(Guards::forbid_stale)
    }

    /// Asks the store for each request, even if its session is cached.
    ///
    /// The lookup begins after the request has come and is not shared with other requests, so its
    /// result includes every change that was committed before the request. It is cached, as any
    /// result is. A store that fails is answered with 503, and a stale session is never used. A
    /// token that is remembered to open nothing is refused without a lookup.
    ///
    /// Each request costs a lookup, and takes one of
    /// [`max_concurrent_lookups`](crate::CustomerSessionsBuilder::max_concurrent_lookups). A
    /// revocation by the same node, or by one whose source of invalidations is
    /// [listened](crate::CustomerSessions::listen) to, is noticed without this.
    ///
    /// ```
    /// use customer_session::{CustomerSessions, store::MemoryStore};
    ///
    /// let sessions = CustomerSessions::builder(MemoryStore::new()).build();
    /// let reading = sessions.layer();
    /// let closing_the_account = sessions.layer().verified();
    /// ```
    #[doc(alias("no_cache"))]
    pub fn verified(self) -> Self {
        self.with_guards(Guards::forbid_cached)
    }

    fn with_guards(self, change: impl FnOnce(&mut Guards)) -> Self {
        self.with(|config| config.change_guards(change))
    }
}
