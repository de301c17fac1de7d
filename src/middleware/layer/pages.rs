//! What a layer does for people in front of a browser.

use std::sync::Arc;

use super::{super::same_origin::SameOriginLayer, CustomerSessionLayer};
use crate::config_error::ConfigError;

/// # People in front of a browser
impl CustomerSessionLayer {
    /// Sends people to the sign-in page at `location`, in place of a 401.
    ///
    /// A browser that opens a page gets `303 See Other` instead of what it could not show: that is a
    /// `GET` or `HEAD` whose `Accept` names HTML, whose `Sec-Fetch-Mode` is `navigate` if there is one,
    /// and without a bearer token in `Authorization`. Everything else is refused as before: scripts and
    /// programs get 401, and an outage is 503, which signs no one out. The redirect carries no challenge,
    /// is `no-store`, and has the [`Rejection`](crate::Rejection) in its extensions. It comes before
    /// [`rejection_response`](Self::rejection_response). Extractors that refuse an anonymous request
    /// redirect it too.
    ///
    /// ```
    /// use axum::{Router, body::Body, http::Request, routing::get};
    /// use customer_session::{CustomerSessionLayer, SessionCookie, store::MemoryStore};
    /// use tower::ServiceExt;
    ///
    /// # #[tokio::main(flavor = "current_thread")]
    /// # async fn main() -> Result<(), Box<dyn std::error::Error>> {
    /// let layer = CustomerSessionLayer::new(MemoryStore::new())
    ///     .token_from_cookie(&SessionCookie::new("__Host-session")?)
    ///     .redirect_to("/sign-in")?;
    /// let app: Router = Router::new()
    ///     .route("/me", get(async || "my page"))
    ///     .route_layer(layer)
    ///     .route("/sign-in", get(async || "who are you?"));
    ///
    /// let page = Request::get("/me").header("accept", "text/html").body(Body::empty())?;
    /// let response = app.clone().oneshot(page).await?;
    /// assert_eq!(response.status(), 303);
    /// assert_eq!(response.headers()["location"], "/sign-in");
    /// let program = Request::get("/me").body(Body::empty())?;
    /// assert_eq!(app.oneshot(program).await?.status(), 401);
    /// # Ok(())
    /// # }
    /// ```
    ///
    /// The sign-in page must not be behind this layer, or the browser goes round in circles. People who
    /// must [sign in again](Self::require_recent) are sent there as well: do not send them back from there
    /// because they are signed in.
    ///
    /// # Errors
    ///
    /// Returns an error if `location` is neither a path that begins with one slash nor an address with
    /// `http` or `https`.
    pub fn redirect_to(self, location: impl AsRef<str>) -> Result<Self, ConfigError> {
        self.try_with(|config| config.responses.set_redirect(location.as_ref()))
    }

    /// Returns a layer for routes without a session, such as the sign-in route, which refuses what
    /// another site made a browser send.
    ///
    /// It knows the origins that this layer [trusts](Self::trusted_origin) so far, and answers as this
    /// layer does. The rule is that of the [cookie](Self::token_from_cookie): a request with an unsafe
    /// method that has neither `Sec-Fetch-Site` nor `Origin` is refused. A program that signs in sends
    /// the `Origin` of the host.
    #[doc(alias("csrf"))]
    pub fn same_origin(&self) -> SameOriginLayer {
        SameOriginLayer::new(Arc::clone(&self.config))
    }
}
